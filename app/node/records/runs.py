"""What has to be done and what has been done: one row for each study revision.

The ledger is the truth that people see and that a restart goes by; the durable engine only carries it out.
Every change names the state and attempt it starts from, so a step that runs twice changes nothing the
second time.

Of which late priors the audit log tells already.

A PET/CT ends again with each revision, and a step is repeated after a crash: its line stands once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Row,
    String,
    Table,
    UniqueConstraint,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from app.node.records.database import PlainText, UtcDateTime, metadata, utc_now


class StudyState(StrEnum):
    """The states a person sees."""

    RECEIVING = "receiving"
    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """A later revision of the study took this one's place before it was processed."""


UNPROCESSED = (StudyState.QUEUED, StudyState.RUNNING, StudyState.FAILED)
"""States from which an attempt may start: a crash leaves ``running`` behind."""


@dataclass(frozen=True)
class RunKey:
    """One revision of one study: 1 for the first complete content, one more for each late arrival."""

    study_instance_uid: str
    revision: int


@dataclass(frozen=True)
class Run:
    """The processing of one revision.

    Attributes:
        content_digest: of the instances it is about (:meth:`app.node.records.inbox.Inbox.content_digest`).
        attempt: number of the try that is queued, under way, or was the last.
        faults: tries that started and neither ended well nor asked to be repeated; a crash counts.
        postponements: tries in a row that asked to be repeated.
        next_try_at: when an automatic try follows; ``None`` when none is planned.
        stage: of the chain, while running.
    """

    key: RunKey
    content_digest: str
    state: StudyState
    stage: str
    reason: str
    attempt: int
    faults: int
    postponements: int
    next_try_at: datetime | None
    executor_id: str
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True)
class RunEnding:
    """How a try ended: ``state`` to go to, why, and when the next one follows."""

    state: StudyState
    reason: str = ""
    next_try_at: datetime | None = None
    at_fault: bool = False
    """Whether this try counts against the limit."""


