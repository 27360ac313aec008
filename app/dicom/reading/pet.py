"""PET images (and SPECT stored as such) in Bq/ml and SUVbw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from app.dicom import header_values as header
from app.dicom.reading.enhanced import MAPPED, real_world_mappings
from app.dicom.reading.functional_image import FunctionalImage, functional_image, injection, same_in_all
from app.dicom.reading.pixels import SliceStack, read_stack, rescale_factors, settled, unusable
from app.dicom.reading.series_header import slice_numbers
from app.domain.clocks import earliest
from app.domain.decision import Decision
from app.domain.quantities.administration import SiteAdministration
from app.domain.quantities.decay import FrameTiming
from app.domain.quantities.scales import (
    BQML_PER_UNIT,
    RealWorldMapping,
    chosen_mapping,
    is_no_offset,
    same_scale,
)
from app.domain.quantities.suv import Units, convert_pet, pet_left_in_counts
from app.domain.quantities.suv_scale import PetHeader
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.screening import ImageRole, functional_role
from app.domain.stack.slice_consistency import check_scales
from app.domain.stack.slice_content import check_content
from app.domain.stack.slice_order import check_completeness, check_order
from app.domain.study import Series

MUST_AGREE = (
    "Units", "SUVType", "DecayCorrection", "PatientWeight", "PatientSize", "PatientSex", "SeriesDate",
    "SeriesTime",
)  # fmt: skip
"""They decide on the numbers of the whole series."""

SCAN_TIMES = ((0x0009, "GEMS_PETD_01", 0x0D), (0x0071, "SIEMENS MED PT", 0x22))
"""GE's scan date and time, and Siemens' date and time to which the image was decay corrected, both DT."""

INJECTION_TIME = (0x0009, "GEMS_PETD_01", 0x3B)
"""GE's date and time of administration, a DT."""

PHILIPS_CREATOR = "Philips PET Private Group"


def read_pet(
    series: Series,
    administrations: Sequence[SiteAdministration] = (),
    series_time_rules: bool = False,
    spect_in_counts: bool = False,
) -> FunctionalImage:
    """A series of PET Image Storage in physical units, with the site's section ``load``; a SPECT stored so
    may stay in counts, where it has no other unit.

    Raises:
        UnusableStudyError: its unit can't be established, or its pixels can't be used.
    """
    slices = read_stack(series)
    _refuse_mappings(series, slices)
    slopes, intercepts = rescale_factors(series, slices)
    if not all(map(is_no_offset, intercepts, slopes)):
        worst = intercepts[np.abs(intercepts).argmax()]
        code, expected = RefusalCode.RESCALE_INTERCEPT, "0 (PS3.3 C.8.9.1.1.4)"
        raise unusable(series, code, "RescaleIntercept", f"{worst:g}", expected)
    same_in_all(series, slices.headers, MUST_AGREE)
    pet_header, decisions = _pet_header(series, slices, administrations)
    pet_header = replace(pet_header, series_time_rules=series_time_rules)
    _refuse_other_scale(series, slices, slopes)
    converted = convert_pet(pet_header)
    if isinstance(converted, Reason) and spect_in_counts and functional_role(series) is ImageRole.SPECT:
        converted = pet_left_in_counts(pet_header, converted)
    conversion = settled(converted, series)
    image = functional_image(series, slices, slopes, conversion)
    found = _slice_findings(series, slices, image, slopes)
    return replace(image, decisions=(*decisions, *image.decisions, *found), body=pet_header.injection.body)


def _refuse_mappings(series: Series, slices: SliceStack) -> None:
    """A mapping that was made the rescale must hold for the frame; for an empty one any does."""
    for dataset, plane in zip(slices.headers, slices.stored, strict=True):
        if header.text(dataset, "RescaleType") == MAPPED and plane.any():
            stored = (float(plane.min()), float(plane.max()))
            settled(chosen_mapping(real_world_mappings(dataset), stored), series)


def _refuse_other_scale(series: Series, slices: SliceStack, slopes: NDArray[np.float64]) -> None:
    """A mapping to Bq/ml and a rescale to Bq/ml (BQML) must agree: nothing says which of two is right."""
    for dataset, slope in zip(slices.headers, slopes, strict=True):
        if header.text(dataset, "Units").upper() != Units.BQML:
            continue
        for item in real_world_mappings(dataset):
            if item.unit in BQML_PER_UNIT and not same_scale(item, RealWorldMapping(slope, 0.0, "Bq/ml")):
                found = f"slope {item.slope} {item.unit} beside RescaleSlope {slope:g} Bq/ml"
                attribute, expected = "RealWorldValueMappingSequence, RescaleSlope", "one scale"
                raise unusable(series, RefusalCode.ATTRIBUTE_INCONSISTENT, attribute, found, expected)


