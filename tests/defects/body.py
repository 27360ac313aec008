"""A PET whose slices show a body, for defects that only the image's content betrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian

from tests.defects.damage import Damage, copied
from tests.defects.studies import Images

SHAPE = (26, 32, 40)
SPACING_MM = (5.0, 5.0, 10.0)
"""The extent of the small PET, so that its CT covers this one too."""

MEAN_BQML = 1500.0
HOT = 12


def of_a_body(damage: Damage) -> Damage:
    """The damage, done to 26 slices of a body instead of the six small ones."""

    def both(images: Images) -> None:
        _make_body(images)
        damage(images)

    return both


def body_bqml(seed: int = 5) -> NDArray[np.float64]:
    """``(z, y, x)``: an ellipse of tissue that changes slowly along z, with a hot lesion, in air."""
    z, y, x = (axis * step for axis, step in zip(np.indices(SHAPE), SPACING_MM[::-1], strict=True))
    tissue = 1.0 + 0.5 * np.sin(x / 30.0 + z / 40.0) * np.cos(y / 25.0 - z / 60.0)
    inside = ((x - 100.0) / 90.0) ** 2 + ((y - 80.0) / 70.0) ** 2 < 1.0
    lesion = (x - 90.0) ** 2 + (y - 70.0) ** 2 + (z - 10.0 * HOT) ** 2 < 12.0**2
    noise = np.random.default_rng(seed).normal(1.0, 0.08, SHAPE)
    found: NDArray[np.float64] = MEAN_BQML * noise * np.where(inside, tissue + 15.0 * lesion, 0.01)
    return found


def _make_body(images: Images) -> None:
    """Each slice with the slope that its own maximum asks for, as scanners write it."""
    first = images.functional[0]
    if first.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        raise ValueError("a body is not made in packed images")
    x_mm, y_mm, z_mm = (float(value) for value in first.ImagePositionPatient)
    columns_mm, rows_mm, step_mm = SPACING_MM
    images.functional.clear()
    for k, plane in enumerate(body_bqml()):
        slope = round(float(plane.max()) / 30000.0, 6)
        changes = {"NumberOfSlices": SHAPE[0], "InstanceNumber": k + 1, "RescaleSlope": slope}
        each = copied(first, f"1.2.3.1.{k + 1}", **changes)
        each.ImagePositionPatient = [x_mm - 17.5, y_mm - 17.5, z_mm + k * step_mm]
        each.PixelSpacing, (each.Rows, each.Columns) = [rows_mm, columns_mm], SHAPE[1:]
        each.PixelData = np.rint(plane / slope).astype("<i2").tobytes()
        images.functional.append(each)
