"""Landmarks of a body on CT: midline, pubic symphysis, spine, lungs. Each may be absent; none is guessed.

All of it on the coarse upright grid of :class:`app.imaging.registration.working_ct.WorkingCt` (4 mm), from
bone and air.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cc3d
import numpy as np
from numpy.typing import NDArray

from app.domain.findings.site import PelvicPosition, SpinalPosition
from app.domain.volume import AIR_HU, FloatArray, Grid, Volume
from app.imaging.morphology import box_of, filled_slices
from app.imaging.registration.working_ct import BODY_HU, WorkingCt
from app.imaging.resampling import resample

BONE = 0.05
"""Of the working CT's 0..1 scale: about 170 HU."""

SPINE_HALF_WIDTH_MM = 36.0
"""A vertebra with its processes."""

SPINE_VOXELS = 30
"""A vertebra has at least so many of 4 mm in a slice; pubic bones mostly have fewer."""

MIDLINE_VOXELS = 3
"""At least so much bone on either side of a slice (4 mm voxels), or the midline stays as it was."""

MIDLINE_MEMORY = 0.9
"""How slowly the midline follows from slice to slice: a body leans, it does not jump."""

SYMPHYSIS_HALF_WIDTH_MM = 14.0
SYMPHYSIS_VOXELS = 4
"""At 4 mm, in each of :data:`SYMPHYSIS_SLICES` slices: a quarter of a millilitre across the midline."""

SYMPHYSIS_SLICES = 3
LEGS_MM = 16.0
"""So much of the legs, with bone on both sides and none between, must be seen below a symphysis."""

HIP_HALF_WIDTH_MM = 130.0
"""Beyond, it may be an arm."""

LUNG_ML = 500.0
"""Air inside the body of at least this much in one piece is lung; gas in the gut is less."""

VERTEBRA_HALF_WIDTH_MM = 12.0
VERTEBRA_HALF_HEIGHT_MM = 16.0
BEFORE_SPINE_GAP_MM = 40.0
"""Bone farther before the spine is another bone."""

VERTEBRA_VOXELS = 12
FRONT_PERCENTILE = 10.0


@dataclass(frozen=True)
class Symphysis:
    """The pubic symphysis, LPS mm: its lower end, its front, and the midline there."""

    lower_z_mm: float
    front_y_mm: float
    midline_x_mm: float


@dataclass(frozen=True, eq=False)
class BodyLandmarks:
    """What was found.

    Attributes:
        grid: upright, 4 mm.
        bone: bool ``(z, y, x)``.
        midline_x_mm: for each slice.
        symphysis: ``None`` when it is not in view or not found.
        lung: bool ``(z, y, x)``; empty when there is none in view.
    """

    grid: Grid
    bone: NDArray[np.bool_]
    midline_x_mm: FloatArray
    symphysis: Symphysis | None
    lung: NDArray[np.bool_]

    @cached_property
    def lung_slices(self) -> NDArray[np.intp]:
        """Every slice with lung, from the lowest."""
        return np.flatnonzero(self.lung.any(axis=(1, 2)))

    def pelvic_position(self, point_mm: FloatArray) -> PelvicPosition | None:
        """A point against the symphysis; ``None`` without one."""
        if self.symphysis is None:
            return None
        z = self._slice(point_mm)
        return PelvicPosition(
            above_mm=float(point_mm[2] - self.symphysis.lower_z_mm),
            behind_mm=float(point_mm[1] - self.symphysis.front_y_mm),
            lateral_mm=float(abs(point_mm[0] - self.midline_x_mm[z])),
        )

    def spinal_position(self, point_mm: FloatArray) -> SpinalPosition | None:
        """A point against the vertebra at its height; ``None`` when there is no bone in the midline."""
        z, _, _ = self._near(point_mm, VERTEBRA_HALF_HEIGHT_MM)
        midline = float(self.midline_x_mm[self._slice(point_mm)])
        in_window = np.abs(along(self.grid, 0) - midline) <= VERTEBRA_HALF_WIDTH_MM
        rows = np.sort(np.nonzero(self.bone[z][:, :, in_window])[1])
        gaps = np.flatnonzero(np.diff(rows) * self.grid.spacing_mm[1] > BEFORE_SPINE_GAP_MM)
        vertebra = rows[gaps[-1] + 1 :] if gaps.size else rows  # behind the breastbone
        if vertebra.size < VERTEBRA_VOXELS:
            return None
        front = float(np.percentile(vertebra, FRONT_PERCENTILE))
        front_y_mm = float(along(self.grid, 1)[0] + front * self.grid.spacing_mm[1])
        return SpinalPosition(front_y_mm - float(point_mm[1]), abs(float(point_mm[0]) - midline))

    def between_lungs(self, point_mm: FloatArray) -> bool:
        """Whether lung lies on both sides of a point, at its height and depth."""
        z, y, x = self._near(point_mm, 10.0)
        beside = np.asarray(self.lung[z, y].any(axis=(0, 1)))
        return bool(beside[: x.start].any() and beside[x.stop :].any())

    def below_lungs(self, point_mm: FloatArray) -> bool:
        """Whether a point lies lower than all lung in view; False without lung."""
        heights = self.lung_slices
        return bool(heights.size and point_mm[2] < along(self.grid, 2)[heights[0]])

    def _slice(self, point_mm: FloatArray) -> int:
        z = round(float(self.grid.to_index(point_mm)[0, 2]))
        return min(max(z, 0), self.grid.shape[0] - 1)

    def _near(self, point_mm: FloatArray, reach_mm: float) -> tuple[slice, slice, slice]:
        index = np.rint(self.grid.to_index(point_mm)[0, ::-1]).astype(int)
        reach = round(reach_mm / self.grid.spacing_mm[0])
        z, y, x = (
            slice(max(int(i) - reach, 0), max(min(int(i) + reach + 1, n), 1))
            for i, n in zip(index, self.grid.shape, strict=True)
        )
        return z, y, x


