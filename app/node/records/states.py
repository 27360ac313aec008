"""The states that people see, and what names a revision and a delivery: no database is needed for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum


class StudyState(StrEnum):
    """The states a person sees."""

    RECEIVING = "receiving"
    WAITING = "waiting"
    HELD = "held"
    """Of what has come: shown as waiting. A result stands until a person chooses between contents."""
    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """A later revision of the study took this one's place before it was processed."""
    REMOVED = "removed"
    """Of a study that was removed: what remains are its numbers, from which the next revision counts on."""


ARRIVING = (None, StudyState.RECEIVING, StudyState.WAITING)
"""States of a study of which no revision was opened yet for what has come last."""

UNPROCESSED = (StudyState.QUEUED, StudyState.RUNNING, StudyState.FAILED)
"""States from which an attempt may start: a crash leaves ``running`` behind."""

WITH_RESULTS = (StudyState.DELIVERING, StudyState.DONE)
"""States of a revision whose results are written."""

FINAL = (*WITH_RESULTS, StudyState.REJECTED)
"""States of a revision that takes the place of earlier ones, be it with results or without."""

ENDED = (StudyState.DONE, StudyState.REJECTED, StudyState.FAILED, StudyState.SUPERSEDED)
"""States from which the content of a revision may become that of a new one."""


STOPPED = "stopped"
"""In place of the stage, while the node is stopped: a try that a person cut off on purpose."""


class Rank(IntEnum):
    """What is processed first; within a rank the senders take turns (:mod:`app.node.process.turns`)."""

    URGENT = 0
    THERAPY = 1
    """A SPECT/CT of a day of therapy."""
    ROUTINE = 2
    REPLAY = 3
    """An old study that was sent again, or that somebody wants to have tried again."""


@dataclass(frozen=True)
class Arrival:
    """What the place in the queue depends on.

    Attributes:
        sender: AE title that its first image came from.
        by_headers: its headers alone refuse it, as far as they were known then; it needs no worker.
    """

    sender: str = ""
    rank: Rank = Rank.ROUTINE
    by_headers: bool = False


@dataclass(frozen=True)
class RunKey:
    """One revision of one study: 1 for the first complete content, one more for each late arrival."""

    study_instance_uid: str
    revision: int

    @property
    def facts(self) -> dict[str, object]:
        """What names it in the log."""
        return {"study": self.study_instance_uid, "revision": self.revision}


@dataclass(frozen=True)
class Turn:
    """What decides when a run that waits for a worker goes; some of it as in :class:`Arrival`."""

    key: RunKey
    rank: int
    sender: str
    queued_at: datetime


class DeliveryState(StrEnum):
    """Where one revision's delivery to one destination stands."""

    PENDING = "pending"
    SENT = "sent"
    """The destination has acknowledged everything; that it keeps it is still to be proven."""
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """A later revision's results went instead."""


TO_BE_TRIED = (DeliveryState.PENDING, DeliveryState.SENT)
"""States of a delivery that has another try."""


@dataclass(frozen=True)
class DeliveryKey:
    """One revision's results for one destination."""

    run: RunKey
    destination: str

    @property
    def facts(self) -> dict[str, object]:
        """What names it in the log."""
        return self.run.facts | {"destination": self.destination}
