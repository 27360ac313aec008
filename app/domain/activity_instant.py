"""One instant for every activity that is reported: the start of the scan, whatever the header's convention.

An image's activity may be corrected to the scan's start (START), to the injection (ADMIN), or,
from cameras that correct nothing, hold for the middle of the acquisition. Between injection and scan lies a
factor of 1.8 for 68Ga after an hour, and of 1.5 for 177Lu after four days.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from app.domain.analysis import Loaded
from app.domain.decay import decay_factor, seconds_between
from app.domain.findings import ActivityInstant, Burden, Findings, InstantKind, Lesion


def with_activity_at_scan_start(findings: Findings, loaded: Loaded) -> Findings:
    """Activities and concentrations as they were when the scan began; ``findings`` as they are without any.

    Where the times don't allow it, they stay as the header has them: as at the injection.
    """
    if loaded.activity is None:
        return findings
    instant, factor = _scan_start(loaded)
    lesions = tuple(_decayed(lesion, factor) for lesion in findings.lesions)
    burden = _burden_decayed(findings.burden, factor)
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


def _burden_decayed(burden: Burden, factor: float) -> Burden:
    return replace(burden, activity_mbq=_times(burden.activity_mbq, factor))


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
