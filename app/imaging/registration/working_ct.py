"""What registration looks at: a CT on a coarse upright grid, its body without the table, its bone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from app.domain.volume import AIR_HU, FloatArray, Grid, Unit, Volume
from app.imaging.morphology import Box, box_of, grown, thinned
from app.imaging.resampling import resample
from app.imaging.slices import slice_by_slice

SPACING_MM = 4.0
"""Fine enough for a vertebra (25-35 mm), coarse enough for a whole body in seconds."""

BODY_HU = -350.0
"""Between lung or air and fat (-100 HU)."""

BONE_HU = (150.0, 500.0)
"""Below: no bone; above: all bone. Contrast medium in vessels stays low on this scale."""

TRUNK_HALF_WIDTH_MM = 150.0
"""Bone further than this from the body's middle is an arm, raised in one scan and down in the other; in a
short field of view two arms hold more bone than the spine."""

PARALLEL_VOXELS = 1e-3
"""So far may the end of a line of voxels lie off the other grid's line."""

_OUTSIDE_HU = -4000.0
"""Marks what the CT did not see; no scanner writes it."""


@dataclass(frozen=True, eq=False)
class WorkingCt:
    """A CT made ready for registration; every array is ``(z, y, x)`` on ``grid``.

    Attributes:
        grid: isotropic, along the LPS axes.
        hu: float32, air outside the body.
        seen: bool, inside the CT's field of view.
        body: bool, the largest connected body, without the table.
        bone: float32, 0 (none) to 1 (dense).
    """

    grid: Grid
    hu: NDArray[np.float32]
    seen: NDArray[np.bool_]
    body: NDArray[np.bool_]
    bone: NDArray[np.float32]

    def without_arms(self) -> WorkingCt:
        """The same, with no bone outside the trunk's width."""
        return replace(self, bone=self.bone * _trunk_columns(self.body).astype(np.float32))

    def part(self, box: Box) -> WorkingCt:
        """What lies in a box of the grid."""
        arrays = (self.hu[box], self.seen[box], self.body[box], self.bone[box])
        return WorkingCt(self.grid.part(box), *arrays)

    @cached_property
    def coarser(self) -> WorkingCt:
        """The same at twice the spacing, by averaging 2x2x2 blocks (the odd last plane is dropped)."""
        affine = self.grid.affine.copy()
        affine[:3, 3] += self.grid.affine[:3, :3] @ (0.5, 0.5, 0.5)
        affine[:3, :3] *= 2.0
        depth, height, width = (n // 2 for n in self.grid.shape)
        hu, seen, body, bone = (
            block_means(array.astype(np.float32, copy=False), (2, 2, 2))
            for array in (self.hu, self.seen, self.body, self.bone)
        )
        return WorkingCt(Grid((depth, height, width), affine), hu, seen == 1.0, body >= 0.5, bone)


_prepared: WeakKeyDictionary[Volume, WorkingCt] = WeakKeyDictionary()
"""Of each CT that is still in use: its fit, its prior and its sites ask for the same one."""


def working_ct(ct: Volume) -> WorkingCt:
    """Prepare a CT in HU, any orientation; once for as long as it is in use. Costs about a second for 500
    slices of 512 x 512."""
    known = _prepared.get(ct)
    if known is None:
        known = _prepared[ct] = _made_ready(ct)
    return known


def shrunk(volume: Volume) -> Volume:
    """Block means up to about the working spacing, so that a coarse grid does not alias noise."""
    factors = [max(1, round(SPACING_MM / spacing)) for spacing in volume.grid.spacing_mm]  # x, y, z
    factors = [min(f, n) for f, n in zip(factors, volume.grid.shape[::-1], strict=True)]
    if factors == [1, 1, 1]:
        return volume
    f_x, f_y, f_z = factors
    means = block_means(volume.array, (f_z, f_y, f_x))
    affine = volume.grid.affine @ np.diag([f_x, f_y, f_z, 1.0])
    affine[:3, 3] = volume.grid.to_lps((np.array([[f_x, f_y, f_z]]) - 1.0) / 2.0)[0]
    return Volume(means, Grid(means.shape, affine), volume.unit)


def block_means(array: NDArray[np.float32], block: tuple[int, int, int]) -> NDArray[np.float32]:
    """Means over blocks ``(z, y, x)``, what is left at the ends dropped.

    Each is summed along x, then y, then z, as numpy does it over reshaped blocks, which takes three times as
    long; numpy sums 8 and more along x in another order.
    """
    depth, height, width = (n // f for n, f in zip(array.shape, block, strict=True))
    f_z, f_y, f_x = block
    if f_x >= 8:
        whole = array[: depth * f_z, : height * f_y, : width * f_x]
        blocks = whole.reshape(depth, f_z, height, f_y, width, f_x)
        return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32))
    means = np.empty((depth, height, width), dtype=np.float32)

    def mean(z: int) -> None:
        total = means[z]
        total[...] = 0.0
        for plane in array[z * f_z : (z + 1) * f_z, : height * f_y, : width * f_x]:
            along_x = plane[:, 0::f_x].copy()
            for x in range(1, f_x):
                along_x += plane[:, x::f_x]
            for y in range(f_y):
                total += along_x[y::f_y]
        total /= np.float32(f_z * f_y * f_x)

    slice_by_slice(mean, depth)
    return means


