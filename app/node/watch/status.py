"""``psma-node status`` shows each study, ``psma-node retry`` has one tried again.

Both work on the database and the outbox, so the node may be running or stopped: a node that runs sees a
change at its next look, one that is stopped at its next start.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from app.errors import MisconfiguredError
from app.node.process.priors import ADVICE, found_no_prior
from app.node.process.turns import REMEMBERED, places
from app.node.records.outbox import Outbox
from app.node.records.overview import (
    DeliveryStatus,
    InboxStudy,
    KnownStudy,
    LastRun,
    Overview,
    counted_classes,
    overview,
    quick_overview,
)
from app.node.records.states import ARRIVING, TO_BE_TRIED, WITH_RESULTS, DeliveryState, RunKey, StudyState

if TYPE_CHECKING:
    from app.node.policy import NodePolicy
    from app.node.records.deliveries import Delivery
    from app.node.records.runs import Run
    from app.node.records.stores import NodeStores

CHOOSE = "psma-node discard shows the contents, and lets one stand"
"""Two contents came under one SOP Instance UID, and the program can't know which is right."""


@dataclass(frozen=True)
class StudyStatus:
    """One study, as shown to people.

    Attributes:
        state: one of :class:`~app.node.records.runs.StudyState`.
        stage: of the chain, while running.
        reason: why it is in this state; empty when that is plain.
        next_step: in words; ``next_try_at`` says when, if that is planned.
        revision: the latest; 0 before the first complete content.
        instance_count: of all that was received; ``image_count`` of what can be analysed.
        beside: what else was received, in words; empty for nothing.
        acquired_at: of its PET or SPECT, the clinic's local time; ``None`` while unknown.
    """

    study_instance_uid: str
    state: str
    stage: str
    reason: str
    next_step: str
    next_try_at: datetime | None
    revision: int
    instance_count: int
    conflicts: int
    first_received_at: datetime
    last_received_at: datetime
    image_count: int
    deliveries: tuple[DeliveryStatus, ...] = ()
    acquired_at: datetime | None = None
    beside: str = ""


@dataclass(frozen=True)
class Wanted:
    """Which studies are asked for: those that fit all that is given.

    Attributes:
        day: on which they were acquired (the clinic's date) or began to arrive (that of this host).
    """

    patient_id: str = field(default="", repr=False)
    accession_number: str = field(default="", repr=False)
    state: str = ""
    day: date | None = None

    def fits(self, known: KnownStudy | None) -> bool:
        """Whether it may be one, by what is known of whose it is; before its state is looked up."""
        asked = ((self.patient_id, "patient_id"), (self.accession_number, "accession_number"))
        return all(
            known is not None and (getattr(known, name) or "").strip() == text.strip()
            for text, name in asked
            if text
        )

    def includes(self, study: StudyStatus) -> bool:
        days = {study.first_received_at.astimezone().date()}
        days |= {study.acquired_at.date()} if study.acquired_at else set()
        return self.state in ("", study.state) and self.day in (None, *days)


def known_statuses(policy: NodePolicy, wanted: Wanted = Wanted()) -> tuple[StudyStatus, ...]:
    """Those of a node that runs or is stopped. Raises as ``open_known_stores``."""
    found = quick_overview(policy)
    if found is not None:
        return _statuses(found, Outbox(policy.results_dir, policy.executor), wanted)
    from app.node.records.stores import open_known_stores

    stores = open_known_stores(policy)
    try:
        return study_statuses(stores, wanted)
    finally:
        stores.close()


def study_statuses(stores: NodeStores, wanted: Wanted = Wanted()) -> tuple[StudyStatus, ...]:
    """Every study that is wanted, the one that began to arrive first first."""
    with closing(stores.engine.raw_connection()) as connection:
        found = overview(connection)
    return _statuses(found, stores.outbox, wanted)


def _statuses(found: Overview, outbox: Outbox, wanted: Wanted) -> tuple[StudyStatus, ...]:
    in_queue = _places(found.latest.values())
    statuses = (
        replace(
            _status(found, outbox, study, in_queue),
            acquired_at=found.known[uid].acquired_at if uid in found.known else None,
            beside=counted_classes(found.others.get(uid, ())),
        )
        for study in found.inbox
        if wanted.fits(found.known.get(uid := study.study_instance_uid))
    )
    return tuple(status for status in statuses if wanted.includes(status))


