"""The instant to which DecayCorrection START refers; and when slices were measured that aren't corrected.

Of the witnesses (:mod:`app.domain.quantities.scan_clocks`) those that agree win: two of Series Time, the
scanner's private time and the frames. A Series Time after the acquisition is that of a later processing, and
counts only with the private one. What they leave open is decided as in QIBA's vendor-neutral pseudo-code and
the IBSI's reference objects for SUV: Acquisition Time is each bed's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta

from app.domain.clocks import CLOCK_ROUNDING
from app.domain.decision import Decision
from app.domain.quantities.decay import (
    AGREEMENT_S,
    LARGEST_CLOCK_EFFECT,
    FrameTiming,
    before_reference,
    readings,
    scattered_times,
    series_wide,
    spread_s,
    torn_times,
)
from app.domain.quantities.scan_clocks import (
    EARLIEST,
    FIRST_BED,
    PRIVATE,
    SERIES,
    WHOLE,
    ScanClocks,
    TimeWitness,
    framed_witnesses,
    stamps,
)
from app.domain.refusal import Reason, RefusalCode

NOTABLE_DISAGREEMENT_S = 30.0
"""Clocks that differ by more do not agree (0.5 % of a 68Ga dose)."""

TIME_ROUNDING_S = 1.0
"""Series Time is often written in whole seconds, Acquisition Time with a fraction."""

SHORTEST_WAIT_S = 60.0
"""The earliest PSMA images are taken some minutes after injection: a scan and an injection at one instant are
two times of which one was overwritten (anonymisers set both to midnight)."""

Taken = tuple[TimeWitness, tuple[Decision, ...]]


@dataclass(frozen=True)
class ScanStart:
    """The reference, and how it was found.

    Attributes:
        reference: to which the image is decay corrected.
        first_frame_at: when the first of its frames began, where that is known.
        witnesses: what became of each, where there are several.
    """

    reference: datetime
    first_frame_at: datetime | None = None
    witnesses: tuple[TimeWitness, ...] = ()
    decisions: tuple[Decision, ...] = ()


def scan_start(clocks: ScanClocks) -> ScanStart | Reason:
    """The start of the scan, by the witnesses that agree; a reason where they contradict each other.

    They do where more than :data:`LARGEST_CLOCK_EFFECT` of SUV hangs on the choice and nothing decides it.
    """
    scattered = scattered_times(clocks.frames, clocks.half_life_s)
    if scattered is not None:
        return scattered
    stated, framed = stamps(clocks), framed_witnesses(clocks)
    found = _by_stamps(clocks, stated, framed) or _by_frames(clocks, framed)
    if isinstance(found, Reason):
        return found
    taken, decisions = found
    witnesses = tuple(_remarked(one, taken) for one in (*stated, *framed))
    if all(taken.name != one.name for one in witnesses):
        witnesses = (*witnesses, replace(taken, remark="taken"))
    begun = readings(clocks.frames, clocks.half_life_s, clocks.is_ge)
    first = taken.instant + timedelta(seconds=min(begun[0].begun_s)) if begun else None
    decisions = (*decisions, *_unused(clocks.frames))
    return ScanStart(taken.instant, first, witnesses if len(witnesses) > 1 else (), decisions)


def _unused(frames: Sequence[FrameTiming]) -> tuple[Decision, ...]:
    """That Frame Reference Time is impossible, and not used."""
    lowest = before_reference(frames)
    if lowest is None:
        return ()
    text = f"FrameReferenceTime is {lowest:.0f} s, before the reference that it counts from: it is not used"
    return (Decision.warning("load", text),)


def _remarked(one: TimeWitness, taken: TimeWitness) -> TimeWitness:
    apart_s = one.apart_s(taken.instant)
    agrees = "agrees" if apart_s <= NOTABLE_DISAGREEMENT_S else f"{apart_s:.0f} s away from it"
    return replace(one, remark="taken" if one.name == taken.name else agrees)


def _nearest_s(instant: datetime, witnesses: Sequence[TimeWitness]) -> float:
    """0 where there are none to differ from."""
    return min((one.apart_s(instant) for one in witnesses), default=0.0)


def _by_stamps(
    clocks: ScanClocks, stated: Sequence[TimeWitness], framed: Sequence[TimeWitness]
) -> Taken | Reason | None:
    """One of the two clocks, where it agrees with the other or with the frames, or stands alone."""
    earliest, limit_s = clocks.earliest, NOTABLE_DISAGREEMENT_S
    usable = [
        one
        for one in stated
        if earliest is None or (one.instant - earliest).total_seconds() <= TIME_ROUNDING_S
    ]
    if len(stated) == 2 and stated[0].apart_s(stated[1].instant) <= limit_s:
        taken: TimeWitness | None = stated[0]
    else:
        taken = next((one for one in usable if framed and _nearest_s(one.instant, framed) <= limit_s), None)
    if taken is None:
        return _lone(clocks, usable, framed) if usable else None
    return taken, _dissent(clocks, taken, framed)


def _dissent(clocks: ScanClocks, taken: TimeWitness, framed: Sequence[TimeWitness]) -> tuple[Decision, ...]:
    """What is said of the witnesses that were outvoted."""
    decisions = []
    if taken.name == PRIVATE:
        text = f"reference time is {PRIVATE}, because {_no_series_time(clocks, taken)}"
        is_late = clocks.series is None or clocks.earliest is None or clocks.series > clocks.earliest
        decisions.append(Decision("load", text) if is_late else Decision.warning("load", text))
    for other in stamps(clocks)[1:] if taken.name == SERIES else ():
        if (apart_s := taken.apart_s(other.instant)) > NOTABLE_DISAGREEMENT_S:
            text = f"{PRIVATE} is {apart_s:.0f} s away from {SERIES}, which the frames' times bear out"
            decisions.append(Decision.warning("load", text))
    if (apart_s := _nearest_s(taken.instant, framed)) > NOTABLE_DISAGREEMENT_S:
        text = f"{_away(apart_s, SERIES)}, with which {PRIVATE} agrees and which is used"
        decisions.append(Decision.warning("load", text))
    return tuple(decisions)


def _away(apart_s: float, name: str) -> str:
    return f"AcquisitionTime and FrameReferenceTime imply a start {apart_s:.0f} s away from {name}"


def _no_series_time(clocks: ScanClocks, taken: TimeWitness | None = None) -> str:
    """Why Series Time is not the reference."""
    if clocks.series is None:
        return "SeriesDateTime is absent"
    if clocks.earliest is not None and clocks.series > clocks.earliest:
        return f"SeriesDateTime {clocks.series} is after AcquisitionDateTime {clocks.earliest}"
    apart_s = 0.0 if taken is None else taken.apart_s(clocks.series)
    return f"SeriesDateTime is {apart_s:.0f} s away from it and from the frames' times"


def _lone(clocks: ScanClocks, usable: Sequence[TimeWitness], framed: Sequence[TimeWitness]) -> Taken | Reason:
    """A clock that nothing bears out: taken where little hangs on it, or by the site's word."""
    first = usable[0]
    apart_s = _nearest_s(first.instant, framed)
    text = _away(apart_s, first.name)
    if len(usable) == 2 and (between_s := first.apart_s(usable[1].instant)) > apart_s:
        apart_s, text = between_s, f"{PRIVATE} is {between_s:.0f} s away from {SERIES}"
    effect = clocks.effect(apart_s)
    is_open = framed and framed[0].name == EARLIEST  # a part of a scan begins later than the scan
    is_ruled = clocks.series_time_rules and first.name == SERIES
    if effect > LARGEST_CLOCK_EFFECT and not is_ruled and not is_open:
        advice = "Correct the clock; or, if SeriesTime is right at this site, load.series_time_rules: true"
        code, expected = (
            RefusalCode.SERIES_TIME_IMPLAUSIBLE,
            f"clocks that agree within {LARGEST_CLOCK_EFFECT:.0%}",
        )
        return Reason(
            code, "SeriesTime, FrameReferenceTime", f"{text}: {effect:.0%} of SUV", expected, advice
        )
    if apart_s <= NOTABLE_DISAGREEMENT_S:
        return first, ()
    return first, (Decision.warning("load", f"{text}, which is used"),)


