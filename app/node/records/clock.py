"""The time that all go by who share a database, and whether that of a try has come.

What one host has planned is begun by another, and their clocks may differ: with Postgres its server's clock
counts. SQLite has one host. A clock may also be set.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, func, or_, select

CLOCKS_AGREE = timedelta(seconds=1)
"""So far apart two clocks show the same time: to ask for it takes time too."""

_log = logging.getLogger(__name__)


class SharedClock:
    """This host's clock, put right by the database's server where they do not agree."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)
        """How far the server is ahead of this host."""
        self._has_warned_of_slowness = False

    def now(self) -> datetime:
        """Aware, in UTC."""
        return _host_time() + self._ahead

    def from_host_time(self, timestamp_s: float) -> datetime:
        """What it showed when this host's clock showed a Unix time, such as that of a file; aware, in UTC."""
        return datetime.fromtimestamp(timestamp_s, UTC) + self._ahead

    def to_host_time(self, instant: datetime) -> datetime:
        """What this host's clock showed when it showed ``instant``; both aware."""
        return instant - self._ahead

    def follow(self, engine: Engine) -> None:
        """Ask the server for its time. Raises SQLAlchemyError.

        The server's time is uncertain by half of what the answer took. After a slow one the difference counts
        all the same where that can't account for it.
        """
        if engine.dialect.name != "postgresql":
            return
        with engine.connect() as connection:
            before = _host_time()
            server: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            took = _host_time() - before
        ahead = server - before - took / 2
        if took > CLOCKS_AGREE:
            self._warn_of_slowness(took)
            if abs(ahead - self._ahead) <= took / 2:
                return
        if abs(ahead - self._ahead) > CLOCKS_AGREE:
            words = "this host's clock and that of the database differ: the latter counts"
            _log.warning(words, extra={"reason": f"it is ahead by {ahead.total_seconds():.1f} s"})
        self._ahead = ahead if abs(ahead) > CLOCKS_AGREE else timedelta(0)

    def _warn_of_slowness(self, took: timedelta) -> None:
        """Once: a network that is slow is slow at every beat."""
        if not self._has_warned_of_slowness:
            words = "the database answers too slowly to compare its clock with this host's to the second"
            _log.warning(words, extra={"reason": f"an answer took {took.total_seconds():.1f} s"})
            self._has_warned_of_slowness = True


def _host_time() -> datetime:
    return datetime.now(UTC)


CLOCK = SharedClock()


def waits_until(planned_at: datetime | None, now: datetime, longest_s: float) -> datetime | None:
    """Until when a try still waits; ``None`` when its time has come.

    Args:
        planned_at: aware; ``None`` for at once.
        now: aware.
        longest_s: no try waits longer. One that is planned for more than twice that from now was planned by a
            clock that was ahead: its time has come.
    """
    is_later = planned_at is not None and now < planned_at <= _too_far(now, longest_s)
    return planned_at if is_later else None


def are_due(planned_at: Any, now: datetime, longest_s: float) -> ColumnElement[bool]:
    """Whether the time of tries has come, by the column with what :func:`waits_until` is given."""
    return or_(planned_at.is_(None), planned_at <= now, planned_at > _too_far(now, longest_s))


def _too_far(now: datetime, longest_s: float) -> datetime:
    return now + timedelta(seconds=2 * longest_s)
