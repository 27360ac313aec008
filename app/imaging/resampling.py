"""Bringing a volume on to another grid: the one function for it, in training and in the product alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import Grid, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

AIR_HU = -1024.0
"""What lies outside a CT's field of view."""


def resample(volume: Volume, grid: Grid, fill: float) -> Volume:
    """Linear interpolation of ``volume`` at the voxel centres of ``grid``.

    Args:
        volume: any orientation, flipped axes included.
        grid: where the result lies.
        fill: value outside the volume's field of view, in its unit.

    Returns:
        A volume on ``grid`` with the unit and frame of reference of ``volume``.
    """
    import SimpleITK as sitk

    if volume.grid.matches(grid):
        return Volume(volume.array, grid, volume.unit, volume.frame_of_reference_uid)
    moved = sitk.Resample(
        to_image(volume.array, volume.grid),
        to_image(np.zeros(grid.shape, dtype=np.uint8), grid),
        sitk.Transform(),
        sitk.sitkLinear,
        fill,
        sitk.sitkFloat32,
    )
    return Volume(sitk.GetArrayFromImage(moved), grid, volume.unit, volume.frame_of_reference_uid)


def to_image(array: NDArray[np.generic], grid: Grid) -> sitk.Image:
    """The array ``(z, y, x)`` as a SimpleITK image at its place in LPS."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    spacing = np.array(grid.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(grid.origin_mm.tolist())
    image.SetDirection((grid.affine[:3, :3] / spacing).ravel().tolist())
    return image
