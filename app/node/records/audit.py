"""The audit log: append-only JSON lines, each holding the SHA-256 of the line before.

Changing, removing or inserting any line breaks the chain at that place. Cutting lines off the end leaves a
valid chain, so the newest line's number and hash are kept in a second place (the database, or any
:class:`Anchor`), and :meth:`AuditLog.verify` looks for them in the file.

Study Instance UIDs are written; names and identifiers of patients never are.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Protocol

from sqlalchemy import Engine, String, select
from sqlalchemy.orm import Mapped, mapped_column

from app.errors import MisconfiguredError
from app.node.records.database import Base, fetch, upsert, utc_now

FIRST_HASH = "0" * 64
"""The hash before the first line."""

AUDIT_FILE = "audit.jsonl"
MAX_ENTRY_BYTES = 1 << 20
"""No entry is longer; so much of the end of the file is read to find the last one."""


class AuditEvent(StrEnum):
    """What the node writes down."""

    STARTED = "node started"
    STOPPED = "node stopped"
    CALLER_REFUSED = "caller refused"
    ASSOCIATION_FAILED = "association failed"
    INSTANCE_REFUSED = "instance refused"
    CONTENT_CONFLICT = "instance arrived with another content"
    CONTENT_CHOSEN = "content chosen"
    STUDY_ARRIVES = "study arrives"
    STUDY_RECEIVED = "study received"
    PROCESSED = "study processed"
    REJECTED = "study rejected"
    FAILED = "study failed"
    PRIOR_CAME_LATE = "analysed without its prior"
    RETRY_ASKED = "retry asked for"
    STUDY_REMOVED = "study removed"
    STUDY_NOT_REMOVED = "study not removed"
    """Of one whose removal was written down before it failed."""
    SETTINGS_CHANGED = "settings changed"
    LOG_EXPORTED = "audit log exported"
    DELIVERED = "result delivered"
    COMMITMENT_ASKED = "storage commitment asked for"
    COMMITTED = "result committed"
    NOT_COMMITTED = "result not committed"
    DELIVERY_FAILED = "delivery failed"
    COMMITMENT_GIVEN = "storage commitment given"
    SHADOWS_COMPARED = "shadow models compared"


AuditObserver = Callable[[AuditEvent, str, Mapping[str, object]], None]
"""event, study, facts. Must not raise."""


@dataclass(frozen=True)
class Head:
    """The newest entry: how many there are, and the hash of the last."""

    count: int = 0
    sha256: str = FIRST_HASH


@dataclass(frozen=True)
class Verification:
    """What a check of the log found; ``problem`` is empty when the log is whole."""

    entries: int
    problem: str = ""

    @property
    def intact(self) -> bool:
        """No line was changed, removed, inserted or cut off."""
        return not self.problem


class Anchor(Protocol):
    """A second place that remembers the newest entry."""

    def read(self) -> Head:
        """The newest entry known there."""
        ...

    def write(self, head: Head) -> None:
        """Remember ``head``."""
        ...


class AuditHeadRow(Base):
    """The newest entry of each audit log, one a host."""

    __tablename__ = "audit_head"

    log: Mapped[str] = mapped_column(String(128), primary_key=True)
    count: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))


class DatabaseAnchor:
    """Keeps the newest entry in the node's database."""

    def __init__(self, engine: Engine, log: str) -> None:
        self._engine = engine
        self._log = log

    def read(self) -> Head:
        """The newest entry, or an empty head when there is none yet."""
        found = fetch(self._engine, select(AuditHeadRow).where(AuditHeadRow.log == self._log))
        return Head(found[0].count, found[0].sha256) if found else Head()

    def write(self, head: Head) -> None:
        """Remember ``head`` in its own transaction."""
        upsert(self._engine, AuditHeadRow, log=self._log, count=head.count, sha256=head.sha256)