def _by_frames(clocks: ScanClocks, framed: Sequence[TimeWitness]) -> Taken | Reason:
    """No clock but the frames' own is usable."""
    earliest, because = clocks.earliest, _no_series_time(clocks)
    if earliest is None:
        attribute, expected = "SeriesTime, AcquisitionTime", "the time to which DecayCorrection=START refers"
        return Reason(RefusalCode.SERIES_TIME_MISSING, attribute, "neither", expected)
    if framed[0].name in (EARLIEST, FIRST_BED):
        return _earliest(clocks, earliest, framed[0].name)
    own, wide = framed[0], framed[-1]
    contradicted = _contradicted(clocks, framed)
    if isinstance(contradicted, Reason):
        return contradicted
    if wide.name == WHOLE and abs((wide.instant - own.instant).total_seconds()) > NOTABLE_DISAGREEMENT_S:
        return _own_or_whole(clocks, own, wide)
    equal = "" if own.name == WHOLE else " (equal for all slices)"
    text = f"reference time is {own.name}{equal}, because {because}"
    return own, (Decision("load", text), *contradicted)


def _earliest(clocks: ScanClocks, earliest: datetime, name: str) -> Taken | Reason:
    """The first Acquisition Time, which is too late by what Frame Reference Time says without a duration."""
    why = "frame times don't agree" if name == FIRST_BED else "not all frames state their times"
    text = f"reference time is {EARLIEST}, because {_no_series_time(clocks)} and {why}"
    later_s = min((frame.reference_s or 0.0 for frame in clocks.frames), default=0.0)
    is_late = name == EARLIEST and later_s > NOTABLE_DISAGREEMENT_S
    if is_late and clocks.effect(later_s) > LARGEST_CLOCK_EFFECT:
        code, attribute = RefusalCode.SERIES_TIME_MISSING, "ActualFrameDuration"
        return Reason(
            code, attribute, "nothing", "the duration that FrameReferenceTime is to be understood with"
        )
    decision = Decision.warning("load", text) if is_late else Decision("load", text)
    torn = torn_times(clocks.frames, clocks.half_life_s)
    return torn or (TimeWitness(EARLIEST, earliest), (decision,))


