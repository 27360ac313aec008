"""Radioactive decay, and the instant to which a PET image is decay corrected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.analysis import Decision
from app.domain.refusal import Reason, RefusalCode

AGREEMENT_S = 10.0
"""Starts that several beds imply for one scan agree within clock rounding; 10 s is 0.2 % of a 68Ga dose."""

NOTABLE_DISAGREEMENT_S = 30.0
"""On top of one frame: clocks that differ by more are worth a sentence (0.5 % of a 68Ga dose)."""


class DecayCorrection(StrEnum):
    """Decay Correction (0054,1102), PS3.3 C.8.9.1.1.1."""

    NONE = "NONE"
    START = "START"
    ADMIN = "ADMIN"


@dataclass(frozen=True)
class FrameTiming:
    """When a slice was measured.

    Attributes:
        acquired_at: Acquisition Date and Time of its bed position.
        reference_s: Frame Reference Time (0054,1300), in seconds after the series reference.
        duration_s: Actual Frame Duration (0018,1242), in seconds.
    """

    acquired_at: datetime | None = None
    reference_s: float | None = None
    duration_s: float | None = None


def decay_factor(elapsed_s: float, half_life_s: float) -> float:
    """Share of the activity left after ``elapsed_s``."""
    return math.exp2(-elapsed_s / half_life_s)


def mean_activity_offset_s(duration_s: float, half_life_s: float) -> float:
    """Seconds after a frame's start at which the activity equals its mean over the frame.

    For T = duration and λ = ln 2 / T½ it is ln(λT / (1 − e^−λT)) / λ: Frame Reference Time of a
    conformant scanner is that instant (PS3.3 C.8.9.4.1.5).
    """
    decay_constant = math.log(2.0) / half_life_s
    exponent = decay_constant * duration_s
    if exponent < 1e-9:
        return duration_s / 2.0
    return math.log(exponent / -math.expm1(-exponent)) / decay_constant


def scan_start(
    series_datetime: datetime | None,
    frames: Sequence[FrameTiming],
    ge_scan_datetime: datetime | None,
    half_life_s: float,
) -> tuple[datetime, tuple[Decision, ...]] | Reason:
    """The instant to which ``DecayCorrection=START`` refers (QIBA SUV pseudo-code, and FACTS).

    1. Series Date/Time, when it is not after the earliest Acquisition Date/Time;
    2. GE's private scan time (0009,xx0D);
    3. the start that acquisition time, Frame Reference Time and duration imply, when all slices agree;
    4. the earliest Acquisition Date/Time.
    """
    acquired = [frame.acquired_at for frame in frames if frame.acquired_at is not None]
    earliest = min(acquired, default=None)
    implied = _implied_starts(frames, half_life_s)
    if series_datetime is not None and (earliest is None or series_datetime <= earliest):
        return series_datetime, _cross_check(series_datetime, frames, implied)
    found = f"SeriesDateTime {series_datetime} after AcquisitionDateTime {earliest}"
    if ge_scan_datetime is not None:
        text = f"reference time is the scanner's private scan date and time, because {found}"
        return ge_scan_datetime, (Decision("load", text),)
    if earliest is None:
        return Reason(
            RefusalCode.SERIES_TIME_MISSING,
            "SeriesTime, AcquisitionTime",
            "neither",
            "the time to which DecayCorrection=START refers",
            "Have scanner and anonymiser keep the dates and times of series and acquisition",
        )
    if implied and _spread_s(implied) <= AGREEMENT_S:
        text = "reference time is AcquisitionDateTime + mean-activity time − FrameReferenceTime"
        return min(implied), (Decision("load", f"{text} (equal for all slices), because {found}"),)
    text = f"reference time is the earliest AcquisitionDateTime, because {found} and frame times don't agree"
    return earliest, (Decision("load", text),)


def _implied_starts(frames: Sequence[FrameTiming], half_life_s: float) -> list[datetime]:
    """One start a frame, or nothing when any frame lacks a time."""
    starts = []
    for frame in frames:
        if frame.acquired_at is None or frame.reference_s is None or not frame.duration_s:
            return []
        offset_s = mean_activity_offset_s(frame.duration_s, half_life_s) - frame.reference_s
        starts.append(frame.acquired_at + timedelta(seconds=offset_s))
    return starts


def _spread_s(instants: Sequence[datetime]) -> float:
    return (max(instants) - min(instants)).total_seconds()


def _cross_check(
    used: datetime, frames: Sequence[FrameTiming], implied: Sequence[datetime]
) -> tuple[Decision, ...]:
    """A warning when the first frame's own times imply another start than ``used``."""
    if not implied:
        return ()
    first = min(range(len(frames)), key=lambda i: frames[i].reference_s or 0.0)
    apart_s = abs((implied[first] - used).total_seconds())
    if apart_s <= (frames[first].duration_s or 0.0) + NOTABLE_DISAGREEMENT_S:
        return ()
    text = f"FrameReferenceTime implies a start {apart_s:.0f} s away from SeriesDateTime, which is used"
    return (Decision("load", f"warning: {text}"),)
