"""One C-STORE request on its way to the inbox, and what an observer learns of it.

Statuses: 0000 only once the instance is safe (:meth:`app.node.records.inbox.Inbox.keep`); A700 when there is
no room or the index does not answer; A900 when the data set is not what the command says; C000 when it can't
be understood, which includes UIDs that PS3.5 9.1 does not allow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from app.errors import RetryLaterError
from app.node.records.header_scan import UnreadableHeaderError
from app.node.records.inbox import Inbox, Stored
from app.node.records.instances import InstanceIdentity, MismatchedInstanceError, StoreCommand, UnsafeUidError
from app.node.records.pending import InboxFullError
from app.node.records.slots import Slot

SUCCESS, OUT_OF_RESOURCES, DATA_SET_MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000

_REFUSED = (RetryLaterError, OSError, MismatchedInstanceError, UnsafeUidError, UnreadableHeaderError)

_log = logging.getLogger(__name__)


class ReceptionEvent(StrEnum):
    """The kinds of :class:`Reception`."""

    ASSOCIATION_REJECTED = "association-rejected"
    ASSOCIATION_FAILED = "association-failed"
    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REFUSED = "refused"


@dataclass(frozen=True)
class Reception:
    """A request that was accepted or refused; holds no patient data.

    Attributes:
        detail: why, in words; empty for what went well.
        status: of the C-STORE answer; ``None`` for a rejected association.
        bytes: of the file that it is, or would be, kept in.
        study_instance_uid, sop_instance_uid: checked ones; empty while unknown or unsafe.
        called_ae, listener: of an association that was rejected or failed; the listener is told by its port.
    """

    event: ReceptionEvent
    calling_ae: str
    address: str
    detail: str = ""
    status: int | None = None
    study_instance_uid: str = ""
    sop_instance_uid: str = ""
    bytes: int = 0
    called_ae: str = ""
    listener: str = ""


_EVENTS = {
    Stored.NEW: ReceptionEvent.STORED,
    Stored.DUPLICATE: ReceptionEvent.DUPLICATE,
    Stored.CONFLICT: ReceptionEvent.CONFLICT,
}

Observer = Callable[[Reception], None]


class InboxIntake:
    """One C-STORE request on its way to the inbox; an :class:`~app.node.receive.store_lane.Intake`."""

    def __init__(self, inbox: Inbox, observe: Observer, command: StoreCommand, address: str) -> None:
        self._inbox = inbox
        self._observe = observe
        self._command = command
        self._address = address
        self._slot: Slot | None = None
        self._refusal: Exception | None = None
        self._instance: InstanceIdentity | None = None

    def begin(self, min_free_mb: float, context_class_uid: str) -> None:
        """Take a slot for the data set, unless it is refused without it."""
        try:
            if self._command.sop_class_uid.rstrip("\0 ") not in ("", context_class_uid):
                problem = "AffectedSOPClassUID is not the class of its presentation context"
                raise MismatchedInstanceError(problem)
            if self._inbox.free_mb() < min_free_mb:
                raise InboxFullError(f"less than {min_free_mb:g} MB are free")
            self._slot = self._inbox.begin(self._command)
        except _REFUSED as error:
            self._refusal = error

    def write(self, fragment: memoryview) -> None:
        """Add to the data set; nothing more of it is kept once it is refused."""
        if self._slot is None or self._refusal is not None:
            return
        try:
            self._slot.write(fragment)
        except OSError as error:
            self._refusal = error

    def finish(self) -> tuple[int, str]:
        """Keep it, let the observer know, and say what to answer."""
        event = ReceptionEvent.REFUSED
        if self._slot is not None and self._refusal is None:
            try:
                self._instance = self._slot.identity()
                event = _EVENTS[self._inbox.keep(self._slot, self._instance)]
            except _REFUSED as error:
                self._refusal = error
        status, detail = _status_of(self._refusal)
        try:
            self._observe(self._reception(event, status, detail))
        except RetryLaterError as error:  # what was refused stays refused for its own reason
            status, detail = (status, detail) if status else (OUT_OF_RESOURCES, str(error))
            _log.error("not written down", extra={"reason": str(error), "dicom_status": status})
        return status, detail

    def close(self) -> None:
        """Remove what was not kept."""
        if self._slot is not None:
            self._slot.close()

    def _reception(self, event: ReceptionEvent, status: int, detail: str) -> Reception:
        return Reception(
            event=event,
            calling_ae=self._command.calling_ae,
            address=self._address,
            detail=detail,
            status=status,
            study_instance_uid=self._instance.study_instance_uid if self._instance else "",
            sop_instance_uid=self._instance.sop_instance_uid if self._instance else "",
            bytes=self._slot.size if self._slot else 0,
        )


def _status_of(refusal: Exception | None) -> tuple[int, str]:
    if refusal is None:
        return SUCCESS, ""
    if isinstance(refusal, MismatchedInstanceError):
        return DATA_SET_MISMATCH, str(refusal)
    if isinstance(refusal, UnsafeUidError | UnreadableHeaderError):
        return CANNOT_UNDERSTAND, str(refusal)
    if isinstance(refusal, OSError):  # its own text holds a path, which must not leave the node
        return OUT_OF_RESOURCES, refusal.strerror or type(refusal).__name__
    return OUT_OF_RESOURCES, str(refusal)