def _contradicted(clocks: ScanClocks, framed: Sequence[TimeWitness]) -> tuple[Decision, ...] | Reason:
    """Decay Factor against Frame Reference Time, where it bears out neither meaning of that."""
    by_factor = [one for one in framed if "DecayFactor" in one.name]
    others = [one for one in framed if one not in by_factor]
    if not by_factor or not others or others[0].name == WHOLE:
        return ()
    apart_s = _nearest_s(by_factor[0].instant, others)
    effect = clocks.effect(apart_s)
    text = f"DecayFactor and FrameReferenceTime imply starts {apart_s:.0f} s apart"
    if effect > LARGEST_CLOCK_EFFECT:
        code, expected = RefusalCode.SERIES_TIME_IMPLAUSIBLE, "a SeriesTime, or one start"
        return Reason(code, "DecayFactor, FrameReferenceTime", f"{text}: {effect:.0%} of SUV", expected)
    return (Decision.warning("load", f"{text}; the latter is used"),)


def _own_or_whole(clocks: ScanClocks, own: TimeWitness, whole: TimeWitness) -> Taken | Reason:
    """One Acquisition Time, and frames of a later bed: it is the bed's own, or the whole scan's.

    Where nothing decides it is the bed's own, as the Standard has it (PS3.3 C.7.6.1), unless the scanner may
    write the scan's.
    """
    effect = clocks.effect((whole.instant - own.instant).total_seconds())
    text = f"AcquisitionTime is one for all slices, which FrameReferenceTime places {effect:.0%} of SUV later"
    decided = _by_study(clocks, own, whole) or _by_injection(clocks, own, whole)
    if decided is not None:
        return decided[0], (Decision("load", f"{text}; {decided[1]}"),)
    if effect > LARGEST_CLOCK_EFFECT and clocks.writes_one_time:
        code, attribute = RefusalCode.SERIES_TIME_IMPLAUSIBLE, "AcquisitionTime, FrameReferenceTime"
        advice = "Send the whole series, with SeriesTime and private attributes as the scanner wrote them"
        expected = "a SeriesTime or a private time that tells whether it is the bed's or the scan's"
        return Reason(code, attribute, text, expected, advice)
    text = f"{text}; it is taken as the bed's own, because {_no_series_time(clocks)}"
    is_small = effect <= LARGEST_CLOCK_EFFECT
    return own, (Decision("load", text) if is_small else Decision.warning("load", text),)