def blurred(volume: Volume, sigma_mm: float, truncate: float) -> Volume:
    """Gaussian blur by the same distance along every axis; the result has no unit."""
    sigma = [sigma_mm / mm for mm in volume.grid.spacing_mm[::-1]]
    along_z, result = np.empty_like(volume.array), np.empty_like(volume.array)

    def blur_along_z(row: int) -> None:
        along_z[:, row] = gaussian_filter1d(volume.array[:, row], sigma[0], axis=0, truncate=truncate)

    def blur_in_plane(z: int) -> None:
        result[z] = gaussian_filter(along_z[z], sigma[1:], truncate=truncate)

    slice_by_slice(blur_along_z, result.shape[1])
    slice_by_slice(blur_in_plane, result.shape[0])
    return Volume(result, volume.grid, Unit.NONE)


def blurred_on(volume: Volume, grid: Grid, sigma_mm: float, truncate: float) -> NDArray[np.float32]:
    """:func:`blurred`, then resampled on ``grid``; NaN outside the field of view.

    Where the axes of the two grids are parallel, blur and interpolation along each axis are one matrix, and
    only what ``grid`` looks at is computed: equal to the other way to the sixth digit.
    """
    index = np.linalg.inv(volume.grid.affine) @ grid.affine
    steps = np.diag(index)[:3]
    if np.abs(index[:3, :3] - np.diag(steps)).max() * max(grid.shape) > PARALLEL_VOXELS:
        return resample(blurred(volume, sigma_mm, truncate), grid, np.nan).array
    matrices, seen = [], []
    for axis in range(3):
        size, wanted = volume.grid.shape[2 - axis], grid.shape[2 - axis]
        places = index[axis, 3] + steps[axis] * np.arange(wanted)
        seen.append((places >= -0.5) & (places <= size - 0.5))  # as far as the voxels reach, as ITK has it
        places = np.clip(places, 0.0, size - 1.0)
        shares = np.maximum(1.0 - np.abs(places[:, None] - np.arange(size)), 0.0)
        blur = gaussian_filter1d(
            np.eye(size), sigma_mm / volume.grid.spacing_mm[axis], axis=0, truncate=truncate
        )
        matrices.append((shares @ blur).astype(np.float32))
    along_x, along_y, along_z = matrices
    in_plane = np.stack([along_y @ plane @ along_x.T for plane in volume.array])
    found: NDArray[np.float32] = np.tensordot(along_z, in_plane, axes=1)
    found[~(seen[2][:, None, None] & seen[1][:, None] & seen[0])] = np.nan
    return found


def smoothed(
    image: NDArray[np.float32], sigma_voxels: float, within: Box | None = None, truncate: float = 3.0
) -> NDArray[np.float32]:
    """Gaussian blur of the voxels in a box, from all that lie around it; of all voxels without one."""
    box = within or (slice(0, image.shape[0]), slice(0, image.shape[1]), slice(0, image.shape[2]))
    reach = int(truncate * sigma_voxels + 0.5)  # as scipy's
    wide = [slice(max(each.start - reach, 0), each.stop + reach) for each in box]
    z, y, x = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, wide, strict=True))
    blurred: NDArray[np.float32] = gaussian_filter(image[tuple(wide)], sigma_voxels, truncate=truncate)
    return blurred[z, y, x]


def bone_centre_mm(ct: WorkingCt) -> FloatArray:
    """Centre of the bone, LPS mm, shape (3,)."""
    places = ((2, (0, 1)), (1, (0, 2)), (0, (1, 2)))  # x, y, z: array axis, axes to sum over
    profiles = ((ct.bone.sum(axis=over, dtype=np.float64), ct.bone.shape[axis]) for axis, over in places)
    index = [float(profile @ np.arange(size) / profile.sum()) for profile, size in profiles]
    centre: FloatArray = ct.grid.to_lps(np.array([index]))[0]
    return centre


def bone_ml(ct: WorkingCt) -> float:
    """How much bone the CT shows, ml."""
    return float(ct.bone.sum(dtype=np.float64)) * ct.grid.voxel_ml


def _made_ready(ct: Volume) -> WorkingCt:
    grid = upright_grid(ct.grid, SPACING_MM, least_voxels=2)
    coarse = resample(shrunk(ct), grid, _OUTSIDE_HU).array
    seen = coarse > _OUTSIDE_HU / 2
    hu = np.where(seen, coarse, np.float32(AIR_HU)).astype(np.float32)
    body = _largest_body(hu > BODY_HU)
    hu[~body] = AIR_HU
    low, high = BONE_HU
    bone = np.clip((hu - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return WorkingCt(grid, hu, seen, body, bone)


def _trunk_columns(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which sagittal planes lie within the trunk, ``(x,)``; the middle is the median of the body."""
    profile = np.cumsum(body.sum(axis=(0, 1)))
    middle = int(np.searchsorted(profile, profile[-1] / 2.0))
    columns: NDArray[np.bool_] = np.abs(np.arange(body.shape[2]) - middle) * SPACING_MM <= TRUNK_HALF_WIDTH_MM
    return columns


def upright_grid(grid: Grid, spacing_mm: float, least_voxels: int = 1) -> Grid:
    """An isotropic grid along the LPS axes over the same field of view."""
    corners = grid.corners_mm()
    low, high = corners.min(axis=0), corners.max(axis=0)
    width, height, depth = (max(least_voxels, int(n) + 1) for n in (high - low) / spacing_mm)
    x, y, z = low.tolist()
    return Grid.axis_aligned((depth, height, width), (spacing_mm,) * 3, (x, y, z))


def _largest_body(tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest component; opening parts it from a thin table, holes (lungs, gut) are not filled."""
    opened = grown(thinned(tissue, 2), 2)
    within = box_of(opened)
    body = np.zeros_like(tissue)
    if within is None:
        return body
    parts = cc3d.connected_components(opened[within].astype(np.uint8), connectivity=6)
    body[within] = parts == int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
    return thinned(grown(body)) & tissue
