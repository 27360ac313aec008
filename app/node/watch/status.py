"""``psma-node status`` shows each study, of a node that runs or is stopped."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

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
    from app.node.records.stores import NodeStores

CHOOSE = "psma-node discard shows the contents, and lets one stand"
"""Two contents came under one SOP Instance UID, and the program can't know which is right."""

COMPLETE = "processed when complete"

TAKE = f"{COMPLETE}; psma-node retry takes it as it is"


@dataclass(frozen=True)
class StudyStatus:
    """One study, as shown to people.

    Attributes:
        state: one of :class:`~app.node.records.states.StudyState`.
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

    @property
    def sent(self) -> str:
        """What each destination has got of the last results, and is known to keep; empty while ``reason``
        says it."""
        if self.state == StudyState.DELIVERING:
            return ""
        return "; ".join(
            f"{item.destination} {item.acknowledged} of {item.total}"
            + (f", {item.committed} committed" if item.committed else "")
            for item in self.deliveries
            if item.state is not DeliveryState.SUPERSEDED
        )


@dataclass(frozen=True)
class Wanted:
    """Which studies are asked for: those that fit all that is given.

    Attributes:
        state: as shown, or ``held`` of those waiting that a person has to choose a content of.
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
        held = study.state == StudyState.WAITING and study.next_step == CHOOSE
        state = StudyState.HELD if held and self.state == StudyState.HELD else study.state
        return self.state in ("", state) and self.day in (None, *days)


def known_statuses(policy: NodePolicy, wanted: Wanted = Wanted()) -> tuple[StudyStatus, ...]:
    """Those of a node that runs or is stopped. Raises as ``open_known_stores``."""
    found = quick_overview(policy)
    if found is not None:
        # SQLite has one host, and so one clock
        return _statuses(found, Outbox(policy.results_dir, policy.executor), wanted, datetime.now(UTC))
    from app.node.records.stores import open_known_stores

    stores = open_known_stores(policy)
    try:
        return study_statuses(stores, wanted)
    finally:
        stores.close()


def study_statuses(stores: NodeStores, wanted: Wanted = Wanted()) -> tuple[StudyStatus, ...]:
    """Every study that is wanted, the one that began to arrive first first."""
    from app.node.records.database import utc_now

    with closing(stores.engine.raw_connection()) as connection:
        found = overview(connection)
    return _statuses(found, stores.outbox, wanted, utc_now())


def _statuses(found: Overview, outbox: Outbox, wanted: Wanted, now: datetime) -> tuple[StudyStatus, ...]:
    """``now``: by the clock that planned the tries."""
    in_queue = _places(found.latest.values(), now)
    statuses = (
        replace(
            _status(found, outbox, study, in_queue, now),
            acquired_at=found.known[uid].acquired_at if uid in found.known else None,
            beside=counted_classes(found.others.get(uid, ())),
        )
        for study in found.inbox
        if wanted.fits(found.known.get(uid := study.study_instance_uid))
    )
    return tuple(status for status in statuses if wanted.includes(status))


def _places(runs: Collection[LastRun], now: datetime) -> dict[RunKey, str]:
    """Of each run that waits for a worker, its place in the queue, in words."""
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
    found: Overview, outbox: Outbox, study: InboxStudy, in_queue: Mapping[RunKey, str], now: datetime
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
        else _next_step(run, next_try_at, in_queue.get(run.key), now),
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
        next_step=CHOOSE if state is StudyState.HELD else TAKE if waiting and study.image_count else COMPLETE,
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


def _next_step(run: LastRun, next_try_at: datetime | None, place: str | None, now: datetime) -> str:
    if run.state in (StudyState.DONE, StudyState.SUPERSEDED):
        return "none"
    if run.state is StudyState.RUNNING:
        return "the results are delivered"
    what = "delivery" if run.state is StudyState.DELIVERING else "processing"
    if next_try_at is None and run.state in (StudyState.FAILED, StudyState.REJECTED):
        return "psma-node retry"
    wait_s = 0.0 if next_try_at is None else (next_try_at - now).total_seconds()
    if wait_s > 0:
        return f"{what} again in {wait_s:.0f} s"
    return f"{what}, as soon as it is its turn{f': {place}' if place else ''}"
