"""Every clock in a PET's headers that says when its scan began.

Three kinds of witnesses: Series Date and Time; the scanner's own private time (GE's scan time, Siemens' time
of decay correction); and the frames, whose Acquisition Time is set back by what Frame Reference Time or Decay
Factor says (:func:`app.domain.quantities.decay.readings`), or is one for the whole scan, as GE and Philips
write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.quantities.decay import FrameTiming, Reading, decay_factor, own_start, readings, series_wide

HALF_A_DAY_S, DAY = 43200.0, timedelta(days=1)

SERIES, PRIVATE = "SeriesDateTime", "the scanner's private time"
WHOLE, EARLIEST = "AcquisitionDateTime of all slices", "the earliest AcquisitionDateTime"
FIRST_BED = "AcquisitionDateTime and FrameReferenceTime of the first bed"


@dataclass(frozen=True)
class ScanClocks:
    """What a series says of when it was measured.

    Attributes:
        frames: one timing a slice.
        half_life_s: of the radionuclide.
        series: Series Date and Time.
        private: GE's (0009,xx0D) or Siemens' (0071,xx22).
        study: Study Date and Time.
        injected: the injection, as far as it is stated.
        manufacturer: GE and Philips may write one Acquisition Time for all beds; GE's Frame Reference Time is
            that of a bed's start.
        series_time_rules: the site's word that Series Time is right where frame times contradict it.
    """

    frames: tuple[FrameTiming, ...]
    half_life_s: float
    series: datetime | None = None
    private: datetime | None = None
    study: datetime | None = None
    injected: datetime | None = None
    manufacturer: str = ""
    series_time_rules: bool = False

    @property
    def earliest(self) -> datetime | None:
        """The first Acquisition Date and Time."""
        return min((one.acquired_at for one in self.frames if one.acquired_at is not None), default=None)

    @property
    def is_ge(self) -> bool:
        """By Manufacturer."""
        return self.manufacturer.upper().startswith("GE")

    @property
    def writes_one_time(self) -> bool:
        """Whether Acquisition Time may be one for all beds, by Manufacturer."""
        return self.is_ge or self.manufacturer.upper().startswith("PHILIPS")

    def effect(self, seconds: float) -> float:
        """Share of SUV that so many seconds are."""
        return 1.0 - decay_factor(abs(seconds), self.half_life_s)


@dataclass(frozen=True)
class TimeWitness:
    """What one clock, or several attributes together, says of the reference.

    Attributes:
        name: of the attributes.
        instant: that it names.
        earlier_s, later_s: how far off it may be meant: nothing may tell a bed's start from its middle.
        remark: what became of it.
    """

    name: str
    instant: datetime
    earlier_s: float = 0.0
    later_s: float = 0.0
    remark: str = ""

    def apart_s(self, other: datetime) -> float:
        """Seconds to another instant; 0 within what may be meant."""
        seconds = (other - self.instant).total_seconds()
        return max(-self.earlier_s - seconds, seconds - self.later_s, 0.0)

    @property
    def line(self) -> str:
        """In words, for ``psma-node inspect``."""
        return f"{self.name}: {self.instant}, {self.remark or 'not borne out'}"


def stamps(clocks: ScanClocks) -> tuple[TimeWitness, ...]:
    """Series Time and the scanner's own. Anonymisers shift dates and leave private ones alone."""
    found = [] if clocks.series is None else [TimeWitness(SERIES, clocks.series)]
    if clocks.private is not None:
        day, private = clocks.earliest or clocks.series or clocks.private, clocks.private
        if abs((day - private).total_seconds()) > HALF_A_DAY_S:
            private += round((day - private) / DAY) * DAY
        found.append(TimeWitness(PRIVATE, private))
    return tuple(found)


def framed_witnesses(clocks: ScanClocks) -> tuple[TimeWitness, ...]:
    """What the frames say: Acquisition Time as each bed's own, or as the scan's."""
    frames, life_s = clocks.frames, clocks.half_life_s
    found = readings(frames, life_s, clocks.is_ge)
    starts = [(one, own_start(frames, one, life_s)) for one in found]
    by_time = [(one.name, start) for one, start in starts if start is not None and not one.by_factor]
    witnesses = [_either(by_time[0][0], by_time[0][1], [start for _, start in by_time])] if by_time else []
    witnesses += [TimeWitness(one.name, at) for one, at in starts if at is not None and one.by_factor]
    one_time = series_wide(frames)
    if one_time is not None and found:
        witnesses.append(TimeWitness(WHOLE, one_time))
    return tuple(witnesses) or _first_bed(clocks, found)


def _either(name: str, instant: datetime, starts: Sequence[datetime]) -> TimeWitness:
    earlier_s, later_s = (instant - min(starts)).total_seconds(), (max(starts) - instant).total_seconds()
    return TimeWitness(name, instant, earlier_s, later_s)


def _first_bed(clocks: ScanClocks, found: Sequence[Reading]) -> tuple[TimeWitness, ...]:
    """Where beds contradict each other, or say too little: the first one's times.

    Scanners that write one reference time for every bed give it within the bed.
    """
    earliest = clocks.earliest
    if earliest is None:
        return ()
    if not found or any(frame.acquired_at is None for frame in clocks.frames):
        return (TimeWitness(EARLIEST, earliest),)
    beds = [
        (begun_s[0], frame.acquired_at or earliest, begun_s)
        for frame, *begun_s in zip(clocks.frames, *(one.begun_s for one in found), strict=True)
    ]
    _, acquired_at, all_begun_s = min(beds)
    starts = [acquired_at - timedelta(seconds=begun_s) for begun_s in all_begun_s]
    return (_either(FIRST_BED, starts[0], starts),)
