"""Absorbed dose from a single SPECT: a research estimate, off unless the site asks for it.

D [Gy] = 0.25 Gy·g/(MBq·h) x C(t) [MBq/g] x t [h] (Hänscheid et al., J Nucl Med 2018;59:75): 177Lu, local
deposition of its beta energy, soft tissue of 1 g/ml, C(t) as it was at the time t after administration.
How far off it is depends on the effective half-life; docs/measurements.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from app.domain.activity_instant import scanned_at
from app.domain.analysis import Loaded
from app.domain.decay import decay_factor, seconds_between
from app.domain.findings import DoseEstimate, Findings, Lesion
from app.domain.measurements import BQ_PER_MBQ, QuantifyPolicy
from app.domain.radionuclides import LU177
from app.domain.study import StudyKind

DOSE_GY_G_PER_MBQ_H = 0.25
SOFT_TISSUE_G_PER_ML = 1.0
"""Sclerotic bone is denser: there the estimate is too high."""

GY_G_PER_MBQ_H = 0.1479 * 1.602176634e-13 * 1e6 * 3600.0 * 1e3
"""Dose by the exact integral: 0.1479 MeV an electron and decay, all of it deposited in place."""

EFFECTIVE_HALF_LIVES_H = (30.0, 100.0)
"""For which the range of the estimate is told, as tabulated in docs/measurements.md."""

HALF_LIFE_STEPS = 200

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class DoseTiming:
    """When a SPECT was made.

    Attributes:
        hours: from administration to the scan.
        decay: factor from the activity as written to that at the scan.
    """

    hours: float
    decay: float


def with_dose(findings: Findings, loaded: Loaded, policy: QuantifyPolicy) -> Findings:
    """Add the estimate, or why there is none; ``findings`` as they are where the site does not ask for it."""
    if not policy.single_time_point_dose or loaded.selection.kind is not StudyKind.SPECT_CT:
        return findings
    timing = _timing(loaded)
    if isinstance(timing, str):
        return replace(findings, dose=DoseEstimate(None, timing))
    if not policy.dose_earliest_h <= timing.hours <= policy.dose_latest_h:
        refusal = (
            f"scanned {timing.hours:.1f} h after administration, expected {policy.dose_earliest_h:g} to "
            f"{policy.dose_latest_h:g} h: the estimate is too far off elsewhere"
        )
        return replace(findings, dose=DoseEstimate(timing.hours, refusal))
    lesions = tuple(_with_dose(lesion, timing) for lesion in findings.lesions)
    lowest, highest = dose_range(timing.hours)
    return replace(findings, lesions=lesions, dose=DoseEstimate(timing.hours, lowest=lowest, highest=highest))


def single_time_point_dose_gy(concentration_mbq_per_ml: float, hours: float) -> float:
    """Hänscheid's estimate.

    Args:
        concentration_mbq_per_ml: as it was at the time of the scan, not decay corrected to another.
        hours: from administration to the scan.
    """
    return DOSE_GY_G_PER_MBQ_H * concentration_mbq_per_ml / SOFT_TISSUE_G_PER_ML * hours


def dose_range(hours: float) -> tuple[float, float]:
    """The exact integral as multiples of the estimate: its lowest and highest over the effective half-lives.

    With a mono-exponential washout of half-life T: D = GY_G_PER_MBQ_H x C(t) x 2^(t/T) x T / ln 2.
    """
    half_lives = np.linspace(*EFFECTIVE_HALF_LIVES_H, HALF_LIFE_STEPS)
    exact = GY_G_PER_MBQ_H * np.exp2(hours / half_lives) * half_lives / np.log(2.0)
    multiples = exact / single_time_point_dose_gy(1.0, hours)
    return float(multiples.min()), float(multiples.max())


def _timing(loaded: Loaded) -> DoseTiming | str:
    """When it was scanned, or why the estimate can't be made."""
    nuclide, used = loaded.selection.tracer.radionuclide, loaded.quantification
    scanned = scanned_at(loaded)
    if nuclide != LU177.key:
        return f"found {nuclide}, expected {LU177.key}: the factor holds for its beta energy"
    if loaded.activity is None:
        return "the image is not known in Bq/ml"
    if used.administered_at is None or scanned is None:
        return "the time from administration to the scan is unknown"
    if used.reference_datetime is None:
        return "the instant to which the activity is decay corrected is unknown"
    since_reference_s = seconds_between(used.reference_datetime, scanned)
    decay = decay_factor(since_reference_s, used.half_life_s or LU177.half_life_s)
    return DoseTiming(seconds_between(used.administered_at, scanned) / SECONDS_PER_HOUR, decay)


def _with_dose(lesion: Lesion, timing: DoseTiming) -> Lesion:
    if lesion.concentration_mean_bqml is None:
        return lesion
    concentration = lesion.concentration_mean_bqml * timing.decay / BQ_PER_MBQ
    return replace(lesion, absorbed_dose_gy=single_time_point_dose_gy(concentration, timing.hours))