class AuditLog:
    """One append-only file, safe to write from several threads and processes of one host."""

    def __init__(self, path: Path, anchor: Anchor) -> None:
        self.path = path
        self._anchor = anchor
        self.observers: list[AuditObserver] = []
        """Called once an entry is on the disk; of this process's own entries alone."""

    def append(self, event: AuditEvent, study: str = "", facts: Mapping[str, object] | None = None) -> None:
        """Write one entry through to the disk.

        Args:
            event: what happened.
            study: Study Instance UID, or empty.
            facts: further facts, JSON values; never a patient's name or identifier.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path) as file:
            last = self._newest(file)
            noted = dict(facts or {})
            entry = {
                "number": last.count + 1,
                "time": utc_now().isoformat(timespec="milliseconds"),
                "event": str(event),
                "study": study,
                "facts": noted,
                "previous": last.sha256,
            }
            line = json.dumps(entry, ensure_ascii=False, sort_keys=True).encode() + b"\n"
            file.seek(0, os.SEEK_END)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self._anchor.write(Head(last.count + 1, _sha256(line)))
        for observe in self.observers:
            observe(event, study, noted)

    def _newest(self, file: IO[bytes]) -> Head:
        """The entry to chain to: the file's last, or the anchor's when the file ends before it.

        So after somebody cut lines off, the next entry names the hash of a missing one, and the cut stays
        visible for good.
        """
        last, anchor = _last_head(file), self._anchor.read()
        return last if last.count > anchor.count else anchor

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every whole entry, first to last; :meth:`verify` tells whether anybody has changed one.

        Raises:
            MisconfiguredError: a line is no entry.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    entry = json.loads(line)
                except ValueError as error:
                    raise MisconfiguredError(
                        f"line {number} of {self.path} is no entry: see psma-node audit verify"
                    ) from error
                yield entry

    def verify(self) -> Verification:
        """Follow the chain from the first line to the anchor and to the end."""
        anchor = self._anchor.read()
        if not self.path.exists():
            return Verification(
                0, "" if anchor.count == 0 else f"the log is gone; {anchor.count} entries expected"
            )
        with self.path.open("rb") as file:
            # a writer holds this lock over line and anchor, so both are read at one instant
            fcntl.flock(file, fcntl.LOCK_SH)
            anchor = self._anchor.read()
            return _follow(file, anchor)


def _follow(file: IO[bytes], anchor: Head) -> Verification:
    head = Head()
    for number, line in enumerate(file, start=1):
        problem = _problem_with(line, Head(number - 1, head.sha256))
        if problem:
            return Verification(head.count, f"line {number}: {problem}")
        head = Head(number, _sha256(line))
        if number == anchor.count and head.sha256 != anchor.sha256:
            return Verification(number, f"line {number}: found another entry than the database remembers")
    if head.count < anchor.count:
        return Verification(head.count, f"{anchor.count - head.count} entries are missing at the end")
    return Verification(head.count)


def _problem_with(line: bytes, before: Head) -> str:
    try:
        entry = json.loads(line)
        number, previous = entry["number"], entry["previous"]
    except (ValueError, KeyError, TypeError):
        return "not an entry of this log"
    if not line.endswith(b"\n"):
        return "the line is cut short"
    if previous != before.sha256:
        return "the line before it was changed, removed or inserted"
    return "" if number == before.count + 1 else f"found number {number}, expected {before.count + 1}"


def _last_head(file: IO[bytes]) -> Head:
    """Number and hash of the last whole line; one cut short by a crash is dropped: never confirmed."""
    end = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, end - MAX_ENTRY_BYTES))
    tail = file.read()
    whole = tail[: tail.rfind(b"\n") + 1]
    file.truncate(start + len(whole))
    if not whole:
        return Head()
    last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
    try:
        return Head(int(json.loads(last)["number"]), _sha256(last))
    except (ValueError, KeyError, TypeError):
        return Head(0, _sha256(last))  # tampered with: the anchor tells where to go on


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
