"""Reconstructed NM images (SPECT) in Bq/ml and SUVbw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydicom import Dataset

from app.dicom import header_values as header
from app.dicom.reading.functional_image import FunctionalImage, functional_image, injection
from app.dicom.reading.pixels import SliceStack, read_stack, settled, unusable
from app.dicom.reading.series_header import real_world_mappings
from app.domain.decision import Decision
from app.domain.quantities.administration import SiteAdministration
from app.domain.quantities.calibration import (
    Camera,
    CameraCalibration,
    NmHeader,
    RealWorldMapping,
    convert_nm,
    left_in_counts,
)
from app.domain.quantities.nm_checks import (
    EnergyWindow,
    check_detectors,
    check_energy,
    check_frames,
    check_spacing,
)
from app.domain.radionuclides import radionuclide_of
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.slice_content import check_content
from app.domain.study import Series

SLICE_VECTOR = (0x0054, 0x0080)

ONE_VALUE = ("RescaleSlope", "RescaleIntercept", "DecayCorrection", "PatientWeight", "CorrectedImage")
"""What decides on the numbers, apart from the mapping."""


def read_nm(
    series: Series,
    calibrations: tuple[CameraCalibration, ...] = (),
    administrations: Sequence[SiteAdministration] = (),
    may_be_in_counts: bool = False,
) -> FunctionalImage:
    """A RECON TOMO image of NM Image Storage in physical units; in counts where it may be and has no other.

    Raises:
        UnusableStudyError: its unit can't be established, or its pixels can't be used.
    """
    slices = read_stack(series)
    _refuse_differing_scales(series, slices.headers)
    dataset = slices.headers[0]
    _refuse_other_dimensions(series, dataset)
    found = _header_findings(series, slices)
    slope = _slope(series, dataset)
    nm_header = _nm_header(series, slices, administrations)
    converted = convert_nm(nm_header, calibrations)
    if may_be_in_counts and isinstance(converted, Reason):
        converted = left_in_counts(nm_header, converted)
    conversion = settled(converted, series)
    # a real-world value mapping applies to stored values, before any rescale (PS3.3 C.7.6.16.2.11)
    mapped = conversion.applies_to_stored_values
    slopes = np.full(len(slices.headers), 1.0 if mapped else slope)
    if mapped:
        _refuse_outside_mapping(series, nm_header.mappings, slices)
    image = functional_image(series, slices, slopes, conversion)
    if image.volume is not None:
        found += settled(check_content(image.volume, slices.stored, slopes), series)
    return replace(image, decisions=(*image.decisions, *found), body=nm_header.injection.body)


def _header_findings(series: Series, slices: SliceStack) -> tuple[Decision, ...]:
    """What a multi-frame image's header says against itself.

    Raises:
        UnusableStudyError: frames are missing, or it contradicts itself in place or radionuclide.
    """
    dataset = slices.headers[0]
    found: list[tuple[Decision, ...] | Reason | None] = [
        check_detectors(*_detector_places(dataset)),
        check_energy(_energy_windows(dataset), radionuclide_of(series.radiopharmaceutical)),
    ]
    if series.instances[0].number_of_frames > 1:
        announced = header.whole(dataset, "NumberOfSlices")
        pixel_mm, _, spacing_mm = slices.stack.grid.spacing_mm
        thickness_mm = header.number(dataset, "SliceThickness")
        found += [
            check_frames(len(slices.headers), announced),
            check_spacing(spacing_mm, thickness_mm, pixel_mm),
        ]
    return tuple(decision for item in found for decision in settled(item, series) or ())


def _detector_places(dataset: Dataset) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Image Position and Orientation of every item of Detector Information Sequence that has them."""
    items = header.items(dataset, "DetectorInformationSequence")
    positions = [header.numbers(item, "ImagePositionPatient") for item in items]
    orientations = [header.numbers(item, "ImageOrientationPatient") for item in items]
    return [item for item in positions if len(item) == 3], [item for item in orientations if len(item) == 6]


def _energy_windows(dataset: Dataset) -> tuple[EnergyWindow, ...]:
    """Every range of every item of Energy Window Information Sequence, keV."""
    found = []
    for item in header.items(dataset, "EnergyWindowInformationSequence"):
        for limits in header.items(item, "EnergyWindowRangeSequence"):
            low, high = (header.number(limits, f"EnergyWindow{end}Limit") for end in ("Lower", "Upper"))
            if low is not None and high is not None and high > 0.0:
                found.append((low, high))
    return tuple(found)


