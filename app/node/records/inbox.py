"""The inbox: every instance received is safe on disk before its sender gets an answer.

Layout of the folder::

    slots/         slots (:mod:`app.node.records.slots`): ready, being written, or safe and not named yet
    studies/<StudyInstanceUID>/<SOPInstanceUID>_<digest>.dcm
    quarantine/    files found at a start that can't be what their names say

A Success costs one durable write, that of its slot. The name under ``studies`` and the index row follow
(:mod:`app.node.records.pending`, docs/decisions/0015); a start finds in ``slots`` what they lack.

A file's name follows from its bytes, so the same bytes can't be kept twice, whatever is interrupted. Other
bytes under the same SOP Instance UID are compared as they are decoded (:mod:`app.dicom.reading.content`): the
same image in another transfer syntax is not kept again. A file that was damaged after its reception is found
by its digest when the instance comes again, and replaced.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, select

from app.errors import RetryLaterError
from app.files.durable import free_mb, hold_folder, make_folder, sync_folder
from app.node.records.clock import CLOCK
from app.node.records.database import fetch, utc_now
from app.node.records.header_scan import UnreadableHeaderError
from app.node.records.inbox_index import NOT_AS_RECEIVED, InboxIndex, InstanceRow, flag_conflicts, is_intact
from app.node.records.instances import (
    InstanceIdentity,
    ReceivedInstance,
    StoreCommand,
    checked_command,
    read_received,
)
from app.node.records.pending import (
    MAX_PENDING,
    QUARANTINE,
    REMOVED,
    STUDIES,
    Pending,
    PendingInstances,
    StudyHeldBackError,
    translated_errors,
)
from app.node.records.slots import RETRY_S, Slot, SlotPool, finish, has_seal, is_unused

FOLLOW_S = 1.0
"""How often the index catches up while the node listens and nobody reads."""
_LOCKS = 64
"""Instances stored at the same time that don't wait for each other, as a rule."""

_log = logging.getLogger(__name__)


