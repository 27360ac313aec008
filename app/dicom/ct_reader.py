"""CT images in Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from app.dicom import header_values as header
from app.dicom.functional_image import same_in_all
from app.dicom.pixels import read_stack, rescale_factors
from app.dicom.slice_numbers import slice_numbers
from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.slice_order import check_order
from app.domain.study import Series
from app.domain.volume import AIR_HU, Unit, Volume
from app.errors import UnusableStudyError

HIGHEST_PLAUSIBLE_MINIMUM_HU = 0.0
"""A CT of a patient holds fat, or air around them; without either its numbers are no Hounsfield units."""


@dataclass(frozen=True, eq=False)
class CtImage:
    """A CT in HU, and what is to be told of it."""

    volume: Volume
    decisions: tuple[Decision, ...]


def read_ct(series: Series) -> Volume:
    """The volume of :func:`ct_image`, where nothing more can be told.

    Raises:
        UnusableStudyError: as there.
    """
    return ct_image(series).volume


def ct_image(series: Series) -> CtImage:
    """A series of CT Image Storage in HU, values below :data:`AIR_HU` raised to it.

    Raises:
        UnusableStudyError: its rescale is missing or to something else than HU, or its pixels can't be used.
    """
    slices = read_stack(series)
    slopes, intercepts = rescale_factors(series, slices)
    same_in_all(series, slices.headers, ("RescaleType",))
    kind = header.text(slices.headers[0], "RescaleType").upper()
    uid = series.series_instance_uid
    if kind not in ("", "HU", "HOUNSFIELD UNITS"):
        code = RefusalCode.UNITS_UNSUPPORTED
        raise UnusableStudyError(Reason(code, "RescaleType", kind, "HU", series_instance_uid=uid))
    array = slices.stored.astype(np.float32) * slopes.astype(np.float32)[:, None, None]
    array += intercepts.astype(np.float32)[:, None, None]
    lowest = float(array.min())
    if not lowest < HIGHEST_PLAUSIBLE_MINIMUM_HU:
        found = f"a minimum of {lowest:g}"
        code, expected = RefusalCode.VALUES_IMPLAUSIBLE, "air or fat below 0 HU"
        raise UnusableStudyError(Reason(code, "PixelData", found, expected, series_instance_uid=uid))
    np.maximum(array, AIR_HU, out=array)
    order = check_order(array, slice_numbers(slices.headers), AIR_HU)
    if isinstance(order, Reason):
        raise UnusableStudyError(replace(order, series_instance_uid=uid))
    volume = Volume(array, slices.stack.grid, Unit.HU, series.frame_of_reference_uid)
    return CtImage(volume, tuple(_of_the_ct(told) for told in order))


def _of_the_ct(told: Decision) -> Decision:
    """Beside the same sentence of the PET it must say which image it is about."""
    return replace(told, text=f"warning: of the CT, {told.text.removeprefix('warning: ')}")
