"""Whether the node can take a study now, looked at now and then and remembered.

What asks only reads what was remembered: a database or a file system that hangs holds up no answer.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from app.node.heartbeats import executors

LOOK_EVERY_S = 5.0
"""How often the conditions are looked at."""

STALE_AFTER_S = 30.0
"""A look that takes longer than this is itself the reason: something hangs."""

NOT_STARTED = "start: models are being loaded, unfinished work is taken up"
DRAINING = "drain: the node was told to stop"
NOT_LISTENING = "listener: takes no associations"


@dataclass(frozen=True)
class Conditions:
    """What has to be so.

    Attributes:
        listening: whether associations are taken; ``None`` for a node that only works.
        engine: the database.
        data_dir, min_free_mb: a folder, and the room it needs (10^6 bytes).
    """

    listening: Callable[[], bool] | None
    engine: Engine
    data_dir: Path
    min_free_mb: float


class Readiness:
    """Safe from any thread."""

    def __init__(self, conditions: Conditions, now_s: Callable[[], float] = time.monotonic) -> None:
        self._conditions = conditions
        self._now_s = now_s
        self._lock = threading.Lock()
        self._started = self._draining = False
        self._looked_at = now_s()
        self._found: tuple[str, ...] = ()

    def started(self) -> None:
        """The models are loaded and the loops run."""
        self._started = True

    def drain(self) -> None:
        """From now on the node is not ready."""
        self._draining = True

    def look(self) -> None:
        """Look at database and disk; may take as long as these take to answer."""
        found = tuple(filter(None, (_database(self._conditions.engine), _disk(self._conditions))))
        with self._lock:
            self._found, self._looked_at = found, self._now_s()

    def reasons(self) -> tuple[str, ...]:
        """Why the node is not ready, one sentence each; empty when it is. Never waits."""
        if self._draining:
            return (DRAINING,)
        if not self._started:
            return (NOT_STARTED,)
        with self._lock:
            silence_s, found = self._now_s() - self._looked_at, self._found
        listening = self._conditions.listening
        deaf = () if listening is None or listening() else (NOT_LISTENING,)
        if silence_s > STALE_AFTER_S:
            return (*deaf, f"database or disk: no answer for {silence_s:.0f} s")
        return (*deaf, *found)


def _database(engine: Engine) -> str:
    try:
        with engine.connect() as connection:
            connection.execute(select(executors.c.executor_id).limit(1)).all()  # reads the file, with SQLite
    except SQLAlchemyError:
        return "database: does not answer"
    return ""


def _disk(conditions: Conditions) -> str:
    try:
        room = os.statvfs(conditions.data_dir)
    except OSError as error:
        return f"disk: {error.strerror}"
    if room.f_flag & os.ST_RDONLY:
        return "disk: can only be read"
    if room.f_bavail * room.f_frsize < conditions.min_free_mb * 1e6:
        return f"disk: less than {conditions.min_free_mb:g} MB are free"
    return ""

