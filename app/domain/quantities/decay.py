"""Radioactive decay, and the instant to which a PET image is decay corrected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode

AGREEMENT_S = 10.0
"""Starts that several beds imply for one scan agree within clock rounding; 10 s is 0.2 % of a 68Ga dose."""

NOTABLE_DISAGREEMENT_S = 30.0
"""Clocks that differ by more are worth a sentence (0.5 % of a 68Ga dose)."""

LARGEST_CLOCK_EFFECT = 0.05
"""Share of SUV. Clocks whose choice changes SUV by more contradict each other: no number is right then. It is
5 minutes for 68Ga and 8 for 18F; scanners that write both clocks well agree within a frame."""

PAUSES_S = 600.0
"""What breaks between bed positions may add to a scan."""

LONGEST_SPAN = 3.0
"""Of the measured time: a scan from its first to its last bed that takes longer has a wrong time in it."""


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
        decay_factor: Decay Factor (0054,1321), by which the slice was multiplied.
    """

    acquired_at: datetime | None = None
    reference_s: float | None = None
    duration_s: float | None = None
    decay_factor: float | None = None


def decay_factor(elapsed_s: float, half_life_s: float) -> float:
    """Share of the activity left after ``elapsed_s``."""
    return math.exp2(-elapsed_s / half_life_s)


def seconds_between(earlier: datetime, later: datetime) -> float:
    """Of two header times of one study, with or without the same zone."""
    return (later.replace(tzinfo=None) - earlier.replace(tzinfo=None)).total_seconds()


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
    series_time_rules: bool = False,
) -> tuple[datetime, tuple[Decision, ...]] | Reason:
    """The instant to which ``DecayCorrection=START`` refers (QIBA SUV pseudo-code, and FACTS).

    1. Series Date/Time, when it is not after the earliest Acquisition Date/Time;
    2. GE's private scan time (0009,xx0D);
    3. the start that acquisition time, Frame Reference Time and duration imply, when all slices agree;
    4. the earliest Acquisition Date/Time, when no bed position lies far off the others.

    1 and 2 are compared with what the frames' own times imply. A difference gives a warning, and a refusal
    when it changes SUV by more than :data:`LARGEST_CLOCK_EFFECT`, unless the site sets ``series_time_rules``.
    """
    earliest = min((frame.acquired_at for frame in frames if frame.acquired_at is not None), default=None)
    scattered = scattered_times(frames)
    if scattered is not None:
        return scattered
    window = _implied_window(frames, half_life_s)
    if series_datetime is not None and (earliest is None or series_datetime <= earliest):
        limit = 1.0 if series_time_rules else LARGEST_CLOCK_EFFECT
        warned = _compared("SeriesDateTime", series_datetime, window, (half_life_s, limit))
        return warned if isinstance(warned, Reason) else (series_datetime, warned)
    found = "SeriesDateTime is absent"
    if series_datetime is not None:
        found = f"SeriesDateTime {series_datetime} is after AcquisitionDateTime {earliest}"
    if ge_scan_datetime is not None and (earliest is None or ge_scan_datetime <= earliest):
        warned = _compared("GE's scan time", ge_scan_datetime, window, (half_life_s, LARGEST_CLOCK_EFFECT))
        text = f"reference time is the scanner's private scan date and time, because {found}"
        return warned if isinstance(warned, Reason) else (ge_scan_datetime, (Decision("load", text), *warned))
    if earliest is None:
        attribute, expected = "SeriesTime, AcquisitionTime", "the time to which DecayCorrection=START refers"
        return Reason(RefusalCode.SERIES_TIME_MISSING, attribute, "neither", expected)
    return _start_by_frames(frames, earliest, half_life_s, found)


def _start_by_frames(
    frames: Sequence[FrameTiming], earliest: datetime, half_life_s: float, because: str
) -> tuple[datetime, tuple[Decision, ...]] | Reason:
    """Rules 3 and 4 of :func:`scan_start`: no clock but the frames' own is usable."""
    implied = _implied_starts(frames, half_life_s)
    if implied and _spread_s(implied) <= AGREEMENT_S:
        text = "reference time is AcquisitionDateTime + mean-activity time − FrameReferenceTime"
        return min(implied), (Decision("load", f"{text} (equal for all slices), because {because}"),)
    why = "frame times don't agree" if implied else "not all frames state their times"
    text = f"reference time is the earliest AcquisitionDateTime, because {because} and {why}"
    return torn_times(frames, half_life_s) or (earliest, (Decision("load", text),))