def _refuse_differing_scales(series: Series, headers: Sequence[Dataset]) -> None:
    """Images of one frame each may be scaled one by one; only one scale for all is read."""
    scales = {
        (real_world_mappings(dataset), *(header.text(dataset, keyword) for keyword in ONE_VALUE))
        for dataset in {id(dataset): dataset for dataset in headers}.values()
    }
    if len(scales) > 1:
        attribute, found = "RealWorldValueMappingSequence", f"{len(scales)} different scales in one series"
        code, expected = RefusalCode.ATTRIBUTE_INCONSISTENT, "the same on every image"
        raise unusable(series, code, attribute, found, expected)


def _refuse_outside_mapping(series: Series, mappings: Sequence[RealWorldMapping], slices: SliceStack) -> None:
    """A mapping holds for the stored values that it names (PS3.3 C.7.6.16.2.11.1.2)."""
    lowest, highest = int(slices.stored.min()), int(slices.stored.max())
    for item in mappings:
        if item.first_value is None or item.last_value is None:
            continue
        if item.first_value <= max(lowest, 0) and highest <= item.last_value:
            continue
        mapped = f"{item.first_value:g} to {item.last_value:g}"
        found = f"stored values {lowest} to {highest}, a mapping of {mapped}"
        attribute = "RealWorldValueFirstValueMapped, RealWorldValueLastValueMapped"
        code, expected = RefusalCode.VALUES_IMPLAUSIBLE, "a mapping of every stored value"
        raise unusable(series, code, attribute, found, expected)


def _refuse_other_dimensions(series: Series, dataset: Dataset) -> None:
    """Frames may be counted by slice alone: not by energy window, time slot or detector."""
    pointer = header.value(dataset, "FrameIncrementPointer")
    tags = [] if pointer is None else (list(pointer) if isinstance(pointer, Sequence) else [pointer])
    if all((tag.group, tag.element) == SLICE_VECTOR for tag in tags):
        return
    found = ", ".join(str(tag) for tag in tags)
    code, expected = RefusalCode.GEOMETRY_INCONSISTENT, "Slice Vector (0054,0080) alone"
    raise unusable(series, code, "FrameIncrementPointer", found, expected)


def _slope(series: Series, dataset: Dataset) -> float:
    """NM has no rescale of its own; where one was added it counts, and an intercept is refused."""
    intercept = header.number(dataset, "RescaleIntercept")
    if intercept:
        raise unusable(series, RefusalCode.RESCALE_INTERCEPT, "RescaleIntercept", f"{intercept:g}", "0")
    slope = header.number(dataset, "RescaleSlope")
    if "RescaleSlope" in dataset and not (slope and slope > 0.0):
        found = header.text(dataset, "RescaleSlope") or "nothing"
        expected = "a positive slope, or none at all"
        raise unusable(series, RefusalCode.RESCALE_MISSING, "RescaleSlope", found, expected)
    return slope or 1.0


def _nm_header(series: Series, slices: SliceStack, administrations: Sequence[SiteAdministration]) -> NmHeader:
    dataset = slices.headers[0]
    detector = next(iter(header.items(dataset, "DetectorInformationSequence")), Dataset())
    rotations = header.items(dataset, "RotationInformationSequence")
    rotation = rotations[0] if len(rotations) == 1 else Dataset()
    duration_ms = header.number(rotation, "ActualFrameDuration")
    collimators = (header.text(detector, "CollimatorGridName"), header.text(detector, "CollimatorType"))
    return NmHeader(
        injection=injection(series, dataset, administrations, is_nm=True),
        camera=Camera(
            series.manufacturer,
            series.model_name,
            series.station_name,
            tuple(name for name in collimators if name),
        ),
        mappings=real_world_mappings(dataset),
        acquired_at=series.acquired_at,
        slices=len(slices.headers),
        voxel_ml=slices.stack.grid.voxel_ml,
        decay_correction=header.text(dataset, "DecayCorrection").upper(),
        is_decay_corrected="DECY" in series.corrected_image,
        frame_duration_s=None if duration_ms is None else duration_ms / 1000.0,
        projections=header.whole(rotation, "NumberOfFramesInRotation"),
        detectors=header.whole(dataset, "NumberOfDetectors"),
        energy_windows=_energy_windows(dataset),
    )
