"""Storage commitment (PS3.4 Annex J), in both directions: who was asked to keep what, and the answer.

What this node asks of a destination is one row a transaction and instance. What is asked of this node is one
row a transaction, until its sender has the answer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Index, String, delete, exists, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.node.records.audit import AuditEvent, AuditLog
from app.node.records.commitment_messages import (
    CLASS_CONFLICT,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    CommitmentEvent,
    CommitmentRequest,
    Reference,
    reason_in_words,
)
from app.node.records.database import Base, Ledger, Uid, fetch, upsert, utc_now
from app.node.records.deliveries import Delivery, PlannedInstance
from app.node.records.inbox_index import InboxIndex, InstanceRow, in_parts, is_intact
from app.node.records.states import DeliveryKey, DeliveryState, RunKey


class AskedCommitment(Base):
    """One instance of one request to a destination.

    Attributes:
        failure_reason: as the destination gave it; ``None`` for what it keeps, and without an answer.
    """

    __tablename__ = "commitments_asked"
    __table_args__ = (Index("commitments_asked_by_study", "study_instance_uid"),)

    transaction_uid: Mapped[Uid] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[Uid]
    revision: Mapped[int]
    destination: Mapped[str] = mapped_column(String(64))
    asked_at: Mapped[datetime]
    answered_at: Mapped[datetime | None] = mapped_column(default=None)
    failure_reason: Mapped[int | None] = mapped_column(default=None)

    @property
    def key(self) -> DeliveryKey:
        return DeliveryKey(RunKey(self.study_instance_uid, self.revision), self.destination)


class OwedCommitment(Base):
    """A sender's request that it has no answer to yet.

    Attributes:
        asked_for: its references, as JSON.
        by_tls: whether it came by TLS; then its answer never goes out in plain.
    """

    __tablename__ = "commitments_owed"

    calling_ae: Mapped[str] = mapped_column(String(16), primary_key=True)
    transaction_uid: Mapped[Uid] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(String(64))
    asked_for: Mapped[str]
    asked_at: Mapped[datetime]
    next_try_at: Mapped[datetime]
    tries: Mapped[int] = mapped_column(default=0)
    by_tls: Mapped[bool] = mapped_column(default=False)

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(Reference(*one) for one in json.loads(self.asked_for))


class CommitmentLedger(Ledger):
    """Requests to destinations, and requests of senders."""

    def ask(self, key: DeliveryKey, request: CommitmentRequest) -> None:
        """A request is about to be sent."""
        place = {**asdict(key.run), "destination": key.destination, "asked_at": utc_now()}
        rows = [
            AskedCommitment(
                **place, transaction_uid=request.transaction_uid, sop_instance_uid=one.sop_instance_uid
            )
            for one in request.references
        ]
        with Session(self._engine) as session, session.begin():
            session.add_all(rows)

    def asked(self, key: DeliveryKey) -> tuple[AskedCommitment, ...]:
        """What was asked about a delivery's instances since each was sent last, in order."""
        return self._select(*_of(key))

    def of_transaction(self, transaction_uid: str) -> tuple[AskedCommitment, ...]:
        return self._select(AskedCommitment.transaction_uid == transaction_uid)

    def withdraw(self, transaction_uid: str) -> None:
        """A request did not arrive; what was answered to it all the same stays."""
        self._delete(
            AskedCommitment.transaction_uid == transaction_uid, AskedCommitment.answered_at.is_(None)
        )

    def forget(self, key: DeliveryKey, sop_instance_uid: str) -> None:
        """It is sent again: what was asked before says nothing about it any more."""
        self._delete(*_of(key), AskedCommitment.sop_instance_uid == sop_instance_uid)

    def forget_ended(self, before: datetime) -> int:
        """Remove what was asked before then (aware) about deliveries that are at their end; returns how many
        rows. One that failed may be tried again, and keeps them."""
        ended = (DeliveryState.DONE, DeliveryState.SUPERSEDED)
        of_it = (
            Delivery.study_instance_uid == AskedCommitment.study_instance_uid,
            Delivery.revision == AskedCommitment.revision,
            Delivery.destination == AskedCommitment.destination,
        )
        return self._delete(
            AskedCommitment.asked_at < before, exists().where(*of_it, Delivery.state.in_(ended))
        )

    def answer(self, event: CommitmentEvent) -> None:
        """Write down a destination's answer: what it keeps is committed, whichever request asked for it."""
        rows, planned = AskedCommitment, PlannedInstance
        now = utc_now()
        with Session(self._engine) as session, session.begin():
            of_it = rows.transaction_uid == event.transaction_uid
            for row in session.scalars(select(rows).where(of_it)).all():
                uid = row.sop_instance_uid
                if uid not in event.kept and uid not in event.failed:
                    continue
                row.answered_at, row.failure_reason = now, event.failed.get(uid)
                if uid in event.kept:
                    session.execute(
                        update(planned)
                        .where(*_instance_of(row), planned.committed_at.is_(None))
                        .values(committed_at=now)
                    )

    def owe(
        self, calling_ae: str, address: str, request: CommitmentRequest, next_try_at: datetime, by_tls: bool
    ) -> OwedCommitment:
        """A sender has asked; it is told from ``next_try_at`` on, unless that is done before."""
        asked = json.dumps([(one.sop_class_uid, one.sop_instance_uid) for one in request.references])
        values: dict[str, Any] = {
            "calling_ae": calling_ae,
            "transaction_uid": request.transaction_uid,
            "address": address,
            "asked_for": asked,
            "asked_at": utc_now(),
            "next_try_at": next_try_at,
            "tries": 0,
            "by_tls": by_tls,
        }
        upsert(self._engine, OwedCommitment, **values)
        return OwedCommitment(**values)

    def owed(self) -> tuple[OwedCommitment, ...]:
        """What senders wait for, the earliest first."""
        return fetch(self._engine, select(OwedCommitment).order_by(OwedCommitment.asked_at))

    def postpone(self, owed: OwedCommitment, next_try_at: datetime) -> None:
        """The sender could not be told."""
        with self._engine.begin() as connection:
            tried = {"tries": OwedCommitment.tries + 1, "next_try_at": next_try_at}
            connection.execute(update(OwedCommitment).where(*_is_owed(owed)).values(**tried))

    def promised(self) -> frozenset[str]:
        """Studies of which a sender was told that the node keeps something, or is about to be."""
        study, uid = InstanceRow.study_instance_uid, InstanceRow.sop_instance_uid
        # what is owed first: it is told before it is not owed any more
        asked = [one.sop_instance_uid for owed in self.owed() for one in owed.references]
        which = (InstanceRow.committed_at.is_not(None), *(uid.in_(part) for part in in_parts(asked)))
        queries = (select(study).where(one).distinct() for one in which)
        return frozenset(found for query in queries for found in fetch(self._engine, query))

    def settle(self, owed: OwedCommitment, kept: Sequence[str] = ()) -> None:
        """The sender has its answer, by which these instances are ``kept``, or will get none."""
        rows = InstanceRow
        with self._engine.begin() as connection:
            for part in in_parts(kept):
                told = update(rows).where(rows.sop_instance_uid.in_(part))
                connection.execute(told.values(committed_at=utc_now()))
            connection.execute(delete(OwedCommitment).where(*_is_owed(owed)))

    def _delete(self, *which: ColumnElement[bool]) -> int:
        with self._engine.begin() as connection:
            return connection.execute(delete(AskedCommitment).where(*which)).rowcount

    def _select(self, *which: ColumnElement[bool]) -> tuple[AskedCommitment, ...]:
        return fetch(self._engine, select(AskedCommitment).where(*which).order_by(AskedCommitment.asked_at))


