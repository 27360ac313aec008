"""SPECT in Bq/ml: by the image's own real-world value mapping, or by the site's calibration of its camera."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Annotated, Any

from app.domain.decision import Decision
from app.domain.quantities.administration import Administration
from app.domain.quantities.decay import DecayCorrection, FrameTiming
from app.domain.quantities.nm_checks import BED_S, CameraTime, EnergyWindow, check_camera_time, covers
from app.domain.quantities.scales import (
    BQML_PER_UNIT,
    MAPPING,
    SAME_SCALE,
    Kind,
    RealWorldMapping,
    Scale,
    chosen_mapping,
    counts_per_value,
    scale_fault,
)
from app.domain.quantities.suv import NOT_QUANTIFIED, Conversion, from_activity
from app.domain.quantities.suv_scale import PetHeader, Quantification, suv_scale
from app.domain.radionuclides import radionuclide_named
from app.domain.ranges import Range, Ranged
from app.domain.refusal import Reason, RefusalCode

_ADMIN = DecayCorrection.ADMIN

BQML, CNTS = "BQML", "CNTS"

UNITS_OF_COUNTS = ("", CNTS, "COUNTS", "NONE", "US")
"""Units (0054,1001) and Rescale Type (0028,1054) of values that are counts, or unspecified."""

LARGEST_CONTRADICTION = 1.5
"""Factor between a mapping to Bq/ml and the site's calibration, of values that are called counts too."""


