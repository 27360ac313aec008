"""What storage commitment says: a request, and its answer, as data sets (PS3.4 Annex J)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom import Dataset

from app.node.records.instances import MAX_UID_LENGTH

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model SOP Class, and its one well-known instance (PS3.4 J.3.5)."""

REQUEST_STORAGE_COMMITMENT = 1
"""Action type (PS3.4 J.3.2.1)."""

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
        raise ValueError(f"no Transaction UID, or one of more than {MAX_UID_LENGTH} characters")
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


def reason_in_words(failure_reason: int) -> str:
    """A failure reason as a person reads it."""
    return f"{REASONS.get(failure_reason, 'a reason that the Standard does not know')} ({failure_reason:04X})"
