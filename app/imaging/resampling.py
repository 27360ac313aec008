"""Bringing images on to another grid: the one place for it, in training and in the product alike.

Everything is computed from index to index: one affine map takes a voxel of the wanted grid through the
patient (and a rigid motion, if any) to a voxel of the source. So any affine works: flipped, permuted,
oblique, and the sheared grids of a tilted gantry, which SimpleITK's own image geometry can't hold.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from app.domain.volume import FloatArray, Grid, LabelMap, Volume, moved_points

LESION_FRACTION = 0.5
"""A voxel belongs to a lesion when at least this share of it does: keeps the lesion's volume."""

FINEST_SUBDIVISION = 4
"""A wanted voxel is sampled at most this often along each axis: PET 2 mm to SPECT 4.8 mm needs 3."""


def resample(volume: Volume, grid: Grid, fill: float, fixed_to_moving: FloatArray | None = None) -> Volume:
    """Linear interpolation of ``volume`` at the voxel centres of ``grid``.

    Args:
        volume: any orientation.
        grid: where the result lies.
        fill: value outside the volume's field of view, in its unit.
        fixed_to_moving: 4x4, LPS mm in the space of ``grid`` to LPS mm in the space of ``volume``; ``None``
            when both are one space.

    Returns:
        A volume on ``grid`` with the unit of ``volume``, and its frame of reference unless it was moved.

    Raises:
        ValueError: ``fixed_to_moving`` is not an invertible affine map.
    """
    if fixed_to_moving is None and volume.grid.matches(grid):
        return Volume(volume.array, grid, volume.unit, volume.frame_of_reference_uid)
    array = _sample(volume.array, volume.grid, grid, fixed_to_moving, fill)
    frame_of_reference_uid = volume.frame_of_reference_uid if fixed_to_moving is None else ""
    return Volume(array, grid, volume.unit, frame_of_reference_uid)


def resample_mask(labels: LabelMap, grid: Grid, fixed_to_moving: FloatArray | None = None) -> LabelMap:
    """Lesions on another grid: a voxel is lesion when at least half of it is.

    A lesion that fills no voxel by half, or loses its voxels to a neighbour, gets the one it fills most, so
    that small lesions survive a coarser grid; only of two within one voxel the smaller goes. Lesions outside
    ``grid`` are gone, and the others are numbered ``1..n`` in their old order.

    Args:
        labels: lesions on their own grid.
        grid: where the result lies.
        fixed_to_moving: as in :func:`resample`.
    """
    moved = np.zeros(grid.shape, dtype=np.uint16)
    largest_share = np.zeros(grid.shape, dtype=np.float32)
    best_voxel: dict[int, tuple[int, ...]] = {}
    back = np.linalg.inv(_motion(fixed_to_moving))
    for label, box in enumerate(find_objects(labels.array), start=1):
        if box is None:
            continue
        # a rim of zeros, so that interpolation falls off outside the lesion
        lesion = np.pad((labels.array[box] == label).astype(np.float32), 1)
        lesion_grid = labels.grid.part(box).widened(1)
        target = _part_between(grid, moved_points(back, lesion_grid.corners_mm()))
        if target is None:
            continue
        share = _share_of_voxels(lesion, lesion_grid, grid.part(target), fixed_to_moving)
        mostly_inside = share.sum() * grid.voxel_ml >= 0.5 * lesion.sum() * lesion_grid.voxel_ml
        if mostly_inside:
            within = np.unravel_index(int(share.argmax()), share.shape)
            best_voxel[label] = tuple(part.start + int(n) for part, n in zip(target, within, strict=True))
        wanted = (share >= LESION_FRACTION) & (share > largest_share[target])
        moved[target][wanted] = label
        largest_share[target][wanted] = share[wanted]
    _give_each_a_voxel(moved, best_voxel)
    return LabelMap(_dense(moved), grid)