def _slice_findings(
    series: Series, slices: SliceStack, image: FunctionalImage, slopes: NDArray[np.float64]
) -> tuple[Decision, ...]:
    """What the slices say about one another: their places, their scales, and whether any are missing.

    Raises:
        UnusableStudyError: two slices contradict each other.
    """
    volume = image.volume
    if volume is None:
        return ()
    numbers = slice_numbers(slices.headers)
    findings = (
        check_order(volume.array, numbers),
        check_scales(volume, slopes),
        check_content(volume, slices.stored, slopes),
        check_completeness(numbers["InstanceNumber"], series.expected_instance_count is not None),
    )
    return tuple(decision for finding in findings for decision in settled(finding, series))


def _pet_header(
    series: Series, slices: SliceStack, administrations: Sequence[SiteAdministration]
) -> tuple[PetHeader, tuple[Decision, ...]]:
    first = slices.headers[0]
    suv_factor, of_suv = _philips_factor(series, slices.headers, 0x00)
    bqml_factor, of_bqml = _philips_factor(series, slices.headers, 0x09)
    given = injection(series, first, administrations, is_nm=False)
    injected = replace(given.injected, private_start=_private_start(first))
    return PetHeader(
        units=header.text(first, "Units").upper(),
        injection=replace(given, injected=injected),
        frames=tuple(_timing(dataset) for dataset in slices.headers),
        suv_type=header.text(first, "SUVType").upper(),
        decay_correction=header.text(first, "DecayCorrection").upper(),
        series_datetime=series.series_datetime,
        scanner_datetime=earliest(_scanner_datetime(dataset) for dataset in slices.headers),
        philips_suv_factor=suv_factor,
        philips_bqml_factor=bqml_factor,
        corrected_image=series.corrected_image,
        study_datetime=series.clocks.study,
        manufacturer=series.manufacturer,
        decay_corrected_to=header.moment(first, "DecayCorrectionDateTime", header.stated_zone(first)),
    ), (*of_suv, *of_bqml)[:1]


def _timing(dataset: Dataset) -> FrameTiming:
    """Both durations are in ms (PS3.3 C.8.9.4)."""
    reference_ms = header.number(dataset, "FrameReferenceTime")
    duration_ms = header.number(dataset, "ActualFrameDuration")
    return FrameTiming(
        header.acquired_at(dataset),
        None if reference_ms is None else reference_ms / 1000.0,
        None if duration_ms is None else duration_ms / 1000.0,
        header.number(dataset, "DecayFactor"),
    )


def _scanner_datetime(dataset: Dataset) -> datetime | None:
    """The scanner's private time, by the first of :data:`SCAN_TIMES` that is there."""
    return next((at for place in SCAN_TIMES if (at := _private_moment(dataset, *place)) is not None), None)


def _private_start(dataset: Dataset) -> datetime | None:
    """GE's private time of injection, unless that of the scan shows that an anonymiser left both dates."""
    scanned, acquired = _private_moment(dataset, *SCAN_TIMES[0]), header.acquired_at(dataset)
    if scanned is None or acquired is None or scanned.date() != acquired.date():
        return None
    return _private_moment(dataset, *INJECTION_TIME)


def _private_moment(dataset: Dataset, group: int, creator: str, element: int) -> datetime | None:
    """A private DT."""
    stated = _private_element(dataset, group, creator, element)
    if stated is None:
        return None
    spelled = stated.decode("ascii", "replace") if isinstance(stated, bytes) else str(stated)
    holder = Dataset()
    holder.add_new("AcquisitionDateTime", "DT", spelled.strip("\0 "))
    return header.moment(holder, "AcquisitionDateTime", header.stated_zone(dataset))


def _philips_factor(
    series: Series, headers: Sequence[Dataset], element: int
) -> tuple[float | None, tuple[Decision, ...]]:
    """A factor of "Philips PET Private Group", the same on every slice."""
    values = {_philips_value(dataset, element) for dataset in headers}
    if len(values) > 1:
        attribute, expected = f"(7053,xx{element:02X})", "the same factor on every image"
        found = f"{len(values)} values in one series"
        raise unusable(series, RefusalCode.ATTRIBUTE_INCONSISTENT, attribute, found, expected)
    value, has_creator = values.pop()
    if value is None or has_creator:
        return value, ()
    text = f"(7053,10{element:02X}) has no private creator; it is read as Philips' by the manufacturer"
    return value, (Decision.warning("load", text),)


def _philips_value(dataset: Dataset, element: int) -> tuple[float | None, bool]:
    """The factor, and whether its private creator is there. Anonymisers often drop the creator."""
    found = _private_element(dataset, 0x7053, PHILIPS_CREATOR, element)
    has_creator = found is not None
    if not has_creator and header.text(dataset, "Manufacturer").upper().startswith("PHILIPS"):
        bare = dataset.get((0x7053, 0x1000 + element)) if (0x7053, 0x0010) not in dataset else None
        found = bare.value if bare is not None else None
    try:
        value = float(found.decode("ascii") if isinstance(found, bytes) else str(found)) if found else None
    except ValueError:
        value = None
    return (value if value and value > 0.0 and np.isfinite(value) else None), has_creator


def _private_element(dataset: Dataset, group: int, creator: str, element: int) -> object:
    try:
        return dataset.private_block(group, creator)[element].value
    except header.READ_ERRORS:
        return None
