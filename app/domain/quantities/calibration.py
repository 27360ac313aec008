"""SPECT in Bq/ml: by the image's own real-world value mapping, or by the site's calibration of its camera."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from app.domain.decision import Decision
from app.domain.quantities.administration import Administration
from app.domain.quantities.decay import DecayCorrection, FrameTiming
from app.domain.quantities.nm_checks import EnergyWindow, covers
from app.domain.quantities.suv import Conversion, from_activity
from app.domain.quantities.suv_scale import PetHeader, Quantification, suv_scale
from app.domain.radionuclides import radionuclide_named
from app.domain.refusal import Reason, RefusalCode

BQML_PER_UNIT = {
    f"{prefix}Bq/{millilitre}": factor
    for prefix, factor in (("", 1.0), ("k", 1e3), ("M", 1e6))
    for millilitre in ("ml", "mL", "cm3")
}
"""UCUM codes of Measurement Units Code Sequence (0040,08EA)."""

_ADMIN = DecayCorrection.ADMIN

SAME_SCALE = 1e-3
"""Relative: one scale written in two units, with the digits that a header has."""

COUNT_UNITS = ("{counts}", "counts", "{count}", "CNTS", "1", "")
"""Units that leave the values counts: the site's calibration may turn them into Bq/ml."""

NOT_QUANTIFIED = "not quantified: counts without a calibration"

SUV_UNITS = ("g/ml{SUVbw}", "{SUVbw}g/ml", "g/mL{SUVbw}", "{SUVbw}g/mL")


@dataclass(frozen=True)
class CameraCalibration:
    """The site's calibration factor of one camera with one collimator."""

    bq_per_cps: float
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
    energy_kev: float | None = None
    """Photopeak that the image's energy window must cover, keV; ``null`` fits any."""

    def __post_init__(self) -> None:
        if not self.bq_per_cps > 0.0:
            raise ValueError(f"load.calibrations: bq_per_cps must be positive, found {self.bq_per_cps}")
        if self.valid_to < self.valid_from:
            raise ValueError(f"load.calibrations: valid_to {self.valid_to} lies before {self.valid_from}")
        if radionuclide_named(self.radionuclide) is None:
            raise ValueError(f"load.calibrations: unknown radionuclide {self.radionuclide!r}")


@dataclass(frozen=True)
class Camera:
    """The camera that an image names."""

    manufacturer: str = ""
    model_name: str = ""
    station_name: str = ""
    collimators: tuple[str, ...] = ()


@dataclass(frozen=True)
class RealWorldMapping:
    """One item of Real World Value Mapping Sequence (0040,9096), for stored values first to last."""

    slope: float | None
    intercept: float | None
    unit: str
    first_value: float | None = None
    last_value: float | None = None