def _places(runs: Collection[LastRun]) -> dict[RunKey, str]:
    """Of each run that waits for a worker, its place in the queue, in words."""
    now = datetime.now(UTC)
    started = [(run.started_at, run.turn) for run in runs if run.started_at and not run.by_headers]
    last = [turn for _, turn in sorted(started, key=lambda item: item[0], reverse=True)[:REMEMBERED]]
    waiting = [
        run.turn
        for run in runs
        if run.state is StudyState.QUEUED
        and not run.by_headers
        and (run.next_try_at is None or run.next_try_at <= now)
    ]
    return places(waiting, last, now)


def _status(
    found: Overview, outbox: Outbox, study: InboxStudy, in_queue: Mapping[RunKey, str]
) -> StudyStatus:
    known, run = found.known.get(study.study_instance_uid), found.latest.get(study.study_instance_uid)
    arriving = known is None or known.state in (*ARRIVING, StudyState.HELD)
    status = _arriving(study, known, run)
    if run is None or (arriving and run.state is not StudyState.RUNNING):
        return status
    deliveries = tuple(found.deliveries.get(run.key, ()))
    next_try_at = run.next_try_at or min(
        (item.next_try_at for item in deliveries if item.next_try_at is not None), default=None
    )
    why = (run.reason or _delivery_reason(run, deliveries), _late(late_prior(found, outbox, run)))
    return replace(
        status,
        state=str(run.state),
        stage=run.stage,
        reason="; ".join(filter(None, why)),
        next_step=CHOOSE
        if _needs_choice(study, run)
        else _next_step(run, next_try_at, in_queue.get(run.key)),
        next_try_at=next_try_at,
        deliveries=deliveries,
    )


def late_prior(found: Overview, outbox: Outbox, run: LastRun) -> str:
    """The study whose PET result was missing when ``run``, a SPECT, was analysed; empty when none was."""
    earlier = found.earlier_pets.get(run.key.study_instance_uid)
    return earlier[0] if earlier and run.state in WITH_RESULTS and found_no_prior(outbox, run.key) else ""


def _late(pet: str) -> str:
    if not pet:
        return ""
    return f"analysed without the PET/CT of the same patient, study {pet}, which ended later: {ADVICE}"


def _arriving(study: InboxStudy, known: KnownStudy | None, run: LastRun | None) -> StudyStatus:
    earlier = f" (revision {run.key.revision} is {run.state})" if run else ""
    state = known.state if known else None
    waiting = state in (StudyState.WAITING, StudyState.HELD)
    reason = known.reason if known and known.state else f"{study.image_count} images so far"
    return StudyStatus(
        study_instance_uid=study.study_instance_uid,
        state=str(StudyState.WAITING if waiting else StudyState.RECEIVING),
        stage="",
        reason=reason + earlier,
        next_step=CHOOSE if state is StudyState.HELD else "processed when complete",
        next_try_at=None,
        revision=run.key.revision if run else 0,
        instance_count=study.instance_count,
        conflicts=study.conflicts,
        first_received_at=study.first_received_at,
        last_received_at=study.last_received_at,
        image_count=study.image_count,
    )


def _delivery_reason(run: LastRun, deliveries: tuple[DeliveryStatus, ...]) -> str:
    if run.state is not StudyState.DELIVERING:
        return ""
    return "; ".join(
        f"{item.destination}: {item.acknowledged} of {item.total} acknowledged"
        + (f", {item.committed} committed" if item.state == DeliveryState.SENT else "")
        + (f", {item.reason}" if item.reason else "")
        for item in deliveries
        if item.state in TO_BE_TRIED
    )


def _needs_choice(study: InboxStudy, run: LastRun) -> bool:
    return run.state is StudyState.REJECTED and study.image_conflicts > 0


def _next_step(run: LastRun, next_try_at: datetime | None, place: str | None) -> str:
    if run.state in (StudyState.DONE, StudyState.SUPERSEDED):
        return "none"
    if run.state is StudyState.RUNNING:
        return "the results are delivered"
    what = "delivery" if run.state is StudyState.DELIVERING else "processing"
    if next_try_at is None and run.state in (StudyState.FAILED, StudyState.REJECTED):
        return "psma-node retry"
    wait_s = 0.0 if next_try_at is None else (next_try_at - datetime.now(UTC)).total_seconds()
    if wait_s > 0:
        return f"{what} again in {wait_s:.0f} s"
    return f"{what}, as soon as it is its turn{f': {place}' if place else ''}"


_REPEATABLE = (StudyState.FAILED, StudyState.REJECTED, StudyState.QUEUED)

DONE_ADVICE = "; psma-node retry --resend sends its results again, --again analyses it anew"


