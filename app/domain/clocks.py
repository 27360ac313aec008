"""Time zones of a series, and what else its headers say of when it was made.

One rule for zones (PS3.3 C.12.1.1.8): every instant of a series is brought to one zone and only then
compared. The zone of a DA, a TM, or a DT without an offset is Timezone Offset From UTC (0008,0201); without
that it is unknown, and the same for all of them. An offset that one DT alone states among such times is not
known to be theirs: :class:`LoneOffset`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

FARTHEST_WEST, FARTHEST_EAST = timedelta(hours=-12), timedelta(hours=14)
"""Offsets from UTC that exist."""

ZONE_STEP = timedelta(minutes=15)
"""Offsets from UTC are whole multiples of it."""

CLOCK_ROUNDING = timedelta(seconds=60)
"""Attributes of one instant are rounded to minutes."""


@dataclass(frozen=True)
class LoneOffset:
    """An offset from UTC on one side of injection and scan, while the other side's zone isn't stated.

    Attributes:
        offset: from UTC.
        is_scans: it is the scan's (Acquisition DateTime), not the injection's.
    """

    offset: timedelta
    is_scans: bool = False

    @property
    def spelled(self) -> str:
        """As DICOM writes it, ``±HHMM``."""
        return spelled(self.offset)


def spelled(offset: timedelta) -> str:
    """As DICOM writes it, ``±HHMM``."""
    minutes = round(offset.total_seconds() / 60.0)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"


def zone_offset(apart: timedelta) -> timedelta | None:
    """The time zone that explains how far a local clock is from UTC; ``None`` where none does."""
    nearest = round(apart / ZONE_STEP) * ZONE_STEP
    is_zone = abs(apart - nearest) <= CLOCK_ROUNDING and FARTHEST_WEST <= nearest <= FARTHEST_EAST
    return nearest if is_zone else None


@dataclass(frozen=True)
class Clocks:
    """What else an image or a series says of when it was made; each without zone, ``None`` where absent.

    Attributes:
        acquired_at: Acquisition Date and Time.
        study: Study Date and Time.
        series: Series Date and Time.
        content_lag_s: from the acquisition to Content Date and Time, the shortest of the series.
        creation_lag_s: from the acquisition to Instance Creation Date and Time, the shortest of the series.
    """

    acquired_at: datetime | None = None
    study: datetime | None = None
    series: datetime | None = None
    content_lag_s: float | None = None
    creation_lag_s: float | None = None


def lag_s(earlier: datetime | None, later: datetime | None) -> float | None:
    """Seconds between two instants; nothing where one is absent, or set to midnight by an anonymiser."""
    if earlier is None or later is None or time() in (earlier.time(), later.time()):
        return None
    return (later - earlier).total_seconds()


def earliest_clocks(images: Sequence[Clocks]) -> Clocks:
    """Those of a series: of each witness the earliest."""
    return Clocks(
        earliest(item.acquired_at for item in images),
        earliest(item.study for item in images),
        earliest(item.series for item in images),
        min((item.content_lag_s for item in images if item.content_lag_s is not None), default=None),
        min((item.creation_lag_s for item in images if item.creation_lag_s is not None), default=None),
    )


def earliest(instants: Iterable[datetime | None]) -> datetime | None:
    """The earliest one that is known."""
    return min((instant for instant in instants if instant is not None), default=None)