@dataclass(frozen=True)
class NmHeader:
    """What a reconstructed NM image says of its numbers.

    Attributes:
        frame_duration_s: Actual Frame Duration of the rotation, for one projection.
        projections: Number of Frames in Rotation; detectors: Number of Detectors.
        voxel_ml: of the reconstructed image.
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
    frame_duration_s: float | None = None
    projections: int | None = None
    detectors: int | None = None
    energy_windows: tuple[EnergyWindow, ...] = ()


def convert_nm(header: NmHeader, calibrations: tuple[CameraCalibration, ...]) -> Conversion | Reason:
    """How stored values become Bq/ml and SUVbw; never a guess from the values themselves."""
    usable = [item for item in header.mappings if item.unit in (*BQML_PER_UNIT, *SUV_UNITS)]
    mapping = min(usable, key=lambda item: item.unit in SUV_UNITS, default=None)
    if mapping is None:
        return _unknown_unit(header.mappings) or _by_calibration(header, calibrations)
    wrong = _unusable_mapping(mapping, usable)
    if wrong is not None:
        return wrong
    source = f"RealWorldValueMappingSequence in {mapping.unit}"
    slope = mapping.slope or 0.0
    if mapping.unit in SUV_UNITS:
        found = Conversion(Quantification(source), None, (slope,) * header.slices)
    else:
        found = _from_activity(header, slope * BQML_PER_UNIT[mapping.unit], source, ())
    return replace(found, applies_to_stored_values=True)


def left_in_counts(header: NmHeader, why: Reason) -> Conversion | Reason:
    """Counts as they are, where nothing but the calibration is missing: any other reason stands."""
    if why.code is not RefusalCode.CALIBRATION_MISSING:
        return why
    return Conversion(Quantification(NOT_QUANTIFIED), None, None, why, count_factors=(1.0,) * header.slices)


def _unknown_unit(mappings: tuple[RealWorldMapping, ...]) -> Reason | None:
    """A mapping to something that is neither activity nor counts."""
    other = [item.unit for item in mappings if item.unit not in COUNT_UNITS]
    if not other:
        return None
    expected = "Bq/ml, kBq/ml, MBq/ml, g/ml{SUVbw}, or counts"
    return Reason(RefusalCode.UNITS_UNSUPPORTED, "MeasurementUnitsCodeSequence", other[0], expected)


def _unusable_mapping(mapping: RealWorldMapping, usable: list[RealWorldMapping]) -> Reason | None:
    """Why a mapping can't be taken: another contradicts it, its slope or its intercept."""
    attribute = "RealWorldValueMappingSequence"
    rivals = [item for item in usable if (item.unit in SUV_UNITS) is (mapping.unit in SUV_UNITS)]
    if not all(same_scale(item, mapping) for item in rivals):
        found, expected = f"{len(rivals)} mappings that contradict each other", "one"
        return Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, attribute, found, expected)
    if not mapping.slope or mapping.slope <= 0:
        found = f"slope {mapping.slope}"
        return Reason(RefusalCode.RESCALE_MISSING, attribute, found, "a positive RealWorldValueSlope")
    if mapping.intercept:
        found = f"RealWorldValueIntercept {mapping.intercept:g}"
        return Reason(RefusalCode.RESCALE_INTERCEPT, attribute, found, "0")
    return None


def same_scale(one: RealWorldMapping, other: RealWorldMapping) -> bool:
    """Whether two mappings say the same, each in its own unit."""
    scales = [(item.slope or 0.0) * BQML_PER_UNIT.get(item.unit, 1.0) for item in (one, other)]
    return math.isclose(*scales, rel_tol=SAME_SCALE) and (one.intercept or 0.0) == (other.intercept or 0.0)


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


def _by_calibration(header: NmHeader, calibrations: tuple[CameraCalibration, ...]) -> Conversion | Reason:
    found = matching_calibrations(header, calibrations)
    camera, code = header.camera, RefusalCode.CALIBRATION_MISSING
    if len(found) != 1:
        seen = (
            f"{len(found)} site calibrations for camera {camera.manufacturer!r} {camera.model_name!r} "
            f"{camera.station_name!r}, collimator {' or '.join(camera.collimators) or 'not stated'}, "
            f"acquired {header.acquired_at.date() if header.acquired_at else 'at no stated date'}"
        )
        expected = "RealWorldValueMappingSequence in Bq/ml, or exactly one entry of load.calibrations"
        advice = "Let only the right one of them fit this camera and day" if found else ""
        return Reason(code, "RealWorldValueMappingSequence", seen, expected, advice)
    if not (header.frame_duration_s and header.projections and header.detectors):
        seen = f"{header.frame_duration_s} s, {header.projections} projections, {header.detectors} detectors"
        expected = "all three, to make a count rate of counts"
        attribute = "ActualFrameDuration, NumberOfFramesInRotation, NumberOfDetectors"
        advice = "Have camera, workstation and anonymiser keep them in the reconstruction"
        return Reason(code, attribute, seen, expected, advice)
    seconds = header.frame_duration_s * header.projections * header.detectors
    to_bqml = found[0].bq_per_cps / seconds / header.voxel_ml
    text = (
        f"counts / {seconds:g} s x {found[0].bq_per_cps:g} Bq/cps / {header.voxel_ml:.5f} ml by the site's "
        f"calibration of {found[0].valid_from} to {found[0].valid_to}"
    )
    return _from_activity(header, to_bqml, "site calibration", (Decision("load", text),))


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
        seconds = (header.frame_duration_s or 0.0) * (header.projections or 0)
        reference = reference + timedelta(seconds=seconds / 2.0)
    return PetHeader(
        units="BQML",
        injection=header.injection,
        frames=(FrameTiming(),) * header.slices,
        decay_correction=_ADMIN if header.decay_correction == _ADMIN else DecayCorrection.START,
        series_datetime=reference,
    )
