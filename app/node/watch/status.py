"""``psma-node status`` shows each study, ``psma-node retry`` has one tried again.

Both work on the database and the outbox, so the node may be running or stopped: a node that runs sees a
change at its next look, one that is stopped at its next start.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, datetime

from app.errors import MisconfiguredError
from app.node.process.priors import ADVICE, late_prior
from app.node.records.audit import AuditEvent
from app.node.records.database import utc_now
from app.node.records.deliveries import Delivery
from app.node.records.inbox_index import InboxStudy
from app.node.records.runs import Run
from app.node.records.states import TO_BE_TRIED, WITH_RESULTS, DeliveryState, StudyState
from app.node.records.stores import NodeStores
from app.node.records.studies import StudyRow

CHOOSE = "psma-node discard shows the contents, and lets one stand"
"""Two contents came under one SOP Instance UID, and the program can't know which is right."""


@dataclass(frozen=True)
class DeliveryStatus:
    """How far one destination is: ``acknowledged`` of ``total`` instances, ``committed`` of those.

    ``committed`` counts those that the destination took charge of, or was found to have; it stays 0 where the
    settings ask for no such proof.
    """

    destination: str
    state: str
    acknowledged: int
    total: int
    reason: str
    next_try_at: datetime | None
    committed: int = 0


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

    def fits(self, known: StudyRow | None) -> bool:
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


def study_statuses(stores: NodeStores, wanted: Wanted = Wanted()) -> tuple[StudyStatus, ...]:
    """Every study that is wanted, the one that began to arrive first first."""
    known = stores.studies.all()
    latest = {run.key.study_instance_uid: run for run in stores.runs.latest()}
    studies = sorted(stores.inbox.studies(), key=lambda study: study.first_received_at)
    found = (
        replace(
            _status(stores, study, known.get(uid), latest.get(uid)),
            acquired_at=known[uid].acquired_at if uid in known else None,
            beside=stores.inbox.beside(uid) if study.image_count < study.instance_count else "",
        )
        for study in studies
        if wanted.fits(known.get(uid := study.study_instance_uid))
    )
    return tuple(study for study in found if wanted.includes(study))


def _status(stores: NodeStores, study: InboxStudy, known: StudyRow | None, run: Run | None) -> StudyStatus:
    arriving = known is None or known.is_arriving or known.state is StudyState.HELD
    status = _arriving(study, known, run)
    if run is None or (arriving and run.state is not StudyState.RUNNING):
        return status
    deliveries = tuple(_delivery_status(stores, item) for item in stores.deliveries.of_run(run.key))
    next_try_at = run.next_try_at or min(
        (item.next_try_at for item in deliveries if item.next_try_at is not None), default=None
    )
    return replace(
        status,
        state=str(run.state),
        stage=run.stage,
        reason="; ".join(filter(None, (run.reason or _delivery_reason(run, deliveries), _late(stores, run)))),
        next_step=CHOOSE if _needs_choice(study, run) else _next_step(run, next_try_at),
        next_try_at=next_try_at,
        deliveries=deliveries,
    )


def _late(stores: NodeStores, run: Run) -> str:
    """That a SPECT's prior came after it was analysed."""
    pet = late_prior(stores, run)
    if not pet:
        return ""
    return f"analysed without the PET/CT of the same patient, study {pet}, which ended later: {ADVICE}"


def _arriving(study: InboxStudy, known: StudyRow | None, run: Run | None) -> StudyStatus:
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


def _delivery_status(stores: NodeStores, delivery: Delivery) -> DeliveryStatus:
    planned = stores.deliveries.instances(delivery.key)
    acknowledged = sum(not item.is_open for item in planned)
    return DeliveryStatus(
        delivery.key.destination,
        str(delivery.state),
        acknowledged,
        len(planned),
        delivery.reason,
        delivery.next_try_at,
        sum(item.committed_at is not None for item in planned),
    )


def _delivery_reason(run: Run, deliveries: tuple[DeliveryStatus, ...]) -> str:
    if run.state is not StudyState.DELIVERING:
        return ""
    return "; ".join(
        f"{item.destination}: {item.acknowledged} of {item.total} acknowledged"
        + (f", {item.committed} committed" if item.state == DeliveryState.SENT else "")
        + (f", {item.reason}" if item.reason else "")
        for item in deliveries
        if item.state in TO_BE_TRIED
    )


def _needs_choice(study: InboxStudy, run: Run) -> bool:
    return run.state is StudyState.REJECTED and study.image_conflicts > 0


def _next_step(run: Run, next_try_at: datetime | None) -> str:
    if run.state in (StudyState.DONE, StudyState.SUPERSEDED):
        return "none"
    if run.state is StudyState.RUNNING:
        return "the results are delivered"
    what = "delivery" if run.state is StudyState.DELIVERING else "processing"
    if next_try_at is None and run.state in (StudyState.FAILED, StudyState.REJECTED):
        return "psma-node retry"
    wait_s = 0.0 if next_try_at is None else (next_try_at - utc_now()).total_seconds()
    return f"{what} again in {wait_s:.0f} s" if wait_s > 0 else f"{what}, as soon as it is its turn"


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
