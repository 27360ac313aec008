"""What ``psma-node status`` shows, read from the database and the outbox: the node may run or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from app.node.process.priors import ADVICE, late_prior
from app.node.records.database import utc_now
from app.node.records.deliveries import Delivery, DeliveryState
from app.node.records.inbox import InboxStudy
from app.node.records.runs import Run, StudyState
from app.node.records.stores import NodeStores
from app.node.records.studies import StudyRow


@dataclass(frozen=True)
class DeliveryStatus:
    """How far one destination is. ``acknowledged`` of ``total`` instances."""

    destination: str
    state: str
    acknowledged: int
    total: int
    reason: str
    next_try_at: datetime | None


@dataclass(frozen=True)
class StudyStatus:
    """One study, as shown to people.

    Attributes:
        state: one of :class:`~app.node.records.runs.StudyState`.
        stage: of the chain, while running.
        reason: why it is in this state; empty when that is plain.
        next_step: what will happen next, in words.
        next_try_at: when, if that is planned.
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


def study_statuses(stores: NodeStores) -> tuple[StudyStatus, ...]:
    """Every study, the one that began to arrive first first."""
    known = stores.studies.all()
    latest = {run.key.study_instance_uid: run for run in stores.runs.latest()}
    studies = sorted(stores.inbox.studies(), key=lambda study: study.first_received_at)
    uids = [study.study_instance_uid for study in studies]
    return tuple(
        replace(
            _status(stores, study, known.get(uid), latest.get(uid)),
            acquired_at=known[uid].acquired_at if uid in known else None,
            beside=stores.inbox.beside(uid) if study.image_count < study.instance_count else "",
        )
        for uid, study in zip(uids, studies, strict=True)
    )


def _status(stores: NodeStores, study: InboxStudy, known: StudyRow | None, run: Run | None) -> StudyStatus:
    arriving = known is None or known.is_arriving
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
        next_step=_next_step(run, next_try_at),
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
    waiting = known is not None and known.state is StudyState.WAITING
    reason = known.reason if known and known.state else f"{study.image_count} images so far"
    return StudyStatus(
        study_instance_uid=study.study_instance_uid,
        state=str(StudyState.WAITING if waiting else StudyState.RECEIVING),
        stage="",
        reason=reason + earlier,
        next_step="processed when complete",
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
    )


def _delivery_reason(run: Run, deliveries: tuple[DeliveryStatus, ...]) -> str:
    if run.state is not StudyState.DELIVERING:
        return ""
    return "; ".join(
        f"{item.destination}: {item.acknowledged} of {item.total} acknowledged"
        + (f", {item.reason}" if item.reason else "")
        for item in deliveries
        if item.state == DeliveryState.PENDING
    )


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
