"""What has to be done and what has been done: one row for each study revision.

The ledger is the truth that people see and that a restart goes by; the durable engine only carries it out.
Every change names the state and attempt it starts from, so a step that runs twice changes nothing the
second time.

A second ledger holds which late priors the audit log names already: a PET/CT ends again with each revision,
and a step is repeated after a crash, but the line is written once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, String, UniqueConstraint, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.node.records.database import Base, Ledger, Uid, fetch, text_enum, upsert, utc_now
from app.node.records.states import ENDED, UNPROCESSED, RunKey, StudyState

_KEPT = 48
"""Characters of the digest that a run keeps when a later one takes up its content."""


class Run(Base):
    """The processing of one revision.

    Attributes:
        content_digest: of the instances it is about (:meth:`app.node.records.inbox.Inbox.content_digest`).
        stage: of the chain, while running.
        attempt: number of the try that is queued, under way, or was the last.
        faults: tries that started and neither ended well nor asked to be repeated; a crash counts.
        postponements: tries in a row that asked to be repeated.
        next_try_at: when an automatic try follows; ``None`` when none is planned.
    """

    __tablename__ = "runs"
    __table_args__ = (UniqueConstraint("study_instance_uid", "content_digest"),)

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    content_digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    state: Mapped[StudyState] = mapped_column(text_enum(StudyState))
    stage: Mapped[str] = mapped_column(String(32), default="")
    reason: Mapped[str] = mapped_column(default="")
    attempt: Mapped[int] = mapped_column(default=1)
    faults: Mapped[int] = mapped_column(default=0)
    postponements: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None] = mapped_column(default=None)
    executor_id: Mapped[str] = mapped_column(String(64), default="")

    @property
    def key(self) -> RunKey:
        return RunKey(self.study_instance_uid, self.revision)

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


class RunLedger(Ledger):
    """Runs, for what is planned and what a person sees."""

    def open(self, study_instance_uid: str, content_digest: str) -> tuple[Run, bool]:
        """The run for this content, and whether it is a new one: new content is a new revision, queued.

        Any number of processes may ask at once: all get the same run, and for one of them it is new.
        """
        found = self.of_content(study_instance_uid, content_digest)
        created = False
        while found is None:
            # an IntegrityError: another process opened this revision, for this content or for another
            with contextlib.suppress(IntegrityError):
                with Session(self._engine) as session, session.begin():
                    _add_next_revision(session, study_instance_uid, content_digest)
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
        last = (
            select(Run.study_instance_uid, func.max(Run.revision).label("revision"))
            .group_by(Run.study_instance_uid)
            .subquery()
        )
        is_last = (Run.study_instance_uid == last.c.study_instance_uid) & (Run.revision == last.c.revision)
        return fetch(self._engine, select(Run).join(last, is_last))

    def unfinished(self) -> tuple[Run, ...]:
        """Runs that a try is due for: queued, under way, or failed with a next try planned."""
        return self._select(
            Run.state.in_((StudyState.QUEUED, StudyState.RUNNING))
            | ((Run.state == StudyState.FAILED) & Run.next_try_at.is_not(None))
        )

    def claim(self, key: RunKey, attempt: int, executor_id: str) -> Run | None:
        """Start a try: ``running``, one fault on account. ``None`` when the try is out of date."""
        changed = self._update_attempt(
            key,
            attempt,
            UNPROCESSED,
            state=StudyState.RUNNING,
            stage="starting",
            reason="",
            next_try_at=None,
            executor_id=executor_id,
            faults=Run.faults + 1,
        )
        return self.get(key) if changed else None

    def note_stage(self, key: RunKey, stage: str) -> None:
        self._update(key, stage=stage[:32])

    def note_reason(self, run: Run, reason: str) -> None:
        if run.state is StudyState.QUEUED and run.reason != reason:
            self._update_attempt(run.key, run.attempt, (StudyState.QUEUED,), reason=reason)

    def end(self, key: RunKey, attempt: int, transition: RunTransition) -> bool:
        """Write how a try ended; ``False`` when that was written before.

        With a next try planned, its number is the following one.
        """
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
            faults=Run.faults if transition.at_fault else Run.faults - 1,
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
            postponements=0,
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
                _add_next_revision(session, run.study_instance_uid, run.content_digest, run.attempt + 1)
        found = self.of_content(run.key.study_instance_uid, run.content_digest)
        return found if found is not None and found.key.revision > run.key.revision else None

    def resume_delivery(self, key: RunKey) -> None:
        """Back to ``delivering`` from ``failed`` or ``done``, because somebody asked for the results."""
        ended = Run.state.in_((StudyState.FAILED, StudyState.DONE))
        self._update(key, ended, state=StudyState.DELIVERING, reason="")

    def replace_lost_attempt(self, run: Run) -> bool:
        """The engine lost a try: plan another under a new number. ``False`` when the run moved meanwhile."""
        following = run.attempt + 1
        return self._update_attempt(
            run.key, run.attempt, (run.state,), state=StudyState.QUEUED, stage="", attempt=following
        )

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
    session: Session, study_instance_uid: str, content_digest: str, attempt: int = 1
) -> None:
    """The next revision, queued. Raises IntegrityError when another process was quicker."""
    last = session.scalar(
        select(func.coalesce(func.max(Run.revision), 0)).where(Run.study_instance_uid == study_instance_uid)
    )
    now = utc_now()
    session.add(
        Run(
            study_instance_uid=study_instance_uid,
            revision=(last or 0) + 1,
            content_digest=content_digest,
            state=StudyState.QUEUED,
            attempt=attempt,
            created_at=now,
            changed_at=now,
        )
    )
    session.flush()


def _is(key: RunKey) -> tuple[ColumnElement[bool], ...]:
    return (Run.study_instance_uid == key.study_instance_uid, Run.revision == key.revision)


class LatePriorRow(Base):
    """A revision of a SPECT/CT, and a late PET/CT that the audit log names for it."""

    __tablename__ = "late_priors_told"

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    pet_study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)


class LatePriorLedger(Ledger):
    """Which late priors the audit log names."""

    def is_noted(self, spect: RunKey, pet_study_instance_uid: str) -> bool:
        """Whether it is written down that this revision was analysed without that PET/CT."""
        query = select(LatePriorRow).filter_by(**_late_prior(spect, pet_study_instance_uid))
        return bool(fetch(self._engine, query))

    def note(self, spect: RunKey, pet_study_instance_uid: str) -> None:
        """It is written down; the PET/CT's worker and the SPECT/CT's may note it at the same time."""
        upsert(self._engine, LatePriorRow, **_late_prior(spect, pet_study_instance_uid))


def _late_prior(spect: RunKey, pet_study_instance_uid: str) -> dict[str, object]:
    return {**asdict(spect), "pet_study_instance_uid": pet_study_instance_uid}
