"""Volumes: an array with its place in the patient.

One convention holds everywhere:

* an array is indexed ``(z, y, x)``, C order: ``z`` counts slices, ``y`` rows, ``x`` columns;
* ``Grid.affine`` is 4x4 and maps the index ``(x, y, z, 1)`` to LPS millimetres (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.units import Unit as Unit  # noqa: PLC0414  whoever needs volumes finds their unit here

FloatArray = NDArray[np.float64]

AIR_HU = -1024.0
"""The least of the usual CT scale: what lies outside an image, and the floor for values below it."""

SAME_GRID_TOLERANCE_MM = 1e-3
"""Two grids are one when no corner differs by more: below any scanner's stated precision."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of voxels in the patient.

    Attributes:
        shape: number of voxels ``(z, y, x)``.
        affine: 4x4 float64, index ``(x, y, z, 1)`` to LPS mm.
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"an affine is a finite 4x4 matrix, found shape {affine.shape}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid has three positive sizes (z, y, x), found {self.shape}")
        if abs(float(np.linalg.det(affine[:3, :3]))) < 1e-9:
            raise ValueError("an affine must not be singular")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @classmethod
    def axis_aligned(
        cls,
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float],
        origin_mm: tuple[float, float, float],
    ) -> Grid:
        """A grid along the LPS axes; ``spacing_mm`` and ``origin_mm`` are ``(x, y, z)``."""
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, 3] = origin_mm
        return cls(shape, affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along ``(x, y, z)`` index axes, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres (the determinant, so it holds for sheared grids too)."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def origin_mm(self) -> FloatArray:
        """LPS position of the centre of voxel (0, 0, 0), shape (3,)."""
        origin: FloatArray = self.affine[:3, 3]
        return origin

    def part(self, box: tuple[slice, slice, slice]) -> Grid:
        """The voxels of a box ``(z, y, x)``, which may reach beyond this grid."""
        z, y, x = box
        affine = self.affine.copy()
        affine[:3, 3] = self.to_lps(np.array([[x.start, y.start, z.start]]))[0]
        return Grid((z.stop - z.start, y.stop - y.start, x.stop - x.start), affine)

    def widened(self, voxels: int) -> Grid:
        """The same lattice, so many voxels more at each end."""
        z, y, x = (slice(-voxels, n + voxels) for n in self.shape)
        return self.part((z, y, x))

    def to_lps(self, index_xyz: FloatArray) -> FloatArray:
        """Index coordinates ``(n, 3)`` as (x, y, z) to LPS mm ``(n, 3)``."""
        return moved_points(self.affine, np.atleast_2d(np.asarray(index_xyz, dtype=np.float64)))

    def place_mm(self, index_zyx: NDArray[np.generic]) -> tuple[float, float, float]:
        """LPS mm of one place in an array, ``(z, y, x)``."""
        x, y, z = self.to_lps(np.asarray(index_zyx, dtype=np.float64)[::-1])[0]
        return float(x), float(y), float(z)

    def to_index(self, lps_mm: FloatArray) -> FloatArray:
        """LPS mm ``(n, 3)`` to index coordinates ``(n, 3)`` as (x, y, z), not rounded."""
        return moved_points(np.linalg.inv(self.affine), np.atleast_2d(np.asarray(lps_mm, dtype=np.float64)))

    def corners_mm(self) -> FloatArray:
        """LPS positions of the eight outermost voxel centres, shape (8, 3)."""
        z, y, x = (n - 1 for n in self.shape)
        index = [[i, j, k] for k in (0, z) for j in (0, y) for i in (0, x)]
        return self.to_lps(np.array(index, dtype=np.float64))

    def matches(self, other: Grid) -> bool:
        """Whether both grids have the same voxels, within ``SAME_GRID_TOLERANCE_MM``."""
        if self.shape != other.shape:
            return False
        apart = np.abs(self.corners_mm() - other.corners_mm()).max()
        return bool(apart <= SAME_GRID_TOLERANCE_MM)


def moved_points(motion: NDArray[np.floating[Any]], points: FloatArray) -> FloatArray:
    """Points ``(n, 3)``, or one point ``(3,)``, through an affine 4x4."""
    moved: FloatArray = points @ motion[:3, :3].T + motion[:3, 3]
    return moved


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image in the patient.

    Attributes:
        array: ``(z, y, x)`` float32, read-only, in ``unit``.
        grid: where its voxels lie.
        unit: what its numbers mean.
        frame_of_reference_uid: the coordinate system's UID; empty when it has none.
    """

    array: NDArray[np.float32]
    grid: Grid
    unit: Unit
    frame_of_reference_uid: str = ""

    def __post_init__(self) -> None:
        array = np.ascontiguousarray(self.array, dtype=np.float32)
        if array.shape != self.grid.shape:
            raise ValueError(f"array {array.shape} does not fit its grid {self.grid.shape}")
        array = array.view()
        array.setflags(write=False)
        object.__setattr__(self, "array", array)

    def scaled(self, factor: float, unit: Unit) -> Volume:
        """The same image times ``factor``, in another unit."""
        return Volume(self.array * np.float32(factor), self.grid, unit, self.frame_of_reference_uid)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Lesions as numbers: 0 is background, ``1..n`` are lesions.

    Attributes:
        array: ``(z, y, x)`` uint16, read-only.
        grid: where its voxels lie.
    """

    array: NDArray[np.uint16]
    grid: Grid

    def __post_init__(self) -> None:
        found = np.asarray(self.array)
        if found.size and (found.min() < 0 or found.max() > np.iinfo(np.uint16).max):
            raise ValueError(f"labels are 0..65535, found {found.min()}..{found.max()}")
        array = np.ascontiguousarray(found, dtype=np.uint16)
        if array.shape != self.grid.shape:
            raise ValueError(f"array {array.shape} does not fit its grid {self.grid.shape}")
        array = array.view()
        array.setflags(write=False)
        object.__setattr__(self, "array", array)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Every lesion voxel, ``(z, y, x)``."""
        return self.array > 0

    @property
    def count(self) -> int:
        """Number of lesions (labels are dense, ``1..count``)."""
        return int(self.array.max(initial=0))
