"""Reconstructed NM images (SPECT) in Bq/ml and SUVbw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from pydicom import Dataset

from app.dicom import header_values as header
from app.dicom.reading.functional_image import FunctionalImage, functional_image, injection, same_in_all
from app.dicom.reading.nm_scales import FrameScales, frame_scales
from app.dicom.reading.pixels import SliceStack, read_stack, settled, unusable
from app.domain.decision import Decision
from app.domain.quantities.administration import SiteAdministration
from app.domain.quantities.calibration import Camera, CameraCalibration, NmHeader, convert_nm, left_in_counts
from app.domain.quantities.nm_checks import (
    CameraTime,
    check_detectors,
    check_energy,
    check_frames,
    check_spacing,
)
from app.domain.quantities.scales import MAPPING
from app.domain.quantities.suv import Conversion
from app.domain.radionuclides import radionuclide_of
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.slice_consistency import check_scales, is_one_slope
from app.domain.stack.slice_content import check_content
from app.domain.study import Series

SLICE_VECTOR = (0x0054, 0x0080)

ONE_VALUE = ("Units", "RescaleType", "DecayCorrection", "PatientWeight", "CorrectedImage")
"""What decides on the numbers of all frames; scales may differ."""


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
    same_in_all(series, slices.headers, ONE_VALUE)
    _refuse_other_dimensions(series, slices.headers[0])
    found = _header_findings(series, slices)
    nm_header = _nm_header(series, slices, administrations)
    convert = partial(_converted, calibrations=calibrations, may_be_in_counts=may_be_in_counts)
    conversion = _conversion(series, slices, nm_header, convert)
    image = functional_image(series, slices, np.ones(len(slices.headers)), conversion)
    slopes = conversion.suv_factors or conversion.activity_factors or conversion.count_factors
    if image.volume is not None and slopes is not None:
        if not is_one_slope(np.array(slopes)):
            found += settled(check_scales(image.volume, np.array(slopes)), series)
        found += settled(check_content(image.volume, slices.stored, np.array(slopes)), series)
    return replace(image, decisions=(*image.decisions, *found), body=nm_header.injection.body)


def _converted(
    nm_header: NmHeader, calibrations: tuple[CameraCalibration, ...], may_be_in_counts: bool
) -> Conversion | Reason:
    found = convert_nm(nm_header, calibrations)
    return left_in_counts(nm_header, found) if may_be_in_counts and isinstance(found, Reason) else found


def _conversion(
    series: Series,
    slices: SliceStack,
    nm_header: NmHeader,
    convert: Callable[[NmHeader], Conversion | Reason],
) -> Conversion:
    """Every slice by the scales that hold for it; an empty one has no number to scale, whatever its slope.

    Raises:
        UnusableStudyError: a unit can't be established, or slices have different ones.
    """
    scales = frame_scales(slices.headers, slices.frame_numbers)
    filled = [z for z, plane in enumerate(slices.stored) if plane.any()] or [0]
    converted: dict[FrameScales, Conversion] = {}
    for one in dict.fromkeys(scales[z] for z in filled):
        planes = slices.stored[[z for z in filled if scales[z] == one]]
        stored = (float(planes.min()), float(planes.max()))
        scaled = replace(nm_header, stored=stored, mappings=one.mappings, rescale=one.rescale)
        scaled = replace(scaled, vendor_scales=one.vendor)
        converted[one] = settled(convert(scaled), series)
    first = converted[scales[filled[0]]]
    units = {(each.quantification.source, each.suv_factors is None) for each in converted.values()}
    if len(units) > 1:
        found = " and ".join(sorted(source for source, _ in units))
        code, expected = RefusalCode.ATTRIBUTE_INCONSISTENT, "one unit for all frames"
        raise unusable(series, code, MAPPING, found, expected)
    of_slices = [converted.get(one, first) for one in scales]
    return replace(
        first,
        activity_factors=_of_each([one.activity_factors for one in of_slices]),
        suv_factors=_of_each([one.suv_factors for one in of_slices]),
        count_factors=_of_each([one.count_factors for one in of_slices]),
        decisions=tuple(dict.fromkeys(line for one in converted.values() for line in one.decisions)),
    )


def _of_each(factors: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    """The factor of slice z by the conversion of slice z."""
    found = tuple(each[z] for z, each in enumerate(factors) if each is not None)
    return found if len(found) == len(factors) else None


def _header_findings(series: Series, slices: SliceStack) -> tuple[Decision, ...]:
    """What a multi-frame image's header says against itself.

    Raises:
        UnusableStudyError: frames are missing, or it contradicts itself in place or radionuclide.
    """
    dataset = slices.headers[0]
    found: list[tuple[Decision, ...] | Reason | None] = [
        check_detectors(*_detector_places(dataset)),
        check_energy(header.energy_windows(dataset), radionuclide_of(series.radiopharmaceutical)),
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


def _refuse_other_dimensions(series: Series, dataset: Dataset) -> None:
    """Frames may be counted by slice alone: not by energy window, time slot or detector."""
    pointer = header.value(dataset, "FrameIncrementPointer")
    tags = [] if pointer is None else (list(pointer) if isinstance(pointer, Sequence) else [pointer])
    if all((tag.group, tag.element) == SLICE_VECTOR for tag in tags):
        return
    found = ", ".join(str(tag) for tag in tags)
    code, expected = RefusalCode.GEOMETRY_INCONSISTENT, "Slice Vector (0054,0080) alone"
    raise unusable(series, code, "FrameIncrementPointer", found, expected)


def _nm_header(series: Series, slices: SliceStack, administrations: Sequence[SiteAdministration]) -> NmHeader:
    dataset = slices.headers[0]
    detector = next(iter(header.items(dataset, "DetectorInformationSequence")), Dataset())
    collimators = (header.text(detector, "CollimatorGridName"), header.text(detector, "CollimatorType"))
    return NmHeader(
        injection=injection(series, dataset, administrations, is_nm=True),
        camera=Camera(
            series.manufacturer,
            series.model_name,
            series.station_name,
            tuple(name for name in collimators if name),
        ),
        mappings=(),
        acquired_at=series.acquired_at,
        slices=len(slices.headers),
        voxel_ml=slices.stack.grid.voxel_ml,
        decay_correction=header.text(dataset, "DecayCorrection").upper(),
        is_decay_corrected="DECY" in series.corrected_image,
        time=_camera_time(dataset),
        energy_windows=header.energy_windows(dataset),
        units={keyword: header.text(dataset, keyword).upper() for keyword in ("Units", "RescaleType")},
        length_mm=len(slices.headers) * slices.stack.grid.spacing_mm[2],
    )


def _camera_time(dataset: Dataset) -> CameraTime:
    rotations = header.items(dataset, "RotationInformationSequence")
    rotation = rotations[0] if rotations else Dataset()
    duration_ms = header.number(rotation, "ActualFrameDuration")
    total_s = (header.number(dataset, f"{kind}Duration") for kind in ("Effective", "Acquisition"))
    return CameraTime(
        frame_duration_s=None if duration_ms is None else duration_ms / 1000.0,
        projections=header.whole(rotation, "NumberOfFramesInRotation"),
        detectors=header.whole(dataset, "NumberOfDetectors"),
        angular_step_deg=abs(header.number(rotation, "AngularStep") or 0.0),
        scan_arc_deg=abs(header.number(rotation, "ScanArc") or 0.0),
        rotations=max(len(rotations), header.whole(dataset, "NumberOfRotations") or 0),
        detector_items=len(header.items(dataset, "DetectorInformationSequence")) or 1,
        total_s=next((seconds for seconds in total_s if seconds and seconds > 0.0), 0.0),
    )
