"""What has to be done and what has been done: one row for each study revision.

The ledger is the truth that people see and that a restart goes by; the durable engine only carries it out.
Every change names the state and attempt it starts from, so a step that runs twice changes nothing the
second time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Engine, Index, String, UniqueConstraint, case, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from app.node.records.clock import are_due
from app.node.records.database import Base, Ledger, Uid, fetch, text_enum, utc_now
from app.node.records.states import ENDED, STOPPED, UNPROCESSED, Arrival, Rank, RunKey, StudyState, Turn

_KEPT = 48
"""Characters of the digest that a run keeps when a later one takes up its content."""


class Run(Base):
    """The processing of one revision.

    Attributes:
        content_digest: of the instances it is about (``StudyContent.digest`` of the inbox).
        queued_at: since when it waits: since it was opened, or last asked for again.
        stage: of the chain, while running.
        attempt: number of the try that is queued, under way, or was the last.
        faults: tries that ended, neither well nor by asking to be repeated.
        interruptions: tries in a row that were cut off: the node was killed, or could not write the ending.
        postponements: tries in a row that asked to be repeated.
        next_try_at: when an automatic try follows; ``None`` when none is planned.
        started_at: when the last try began.
        sender, rank, by_headers: as in :class:`Arrival`.
    """

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("study_instance_uid", "content_digest"),
        Index("runs_by_start", "by_headers", "started_at"),
        Index("runs_in_line", "by_headers", "state", "created_at"),
    )

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    content_digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    state: Mapped[StudyState] = mapped_column(text_enum(StudyState), index=True)
    stage: Mapped[str] = mapped_column(String(32), default="")
    reason: Mapped[str] = mapped_column(default="")
    attempt: Mapped[int] = mapped_column(default=1)
    faults: Mapped[int] = mapped_column(default=0)
    postponements: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None] = mapped_column(default=None)
    executor_id: Mapped[str] = mapped_column(String(64), default="")
    interruptions: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    sender: Mapped[str] = mapped_column(String(16), default="")
    rank: Mapped[int] = mapped_column(default=Rank.ROUTINE)
    by_headers: Mapped[bool] = mapped_column(default=False)

    @property
    def key(self) -> RunKey:
        return RunKey(self.study_instance_uid, self.revision)

    @property
    def turn(self) -> Turn:
        return Turn(self.key, self.rank, self.sender, self.queued_at)

    def is_about(self, content_digest: str) -> bool:
        """Whether this was its content, be it that a later revision has taken it up."""
        return self.content_digest[:_KEPT] == content_digest[:_KEPT]


@dataclass(frozen=True)
class RunTransition:
    """How a try ended: ``state`` to go to, why, and when the next one follows."""

    state: StudyState
    reason: str = ""
    next_try_at: datetime | None = None
    at_fault: bool = False
    """Whether this try counts against the limit."""


_LATER = aliased(Run)
_IS_LATER = (_LATER.study_instance_uid == Run.study_instance_uid, _LATER.revision > Run.revision)

IS_LATEST = ~select(_LATER.revision).where(*_IS_LATER).exists()
"""Of a run: it is the last revision of its study."""

_HAS_A_TRY = (Run.state != StudyState.FAILED) | Run.next_try_at.is_not(None)
"""Of one that is queued, under way, or failed."""

_CUT_OFF = case(((Run.state == StudyState.RUNNING) & (Run.stage != STOPPED), 1), else_=0)
"""1 where a try is under way that nobody stopped."""


class RunLedger(Ledger):
    """Runs, for what is planned and what a person sees."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.on_stage: Callable[[RunKey, str], None] = lambda _run, _stage: None
        """Called with each stage of a run that this process works on, and with none when its try ends."""

    def open(
        self, study_instance_uid: str, content_digest: str, arrival: Arrival = Arrival()
    ) -> tuple[Run, bool]:
        """The run for this content, and whether it is a new one: new content is a new revision, queued.

        Any number of processes may ask at once: all get the same run, and for one of them it is new.
        """
        found = self.of_content(study_instance_uid, content_digest)
        created = False
        while found is None:
            # an IntegrityError: another process opened this revision, for this content or for another
            with contextlib.suppress(IntegrityError):
                with Session(self._engine) as session, session.begin():
                    _add_next_revision(session, study_instance_uid, content_digest, arrival)
                created = True
            found = self.of_content(study_instance_uid, content_digest)
        return found, created

    def of_content(self, study_instance_uid: str, content_digest: str) -> Run | None:
        found = self._select(
            Run.study_instance_uid == study_instance_uid, Run.content_digest == content_digest
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
        return self._select(Run.study_instance_uid == study_instance_uid)

    def latest(self) -> tuple[Run, ...]:
        """The last revision of every study."""
        return fetch(self._engine, select(Run).where(IS_LATEST))

    def given_up(self) -> tuple[Run, ...]:
        """Last revisions that failed, be it in processing or in delivery, and wait for a person."""
        return self._select(IS_LATEST, Run.state == StudyState.FAILED, Run.next_try_at.is_(None))

    def for_workers(self) -> tuple[Run, ...]:
        """Runs that a try is due for, now or later, and that need a worker."""
        return self._select(Run.by_headers.is_(False), Run.state.in_(UNPROCESSED), _HAS_A_TRY)

    def for_judge(self, now: datetime, longest_s: float, limit: int) -> tuple[Run, ...]:
        """The first of those that headers refuse that are due, what was cut off before what waits."""
        found: list[Run] = []
        # a state at a time, which the index has in order: there may be thousands
        for state in (StudyState.RUNNING, StudyState.QUEUED, StudyState.FAILED):
            which = (Run.by_headers, Run.state == state, _HAS_A_TRY, are_due(Run.next_try_at, now, longest_s))
            query = select(Run).where(*which).order_by(Run.created_at)
            found += fetch(self._engine, query.limit(limit - len(found)))
        return tuple(found)

    def last_started(self, limit: int) -> tuple[Run, ...]:
        """Runs that went to a worker last, the latest first."""
        query = select(Run).where(Run.started_at.is_not(None), Run.by_headers.is_(False))
        return fetch(self._engine, query.order_by(Run.started_at.desc()).limit(limit))

    def claim(self, key: RunKey, attempt: int, executor_id: str) -> Run | None:
        """Start a try: ``running``. ``None`` when the try is out of date.

        A try that runs already was cut off by the end of its process: that is counted, unless it was stopped.
        """
        changed = self._update_attempt(
            key,
            attempt,
            UNPROCESSED,
            state=StudyState.RUNNING,
            stage="starting",
            reason="",
            next_try_at=None,
            executor_id=executor_id,
            started_at=utc_now(),
            interruptions=Run.interruptions + _CUT_OFF,
        )
        return self.get(key) if changed else None

    def note_stopped(self, executor_id: str) -> None:
        """What this executor has not ended was stopped on purpose: no interruption of its own."""
        running = (Run.state == StudyState.RUNNING, Run.executor_id == executor_id)
        with self._engine.begin() as connection:
            connection.execute(update(Run).where(*running).values(stage=STOPPED))

    def note_needs_worker(self, key: RunKey) -> None:
        """Its headers do not refuse it after all."""
        self._update(key, by_headers=False)

    def note_stage(self, key: RunKey, stage: str) -> None:
        self._update(key, stage=stage[:32])
        self.on_stage(key, stage)

    def note_reason(self, run: Run, reason: str) -> None:
        if run.state is StudyState.QUEUED and run.reason != reason:
            self._update_attempt(run.key, run.attempt, (StudyState.QUEUED,), reason=reason)

    def end(self, key: RunKey, attempt: int, transition: RunTransition) -> bool:
        """Write how a try ended; ``False`` when that was written before.

        With a next try planned, its number is the following one.
        """
        self.on_stage(key, "")
        planned = transition.next_try_at is not None
        postponed = planned and not transition.at_fault
        return self._update_attempt(
            key,
            attempt,
            (StudyState.RUNNING,),
            state=transition.state,
            stage="",
            reason=transition.reason,
            next_try_at=transition.next_try_at,
            attempt=attempt + 1 if planned else attempt,
            postponements=Run.postponements + 1 if postponed else 0,
            faults=Run.faults + 1 if transition.at_fault else Run.faults,
            interruptions=0,
        )

    def finish_delivery(self, key: RunKey, state: StudyState, reason: str = "") -> bool:
        """Leave ``delivering`` for ``done`` or ``failed``; ``False`` when it was left before.

        Without a reason, that of the processing stays.
        """
        reasons = {"reason": reason} if reason else {}
        return self._update(key, Run.state == StudyState.DELIVERING, state=state, **reasons)

    def requeue(self, run: Run) -> bool:
        """Begin again because somebody asked, all counts at 0; ``False`` when the run moved meanwhile."""
        return self._update_attempt(
            run.key,
            run.attempt,
            (run.state,),
            state=StudyState.QUEUED,
            reason="asked for again",
            next_try_at=None,
            attempt=run.attempt + 1,
            faults=0,
            interruptions=0,
            postponements=0,
            queued_at=utc_now(),
            rank=max(run.rank, Rank.REPLAY),
        )

    def reopen(self, run: Run) -> Run | None:
        """The content of a run that has ended as a new revision, queued; ``None`` when it moved meanwhile.

        The content is the new revision's from here on. Its tries are counted on from the former's, whose
        numbers the durable engine knows already.
        """
        former = (*_is(run.key), Run.content_digest == run.content_digest, Run.state.in_(ENDED))
        past = f"{run.content_digest[:_KEPT]}-r{run.key.revision}"
        with contextlib.suppress(IntegrityError), Session(self._engine) as session, session.begin():
            moved = session.connection().execute(update(Run).where(*former).values(content_digest=past))
            if moved.rowcount:
                again = Arrival(run.sender, Rank.REPLAY, run.by_headers)
                _add_next_revision(
                    session, run.study_instance_uid, run.content_digest, again, run.attempt + 1
                )
        found = self.of_content(run.key.study_instance_uid, run.content_digest)
        return found if found is not None and found.key.revision > run.key.revision else None

    def resume_delivery(self, key: RunKey) -> None:
        """Back to ``delivering``, because somebody asked for the results; not from a planned try."""
        ended = Run.state.in_((StudyState.FAILED, StudyState.DONE)) & Run.next_try_at.is_(None)
        self._update(key, ended, state=StudyState.DELIVERING, reason="")

    def replace_lost_attempt(self, run: Run, next_try_at: datetime | None) -> bool:
        """The engine lost a try, which was cut off if it was under way: plan another under a new number.

        ``False`` when the run moved meanwhile.
        """
        following = {"attempt": run.attempt + 1, "next_try_at": next_try_at, "state": StudyState.QUEUED}
        cut_off = {"stage": "", "interruptions": Run.interruptions + _CUT_OFF}
        return self._update_attempt(run.key, run.attempt, (run.state,), **following, **cut_off)

    def _update_attempt(
        self, key: RunKey, number: int, states: Collection[StudyState], **values: object
    ) -> bool:
        """Change a run; ``False`` when it is at another attempt or in another state."""
        return self._update(key, Run.attempt == number, Run.state.in_(states), **values)

    def _update(self, key: RunKey, *conditions: ColumnElement[bool], **values: object) -> bool:
        statement = update(Run).where(*_is(key), *conditions).values(**values, changed_at=utc_now())
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount > 0

    def _select(self, *conditions: ColumnElement[bool]) -> tuple[Run, ...]:
        return fetch(self._engine, select(Run).where(*conditions).order_by(Run.created_at, Run.revision))


def _add_next_revision(
    session: Session, study_instance_uid: str, content_digest: str, arrival: Arrival, attempt: int = 1
) -> None:
    """The next revision, queued. Raises IntegrityError when another process was quicker."""
    runs = select(Run).where(Run.study_instance_uid == study_instance_uid)
    last = session.scalar(runs.order_by(Run.revision.desc()).limit(1))
    if last is not None and last.state is StudyState.REMOVED:
        attempt = max(attempt, last.attempt + 1)
    now = utc_now()
    session.add(
        Run(
            study_instance_uid=study_instance_uid,
            revision=1 if last is None else last.revision + 1,
            content_digest=content_digest,
            state=StudyState.QUEUED,
            attempt=attempt,
            created_at=now,
            queued_at=now,
            changed_at=now,
            **asdict(arrival),
        )
    )
    session.flush()


def _is(key: RunKey) -> tuple[ColumnElement[bool], ...]:
    return (Run.study_instance_uid == key.study_instance_uid, Run.revision == key.revision)
