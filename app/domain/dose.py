"""Activity at the start of the scan, and the absorbed dose estimated from a single SPECT.

Every activity that is reported holds for one instant, the start of the scan. An image's own activity may be
corrected to that start (START) or to the injection (ADMIN), or, from cameras that correct nothing, hold for
the middle of the acquisition: between injection and scan lies a factor of 1.8 for 68Ga after an hour, and of
1.5 for 177Lu after four days.

The dose is a research estimate, off unless the site asks for it: D [Gy] = 0.25 Gy·g/(MBq·h) x C(t) [MBq/g] x
t [h] (Hänscheid et al., J Nucl Med 2018;59:75), with 177Lu, local deposition of its beta energy, soft tissue
of 1 g/ml, and C(t) as it is at the time t after administration. How far off it is depends on the effective
half-life; docs/reference/measurements.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from app.domain.analysis import Loaded
from app.domain.findings.findings import ActivityInstant, DoseEstimate, Findings, InstantKind, Lesion
from app.domain.findings.measurements import BQ_PER_MBQ
from app.domain.findings.policy import QuantifyPolicy
from app.domain.quantities.decay import decay_factor, seconds_between
from app.domain.radionuclides import LU177
from app.domain.study import StudyKind


def with_activity_at_scan_start(findings: Findings, loaded: Loaded) -> Findings:
    """Activities and concentrations as they were when the scan began; ``findings`` as they are without any.

    Where the times don't allow it, they stay as the header has them: as at the injection.
    """
    if loaded.activity is None:
        return findings
    instant, factor = _scan_start(loaded)
    lesions = tuple(_decayed(lesion, factor) for lesion in findings.lesions)
    burden = replace(findings.burden, activity_mbq=_times(findings.burden.activity_mbq, factor))
    return replace(findings, lesions=lesions, burden=burden, activity_instant=instant)


def scanned_at(loaded: Loaded) -> datetime | None:
    """When the scan began: its first acquisition, or the instant to which it is decay corrected, if earlier.

    That instant is no scan's where it is the injection. Series Time alone is none either: workstations write
    the time of processing there.
    """
    used, acquired = loaded.quantification, loaded.selection.functional.acquired_at
    reference = used.reference_datetime
    if reference is None or reference == used.administered_at:
        return acquired
    if acquired is None or seconds_between(reference, acquired) >= 0.0:
        return reference
    return acquired


def _scan_start(loaded: Loaded) -> tuple[ActivityInstant, float]:
    """When the activities will hold, and the factor that brings them there."""
    used, start = loaded.quantification, scanned_at(loaded)
    reference = used.reference_datetime
    if reference is None:  # only ADMIN does without the time of injection
        return ActivityInstant(InstantKind.INJECTION), 1.0
    if start is None or used.half_life_s is None:
        at_injection = reference == used.administered_at
        kind = InstantKind.INJECTION if at_injection else InstantKind.SCAN_START
        return ActivityInstant(kind, reference), 1.0
    factor = decay_factor(seconds_between(reference, start), used.half_life_s)
    return ActivityInstant(InstantKind.SCAN_START, start), factor


def _decayed(lesion: Lesion, factor: float) -> Lesion:
    return replace(
        lesion,
        activity_mbq=_times(lesion.activity_mbq, factor),
        concentration_max_bqml=_times(lesion.concentration_max_bqml, factor),
        concentration_mean_bqml=_times(lesion.concentration_mean_bqml, factor),
    )


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


DOSE_GY_G_PER_MBQ_H = 0.25

SOFT_TISSUE_G_PER_ML = 1.0
"""Sclerotic bone is denser: there the estimate is too high."""

GY_G_PER_MBQ_H = 0.1479 * 1.602176634e-13 * 1e6 * 3600.0 * 1e3
"""Dose by the exact integral: 0.1479 MeV an electron and decay, all of it deposited in place."""

EFFECTIVE_HALF_LIVES_H = (30.0, 100.0)
"""The range of the estimate is given for these, as tabulated in docs/reference/measurements.md."""

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
    """Hänscheid's estimate for a scan ``hours`` after administration, of the concentration at that time."""
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
