"""Whether the other dates and times of a series, and its CT's, bear out those that SUV hangs on."""

from __future__ import annotations

from datetime import datetime

from app.domain.clocks import Clocks, lag_s
from app.domain.decision import Decision
from app.domain.quantities.decay import LARGEST_CLOCK_EFFECT, decay_factor

CT_WITHIN_S = 3600.0
"""The CT of a hybrid scan is taken minutes before or after; a diagnostic one after a whole body
within the hour."""

HALF_A_DAY_S = 43200.0
"""Series Time beside Acquisition Time is judged for its date alone:
:func:`app.domain.quantities.decay.scan_start`."""


def clock_doubts(clocks: Clocks, half_life_s: float) -> tuple[Decision, ...]:
    """Witnesses of the scan's time that contradict it by more than :data:`LARGEST_CLOCK_EFFECT` of SUV.

    A study begins before its images are acquired, and an image is made after it was measured. Which clock is
    wrong can't be told, so this is a warning.
    """
    series_lag_s = lag_s(clocks.series, clocks.acquired_at)
    told = [
        _early("StudyDate and StudyTime", lag_s(clocks.study, clocks.acquired_at)),
        _late("ContentDate and ContentTime", clocks.content_lag_s),
        _late("InstanceCreationDate and InstanceCreationTime", clocks.creation_lag_s),
    ]
    if series_lag_s is not None and series_lag_s > HALF_A_DAY_S:
        told.append(_late("SeriesDate and SeriesTime", -series_lag_s))
    return tuple(
        _warned(text, seconds, half_life_s)
        for seconds, text in filter(None, told)
        if _effect(seconds, half_life_s) > LARGEST_CLOCK_EFFECT
    )


def ct_clock_doubts(
    scan_at: datetime | None, ct_at: datetime | None, half_life_s: float
) -> tuple[Decision, ...]:
    """The CT that attenuation was corrected by is taken within the hour of the PET or SPECT."""
    apart_s = lag_s(ct_at, scan_at)
    if apart_s is None or abs(apart_s) <= CT_WITHIN_S:
        return ()
    if _effect(abs(apart_s), half_life_s) <= LARGEST_CLOCK_EFFECT:
        return ()
    side = "after" if apart_s > 0.0 else "before"
    return (_warned(f"acquired {_duration(abs(apart_s))} {side} its CT", abs(apart_s), half_life_s),)


def _early(name: str, seconds: float | None) -> tuple[float, str] | None:
    if seconds is None or seconds >= 0.0:
        return None
    return -seconds, f"acquired {_duration(-seconds)} before {name}, the start of the study"


def _late(name: str, seconds: float | None) -> tuple[float, str] | None:
    if seconds is None or seconds >= 0.0:
        return None
    return -seconds, f"acquired {_duration(-seconds)} after {name}, when the image was made"


def _effect(seconds: float, half_life_s: float) -> float:
    return 1.0 - decay_factor(seconds, half_life_s)


def _duration(seconds: float) -> str:
    if seconds < 2.0 * 86400.0:
        return f"{seconds / 60.0:.0f} min" if seconds < 3.0 * 3600.0 else f"{seconds / 3600.0:.1f} h"
    return f"{seconds / 86400.0:.1f} days"


def _warned(text: str, seconds: float, half_life_s: float) -> Decision:
    share = _effect(seconds, half_life_s)
    return Decision.warning("load", f"{text}; one of these clocks is wrong, which is {share:.0%} of SUV")
