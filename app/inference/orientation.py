"""One orientation for the networks: axes in the order and direction closest to LPS.

nnU-Net knows arrays and spacings, no directions. So every array is brought to ``(z, y, x)`` with x towards
the patient's left, y posterior, z up, by transposing and flipping only: exact, and undone exactly.
An oblique grid keeps its obliqueness: the networks see it tilted, as nnU-Net itself would.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import Grid


@dataclass(frozen=True)
class Orientation:
    """The way from a grid's own axes to canonical ones.

    Attributes:
        axes: array axis of the source for each canonical axis ``(z, y, x)``.
        flipped: canonical axes ``(z, y, x)`` that run against LPS in the source.
        spacing_zyx_mm: voxel distances along the canonical axes, mm.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    spacing_zyx_mm: tuple[float, float, float]

    @classmethod
    def of(cls, grid: Grid) -> Orientation:
        """The orientation of ``grid``: each of its axes goes to the LPS axis it is closest to."""
        spacing = np.array(grid.spacing_mm)
        cosines = grid.affine[:3, :3] / spacing  # [LPS axis, index axis], both (x, y, z)
        best = max(permutations(range(3)), key=lambda p: sum(abs(cosines[lps, p[lps]]) for lps in range(3)))
        order = [best[lps] for lps in (2, 1, 0)]  # index axes (x, y, z) that become z, y, x
        z, y, x = (2 - axis for axis in order)  # index axis x is the last array axis
        down, front, right = (bool(cosines[lps, best[lps]] < 0) for lps in (2, 1, 0))
        depth, height, width = (float(spacing[axis]) for axis in order)
        return cls((z, y, x), (down, front, right), (depth, height, width))

    def apply(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """``(..., z, y, x)`` of the source as a contiguous canonical array."""
        leading = array.ndim - 3
        moved = array.transpose(*range(leading), *(leading + axis for axis in self.axes))
        return np.ascontiguousarray(np.flip(moved, self._flips(leading)))

    def revert(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The inverse of :meth:`apply`."""
        leading = array.ndim - 3
        unflipped = np.flip(array, self._flips(leading))
        back = np.argsort(self.axes)
        return np.ascontiguousarray(unflipped.transpose(*range(leading), *(leading + int(a) for a in back)))

    def grid(self, source: Grid) -> Grid:
        """Where the canonical array's voxels lie: :meth:`apply` moves numbers, never the patient."""
        to_source = np.zeros((4, 4))
        to_source[3, 3] = 1.0
        shape = [source.shape[axis] for axis in self.axes]
        for canonical, (axis, flip) in enumerate(zip(self.axes, self.flipped, strict=True)):
            row, column = 2 - axis, 2 - canonical  # array axes (z, y, x) as index axes (x, y, z)
            to_source[row, column] = -1.0 if flip else 1.0
            to_source[row, 3] = shape[canonical] - 1 if flip else 0.0
        depth, height, width = shape
        return Grid((depth, height, width), source.affine @ to_source)

    def _flips(self, leading: int) -> tuple[int, ...]:
        return tuple(leading + axis for axis, flip in enumerate(self.flipped) if flip)
