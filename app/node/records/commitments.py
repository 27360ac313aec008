"""Storage commitment (PS3.4 Annex J), in both directions: who was asked to keep what, and the answer.

What this node asks of a destination is one row a transaction and instance. What is asked of this node is one
row a transaction, until its sender has the answer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from pydicom import Dataset
from sqlalchemy import ColumnElement, Index, String, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.node.records.audit import AuditEvent, AuditLog
from app.node.records.database import Base, Ledger, Uid, fetch, upsert, utc_now
from app.node.records.deliveries import PlannedInstance
from app.node.records.states import DeliveryKey, RunKey

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model SOP Class, and its one well-known instance (PS3.4 J.3.5)."""

ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event types (PS3.4 J.3.3.1)."""

PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119
"""Failure reasons (0008,1197) (PS3.3 C.14.1.1)."""

REASONS = {
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_INSTANCE: "no such object instance",
    0x0213: "resource limitation",
    0x0122: "SOP class not supported",
    CLASS_CONFLICT: "the instance is of another class",
    0x0131: "duplicate transaction UID",
}

MAX_UID_LENGTH = 64

MAX_REFERENCES = 100_000
"""In one request: thirty times a large study."""


@dataclass(frozen=True)
class Reference:
    """An instance that is asked about."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class CommitmentRequest:
    """What an N-ACTION asks for."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class CommitmentEvent:
    """The answer to one request: instances that are kept, and why others are not, by SOP Instance UID."""

    transaction_uid: str
    kept: frozenset[str]
    failed: Mapping[str, int]


def read_request(information: Dataset) -> CommitmentRequest:
    """What an N-ACTION says (PS3.4 table J.3-1). Raises ValueError: it is incomplete, or too long."""
    transaction_uid = str(information.get("TransactionUID", ""))
    items = information.get("ReferencedSOPSequence") or ()
    asked = tuple(
        Reference(str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        for item in items
    )
    if not 0 < len(transaction_uid) <= MAX_UID_LENGTH:
        raise ValueError("no Transaction UID, or one of more than 64 characters")
    if not 0 < len(asked) <= MAX_REFERENCES or not all(one.sop_instance_uid for one in asked):
        raise ValueError(f"no reference, one without its UID, or more than {MAX_REFERENCES}")
    return CommitmentRequest(transaction_uid, asked)


def read_event(information: Dataset) -> CommitmentEvent:
    """What an N-EVENT-REPORT says (PS3.4 table J.3-2); instances that it names nowhere have no answer."""
    failed = {
        str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason") or PROCESSING_FAILURE)
        for item in information.get("FailedSOPSequence") or ()
    }
    items = information.get("ReferencedSOPSequence") or ()
    kept = {str(item.get("ReferencedSOPInstanceUID", "")) for item in items}
    return CommitmentEvent(
        str(information.get("TransactionUID", "")), frozenset(kept - failed.keys()), failed
    )


def request_data(transaction_uid: str, asked: Iterable[Reference]) -> Dataset:
    """The Action Information of a request (PS3.4 table J.3-1), and the beginning of an answer."""
    data = Dataset()
    data.TransactionUID = transaction_uid
    data.ReferencedSOPSequence = [_item(one) for one in asked]
    return data


def event_data(transaction_uid: str, asked: Iterable[Reference], failed: Mapping[str, int]) -> Dataset:
    """The Event Information of an answer (PS3.4 table J.3-2)."""
    every = tuple(asked)
    data = request_data(transaction_uid, (one for one in every if one.sop_instance_uid not in failed))
    if not data.ReferencedSOPSequence:
        del data.ReferencedSOPSequence
    if failed:
        data.FailedSOPSequence = [_item(one) for one in every if one.sop_instance_uid in failed]
        for item in data.FailedSOPSequence:
            item.FailureReason = failed[item.ReferencedSOPInstanceUID]
    return data


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


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
    """A sender's request that it has no answer to yet; ``asked_for`` holds its references as JSON."""

    __tablename__ = "commitments_owed"

    calling_ae: Mapped[str] = mapped_column(String(16), primary_key=True)
    transaction_uid: Mapped[Uid] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(String(64))
    asked_for: Mapped[str]
    asked_at: Mapped[datetime]
    next_try_at: Mapped[datetime]
    tries: Mapped[int] = mapped_column(default=0)

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

    def owe(self, calling_ae: str, address: str, request: CommitmentRequest, next_try_at: datetime) -> None:
        """A sender has asked; it is told from ``next_try_at`` on, unless that is done before."""
        asked = [(one.sop_class_uid, one.sop_instance_uid) for one in request.references]
        place = {"calling_ae": calling_ae, "transaction_uid": request.transaction_uid, "address": address}
        times = {"asked_at": utc_now(), "tries": 0, "next_try_at": next_try_at}
        upsert(self._engine, OwedCommitment, **place, **times, asked_for=json.dumps(asked))

    def owed(self) -> tuple[OwedCommitment, ...]:
        """What senders wait for, the earliest first."""
        return fetch(self._engine, select(OwedCommitment).order_by(OwedCommitment.asked_at))

    def postpone(self, owed: OwedCommitment, next_try_at: datetime) -> None:
        """The sender could not be told."""
        with self._engine.begin() as connection:
            tried = {"tries": OwedCommitment.tries + 1, "next_try_at": next_try_at}
            connection.execute(update(OwedCommitment).where(*_is_owed(owed)).values(**tried))

    def settle(self, owed: OwedCommitment) -> None:
        """The sender has its answer, or will get none."""
        with self._engine.begin() as connection:
            connection.execute(delete(OwedCommitment).where(*_is_owed(owed)))

    def _delete(self, *which: ColumnElement[bool]) -> None:
        with self._engine.begin() as connection:
            connection.execute(delete(AskedCommitment).where(*which))

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


def reason_in_words(failure_reason: int) -> str:
    """A failure reason as a person reads it."""
    return f"{REASONS.get(failure_reason, 'a reason that the Standard does not know')} ({failure_reason:04X})"


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
