"""What happens at the door, in the audit log: whose study begins to arrive, who and what was turned away.

A study's images are counted when it is complete; here its first one from each sender is written down, for
who sent it. Refusals of one kind from one address within a minute are one entry and a count, so that nobody
fills the log by knocking.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from app.errors import RetryLaterError
from app.node.audit import AuditEvent, AuditLog
from app.node.scp import Reception, ReceptionEvent

REPEAT_S = 60.0
"""So long refusals of one kind from one address are only counted after the first."""

MAX_REMEMBERED = 10_000
"""Studies and refusals; the oldest is forgotten, and then written down once more."""

_EVENTS = {
    ReceptionEvent.ASSOCIATION_REJECTED: AuditEvent.CALLER_REFUSED,
    ReceptionEvent.REFUSED: AuditEvent.INSTANCE_REFUSED,
}

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_log = logging.getLogger(__name__)


@dataclass
class _Refusals:
    """Of one kind from one address: when one was written down last, and how many were only counted since."""

    written_at_s: float
    uncounted: int = 0


class ReceptionAudit:
    """An observer of the Store SCP; its threads share it."""

    def __init__(self, audit: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._senders: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._refusals: OrderedDict[tuple[str, str, int | None], _Refusals] = OrderedDict()

    def __call__(self, reception: Reception) -> None:
        """Write down what is new.

        Raises:
            RetryLaterError: the audit log's disk or database does not take it.
        """
        _tell_log(reception)
        if reception.event in _EVENTS:
            self._refused(reception)
        elif reception.event is ReceptionEvent.CONFLICT:
            self._write(AuditEvent.CONTENT_CONFLICT, reception)
        elif reception.event is ReceptionEvent.STORED:
            self._stored(reception)

    def _stored(self, reception: Reception) -> None:
        key = (reception.study_instance_uid, reception.calling_ae, reception.address)
        with self._lock:
            if key in self._senders:
                return
        self._write(AuditEvent.STUDY_ARRIVES, reception)
        with self._lock:
            _remember(self._senders, key, None)

    def _refused(self, reception: Reception) -> None:
        key = (reception.address, reception.event, reception.status)
        now = self._clock()
        with self._lock:
            known = self._refusals.get(key)
            if known is not None and now - known.written_at_s < REPEAT_S:
                known.uncounted += 1
                return
            _remember(self._refusals, key, _Refusals(now))
        self._write(_EVENTS[reception.event], reception, known.uncounted if known else 0)

    def _write(self, event: AuditEvent, reception: Reception, alike: int = 0) -> None:
        facts: dict[str, object] = {"calling_ae": reception.calling_ae, "address": reception.address}
        if reception.detail:
            facts["reason"] = reception.detail
        if reception.status:
            facts["dicom_status"] = f"{reception.status:04X}"
        if reception.sop_instance_uid and event is not AuditEvent.STUDY_ARRIVES:
            facts["sop_instance"] = reception.sop_instance_uid
        if alike:
            facts["alike_since_the_last_entry"] = alike
        try:
            self._audit.append(event, reception.study_instance_uid, facts)
        except (SQLAlchemyError, OSError) as error:
            raise RetryLaterError(f"the audit log can't be written to: {type(error).__name__}") from error


def _remember(memory: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)


def _tell_log(reception: Reception) -> None:
    """What went well in debug, the rest as warnings."""
    quiet = reception.event in (ReceptionEvent.STORED, ReceptionEvent.DUPLICATE)
    facts = {
        "calling_ae": reception.calling_ae,
        "host": reception.address,
        "study": reception.study_instance_uid,
        "sop_instance": reception.sop_instance_uid,
        "dicom_status": reception.status,
        "reason": reception.detail,
    }
    _log.log(logging.DEBUG if quiet else logging.WARNING, "%s", reception.event, extra=facts)
