"""nnU-Net's resampling between an image's grid and its network's, axis by axis.

nnU-Net 2.8 resamples with ``skimage.transform.resize`` (splines, edges repeated, no smoothing), which is
linear and separable: for each axis there is one matrix from old to new samples, and ``resize`` of the unit
matrix is that matrix. Three products of matrices in single precision give what it computes in double
precision on the whole grid, up to :data:`RELATIVE_ERROR`. Where voxels are anisotropic, nnU-Net resamples
slices by themselves and then along the third axis with ``map_coordinates``: linear and separable too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

RELATIVE_ERROR = 1e-5
"""Of the image's range: how far the result may be from nnU-Net's; single precision gives about 1e-6."""

NO_WEIGHT = 1e-12
"""A weight below it is rounding."""

Matrix = NDArray[np.float32]
Matrices = tuple[Matrix | None, ...]


@dataclass(frozen=True)
class Zoom:
    """From one grid to another with the same edges.

    Attributes:
        matrices: for each axis ``(new, old)``; ``None`` where the length stays.
        order: of the spline; above 1 it overshoots and is clipped to the image's range.
        slices_along: the axis whose slices are resampled, and clipped, by themselves; ``None`` for none.
    """

    matrices: Matrices
    order: int
    slices_along: int | None = None

    @property
    def keeps_sign(self) -> bool:
        """Whether a voxel is a mean of old ones, with no negative weight."""
        return all(matrix is None or bool((matrix >= 0).all()) for matrix in self.matrices)

    @property
    def takes_slabs(self) -> bool:
        """Whether what is done within slices is done with each by itself."""
        return self.slices_along in (None, 0)

    def apply(self, slabs: Iterable[torch.Tensor]) -> torch.Tensor:
        """``(z, y, x)`` float32 on the new grid.

        Args:
            slabs: the image in slabs of slices, which are not kept; one slab, if not :attr:`takes_slabs`.
        """
        import torch

        first, last = self._in_two_steps
        done, low, high = [], math.inf, -math.inf
        for slab in slabs:
            resampled = _applied(first, slab)
            if self.order > 1 and self.slices_along is not None:
                within = [axis for axis in range(3) if axis != self.slices_along]
                resampled.clamp_(slab.amin(within, keepdim=True), slab.amax(within, keepdim=True))
            low, high = min(low, float(slab.min())), max(high, float(slab.max()))
            done.append(resampled)
        result = _applied(last, torch.cat(done) if len(done) > 1 else done[0])
        return result.clamp_(low, high) if self.order > 1 and self.slices_along is None else result

    @property
    def _in_two_steps(self) -> tuple[Matrices, Matrices]:
        """What is done within slices, and along the axis that is left."""
        left = 0 if self.slices_along is None else self.slices_along
        within = tuple(None if axis == left else matrix for axis, matrix in enumerate(self.matrices))
        return within, tuple(matrix if axis == left else None for axis, matrix in enumerate(self.matrices))

    def part(self, wanted: tuple[slice, ...]) -> tuple[Zoom, tuple[slice, ...]]:
        """The zoom to a box of the new grid, and the box of the old one that it reads."""
        read: list[slice] = []
        matrices: list[Matrix | None] = []
        for matrix, box in zip(self.matrices, wanted, strict=True):
            if matrix is None:
                read.append(box)
                matrices.append(None)
                continue
            used = np.flatnonzero((matrix[box] != 0).any(axis=0))
            read.append(slice(int(used[0]), int(used[-1]) + 1))
            matrices.append(np.ascontiguousarray(matrix[box, read[-1]]))
        return replace(self, matrices=tuple(matrices)), tuple(read)


def zoom_between(
    old: tuple[int, ...],
    new: tuple[int, ...],
    old_spacing: tuple[float, ...],
    new_spacing: tuple[float, ...],
    settings: dict[str, Any],
) -> Zoom:
    """The zoom that nnU-Net makes from a configuration's ``resampling_fn_…_kwargs``.

    Args:
        old, new: voxels along ``(z, y, x)``.
        old_spacing, new_spacing: mm; they decide whether slices are resampled by themselves.
        settings: of :data:`app.inference.models.plans_check.RESAMPLING_SETTINGS`.
    """
    from nnunetv2.configuration import ANISO_THRESHOLD
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    order, order_z = settings.get("order", 3), settings.get("order_z", 0)
    separate, axis = determine_do_sep_z_and_axis(
        settings.get("force_separate_z", False),
        old_spacing,
        new_spacing,
        settings.get("separate_z_anisotropy_threshold", ANISO_THRESHOLD),
    )
    along = int(axis) if separate and old != new else None
    matrices = tuple(
        None if n == m else (_between_slices(n, m, order_z) if number == along else _spline(n, m, order))
        for number, (n, m) in enumerate(zip(old, new, strict=True))
    )
    return Zoom(matrices, order, along)


def _applied(matrices: Matrices, image: torch.Tensor) -> torch.Tensor:
    """What shrinks most comes first, the last axis before the first: the products after it are smaller."""
    import torch

    found = [(axis, matrix) for axis, matrix in enumerate(matrices) if matrix is not None]
    for axis, matrix in sorted(found, key=lambda entry: (entry[1].shape[0] / entry[1].shape[1], -entry[0])):
        operator = torch.from_numpy(matrix)
        if axis == 2:
            image = torch.matmul(image, operator.T)
        elif axis == 1:
            image = torch.matmul(operator, image)
        else:
            image = torch.matmul(operator, image.reshape(image.shape[0], -1)).reshape(-1, *image.shape[1:])
    return image


@lru_cache(maxsize=32)
def _spline(old: int, new: int, order: int) -> Matrix:
    from skimage.transform import resize

    unit = np.eye(old)
    matrix = resize(  # type: ignore[no-untyped-call]
        unit, (new, old), order, mode="edge", anti_aliasing=False, clip=False
    )
    return _single(matrix)


@lru_cache(maxsize=32)
def _between_slices(old: int, new: int, order: int) -> Matrix:
    from scipy.ndimage import map_coordinates

    where = float(old) / new * (np.arange(new) + 0.5) - 0.5
    columns = [map_coordinates(column, [where], order=order, mode="nearest") for column in np.eye(old)]
    return _single(np.stack(columns, axis=1))


def _single(matrix: NDArray[np.float64]) -> Matrix:
    """Rounding leaves weights of 1e-17 where there are none."""
    matrix[np.abs(matrix) < NO_WEIGHT] = 0.0
    return matrix.astype(np.float32)
