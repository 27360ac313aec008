"""How and when a simulated patient was injected and scanned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import numpy as np

from app.domain.radionuclides import GA68, LU177, Radionuclide
from app.domain.selection.tracers import PSMA_11_GA68, PSMA_617_LU177, Tracer
from app.phantom.centres import Centre, Modality
from app.phantom.patient import VERSION, SimulatedPatient

FIRST_DAY = date(2026, 1, 5)
DAYS_OF_SCANNING = 180
GA68_MBQ_PER_KG = (1.6, 2.4)
LU177_MBQ = (7000.0, 7700.0)
UPTAKE_MIN = (52.0, 78.0)
"""Minutes from injection to PET: 60 is meant (EANM/SNMMI guideline for PSMA PET/CT, 2023)."""

SPECT_AFTER_H = (20.0, 94.0)
THERAPY_AFTER_DAYS = (14, 42)


@dataclass(frozen=True)
class Injection:
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

    injection: Injection
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
    pet = Injection(
        PSMA_11_GA68, GA68, round(patient.weight_kg * rng.uniform(*GA68_MBQ_PER_KG), 1) * 1e6, pet_injected
    )
    therapy_day = day + timedelta(days=int(rng.integers(*THERAPY_AFTER_DAYS)))
    given = datetime.combine(therapy_day, time(10)) + timedelta(minutes=int(rng.integers(0, 240)))
    therapy = Injection(PSMA_617_LU177, LU177, round(float(rng.uniform(*LU177_MBQ))) * 1e6, given)
    pet_start = pet_injected + timedelta(seconds=round(rng.uniform(*UPTAKE_MIN) * 60))
    spect_start = given + timedelta(seconds=round(rng.uniform(*SPECT_AFTER_H) * 3600))
    return {Modality.PET: Protocol(pet, pet_start), Modality.SPECT: Protocol(therapy, _by_day(spect_start))}


def _by_day(moment: datetime) -> datetime:
    """Scans take place in working hours: 8 to 16 h on the same day."""
    hour = 8 + moment.hour * 8 // 24
    return moment.replace(hour=hour)
