"""A PET that does not lie on its CT: what no header tells, and the outlines do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app.domain.refusal import RefusalCode as Code
from tests.defects.damage import Damage, Defect, both, moved
from tests.defects.studies import Images


def by(x: float, y: float, z: float) -> Damage:
    """The PET elsewhere, mm."""
    return moved(lambda index, place: [place[0] + x, place[1] + y, place[2] + z])


def ct_pixels(change: Callable[[NDArray[np.int16]], NDArray[np.int16]]) -> Damage:
    """The CT's voxels ``(z, y, x)`` elsewhere on the same grid."""

    def damage(images: Images) -> None:
        stack = np.stack([np.frombuffer(each.PixelData, np.int16) for each in images.ct])
        volume = stack.reshape(len(images.ct), images.ct[0].Rows, images.ct[0].Columns)
        for dataset, plane in zip(images.ct, change(volume), strict=True):
            dataset.PixelData = plane.tobytes()

    return damage


def beyond_the_ring(value: int) -> Damage:
    """The CT's corners hold a stored value, and the header calls them padding."""

    def change(hu: NDArray[np.int16]) -> NDArray[np.int16]:
        _, height, width = hu.shape
        y, x = np.ogrid[:height, :width]
        return np.where(np.hypot(y - height / 2, x - width / 2) < width / 2, hu, np.int16(value))

    return both(ct_pixels(change), every_ct_padding(value))


def every_ct_padding(value: int) -> Damage:
    def damage(images: Images) -> None:
        for each in images.ct:
            each.add_new("PixelPaddingValue", "SS", value)

    return damage


DEFECTS = (
    Defect("the CT padded beyond its ring as tissue", beyond_the_ring(1070), like=beyond_the_ring(0)),
    Defect("the PET 40 mm to the side of its CT", by(40, 0, 0), warned="mm (left-right) beside its CT"),
    Defect("the PET 40 mm before its CT", by(0, -40, 0), warned="mm (front-back) beside its CT"),
    Defect("the PET 40 mm above its CT", by(0, 0, 40), warned="mm (head-feet) beside its CT"),
    Defect("the PET 80 mm to the side of its CT", by(80, 0, 0), Code.CT_MISPLACED, "ImagePositionPatient"),
    Defect("the PET 80 mm above its CT", by(0, 0, 80), Code.CT_MISPLACED, "ImagePositionPatient"),
    Defect(
        "the CT mirrored left to right",
        ct_pixels(lambda hu: hu[:, :, ::-1]),
        Code.CT_MISPLACED,
        "ImageOrientationPatient",
    ),
    Defect(
        "the CT mirrored head to feet",
        ct_pixels(lambda hu: hu[::-1]),
        Code.CT_MISPLACED,
        "ImageOrientationPatient",
    ),
)