def _by_study(clocks: ScanClocks, own: TimeWitness, whole: TimeWitness) -> tuple[TimeWitness, str] | None:
    """A scan doesn't begin before its study. Midnight is a removed time."""
    study = clocks.study
    if study is None or study.time() == time() or study > whole.instant + CLOCK_ROUNDING:
        return None
    is_before = own.instant + CLOCK_ROUNDING < study
    return (whole, "it is the scan's, as the study began only then") if is_before else None


def _by_injection(clocks: ScanClocks, own: TimeWitness, whole: TimeWitness) -> tuple[TimeWitness, str] | None:
    """List mode begins with the injection, at which no image of later minutes is measured."""
    if clocks.injected is None:
        return None
    if abs((own.instant - clocks.injected).total_seconds()) <= SHORTEST_WAIT_S:
        return own, "it is the frame's own, as the acquisition began with the injection"
    if abs((whole.instant - clocks.injected).total_seconds()) <= SHORTEST_WAIT_S:
        return whole, "it is the scan's, which began with the injection"
    return None


def frame_beginnings(clocks: ScanClocks) -> tuple[tuple[datetime, ...], tuple[Decision, ...]] | Reason:
    """When each slice of an image that is not decay corrected began to be measured.

    By its own Acquisition Time, which all slices have; where that is one for the whole scan, by Frame
    Reference Time too.
    """
    frames = tuple(replace(frame, decay_factor=None) for frame in clocks.frames)
    acquired = tuple(frame.acquired_at for frame in frames if frame.acquired_at is not None)
    found, one_time = readings(frames, clocks.half_life_s, clocks.is_ge), series_wide(frames)
    if one_time is None or not found:
        return acquired, _unused(frames)
    later = tuple(one_time + timedelta(seconds=begun_s) for begun_s in found[0].begun_s)
    text = "AcquisitionTime is the whole scan's; FrameReferenceTime tells when each bed was measured"
    told = (Decision("load", text),)
    if spread_s(later) > AGREEMENT_S:
        return later, told
    own = TimeWitness(found[0].name, one_time - (later[0] - one_time))
    stated, limit_s = stamps(clocks), NOTABLE_DISAGREEMENT_S
    if own.apart_s(one_time) <= limit_s or any(own.apart_s(one.instant) <= limit_s for one in stated):
        return acquired, ()
    whole = TimeWitness(WHOLE, one_time)
    if any(whole.apart_s(one.instant) <= limit_s for one in stated):
        return later, told
    chosen = _own_or_whole(clocks, own, whole)
    if isinstance(chosen, Reason):
        return chosen
    return (acquired if chosen[0] is own else later), chosen[1]