runs = Table(
    "runs",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("content_digest", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(32), nullable=False, default=""),
    Column("reason", PlainText(), nullable=False, default=""),
    Column("attempt", Integer, nullable=False, default=1),
    Column("faults", Integer, nullable=False, default=0),
    Column("postponements", Integer, nullable=False, default=0),
    Column("next_try_at", UtcDateTime),
    Column("executor_id", String(64), nullable=False, default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    UniqueConstraint("study_instance_uid", "content_digest"),
)


class RunLedger:
    """Reads and changes runs; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def open(self, study_instance_uid: str, content_digest: str) -> tuple[Run, bool]:
        """The run for this content, and whether it is a new one: new content is a new revision, queued.

        Any number of processes may ask at once: all get the same run, and one is told that it is new.
        """
        found = self.of_content(study_instance_uid, content_digest)
        created = False
        while found is None:
            # an IntegrityError: another process opened this revision, for this content or for another
            with contextlib.suppress(IntegrityError):
                with self._engine.begin() as connection:
                    _insert(connection, study_instance_uid, content_digest)
                created = True
            found = self.of_content(study_instance_uid, content_digest)
        return found, created

    def of_content(self, study_instance_uid: str, content_digest: str) -> Run | None:
        """The run for exactly this content."""
        found = self._select(
            runs.c.study_instance_uid == study_instance_uid, runs.c.content_digest == content_digest
        )
        return found[0] if found else None

    def get(self, key: RunKey) -> Run:
        """One run. Raises LookupError."""
        found = self._select(*_is(key))
        if not found:
            raise LookupError("no such revision of this study")
        return found[0]

    def of_study(self, study_instance_uid: str) -> tuple[Run, ...]:
        """Every revision, first to last."""
        return self._select(runs.c.study_instance_uid == study_instance_uid)

    def latest(self) -> tuple[Run, ...]:
        """The last revision of every study."""
        last = (
            select(runs.c.study_instance_uid, func.max(runs.c.revision).label("revision"))
            .group_by(runs.c.study_instance_uid)
            .subquery()
        )
        query = select(runs).join(
            last,
            (runs.c.study_instance_uid == last.c.study_instance_uid) & (runs.c.revision == last.c.revision),
        )
        with self._engine.connect() as connection:
            return tuple(_run(row) for row in connection.execute(query))

    def unfinished(self) -> tuple[Run, ...]:
        """Runs that a try is due for: queued, under way, or failed with a next try planned."""
        return self._select(
            runs.c.state.in_((StudyState.QUEUED, StudyState.RUNNING))
            | ((runs.c.state == StudyState.FAILED) & runs.c.next_try_at.is_not(None))
        )

    def claim(self, key: RunKey, attempt: int, executor_id: str) -> Run | None:
        """Start a try: ``running``, one fault on account. ``None`` when the try is out of date."""
        changed = self._change(
            key,
            attempt,
            UNPROCESSED,
            {
                "state": StudyState.RUNNING,
                "stage": "starting",
                "reason": "",
                "next_try_at": None,
                "executor_id": executor_id,
                "faults": runs.c.faults + 1,
            },
        )
        return self.get(key) if changed else None

    def note_stage(self, key: RunKey, stage: str) -> None:
        """Say where in the chain the run is."""
        with self._engine.begin() as connection:
            connection.execute(update(runs).where(*_is(key)).values(stage=stage[:32], changed_at=utc_now()))

    def note_reason(self, run: Run, reason: str) -> None:
        """Say what a queued run waits for."""
        if run.state is StudyState.QUEUED and run.reason != reason:
            self._change(run.key, run.attempt, (StudyState.QUEUED,), {"reason": reason})

    def end(self, key: RunKey, attempt: int, ending: RunEnding) -> bool:
        """Write how a try ended; ``False`` when that was written before.

        With a next try planned, its number is the following one.
        """
        planned = ending.next_try_at is not None
        postponed = planned and not ending.at_fault
        values: dict[str, object] = {
            "state": ending.state,
            "stage": "",
            "reason": ending.reason,
            "next_try_at": ending.next_try_at,
            "attempt": attempt + 1 if planned else attempt,
            "postponements": runs.c.postponements + 1 if postponed else 0,
        }
        if not ending.at_fault:
            values["faults"] = runs.c.faults - 1
        return self._change(key, attempt, (StudyState.RUNNING,), values)

    def finish_delivery(self, key: RunKey, state: StudyState, reason: str = "") -> bool:
        """Leave ``delivering`` for ``done`` or ``failed``; ``False`` when it was left before.

        Without a reason, what was said of the processing stays.
        """
        said = {"reason": reason} if reason else {}
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(runs)
                .where(*_is(key), runs.c.state == StudyState.DELIVERING)
                .values(state=state, changed_at=utc_now(), **said)
            )
        return changed.rowcount > 0

    def requeue(self, run: Run) -> bool:
        """Begin again at a person's wish, with a clean account; ``False`` when the run moved meanwhile."""
        return self._change(
            run.key,
            run.attempt,
            (run.state,),
            {
                "state": StudyState.QUEUED,
                "reason": "asked for again",
                "next_try_at": None,
                "attempt": run.attempt + 1,
                "faults": 0,
                "postponements": 0,
            },
        )

    def reopen(self, run: Run) -> Run | None:
        """The content of a run that is done as a new revision, queued; ``None`` when the run moved meanwhile.

        The content is the new revision's from here on. Its tries are counted on from the former's, whose
        numbers the durable engine knows already.
        """
        former = (*_is(run.key), runs.c.content_digest == run.content_digest, runs.c.state == StudyState.DONE)
        past = f"{run.content_digest[:48]}-r{run.key.revision}"
        with contextlib.suppress(IntegrityError), self._engine.begin() as connection:
            moved = connection.execute(update(runs).where(*former).values(content_digest=past))
            if moved.rowcount:
                key = run.key.study_instance_uid
                _insert(connection, key, run.content_digest, attempt=run.attempt + 1)
        found = self.of_content(run.key.study_instance_uid, run.content_digest)
        return found if found is not None and found.key.revision == run.key.revision + 1 else None

    def resume_delivery(self, key: RunKey) -> None:
        """Back to ``delivering`` from ``failed`` or ``done``, when results are sent at a person's wish."""
        with self._engine.begin() as connection:
            connection.execute(
                update(runs)
                .where(*_is(key), runs.c.state.in_((StudyState.FAILED, StudyState.DONE)))
                .values(state=StudyState.DELIVERING, reason="", changed_at=utc_now())
            )

    def replace_lost_attempt(self, run: Run) -> bool:
        """The engine lost a try: plan another under a new number. ``False`` when the run moved meanwhile."""
        values = {"state": StudyState.QUEUED, "stage": "", "attempt": run.attempt + 1}
        return self._change(run.key, run.attempt, (run.state,), values)

    def _change(
        self, key: RunKey, attempt: int, states: Collection[StudyState], values: dict[str, object]
    ) -> bool:
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(runs)
                .where(*_is(key), runs.c.attempt == attempt, runs.c.state.in_(states))
                .values(**values, changed_at=utc_now())
            )
        return changed.rowcount > 0

    def _select(self, *conditions: ColumnElement[bool]) -> tuple[Run, ...]:
        query = select(runs).where(*conditions).order_by(runs.c.created_at, runs.c.revision)
        with self._engine.connect() as connection:
            return tuple(_run(row) for row in connection.execute(query))


