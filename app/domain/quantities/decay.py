"""Radioactive decay, and what the slices of a PET image say of when they were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from app.domain.refusal import Reason, RefusalCode

AGREEMENT_S = 10.0
"""Starts that several beds imply for one scan agree within clock rounding; 10 s is 0.2 % of a 68Ga dose."""

LARGEST_CLOCK_EFFECT = 0.05
"""Share of SUV. Clocks whose choice changes SUV by more contradict each other: no number is right then. It is
5 minutes for 68Ga and 8 for 18F; scanners that write both clocks well agree within a frame."""

PAUSES_S = 600.0
"""What breaks between bed positions may add to a scan."""

LONGEST_SPAN = 3.0
"""Of the measured time: a scan from its first to its last bed that takes longer has a wrong time in it."""

LONGEST_REFERENCE_S = 86400.0
"""A Frame Reference Time beyond a day is garbage, as good as absent; so is one before the reference."""

FILLED_IN = 1e-4
"""Decay factors this near 1 in every slice are no measurement: even half a minute of 18F makes 2e-3."""

FACTOR_FIT = 0.005
"""Decay factors are written with two to six decimals: they bear out times that explain them this well."""


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


@dataclass(frozen=True)
class Reading:
    """One way to understand the frames' times.

    Attributes:
        name: how Acquisition Time, where it is each bed's own, becomes the reference.
        begun_s: seconds from the reference of the decay correction to the beginning of each slice's frame.
        by_factor: whether Decay Factor, and not Frame Reference Time, says so.
    """

    name: str
    begun_s: tuple[float, ...]
    by_factor: bool = False


def readings(frames: Sequence[FrameTiming], half_life_s: float, is_ge: bool = False) -> tuple[Reading, ...]:
    """How long after the reference each frame began, the likeliest first; empty where frames don't say.

    Frame Reference Time is due to be the instant of mean activity (PS3.3 C.8.9.4.1.5). GE and CPS write the
    frame's start; a first frame that would be referred to before its middle shows it. Decay Factor is what
    the values were multiplied by: where it bears out one of both, that one is the only reading; where it
    bears out neither, it is a reading of its own, and where all reference times are 0, it is the only one.
    """
    if not all(frame.duration_s and frame.duration_s > 0.0 for frame in frames):
        return ()
    offsets_s = [mean_activity_offset_s(frame.duration_s or 0.0, half_life_s) for frame in frames]
    by_time, by_factor = _by_reference_time(frames, offsets_s, is_ge), None
    factors = [frame.decay_factor or 0.0 for frame in frames]
    if min(factors) > 0.0 and any(abs(factor - 1.0) > FILLED_IN for factor in factors):
        pairs = zip(factors, offsets_s, strict=True)
        begun_s = tuple(half_life_s * math.log2(factor) - offset_s for factor, offset_s in pairs)
        by_factor = Reading("AcquisitionDateTime − the time that DecayFactor means", begun_s, True)
    if by_factor is None:
        return by_time
    misfits = [_misfit(reading, by_factor, half_life_s) for reading in by_time]
    if misfits and min(misfits) <= FACTOR_FIT:
        is_first = misfits[0] <= min(misfits) + FILLED_IN
        return by_time[:1] if is_first else by_time[1:]
    has_times = any(frame.reference_s for frame in frames)
    return (*by_time, by_factor) if has_times else (by_factor,)


def _by_reference_time(
    frames: Sequence[FrameTiming], offsets_s: Sequence[float], is_ge: bool
) -> tuple[Reading, ...]:
    """Frame Reference Time as a frame's middle and as its start, the likelier first."""
    times_s = [frame.reference_s for frame in frames if frame.reference_s is not None]
    if len(times_s) < len(frames) or max(times_s, default=0.0) > LONGEST_REFERENCE_S:
        return ()
    if before_reference(frames) is not None:
        return ()
    from_start = Reading("AcquisitionDateTime − FrameReferenceTime", tuple(times_s))
    from_middle = Reading(
        "AcquisitionDateTime + mean-activity time − FrameReferenceTime",
        tuple(time_s - offset_s for time_s, offset_s in zip(times_s, offsets_s, strict=True)),
    )
    is_start = is_ge or min(from_middle.begun_s) < -AGREEMENT_S
    return (from_start, from_middle) if is_start else (from_middle, from_start)


def before_reference(frames: Sequence[FrameTiming]) -> float | None:
    """The lowest Frame Reference Time, in seconds, where that is negative by more than clock rounding.

    It counts from the reference of START (PS3.3 C.8.9.4.1.5), before which nothing was measured.
    """
    lowest = min((frame.reference_s for frame in frames if frame.reference_s is not None), default=0.0)
    return lowest if lowest < -AGREEMENT_S else None


def _misfit(reading: Reading, other: Reading, half_life_s: float) -> float:
    """Largest relative difference of the decay factors that both mean."""
    pairs = zip(reading.begun_s, other.begun_s, strict=True)
    return max(abs(math.exp2((one - two) / half_life_s) - 1.0) for one, two in pairs)


def own_start(frames: Sequence[FrameTiming], reading: Reading, half_life_s: float) -> datetime | None:
    """The reference, where Acquisition Time is each bed's own and all beds imply one."""
    tolerance_s = half_life_s * math.log2(1.0 + FACTOR_FIT) if reading.by_factor else AGREEMENT_S
    acquired = [frame.acquired_at for frame in frames if frame.acquired_at is not None]
    if len(acquired) < len(frames):
        return None
    starts = [at - timedelta(seconds=s) for at, s in zip(acquired, reading.begun_s, strict=True)]
    return min(starts) if spread_s(starts) <= tolerance_s else None


def series_wide(frames: Sequence[FrameTiming]) -> datetime | None:
    """The one Acquisition Time of all slices: the scan's start, or the only bed's."""
    acquired = {frame.acquired_at for frame in frames}
    return acquired.pop() if len(acquired) == 1 else None


def spread_s(instants: Sequence[datetime]) -> float:
    """From the first to the last."""
    return (max(instants) - min(instants)).total_seconds()


def scattered_times(frames: Sequence[FrameTiming], half_life_s: float) -> Reason | None:
    """Acquisition times that are too far apart to be one scan's, unless other times bear them out."""
    if _borne_out(frames, half_life_s):
        return None
    beds = {frame.acquired_at: frame.duration_s or 0.0 for frame in frames if frame.acquired_at is not None}
    span_s = spread_s(list(beds)) if beds else 0.0
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
    if _borne_out(frames, half_life_s):
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


def _borne_out(frames: Sequence[FrameTiming], half_life_s: float) -> bool:
    """Whether Frame Reference Time or Decay Factor tells the beds apart as Acquisition Time does."""
    found = readings(frames, half_life_s)
    return any(own_start(frames, reading, half_life_s) is not None for reading in found)


def _wrong_acquisition(found: str, expected: str) -> Reason:
    code, advice = RefusalCode.SERIES_TIME_IMPLAUSIBLE, "Correct AcquisitionDate and AcquisitionTime"
    return Reason(code, "AcquisitionTime", found, expected, advice)