@dataclass(frozen=True)
class CameraCalibration(Ranged):
    """The site's calibration factor of one camera with one collimator."""

    bq_per_cps: Annotated[float, Range(0, 1e12, above=True)]
    """Activity that gives one count per second in the reconstructed image, Bq/cps, where the count rate is
    counts / (frame duration x projections x detectors)."""
    valid_from: date
    """First day of acquisition on which it holds."""
    valid_to: date
    """Last day of acquisition on which it holds."""
    manufacturer: str = ""
    """Manufacturer (0008,0070); empty fits any."""
    model_name: str = ""
    """Manufacturer's Model Name (0008,1090); empty fits any."""
    station_name: str = ""
    """Station Name (0008,1010); empty fits any."""
    collimator: str = ""
    """Collimator/Grid Name (0018,1180) or Type (0018,1181); empty fits any."""
    radionuclide: str = "177Lu"
    """Radionuclide, written as ``177Lu``."""
    energy_kev: Annotated[float, Range(10, 2000)] | None = None
    """Photopeak that the image's energy window must cover, keV; ``null`` fits any."""
    frame_duration_s: Annotated[float, Range(0, 36_000, above=True)] | None = None
    """Duration of one projection, s, where this camera's reconstructions have a placeholder for Actual Frame
    Duration (0018,1242); it overrules the header."""
    projections: Annotated[int, Range(1, 1440)] | None = None
    """Projections of each detector, where Number of Frames in Rotation (0054,0053) is a placeholder."""
    detectors: Annotated[int, Range(1, 64)] | None = None
    """Detectors that counted, where Number of Detectors (0054,0021) is a placeholder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.valid_to < self.valid_from:
            raise ValueError(f"load.calibrations: valid_to {self.valid_to} lies before {self.valid_from}")
        if radionuclide_named(self.radionuclide) is None:
            raise ValueError(f"load.calibrations: unknown radionuclide {self.radionuclide!r}")

    @property
    def time(self) -> dict[str, Any]:
        """What the site states of the camera's time, by field of :class:`CameraTime`."""
        fields = ("frame_duration_s", "projections", "detectors")
        return {name: stated for name in fields if (stated := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Camera:
    """The camera that an image names."""

    manufacturer: str = ""
    model_name: str = ""
    station_name: str = ""
    collimators: tuple[str, ...] = ()


@dataclass(frozen=True)
class NmHeader:
    """What a reconstructed NM image says of its numbers.

    Attributes:
        stored: least and largest stored value.
        rescale, vendor_scales: further scales between stored values and counts.
        units: Units and Rescale Type, by keyword: neither is an attribute of NM, and some writers add them.
        voxel_ml, length_mm: of the reconstructed image.
        acquired_at: Acquisition Date and Time, never those of the series.
        energy_windows: lower and upper limits, keV.
    """

    injection: Administration
    camera: Camera
    mappings: tuple[RealWorldMapping, ...]
    acquired_at: datetime | None
    slices: int
    voxel_ml: float
    decay_correction: str = ""
    is_decay_corrected: bool = False
    time: CameraTime = field(default_factory=CameraTime)
    energy_windows: tuple[EnergyWindow, ...] = ()
    stored: tuple[float, float] = (0.0, 0.0)
    rescale: tuple[Scale, ...] = ()
    vendor_scales: tuple[Scale, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    length_mm: float = 0.0


@dataclass(frozen=True)
class _Calibrated:
    """Counts as Bq/ml: the factor from stored values, and the time that it was made with."""

    to_bqml: float
    time: CameraTime
    decisions: tuple[Decision, ...]


def convert_nm(header: NmHeader, calibrations: tuple[CameraCalibration, ...]) -> Conversion | Reason:
    """How stored values become Bq/ml and SUVbw; never a guess from the values themselves."""
    mapping = chosen_mapping(header.mappings, header.stored)
    if isinstance(mapping, Reason):
        return mapping
    if mapping is None or mapping.kind is Kind.COUNTS:
        found = _by_calibration(header, mapping, calibrations)
        if isinstance(found, Reason):
            return found
        timed = replace(header, time=found.time)
        return _from_activity(timed, found.to_bqml, "site calibration", found.decisions)
    source, slope = f"{MAPPING} in {mapping.unit}", mapping.slope or 0.0
    if mapping.kind is Kind.SUV:
        return Conversion(Quantification(source), None, (slope,) * header.slices)
    to_bqml = slope * BQML_PER_UNIT[mapping.unit]
    return _contradiction(header, to_bqml, calibrations) or _from_activity(header, to_bqml, source, ())


def left_in_counts(header: NmHeader, why: Reason) -> Conversion | Reason:
    """Counts as they are, where nothing but the calibration or its time is missing: other reasons stand."""
    if why.code not in (RefusalCode.CALIBRATION_MISSING, RefusalCode.CAMERA_TIME_IMPLAUSIBLE):
        return why
    mapping = chosen_mapping(header.mappings, header.stored)
    scale = mapping if isinstance(mapping, Reason) else _to_counts(header, mapping)
    if isinstance(scale, Reason):
        return scale
    factors = (scale.slope or 1.0,) * header.slices
    return Conversion(Quantification(NOT_QUANTIFIED), None, None, why, count_factors=factors)


def _contradiction(
    header: NmHeader, to_bqml: float, calibrations: tuple[CameraCalibration, ...]
) -> Reason | None:
    """A mapping to Bq/ml against a rescale in Units BQML, or the calibration of what is counts too.

    It is for stored values, so that a rescale to anything else is none of its business.
    """
    stated = header.rescale if BQML in header.units.values() else ()
    wrong = next((fault for scale in stated if (fault := scale_fault(scale))), None)
    if wrong is not None:
        return wrong
    rivals = [(scale.attribute, scale.slope or 0.0) for scale in stated]
    nearest = SAME_SCALE
    counts = next((item for item in header.mappings if item.kind is Kind.COUNTS), None)
    if not rivals and (counts is not None or CNTS in header.units.values()):
        calibrated = _by_calibration(header, counts, calibrations)
        if not isinstance(calibrated, Reason):
            rivals, nearest = [("load.calibrations", calibrated.to_bqml)], math.log(LARGEST_CONTRADICTION)
    for attribute, other in rivals:
        if abs(math.log(other / to_bqml)) > nearest:
            found = f"{to_bqml:g} Bq/ml and {other:g} Bq/ml for one stored value"
            both = f"{MAPPING}, {attribute}"
            return Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, both, found, "one scale")
    return None


def matching_calibrations(
    header: NmHeader, calibrations: tuple[CameraCalibration, ...]
) -> tuple[CameraCalibration, ...]:
    """The site's factors for this camera, collimator, radionuclide and day."""
    camera, nuclide = header.camera, header.injection.nuclide
    day = header.acquired_at.date() if header.acquired_at else None
    return tuple(
        item
        for item in calibrations
        if _fits(item.manufacturer, camera.manufacturer)
        and _fits(item.model_name, camera.model_name)
        and _fits(item.station_name, camera.station_name)
        and (not item.collimator or any(_fits(item.collimator, name) for name in camera.collimators))
        and nuclide is not None
        and item.radionuclide == nuclide.key
        and day is not None
        and item.valid_from <= day <= item.valid_to
        and (item.energy_kev is None or covers(header.energy_windows, item.energy_kev))
    )


def _fits(wanted: str, found: str) -> bool:
    return not wanted or wanted.strip().casefold() == found.strip().casefold()


def _by_calibration(
    header: NmHeader, mapping: RealWorldMapping | None, calibrations: tuple[CameraCalibration, ...]
) -> _Calibrated | Reason:
    """Of counts, which ``mapping`` may lead to."""
    scale = _to_counts(header, mapping)
    if isinstance(scale, Reason):
        return scale
    found = matching_calibrations(header, calibrations)
    if len(found) != 1:
        return _no_calibration(header, len(found))
    site = found[0].time
    time = replace(header.time, **site)
    wrong = _no_time(time) or check_camera_time(time, tuple(site), header.slices, header.length_mm)
    if wrong is not None:
        return wrong
    seconds, slope = time.bed_s * (time.detectors or 0), scale.slope or 1.0
    text = (
        f"counts / {seconds:g} s x {found[0].bq_per_cps:g} Bq/cps / {header.voxel_ml:.5f} ml by the site's "
        f"calibration of {found[0].valid_from} to {found[0].valid_to}"
    )
    decisions = [Decision("load", text)]
    if slope != 1.0:
        decisions.append(Decision("load", f"counts = stored values x {slope:g}, by {scale.attribute}"))
    if site:
        stated = ", ".join(f"{name} {value:g}" for name, value in site.items())
        decisions.append(Decision("load", f"camera time by the site: {stated}"))
    return _Calibrated(slope * found[0].bq_per_cps / seconds / header.voxel_ml, time, tuple(decisions))


def _to_counts(header: NmHeader, mapping: RealWorldMapping | None) -> Scale | Reason:
    """The scale to counts; where a unit is stated that no mapping leads to, values are none."""
    for attribute, unit in header.units.items():
        if unit not in UNITS_OF_COUNTS:
            found = f"{unit} without a mapping to it, where a calibration is for counts"
            expected = f"{MAPPING} in that unit, or {CNTS}"
            advice = "Have it exported with the mapping, or in counts"
            return Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, attribute, found, expected, advice)
    return counts_per_value(mapping, (*header.rescale, *header.vendor_scales))


def _no_calibration(header: NmHeader, fitting: int) -> Reason:
    camera = header.camera
    seen = (
        f"{fitting} site calibrations for camera {camera.manufacturer!r} {camera.model_name!r} "
        f"{camera.station_name!r}, collimator {' or '.join(camera.collimators) or 'not stated'}, "
        f"acquired {header.acquired_at.date() if header.acquired_at else 'at no stated date'}"
    )
    expected = f"{MAPPING} in Bq/ml, or exactly one entry of load.calibrations"
    advice = "Let only the right one of them fit this camera and day" if fitting else ""
    return Reason(RefusalCode.CALIBRATION_MISSING, MAPPING, seen, expected, advice)


def _no_time(time: CameraTime) -> Reason | None:
    if time.frame_duration_s and time.projections and time.detectors:
        return None
    seen = f"{time.frame_duration_s} s, {time.projections} projections, {time.detectors} detectors"
    attribute = "ActualFrameDuration, NumberOfFramesInRotation, NumberOfDetectors"
    expected = "all three, to make a count rate of counts"
    advice = "Have the workstation keep them, or state them in the camera's entry of load.calibrations"
    return Reason(RefusalCode.CALIBRATION_MISSING, attribute, seen, expected, advice)


def _from_activity(
    header: NmHeader, to_bqml: float, source: str, decisions: tuple[Decision, ...]
) -> Conversion:
    """Bq/ml, and SUVbw where dose, weight and times are known."""
    decisions = (*decisions, *_decay_warnings(header))
    scale = _without_time(header) or suv_scale(_as_pet(header))
    return from_activity((to_bqml,) * header.slices, scale, source, decisions)


def _decay_warnings(header: NmHeader) -> tuple[Decision, ...]:
    """NM has no Decay Correction (0054,1102) of its own: one that decides, or contradicts, gets a warning."""
    if header.decay_correction == _ADMIN:
        text = "DecayCorrection ADMIN in an NM image is believed: no decay from the injection to the scan"
    elif header.decay_correction == DecayCorrection.NONE and header.is_decay_corrected:
        text = "DecayCorrection NONE contradicts DECY in CorrectedImage, which is believed"
    else:
        return ()
    return (Decision.warning("load", text),)


def _without_time(header: NmHeader) -> Reason | None:
    """Series Time can't stand in for a lost acquisition: a day's error is 11 % of 177Lu."""
    if header.acquired_at is not None or header.decay_correction == _ADMIN:
        return None
    expected = "when it was measured; SeriesTime may be that of a later processing"
    advice = "Have camera, workstation and anonymiser keep AcquisitionDate and AcquisitionTime"
    attribute = "AcquisitionDate, AcquisitionTime"
    return Reason(RefusalCode.SERIES_TIME_MISSING, attribute, "nothing", expected, advice)


def _as_pet(header: NmHeader) -> PetHeader:
    """The times of an NM image in PET terms.

    NM has no Decay Correction attribute of its own; where one says ADMIN it counts. Else the image shows the
    activity at the start of the acquisition when it is decay corrected, at its middle when it is not.
    """
    reference = header.acquired_at
    if reference is not None and not header.is_decay_corrected:
        # what no bed takes is a placeholder, and no duration
        seconds = header.time.bed_s if header.time.bed_s <= BED_S[1] else 0.0
        reference = reference + timedelta(seconds=seconds / 2.0)
    return PetHeader(
        units="BQML",
        injection=header.injection,
        frames=(FrameTiming(),) * header.slices,
        decay_correction=_ADMIN if header.decay_correction == _ADMIN else DecayCorrection.START,
        series_datetime=reference,
    )