def _insert(connection: Connection, study_instance_uid: str, content_digest: str, attempt: int = 1) -> None:
    """The next revision, queued. Raises IntegrityError when another process was quicker."""
    last = select(func.coalesce(func.max(runs.c.revision), 0)).where(
        runs.c.study_instance_uid == study_instance_uid
    )
    now = utc_now()
    revision = connection.scalar(last) or 0
    connection.execute(
        runs.insert().values(
            study_instance_uid=study_instance_uid,
            revision=revision + 1,
            content_digest=content_digest,
            state=StudyState.QUEUED,
            attempt=attempt,
            created_at=now,
            changed_at=now,
        )
    )


def _is(key: RunKey) -> tuple[ColumnElement[bool], ...]:
    return (runs.c.study_instance_uid == key.study_instance_uid, runs.c.revision == key.revision)


def _run(row: Row[Any]) -> Run:
    return Run(
        key=RunKey(row.study_instance_uid, row.revision),
        content_digest=row.content_digest,
        state=StudyState(row.state),
        stage=row.stage,
        reason=row.reason,
        attempt=row.attempt,
        faults=row.faults,
        postponements=row.postponements,
        next_try_at=row.next_try_at,
        executor_id=row.executor_id,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )


late_priors_told = Table(
    "late_priors_told",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("pet_study_instance_uid", String(64), primary_key=True),
)
"""One row a revision of a SPECT/CT and late PET/CT."""


class LatePriorLedger:
    """Remembers what was told; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def is_told(self, spect: RunKey, pet_study_instance_uid: str) -> bool:
        """Whether it is written down that this revision was analysed without that PET/CT."""
        query = select(late_priors_told).filter_by(**_row(spect, pet_study_instance_uid))
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    def note_told(self, spect: RunKey, pet_study_instance_uid: str) -> None:
        """It is written down."""
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(late_priors_told).values(_row(spect, pet_study_instance_uid)))
        except IntegrityError:  # the PET/CT's worker and the SPECT/CT's noted it at the same time
            if not self.is_told(spect, pet_study_instance_uid):
                raise


def _row(spect: RunKey, pet_study_instance_uid: str) -> dict[str, object]:
    return {
        "study_instance_uid": spect.study_instance_uid,
        "revision": spect.revision,
        "pet_study_instance_uid": pet_study_instance_uid,
    }
