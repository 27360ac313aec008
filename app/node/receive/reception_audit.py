"""What the audit log says of reception: whose study begins to arrive, and who or what was refused.

A study's images are counted when it is complete; here only its first image from each sender since the start
becomes an entry, which names the sender, be it one that is here already: then the node may have been cut off,
or have answered A700, before the entry was written. Refusals of one kind from one address within a minute
become one entry and a count, so that nobody can fill the log by calling; :meth:`ReceptionAudit.flush` writes
the count after that minute.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from app.errors import RetryLaterError
from app.node.receive.reception import Reception, ReceptionEvent
from app.node.records.audit import AuditEvent, AuditLog

REPEAT_S = 60.0
"""After a refusal is written down, others of its kind from its address are only counted for this long."""

MAX_REMEMBERED = 10_000
"""Studies and refusals; the oldest is forgotten, and then written down once more."""

_EVENTS = {
    ReceptionEvent.ASSOCIATION_REJECTED: AuditEvent.CALLER_REFUSED,
    ReceptionEvent.ASSOCIATION_FAILED: AuditEvent.ASSOCIATION_FAILED,
    ReceptionEvent.REFUSED: AuditEvent.INSTANCE_REFUSED,
}

_DIGITS = re.compile(r"[0-9]+")

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_log = logging.getLogger(__name__)


@dataclass
class _Refusals:
    """Of one kind from one address: when one was written down last, and how many came since."""

    latest: Reception
    written_at_s: float = -math.inf
    unwritten: int = 0


class ReceptionAudit:
    """An observer of the Store SCP; its threads share it."""

    def __init__(self, audit: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._writing_conflicts = threading.Lock()
        self._conflicts: deque[Reception] = deque()
        """Not written yet."""
        self._senders: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._refusals: OrderedDict[tuple[str, str, int | None, str], _Refusals] = OrderedDict()

    def __call__(self, reception: Reception) -> None:
        """Write down what is new.

        Raises:
            RetryLaterError: the audit log's disk or database does not take it.
        """
        _log_reception(reception)
        if reception.event in _EVENTS:
            self._refused(reception)
        elif reception.event is ReceptionEvent.CONFLICT:
            self._conflicts.append(reception)
            self._write_conflicts()
        elif reception.event is ReceptionEvent.STORED:
            self._arrived(reception)
        elif reception.event is ReceptionEvent.DUPLICATE:
            self._write_conflicts()  # it may be one of them, sent again
            self._arrived(reception)

    def flush(self, everything: bool = False) -> None:
        """Write down the refusals that were only counted, once their minute is over, or ``everything`` now.

        And the conflicts that could not be written before.

        Raises:
            RetryLaterError: the audit log's disk or database does not take it; nothing is forgotten.
        """
        self._write_conflicts()
        now = self._clock()
        with self._lock:
            due = [
                alike
                for alike in self._refusals.values()
                if alike.unwritten and (everything or now - alike.written_at_s >= REPEAT_S)
            ]
        for alike in due:
            self._write_refusals(alike)

    def _write_conflicts(self) -> None:
        with self._writing_conflicts:
            while self._conflicts:
                self._write(AuditEvent.CONTENT_CONFLICT, self._conflicts[0])
                self._conflicts.popleft()

    def _arrived(self, reception: Reception) -> None:
        key = (reception.study_instance_uid, reception.calling_ae, reception.address)
        with self._lock:
            if key in self._senders:
                return
        self._write(AuditEvent.STUDY_ARRIVES, reception)
        with self._lock:
            _remember(self._senders, key, None)

    def _refused(self, reception: Reception) -> None:
        # no peer makes kinds at will: a reason's digits are its own
        kind = _DIGITS.sub("", reception.detail)
        key = (reception.address, reception.event, reception.status, kind)
        with self._lock:
            alike = self._refusals.get(key) or _Refusals(reception)
            alike.latest = reception
            alike.unwritten += 1
            forgotten = _remember(self._refusals, key, alike)
        if forgotten is not None:
            self._write_refusals(forgotten)
        if self._clock() - alike.written_at_s >= REPEAT_S:
            self._write_refusals(alike)

    def _write_refusals(self, alike: _Refusals) -> None:
        """One entry for the latest of them, with the count of the others."""
        with self._lock:
            count, alike.unwritten = alike.unwritten, 0
            alike.written_at_s, latest = self._clock(), alike.latest
        if not count:
            return
        try:
            self._write(_EVENTS[latest.event], latest, count - 1)
        except RetryLaterError:
            with self._lock:
                alike.unwritten += count
            raise

    def _write(self, event: AuditEvent, reception: Reception, alike: int = 0) -> None:
        facts: dict[str, object] = {"calling_ae": reception.calling_ae, "address": reception.address}
        if reception.listener:
            facts["listener"] = reception.listener
        if reception.called_ae:
            facts["called_ae"] = reception.called_ae
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


def _remember(memory: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> _Value | None:
    """Keep it as the newest; returns the oldest when that is forgotten for it."""
    memory[key] = value
    memory.move_to_end(key)
    return memory.popitem(last=False)[1] if len(memory) > MAX_REMEMBERED else None


def _log_reception(reception: Reception) -> None:
    """What went well in debug, the rest as warnings."""
    quiet = reception.event in (ReceptionEvent.STORED, ReceptionEvent.DUPLICATE)
    facts = {
        "calling_ae": reception.calling_ae,
        "called_ae": reception.called_ae,
        "host": reception.address,
        "listener": reception.listener,
        "study": reception.study_instance_uid,
        "sop_instance": reception.sop_instance_uid,
        "dicom_status": reception.status,
        "reason": reception.detail,
    }
    _log.log(logging.DEBUG if quiet else logging.WARNING, "%s", reception.event, extra=facts)