def retry_study(stores: NodeStores, study_instance_uid: str, asked_by: str = "") -> str:
    """Plan another try of the study's latest revision: its delivery when it has results, else its processing.

    Args:
        stores: of a node that runs or is stopped.
        study_instance_uid: of the study.
        asked_by: who asked for it, for the audit log.

    Returns what will be done, in words, as the next two do.

    Raises:
        MisconfiguredError: no such study, or nothing of it can be tried again.
    """
    run = _latest(stores, study_instance_uid)
    open_deliveries = [
        item
        for item in stores.deliveries.of_run(run.key)
        if item.state in (*TO_BE_TRIED, DeliveryState.FAILED)
    ]
    done = _redeliver(stores, run, open_deliveries) if open_deliveries else _reprocess(stores, run)
    _note(stores, run, done, asked_by)
    return done


def failed_studies(stores: NodeStores) -> tuple[str, ...]:
    """Every study whose last revision failed, be it in processing or in delivery, and waits for a person."""
    runs = (run for run in stores.runs.latest() if run.state is StudyState.FAILED and run.next_try_at is None)
    return tuple(run.study_instance_uid for run in sorted(runs, key=lambda run: run.created_at))


def resend_study(stores: NodeStores, study_instance_uid: str, asked_by: str = "") -> str:
    """Send the results of a study that is done again, to every destination that has had them.

    Harmless to a PACS that still has them: they keep their UIDs.

    Raises:
        MisconfiguredError: no such study, it is not done, or its results went nowhere.
    """
    run = _latest(stores, study_instance_uid)
    delivered = stores.deliveries.of_run(run.key)
    # delivering: a sending again that was cut short before its first delivery was planned
    if run.state not in WITH_RESULTS or any(item.state in TO_BE_TRIED for item in delivered):
        raise MisconfiguredError(f"the study is {run.state}; only one that is done can be sent again")
    if not delivered:
        raise MisconfiguredError("the results were sent nowhere; they are in the data folder")
    # as in _redeliver; were it cut short here, the same can be asked again
    stores.runs.resume_delivery(run.key)
    for delivery in delivered:
        stores.deliveries.resend(delivery)
    names = ", ".join(delivery.key.destination for delivery in delivered)
    done = f"every result of revision {run.key.revision} is sent again to {names}"
    _note(stores, run, done, asked_by)
    return done


def analyse_again(stores: NodeStores, study_instance_uid: str, asked_by: str = "") -> str:
    """Analyse a study that is done anew, as a new revision whose results replace the former ones.

    For what has changed around its images: a PET for the prior that came late, another model or setting.

    Raises:
        MisconfiguredError: no such study, or it is not done.
    """
    run = _latest(stores, study_instance_uid)
    if run.state is not StudyState.DONE:
        raise MisconfiguredError(f"the study is {run.state}; only one that is done can be analysed again")
    reopened = stores.runs.reopen(run)
    if reopened is None:
        raise MisconfiguredError("the study has moved on meanwhile; look at psma-node status again")
    new, old = reopened.key.revision, run.key.revision
    done = f"it is analysed again as revision {new}, whose results replace those of revision {old}"
    _note(stores, reopened, done, asked_by)
    return done


def _latest(stores: NodeStores, study_instance_uid: str) -> Run:
    revisions = stores.runs.of_study(study_instance_uid)
    if not revisions:
        raise MisconfiguredError(
            f"found no revision of study {study_instance_uid}; psma-node status lists the studies"
        )
    return revisions[-1]


def _note(stores: NodeStores, run: Run, plan: str, asked_by: str) -> None:
    from app.node.records.audit import AuditEvent

    facts = {"revision": run.key.revision, "plan": plan, "asked_by": asked_by}
    stores.audit.append(AuditEvent.RETRY_ASKED, run.key.study_instance_uid, facts)


def _redeliver(stores: NodeStores, run: Run, open_deliveries: list[Delivery]) -> str:
    # the run goes back to delivering first: a delivery that ends in between must find it there
    stores.runs.resume_delivery(run.key)
    for delivery in open_deliveries:
        stores.deliveries.retry(delivery)
    names = ", ".join(delivery.key.destination for delivery in open_deliveries)
    return f"revision {run.key.revision} is delivered again to {names}"


def _reprocess(stores: NodeStores, run: Run) -> str:
    if run.state not in _REPEATABLE:
        raise MisconfiguredError(
            f"the study is {run.state}; only one that failed, was rejected or waits can be tried again"
            f"{DONE_ADVICE if run.state is StudyState.DONE else ''}"
        )
    if not stores.runs.requeue(run):
        raise MisconfiguredError("the study has moved on meanwhile; look at psma-node status again")
    return f"revision {run.key.revision} is processed again"