def record_answer(
    ledger: CommitmentLedger, audit: AuditLog, event: CommitmentEvent, destinations: Collection[str]
) -> frozenset[DeliveryKey]:
    """Write down what one of these destinations answered; returns the deliveries that it is about.

    Of instances that were not asked about, or of a request to another destination, nothing is taken.
    """
    rows = [row for row in ledger.of_transaction(event.transaction_uid) if row.destination in destinations]
    named = event.kept | event.failed.keys()
    for row in rows:
        uid = row.sop_instance_uid
        if uid in named and row.answered_at is None:
            facts = row.key.facts | {"sop_instance": uid, "transaction": event.transaction_uid}
            reason = {"reason": reason_in_words(event.failed[uid])} if uid in event.failed else {}
            what = AuditEvent.NOT_COMMITTED if reason else AuditEvent.COMMITTED
            audit.append(what, row.study_instance_uid, facts | reason)
    if rows:
        ledger.answer(event)
    return frozenset(row.key for row in rows)


def kept_here(inbox: InboxIndex, asked: Sequence[Reference]) -> dict[str, int]:
    """Why what a sender asks about is not safe here, by SOP Instance UID; empty when all of it is.

    Safe is what is named and indexed, of the class that is asked about, and still as it was received: every
    file is read.

    Raises:
        RetryLaterError: the index does not answer.
    """
    rows: dict[str, list[InstanceRow]] = {}
    for row in inbox.rows_of([one.sop_instance_uid for one in asked]):
        rows.setdefault(row.sop_instance_uid, []).append(row)
    failed = {}
    for one in asked:
        found = rows.get(one.sop_instance_uid, [])
        if not found:
            failed[one.sop_instance_uid] = NO_SUCH_INSTANCE
        elif all(row.sop_class_uid != one.sop_class_uid for row in found):
            failed[one.sop_instance_uid] = CLASS_CONFLICT
        elif not all(is_intact(inbox.folder, row) for row in found):
            failed[one.sop_instance_uid] = PROCESSING_FAILURE
    return failed


def record_told(
    ledger: CommitmentLedger, audit: AuditLog, owed: OwedCommitment, failed: Mapping[str, int]
) -> None:
    """Write down that a sender has its answer."""
    facts: dict[str, object] = {"calling_ae": owed.calling_ae, "address": owed.address}
    facts |= {"transaction": owed.transaction_uid, "not_kept": len(failed)}
    facts["kept"] = len(owed.references) - len(failed)
    audit.append(AuditEvent.COMMITMENT_GIVEN, facts=facts)
    ledger.settle(owed, [uid for one in owed.references if (uid := one.sop_instance_uid) not in failed])


def _of(key: DeliveryKey) -> tuple[ColumnElement[bool], ...]:
    rows = AskedCommitment
    return (
        rows.study_instance_uid == key.run.study_instance_uid,
        rows.revision == key.run.revision,
        rows.destination == key.destination,
    )


def _instance_of(row: AskedCommitment) -> tuple[ColumnElement[bool], ...]:
    planned = PlannedInstance
    return (
        planned.study_instance_uid == row.study_instance_uid,
        planned.revision == row.revision,
        planned.destination == row.destination,
        planned.sop_instance_uid == row.sop_instance_uid,
        planned.dicom_status.is_not(None),
    )


def _is_owed(owed: OwedCommitment) -> tuple[ColumnElement[bool], ...]:
    return (
        OwedCommitment.calling_ae == owed.calling_ae,
        OwedCommitment.transaction_uid == owed.transaction_uid,
    )