def find_landmarks(ct: WorkingCt, source: Volume) -> BodyLandmarks:
    """Look for every landmark; lungs on ``source``, in HU, as the working CT has no thin chest wall."""
    bone = ct.bone >= BONE
    midline = _midline(bone, ct.grid)
    return BodyLandmarks(ct.grid, bone, midline, _symphysis(bone, ct.grid, midline), _lung(source, ct.grid))


def along(grid: Grid, axis: int) -> FloatArray:
    """Coordinates of the voxel centres along x (0), y (1) or z (2) of an upright grid, LPS mm."""
    along: FloatArray = grid.origin_mm[axis] + grid.affine[axis, axis] * np.arange(grid.shape[2 - axis])
    return along


def _midline(bone: NDArray[np.bool_], grid: Grid) -> FloatArray:
    """Followed from the slice with most bone near the middle of all bone, up and down."""
    x_mm = along(grid, 0)
    per_column = bone.sum(axis=1, dtype=np.float64)  # (z, x)
    total = per_column.sum(axis=0)
    start_x = float(np.average(x_mm, weights=total)) if total.any() else float(x_mm.mean())
    midline = np.full(grid.shape[0], start_x)
    start = int(per_column[:, np.abs(x_mm - start_x) <= SPINE_HALF_WIDTH_MM].sum(axis=1).argmax())
    for heights in (range(start, grid.shape[0]), range(start - 1, -1, -1)):
        current = midline[start]
        for z in heights:
            middle = _middle(x_mm - current, per_column[z])
            current += 0.0 if middle is None else (1.0 - MIDLINE_MEMORY) * middle
            midline[z] = current
    return midline


def _middle(off_mm: FloatArray, bone: FloatArray) -> float | None:
    """Of the vertebra; without one halfway between the bones of both sides; ``None`` without those."""
    central = np.abs(off_mm) <= SPINE_HALF_WIDTH_MM
    if bone[central].sum() >= SPINE_VOXELS:
        return float(np.average(off_mm[central], weights=bone[central]))
    sides = [(off_mm > 0) & (off_mm <= HIP_HALF_WIDTH_MM), (off_mm < 0) & (off_mm >= -HIP_HALF_WIDTH_MM)]
    if any(bone[side].sum() < MIDLINE_VOXELS for side in sides):
        return None
    return float(sum(np.average(off_mm[side], weights=bone[side]) for side in sides) / 2.0)


def _symphysis(bone: NDArray[np.bool_], grid: Grid, midline: FloatArray) -> Symphysis | None:
    """The lowest bone across the midline, with the legs' bones seen below it."""
    off_mm = along(grid, 0)[None, :] - midline[:, None]  # (z, x)
    per_column = bone.sum(axis=1)
    across = (per_column * (np.abs(off_mm) <= SYMPHYSIS_HALF_WIDTH_MM)).sum(axis=1) >= SYMPHYSIS_VOXELS
    runs = [z for z in range(len(across) - SYMPHYSIS_SLICES) if across[z : z + SYMPHYSIS_SLICES].all()]
    if not runs:
        return None
    lowest = runs[0]
    below = slice(max(lowest - round(LEGS_MM / grid.spacing_mm[2]), 0), lowest)
    hips = (np.abs(off_mm) > SYMPHYSIS_HALF_WIDTH_MM) & (np.abs(off_mm) <= HIP_HALF_WIDTH_MM)
    left = (per_column * (hips & (off_mm > 0))).sum(axis=1)[below]
    right = (per_column * (hips & (off_mm < 0))).sum(axis=1)[below]
    if len(left) * grid.spacing_mm[2] < LEGS_MM or not (left.all() and right.all()):
        return None
    middle = (
        bone[lowest : lowest + SYMPHYSIS_SLICES]
        & (np.abs(off_mm[lowest : lowest + SYMPHYSIS_SLICES]) <= SYMPHYSIS_HALF_WIDTH_MM)[:, None, :]
    )
    rows = np.nonzero(middle)[1]
    beside = np.nonzero(bone[lowest : lowest + SYMPHYSIS_SLICES] & ~middle)[1]
    if np.median(rows) >= np.median(
        beside
    ):  # behind the hips: the sacrum, so the symphysis is below the view
        return None
    front = float(along(grid, 1)[0] + np.percentile(rows, FRONT_PERCENTILE) * grid.spacing_mm[1])
    return Symphysis(float(along(grid, 2)[lowest]), front, float(midline[lowest]))


def _lung(source: Volume, grid: Grid) -> NDArray[np.bool_]:
    """Large air that tissue encloses in axial slices."""
    tissue = resample(source, grid, AIR_HU).array > BODY_HU
    inner = filled_slices(tissue) & ~tissue
    lung = np.zeros_like(inner)
    box = box_of(inner)
    if box is not None:
        parts = cc3d.connected_components(inner[box].astype(np.uint8), connectivity=6)
        large = np.bincount(parts.ravel()) * grid.voxel_ml >= LUNG_ML
        large[0] = False
        lung[box] = large[parts]
    return lung