class Stored(StrEnum):
    """What became of an instance; all three are Success for its sender."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    """Kept as well as another content of the same SOP Instance UID."""


@dataclass(frozen=True)
class Recovery:
    """What was put in order after a stop: counts of files."""

    removed_unfinished: int = 0
    indexed: int = 0
    quarantined: int = 0
    missing: int = 0
    """Rows whose file is gone: someone removed it by hand."""


class Inbox(InboxIndex):
    """Keeps instances under ``folder``, and their index in the database ``engine`` leads to.

    Any number of processes may read; one stores. Threads may share it. Whoever reads in the process that
    stores sees all that was kept before.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        super().__init__(folder, engine)
        self._ready = folder / "slots"
        self._studies = folder / STUDIES
        for part in (self._ready, self._studies, folder / QUARANTINE):
            make_folder(part)
        # a process that was cut off while it made them may not have come to this
        sync_folder(folder)
        sync_folder(folder.parent)
        self._slots = SlotPool(self._ready)
        self._pending = PendingInstances(folder, engine)
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))
        self._ending = threading.Event()
        self._followers: list[threading.Thread] = []
        self._hold: ExitStack | None = None

    def begin(self, command: StoreCommand) -> Slot:
        """Where to write a data set as it arrives; to be closed.

        Raises:
            UnsafeUidError: a UID breaks PS3.5 9.1.
            InboxFullError: no space left.
        """
        with translated_errors():
            return self._slots.take(checked_command(command))

    def keep(self, slot: Slot, instance: InstanceIdentity, received_at: datetime | None = None) -> Stored:
        """Keep what was written to a slot. When this returns, it is on the disk for good.

        Its name and the index follow, unless something is kept of this instance already, or nothing of its
        study.

        Raises:
            InboxFullError, RetryLaterError: disk or index do not take it, or do not follow. The instance may
                be kept all the same; then it is named and indexed as soon as that can be done.
        """
        uid, was_received = instance.sop_instance_uid, received_at is not None
        received_at = received_at or utc_now()
        with translated_errors(), self._locks[hash(uid) % _LOCKS]:
            self._pending.settle_for(instance)
            if self._pending.is_indexed(uid):
                return self._keep_again(slot, instance, received_at)
            slot.seal()
            slot.keep()
            self._slots.expect(instance.sop_class_uid, slot.size)
            self._pending.add(Pending(instance, slot.path, slot.size, received_at, was_received))
            if self._followers and self._pending.is_first_of_study(instance):
                self.settle()  # so that every process knows of a study from its first image on
            return Stored.NEW

    def store(self, instance: ReceivedInstance, received_at: datetime | None = None) -> Stored:
        """Keep an instance that is in memory. Raises as :meth:`keep`."""
        with translated_errors(), closing(self.begin(instance.command)) as slot:
            slot.write(instance.data_set)
            return self.keep(slot, slot.identity(), received_at)

    def settle(self) -> None:
        """Name and index what was kept so far.

        Raises:
            InboxFullError, RetryLaterError: the disk or the index do not take it; nothing is lost.
        """
        self._pending.settle()

    def free_mb(self) -> float:
        return free_mb(self.folder)

    def follow(self, min_free_mb: float = 0.0) -> None:
        """Until :meth:`stop_following`, let the index follow, and have slots ready beyond ``min_free_mb``."""
        with translated_errors():
            latest = select(InstanceRow).order_by(InstanceRow.received_at.desc()).limit(MAX_PENDING)
            for row in fetch(self._engine, latest):
                self._slots.expect(row.sop_class_uid, row.bytes)
            self._slots.refill(min_free_mb)
        self._ending.clear()
        provide: Callable[[], None] = partial(self._provide, min_free_mb)
        for name, work in (("inbox-index", self._follow), ("inbox-slots", provide)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._followers.append(thread)

    def stop_following(self) -> None:
        """Index what is left. Raises RetryLaterError: it is found at the next start."""
        self._ending.set()
        self._slots.wake()
        while self._followers:
            self._followers.pop().join()
        try:
            with translated_errors():
                self._slots.clear()
            self.settle()
        finally:
            if self._hold is not None:
                self._hold.close()
                self._hold = None

    def recover(self) -> Recovery:
        """Put in order what a kill or a power cut left; to be called before anything is received.

        From then on until :meth:`stop_following` no other process may: it would take what is being written
        for what a kill has left.

        Raises:
            MisconfiguredError: another one receives into this folder.
            RetryLaterError: the disk or the index do not answer.
        """
        with translated_errors():
            if self._hold is None:
                with ExitStack() as hold:
                    hold.enter_context(hold_folder(self.folder, "node"))
                    self._hold = hold.pop_all()
            found = {path.relative_to(self.folder).as_posix() for path in self._studies.glob("*/*")}
            indexed = self._indexed()
            counts = Counter(self._adopt(self.folder / path) for path in sorted(found - indexed))
            with self._engine.begin() as connection:
                flag_conflicts(connection)
            # version 0.1.0 wrote to the second; what it left there has no seal
            for slot in sorted((*self._ready.glob("*"), *self.folder.glob("incoming/*"))):
                try:
                    counts[self._restore(slot)] += 1
                except StudyHeldBackError as error:
                    _log.error("a slot is left for the next start: %s", error)
            self.settle()
        del counts[""]
        recovery = Recovery(**counts, missing=len(indexed - found))
        if recovery != Recovery():
            _log.warning("inbox put in order: %s", recovery)
        return recovery

    def _current(self) -> Engine:
        self.settle()
        return self._engine

    def _held_back(self) -> Collection[str]:
        return self._pending.held_back

    def _follow(self) -> None:
        pause_s, has_seen = 0.0, False
        while not self._ending.wait(pause_s):
            has_seen = has_seen or _tried(self._pending.see_all, "the index can't be read")
            pause_s = FOLLOW_S if _tried(self.settle, "the index does not follow") and has_seen else RETRY_S

    def _provide(self, min_free_mb: float) -> None:
        while not self._ending.is_set():
            _tried(partial(self._slots.refill, min_free_mb), "no room is made for what comes next")
            self._slots.wait()

    def _keep_again(self, slot: Slot, instance: InstanceIdentity, received_at: datetime) -> Stored:
        """Keep an instance of which something is indexed, unless it is the same."""
        kept, damaged = self._kept(instance)
        known = any(row.sha256 == instance.sha256 for row in kept)
        intact = [row for row in kept if row not in damaged]
        if known and all(row.sha256 != instance.sha256 for row in damaged):
            self._pending.came_again(intact)
            return Stored.DUPLICATE
        slot.trim()
        slot.seal()
        if not known and _holds_the_same(slot.path, [self.folder / row.path for row in intact]):
            self._pending.came_again(intact)
            return Stored.DUPLICATE
        if damaged and not known and (self.folder / REMOVED / instance.study_instance_uid).exists():
            raise RetryLaterError("the study is being removed")
        slot.keep()
        new = Pending(instance, slot.path, slot.size, received_at)
        if not self._pending.name([new]):
            raise RetryLaterError("someone has removed the file")
        if known:
            self._pending.index([new])  # a removal has deleted the row, or may have meanwhile
            if all(row.removed_at is None for row in damaged):
                _log.warning("a damaged file was written again", extra={"study": instance.study_instance_uid})
            return Stored.DUPLICATE
        self._pending.index([new], damaged)
        with self._engine.begin() as connection:
            several = flag_conflicts(connection, instance.sop_instance_uid)
        return Stored.CONFLICT if several else Stored.NEW

    def _kept(self, instance: InstanceIdentity) -> tuple[Sequence[InstanceRow], list[InstanceRow]]:
        """What is indexed of an instance, and what of it is not as it was received any more."""
        uid = InstanceRow.sop_instance_uid
        kept = fetch(self._engine, select(InstanceRow).where(uid == instance.sop_instance_uid))
        return kept, [row for row in kept if not is_intact(self.folder, row)]

    def _restore(self, path: Path) -> str:
        """Keep what is whole in a slot under its name, as it was acknowledged or about to be.

        The sender of what has no seal got no answer, and sends again. What has one and does not hold may have
        been acknowledged. Returns the count of :class:`Recovery` that it belongs to; empty for none.
        """
        if not has_seal(path):
            outcome = "" if is_unused(path) else "removed_unfinished"
            path.unlink()
            return outcome
        try:
            instance = read_received(path)
        except (OSError, *NOT_AS_RECEIVED) as error:
            _log.error("slot that does not hold what was sealed set aside in quarantine: %s", error)
            self._pending.set_aside(path)
            return "quarantined"
        with closing(Slot.found(path, instance)) as slot:
            received_at = CLOCK.from_host_time(path.stat().st_mtime)
            slot.is_kept = self.keep(slot, instance.identity, received_at) is not Stored.DUPLICATE
        return "indexed"

    def _adopt(self, path: Path) -> str:
        """Index a file that was renamed but not committed; set aside what is not what its name says."""
        try:
            instance = read_received(path)
            if self._pending.path_of(instance.identity) != path:
                raise UnreadableHeaderError("the content is not the one its name was made from")
            received_at = CLOCK.from_host_time(path.stat().st_mtime)
            finish({path: (instance.file_bytes, CLOCK.to_host_time(received_at))})
        except NOT_AS_RECEIVED as error:
            _log.error("file without an index row set aside in quarantine: %s", error)
            self._pending.set_aside(path)
            return "quarantined"
        except OSError as error:
            _log.error("a study is held back: %s", error.strerror, extra={"study": path.parent.name})
            self._pending.block(path.parent.name, error)
            return ""
        _, damaged = self._kept(instance.identity)
        self._pending.index([Pending(instance.identity, path, instance.file_bytes, received_at)], damaged)
        return "indexed"


def _tried(work: Callable[[], None], what: str) -> bool:
    """Whether it went well; a disk or database that is away a moment must not end the loop."""
    try:
        work()
    except Exception as error:  # noqa: BLE001
        is_known = isinstance(error, RetryLaterError | OSError)
        _log.error("%s, and is tried again: %s", what, error, exc_info=None if is_known else error)
        return False
    return True


def _holds_the_same(new: Path, kept: Sequence[Path]) -> bool:
    from app.dicom.reading.compression import IsolatedDecoder
    from app.dicom.reading.content import differing_tags

    with IsolatedDecoder() as decoder:
        return any(not differing_tags(new, path, decoder) for path in kept)
