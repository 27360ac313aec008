"""Volumes and label maps as NIfTI: SimpleITK keeps LPS in memory and turns to NIfTI's RAS in the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import Grid, LabelMap, Unit, Volume
from app.errors import MisconfiguredError

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - its own documentation's name

SUFFIX = ".nii.gz"


def write_array(path: Path, array: NDArray[np.generic], grid: Grid) -> None:
    """Write ``(z, y, x)`` on its grid, whole or not at all.

    Raises:
        ValueError: the array does not fit the grid, or the grid is sheared.
    """
    import SimpleITK as sitk  # noqa: N813

    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    sitk.WriteImage(to_image(array, grid), str(temporary), useCompression=True, compressionLevel=1)
    temporary.replace(path)


def to_image(array: NDArray[np.generic], grid: Grid) -> sitk.Image:
    """The array ``(z, y, x)`` as a SimpleITK image at its place in LPS.

    Raises:
        ValueError: the array does not fit the grid, or the grid's axes are not at right angles, which
            SimpleITK does not expect.
    """
    import SimpleITK as sitk  # noqa: N813

    if array.shape != grid.shape:
        raise ValueError(f"array {array.shape} does not fit its grid {grid.shape}")
    spacing = np.array(grid.spacing_mm)
    direction = grid.affine[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-4:  # 0.006 degrees: rounding of the header
        raise ValueError("the grid is sheared (tilted gantry); resample it on to a grid with right angles")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(grid.origin_mm.tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def read_volume(path: Path, unit: Unit) -> Volume:
    """An image in ``unit``, which is not in the file.

    Raises:
        MisconfiguredError: not a readable image of three dimensions.
    """
    image = _read(path)
    return Volume(_array(image).astype(np.float32), _grid(image), unit)


def read_labels(path: Path) -> LabelMap:
    """A label map or a mask; values must be whole numbers from 0.

    Raises:
        MisconfiguredError: not a readable image of three dimensions, or values that are no labels.
    """
    image = _read(path)
    array = _array(image)
    labels = np.rint(array)
    if not np.array_equal(labels, array) or array.min(initial=0) < 0 or array.max(initial=0) > 65535:
        raise MisconfiguredError(f"{path}: found values that are no whole numbers from 0 to 65535: no labels")
    return LabelMap(labels.astype(np.uint16), _grid(image))


def _read(path: Path) -> sitk.Image:
    import SimpleITK as sitk  # noqa: N813

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise MisconfiguredError(f"{path}: not readable as an image: {reason}") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        found = f"{image.GetDimension()} dimensions, {image.GetNumberOfComponentsPerPixel()} component(s)"
        raise MisconfiguredError(f"{path}: found {found}, expected a volume with one number a voxel")
    return image


def _array(image: sitk.Image) -> NDArray[np.generic]:
    import SimpleITK as sitk  # noqa: N813

    array: NDArray[np.generic] = sitk.GetArrayFromImage(image)
    return array


def _grid(image: sitk.Image) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    width, height, depth = image.GetSize()
    return Grid((depth, height, width), affine)