def _give_each_a_voxel(moved: NDArray[np.uint16], best_voxel: dict[int, tuple[int, ...]]) -> None:
    """A lesion without any voxel takes its best one, unless that is the last of another."""
    sizes = np.bincount(moved[moved > 0], minlength=max(best_voxel, default=0) + 1)
    for label, voxel in best_voxel.items():
        owner = moved[voxel]
        if sizes[label] == 0 and (owner == 0 or sizes[owner] > 1):
            moved[voxel] = label
            sizes[[owner, label]] += (-1, 1)


def _sample(
    array: NDArray[np.generic], source: Grid, target: Grid, fixed_to_moving: FloatArray | None, fill: float
) -> NDArray[np.float32]:
    """Linear interpolation at the centres of ``target``, as ``(z, y, x)`` float32.

    Only the part of ``array`` that the target reaches is copied into an image, which keeps its indices.
    """
    index_to_index = np.linalg.inv(source.affine) @ _motion(fixed_to_moving) @ target.affine
    corners_mm = moved_points(_motion(fixed_to_moving), target.corners_mm())
    part = _part_between(source, corners_mm, margin=1)  # no place lies at an edge that the array has not
    if part is None:
        return np.full(target.shape, fill, dtype=np.float32)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(index_to_index[:3, :3].ravel().tolist())
    transform.SetTranslation(index_to_index[:3, 3].tolist())
    image = sitk.GetImageFromArray(array[part])
    image.SetOrigin([float(each.start) for each in part[::-1]])
    moved = sitk.Resample(
        image,
        [int(n) for n in target.shape[::-1]],
        transform,
        sitk.sitkLinear,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        np.eye(3).ravel().tolist(),
        fill,
        sitk.sitkFloat32,
    )
    sampled: NDArray[np.float32] = sitk.GetArrayFromImage(moved)
    return sampled


def _part_between(grid: Grid, corners_mm: FloatArray, margin: int = 0) -> tuple[slice, slice, slice] | None:
    """The box of ``grid`` around places in it, so many voxels wider; ``None`` when they lie outside."""
    index_zyx = grid.to_index(corners_mm)[:, ::-1]
    first = np.maximum(np.floor(index_zyx.min(axis=0)).astype(int) - margin, 0)
    last = np.minimum(np.ceil(index_zyx.max(axis=0)).astype(int) + margin, np.array(grid.shape) - 1)
    if (first > last).any():
        return None
    z, y, x = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    return z, y, x


def _motion(fixed_to_moving: FloatArray | None) -> FloatArray:
    if fixed_to_moving is None:
        return np.eye(4)
    motion = np.asarray(fixed_to_moving, dtype=np.float64)
    affine = motion.shape == (4, 4) and np.isfinite(motion).all() and tuple(motion[3]) == (0, 0, 0, 1)
    if not affine or abs(float(np.linalg.det(motion))) < 1e-9:
        raise ValueError(f"a motion is an invertible affine 4x4 matrix, found {motion}")
    return motion


def _share_of_voxels(
    lesion: NDArray[np.float32], source: Grid, target: Grid, fixed_to_moving: FloatArray | None
) -> NDArray[np.float32]:
    """How much of each voxel of ``target`` the lesion fills, 0..1."""
    fineness = np.array(target.spacing_mm) / min(source.spacing_mm)
    n_x, n_y, n_z = np.clip(np.ceil(fineness), 1, FINEST_SUBDIVISION).astype(int)
    divisions = np.array([n_x, n_y, n_z])
    affine = target.affine @ np.diag([*(1.0 / divisions), 1.0])
    affine[:3, 3] = target.to_lps(((1.0 / divisions - 1.0) / 2.0)[None])[0]
    depth, height, width = target.shape
    fine = Grid((depth * n_z, height * n_y, width * n_x), affine)
    sampled = _sample(lesion, source, fine, fixed_to_moving, 0.0)
    blocks = sampled.reshape(depth, n_z, height, n_y, width, n_x)
    share: NDArray[np.float32] = blocks.mean(axis=(1, 3, 5))
    return share


def _dense(labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Labels renumbered ``1..n`` in their order."""
    numbers = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.uint16)
    present = np.unique(labels[labels > 0])
    numbers[present] = np.arange(1, present.size + 1)
    renumbered: NDArray[np.uint16] = numbers[labels]
    return renumbered
