"""A simulated patient: a number and a centre give a body, its disease, and two scans weeks apart.

The protocols say how and when the patient was injected and scanned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.domain.radionuclides import GA68, LU177, Radionuclide
from app.domain.selection.tracers import PSMA_11_GA68, PSMA_617_LU177, Tracer
from app.domain.volume import Volume
from app.imaging.mip import anterior
from app.phantom.acquisition import Acquisition, acquire
from app.phantom.anatomy.anatomy import build_anatomy
from app.phantom.anatomy.lesions import draw_lesions
from app.phantom.centres import Centre, Modality, Size, profile_of

VERSION = 1
"""Part of every seed: raise it when the patients change."""

MASS_IN_VIEW_SHARE = 0.78
"""Share of the body's mass in view, mid-thigh to vertex with raised arms: so the median patient weighs 75 kg.

Anatomy tables give 0.71 to 0.75, so these patients are a little light in the legs.
"""

RETAINED_SHARE_LIMIT = 0.95
"""No more than this share of the activity may be found in view: many avid lesions leave less for organs."""


@dataclass(frozen=True, eq=False)
class SimulatedPatient:
    """One patient of one centre, with PET/CT before therapy and 177Lu SPECT/CT weeks later."""

    number: int
    centre: Centre
    weight_kg: float
    height_m: float
    pet: Acquisition
    spect: Acquisition
    size: Size = Size.NORMAL

    @property
    def name(self) -> str:
        """``A0007``; ``A0007F`` in full size, for those are other images, which need other UIDs."""
        return f"{self.centre.value}{self.number:04d}{'F' if self.size is Size.FULL else ''}"


def simulate_patient(number: int, centre: Centre, size: Size = Size.NORMAL) -> SimulatedPatient:
    """The patient of that number: the same arrays on every call; body and lesions are those of every size.

    Raises:
        ValueError: ``number`` is negative.
    """
    if number < 0:
        raise ValueError(f"patients are numbered from 0, found {number}")
    profile = profile_of(centre, size)
    seed = np.random.SeedSequence((VERSION, list(Centre).index(centre), number))
    body, disease, pet_scan, spect_scan = (np.random.default_rng(child) for child in seed.spawn(4))
    anatomy = build_anatomy(body)
    lesions = draw_lesions(disease, anatomy, profile.lesion_median_mm)
    pet = acquire(pet_scan, anatomy, lesions, profile.pet)
    spect = acquire(spect_scan, anatomy, lesions, profile.spect)
    weight_kg = round(pet.body_mass_in_view_kg / MASS_IN_VIEW_SHARE, 1)
    return SimulatedPatient(
        number=number,
        centre=centre,
        weight_kg=weight_kg,
        height_m=round(anatomy.height_m, 2),
        pet=_within_injected(pet, weight_kg),
        spect=_within_injected(spect, weight_kg),
        size=size,
    )


def share_in_view(functional: Volume, weight_kg: float) -> float:
    """Share of the injected activity (decay corrected) that an SUV image shows."""
    return float(functional.array.sum(dtype=np.float64)) * functional.grid.voxel_ml / (weight_kg * 1000)


def _within_injected(scan: Acquisition, weight_kg: float) -> Acquisition:
    share = share_in_view(scan.functional, weight_kg)
    if share <= RETAINED_SHARE_LIMIT:
        return scan
    fitting = scan.functional.scaled(RETAINED_SHARE_LIMIT / share, scan.functional.unit)
    return replace(scan, functional=fitting)


FIRST_DAY = date(2026, 1, 5)
DAYS_OF_SCANNING = 180
GA68_MBQ_PER_KG = (1.6, 2.4)
LU177_MBQ = (7000.0, 7700.0)
UPTAKE_MIN = (52.0, 78.0)
"""Minutes from injection to PET: 60 is meant (EANM/SNMMI guideline for PSMA PET/CT, 2023)."""

SPECT_AFTER_H = (20.0, 94.0)
THERAPY_AFTER_DAYS = (14, 42)


@dataclass(frozen=True)
class SimulatedInjection:
    """What was given, how much and when."""

    tracer: Tracer
    nuclide: Radionuclide
    activity_bq: float
    at: datetime


@dataclass(frozen=True)
class Protocol:
    """One examination.

    Attributes:
        injection: the radiopharmaceutical.
        scan_start: start of the functional acquisition; its numbers are decay corrected to it.
    """

    injection: SimulatedInjection
    scan_start: datetime

    @property
    def ct_start(self) -> datetime:
        """Start of the CT, which also begins the study."""
        return self.scan_start - timedelta(minutes=3)

    @property
    def activity_at_scan_bq(self) -> float:
        """Injected activity decayed to the start of the scan."""
        elapsed_s = (self.scan_start - self.injection.at).total_seconds()
        return self.injection.activity_bq * float(2 ** (-elapsed_s / self.injection.nuclide.half_life_s))

    def bqml_per_suv(self, weight_kg: float) -> float:
        """Activity concentration at the start of the scan where SUVbw is 1."""
        return self.activity_at_scan_bq / (weight_kg * 1000)


@dataclass(frozen=True)
class CountingProtocol:
    """What turns a SPECT camera's counts into activity.

    Attributes:
        calibration_bq_per_cps: activity per count rate; the rate is counts / (views x detectors x view_s).
        views: projections of each detector.
        detectors: heads of the camera.
        view_s: duration of a projection.
    """

    calibration_bq_per_cps: float
    views: int
    detectors: int
    view_s: float

    def bqml_per_count(self, voxel_ml: float) -> float:
        """Bq/ml that one count in a voxel means."""
        return self.calibration_bq_per_cps / (self.views * self.detectors * self.view_s) / voxel_ml


COUNTING: Mapping[Centre, CountingProtocol] = {
    Centre.A: CountingProtocol(calibration_bq_per_cps=105_000.0, views=60, detectors=2, view_s=15.0),
    Centre.B: CountingProtocol(calibration_bq_per_cps=132_000.0, views=48, detectors=2, view_s=20.0),
}


@dataclass(frozen=True)
class BedProtocol:
    """Step-and-shoot PET: the beds follow one another from the thighs up."""

    bed_mm: float
    bed_s: float
    move_s: float


BEDS: Mapping[Centre, BedProtocol] = {
    Centre.A: BedProtocol(bed_mm=160.0, bed_s=150.0, move_s=4.0),
    Centre.B: BedProtocol(bed_mm=132.0, bed_s=120.0, move_s=5.0),
}


def draw_protocols(patient: SimulatedPatient) -> Mapping[Modality, Protocol]:
    """Doses and times of both examinations: the same for the same patient."""
    rng = np.random.default_rng((VERSION, list(Centre).index(patient.centre), patient.number, 68177))
    day = FIRST_DAY + timedelta(days=int(rng.integers(DAYS_OF_SCANNING)))
    pet_injected = datetime.combine(day, time(8)) + timedelta(minutes=int(rng.integers(0, 420)))
    pet = SimulatedInjection(
        PSMA_11_GA68, GA68, round(patient.weight_kg * rng.uniform(*GA68_MBQ_PER_KG), 1) * 1e6, pet_injected
    )
    therapy_day = day + timedelta(days=int(rng.integers(*THERAPY_AFTER_DAYS)))
    given = datetime.combine(therapy_day, time(10)) + timedelta(minutes=int(rng.integers(0, 240)))
    therapy = SimulatedInjection(PSMA_617_LU177, LU177, round(float(rng.uniform(*LU177_MBQ))) * 1e6, given)
    pet_start = pet_injected + timedelta(seconds=round(rng.uniform(*UPTAKE_MIN) * 60))
    spect_start = given + timedelta(seconds=round(rng.uniform(*SPECT_AFTER_H) * 3600))
    return {Modality.PET: Protocol(pet, pet_start), Modality.SPECT: Protocol(therapy, _by_day(spect_start))}


def _by_day(moment: datetime) -> datetime:
    """Scans take place in working hours: 8 to 16 h on the same day."""
    hour = 8 + moment.hour * 8 // 24
    return moment.replace(hour=hour)


PIXEL_MM = 2.6
PET_BLACK_SUV, SPECT_BLACK_SUV = 15.0, 5.0
"""Upper end of the grey scale (black)."""

OUTLINE_RGB = (215, 40, 40)


def picture(scan: Acquisition, black_suv: float, with_truth: bool) -> NDArray[np.uint8]:
    """Inverted anterior MIP as RGB (rows, columns, 3), lesions outlined on request.

    Head up, the patient's right on the left, square pixels of ``PIXEL_MM``.
    """
    projected = anterior(scan.functional.array, scan.functional.grid).image
    x_mm, _, z_mm = scan.functional.grid.spacing_mm
    size = (round(projected.shape[1] * x_mm / PIXEL_MM), round(projected.shape[0] * z_mm / PIXEL_MM))
    grey = np.asarray(255 - np.clip(projected / black_suv, 0, 1) * 255, dtype=np.uint8)
    grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
    rgb = np.repeat(grey[..., None], 3, axis=2)
    if with_truth:
        rgb[_outline(scan, size)] = OUTLINE_RGB
    return rgb


def _outline(scan: Acquisition, size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = anterior(scan.truth.mask, scan.truth.grid).image > 0
    flat = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    inside = flat.copy()
    inside[1:-1, 1:-1] &= flat[:-2, 1:-1] & flat[2:, 1:-1] & flat[1:-1, :-2] & flat[1:-1, 2:]
    edge: NDArray[np.bool_] = flat & ~inside
    return edge


def write_row(pictures: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """Pictures side by side in one PNG file."""
    tall = max(each.shape[0] for each in pictures)
    padded = [np.pad(p, ((0, tall - p.shape[0]), (0, 6), (0, 0)), constant_values=255) for p in pictures]
    Image.fromarray(np.concatenate(padded, axis=1)).save(path, optimize=True)