def scattered_times(frames: Sequence[FrameTiming]) -> Reason | None:
    """Acquisition times that are too far apart to be one scan's."""
    beds = {frame.acquired_at: frame.duration_s or 0.0 for frame in frames if frame.acquired_at is not None}
    span_s = _spread_s(list(beds)) if beds else 0.0
    if span_s <= LONGEST_SPAN * sum(beds.values()) + PAUSES_S:
        return None
    found = f"{span_s / 60:.0f} min from first to last of {len(beds)} bed positions"
    return _wrong_acquisition(found, f"about the {sum(beds.values()) / 60:.0f} min of ActualFrameDuration")


def torn_times(frames: Sequence[FrameTiming], half_life_s: float) -> Reason | None:
    """A bed position too far from the next, where SUV hangs on every bed's own time.

    :func:`scattered_times` looks at the whole scan and lets one bed of many be half an hour off. A real pause
    shows in Frame Reference Time as well: where that agrees with the acquisition times, the scan was
    interrupted.
    """
    starts = _implied_starts(frames, half_life_s)
    if starts and _spread_s(starts) <= AGREEMENT_S:
        return None
    beds = sorted(
        {frame.acquired_at: frame.duration_s or 0.0 for frame in frames if frame.acquired_at}.items()
    )
    for (earlier, duration_s), (later, _) in pairwise(beds):
        apart_s = (later - earlier).total_seconds()
        if apart_s > LONGEST_SPAN * duration_s + PAUSES_S:
            found = f"{apart_s / 60:.0f} min from one bed position to the next"
            return _wrong_acquisition(found, f"about the {duration_s / 60:.0f} min of ActualFrameDuration")
    return None


def _wrong_acquisition(found: str, expected: str) -> Reason:
    code, advice = RefusalCode.SERIES_TIME_IMPLAUSIBLE, "Correct AcquisitionDate and AcquisitionTime"
    return Reason(code, "AcquisitionTime", found, expected, advice)


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


def _implied_window(frames: Sequence[FrameTiming], half_life_s: float) -> tuple[datetime, datetime] | None:
    """The earliest and the latest start that the first frame implies.

    Frame Reference Time is due to be the frame's mean-activity time; some scanners write the frame's start.
    Scanners that write one reference time for every bed give it within the bed: the earliest bed counts then.
    """
    late = _implied_starts(frames, half_life_s)
    if not late:
        return None
    lowest_s = min(frame.reference_s or 0.0 for frame in frames)
    start, frame = min(
        (pair for pair in zip(late, frames, strict=True) if pair[1].reference_s == lowest_s),
        key=lambda pair: pair[0],
    )
    return start - timedelta(seconds=mean_activity_offset_s(frame.duration_s or 0.0, half_life_s)), start


def _compared(
    name: str, used: datetime, window: tuple[datetime, datetime] | None, limits: tuple[float, float]
) -> tuple[Decision, ...] | Reason:
    """Nothing, a warning or a reason: how far ``used`` is from what the frames imply.

    ``limits`` are the half-life in s and the largest share of SUV.
    """
    if window is None:
        return ()
    half_life_s, largest_effect = limits
    apart_s = max((window[0] - used).total_seconds(), (used - window[1]).total_seconds(), 0.0)
    effect = 1.0 - decay_factor(apart_s, half_life_s)
    text = f"AcquisitionTime and FrameReferenceTime imply a start {apart_s:.0f} s away from {name}"
    if effect > largest_effect:
        found = f"{text}: {effect:.0%} of SUV"
        advice = "Correct the clock; or, if SeriesTime is right at this site, load.series_time_rules: true"
        code, expected = RefusalCode.SERIES_TIME_IMPLAUSIBLE, f"clocks that agree within {largest_effect:.0%}"
        return Reason(code, "SeriesTime, FrameReferenceTime", found, expected, advice)
    if apart_s <= NOTABLE_DISAGREEMENT_S:
        return ()
    return (Decision.warning("load", f"{text}, which is used"),)
