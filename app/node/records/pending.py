"""Instances that are safe in their slots, until they have their names and their rows in the index.

Both follow for many at once: one flush of each study's folder and one transaction. The name is first: a
removal (:mod:`app.node.upkeep.removal`), be it in another process, relies on that. Whatever is interrupted, a
start finds each instance in its slot, or under its name without a row, and goes on from there.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, bindparam, delete, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.errors import RetryLaterError
from app.files.durable import sync_folder
from app.node.records.clock import CLOCK
from app.node.records.database import insert_missing, utc_now
from app.node.records.inbox_index import InstanceRow
from app.node.records.instances import InstanceIdentity, instance_file_name, study_folder_name
from app.node.records.slots import finish

STUDIES = "studies"
"""Folder of the inbox with a folder of images for each study."""

REMOVED = "removed"
"""Folder of the inbox where that of a study stands while its rows are deleted."""

QUARANTINE = "quarantine"
"""Folder of the inbox for files that can't be what their names say."""

MAX_PENDING = 1000
MAX_LAG_S = 5.0
"""Beyond these an instance is only kept once the index has caught up."""

MAX_REMEMBERED = 10_000
"""Studies of which is remembered that they are known, and that they have a folder."""

_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))

_KNOWN = select(InstanceRow.path).where(InstanceRow.sop_instance_uid == bindparam("uid")).limit(1)

_SEEN_BYTES = 2**24
"""One for each hash: next to a million instances, one new one in 17 is looked up in vain."""

_log = logging.getLogger(__name__)


class InboxFullError(RetryLaterError):
    """There is no room to keep the instance: the sender has to try again (status A700)."""


class StudyHeldBackError(RetryLaterError):
    """Something of the study is kept and can't be named: no more of it is taken until it can."""


@dataclass(frozen=True)
class Pending:
    """An instance on its way from ``slot`` to its name and its row.

    Unless it ``was_received`` before a stop, it counts as received when it is indexed: a revision that was
    opened before has not seen it.
    """

    instance: InstanceIdentity
    slot: Path
    bytes: int
    received_at: datetime
    was_received: bool = False


class PendingInstances:
    """Names and indexes what is kept below the inbox's ``folder``. Threads may share it."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._folder = folder
        self._engine = engine
        self._waiting: dict[str, Pending] = {}
        self._stuck: dict[str, StudyHeldBackError] = {}
        self._blocked: dict[str, StudyHeldBackError] = {}
        self._settling = threading.Lock()
        self._begun = self._ended = 0
        self._failure: RetryLaterError | None = None
        self._settled_at_s = time.monotonic()
        self._durable_folders: set[Path] = set()
        self._studies: set[str] = set()
        self._seen = bytearray(_SEEN_BYTES)
        self._saw_all = False

    def add(self, one: Pending) -> None:
        """It is safe in its slot."""
        self._see(one.instance.sop_instance_uid)
        self._waiting[one.instance.sop_instance_uid] = one

    @property
    def held_back(self) -> frozenset[str]:
        """Studies of which more is kept than the index can be told at present."""
        return frozenset((*self._stuck, *self._blocked))

    def block(self, study_instance_uid: str, error: OSError) -> None:
        """Hold a study back until the next start: of a file of it can't be told what it is."""
        self._blocked[study_instance_uid] = StudyHeldBackError(f"a file of the study: {error.strerror}")

    def settle(self) -> None:
        """Name and index what was added so far, but for the studies that are held back.

        After a failure everything is still in its slot or under its name, and the next call goes on. Who
        waits for the attempt of another shares its failure: each would else wait for a silent index in turn.

        Raises:
            InboxFullError, RetryLaterError: the index does not take it.
        """
        ended, begun = self._ended, self._begun
        if self._waiting:
            with self._settling:
                if self._ended > ended and self._failure is not None:
                    raise type(self._failure)(str(self._failure)) from self._failure
                if self._begun == begun:  # else one that began later had all that this one would
                    self._attempt()
        self._settled_at_s = time.monotonic()

    def settle_for(self, instance: InstanceIdentity) -> None:
        """Settle when the instance waits, or its study, or when too much does.

        Raises:
            InboxFullError, RetryLaterError: as :meth:`settle`, or its study is held back.
        """
        uid, study = instance.sop_instance_uid, instance.study_instance_uid
        late = time.monotonic() - self._settled_at_s > MAX_LAG_S
        crowded = late or len(self._waiting) >= MAX_PENDING
        if self._waiting and (crowded or uid in self._waiting or study in self._stuck):
            self.settle()
        held_back = self._stuck.get(study) or self._blocked.get(study)
        if held_back is not None:
            raise StudyHeldBackError(str(held_back)) from held_back

    def see_all(self) -> None:
        """Note what is indexed, so that :meth:`is_indexed` need not ask the database for what is new."""
        with self._engine.connect() as connection:
            for uid in connection.scalars(select(InstanceRow.sop_instance_uid)):
                self._see(uid)
        self._saw_all = True

    def is_indexed(self, sop_instance_uid: str) -> bool:
        """Whether there is any content of this instance."""
        if self._saw_all and not self._seen[hash(sop_instance_uid) % _SEEN_BYTES]:
            return False
        with self._engine.connect() as connection:
            return connection.execute(_KNOWN, {"uid": sop_instance_uid}).first() is not None

    def path_of(self, instance: InstanceIdentity) -> Path:
        """Its name for good."""
        folder = self._folder / STUDIES / study_folder_name(instance.study_instance_uid)
        return folder / instance_file_name(instance.sop_instance_uid, instance.sha256)

    def is_first_of_study(self, instance: InstanceIdentity) -> bool:
        """Whether nothing of its study has been indexed, as far as is remembered."""
        return instance.study_instance_uid not in self._studies

    def name(self, batch: Sequence[Pending]) -> list[Pending]:
        """Rename what is on the disk already: at no instant is a partial file under its final name.

        Returns those that are there now; the others were removed from their slots by someone. Raises OSError.
        """
        paths = [(one, self.path_of(one.instance)) for one in batch]
        named = [(one, path) for one, path in paths if self._rename(one, path)]
        for folder in {path.parent for _, path in named}:
            sync_folder(folder)
        finish({path: (one.bytes, CLOCK.to_host_time(one.received_at)) for one, path in named})
        return [one for one, _ in named]

    def _rename(self, one: Pending, path: Path) -> bool:
        self._make_study_folder(path.parent)
        try:
            one.slot.replace(path)
        except FileNotFoundError:  # an attempt before this one came so far
            if one.slot.exists() or (self._folder / REMOVED / path.parent.name).exists():
                raise  # its study's folder steps aside: tried again
            if not path.is_file() or path.stat().st_size < one.bytes:
                _log.error(
                    "an image that was acknowledged is gone from its slot: have the study sent again",
                    extra={"study": one.instance.study_instance_uid},
                )
                return False
        return True

    def index(self, batch: Sequence[Pending], damaged: Sequence[InstanceRow] = ()) -> None:
        """Index named files in the place of ``damaged`` ones, with which they can't be compared any more."""
        if not batch:
            return
        with self._engine.begin() as connection:
            insert_missing(connection, InstanceRow, [self._row(one) for one in batch])
            for lost in damaged:
                connection.execute(delete(InstanceRow).where(InstanceRow.path == lost.path))
        for lost in (row for row in damaged if row.removed_at is None):
            _log.error("a damaged file was replaced", extra={"study": lost.study_instance_uid})
            self.set_aside(self._folder / lost.path)

    def came_again(self, kept: Sequence[InstanceRow]) -> None:
        """Keep a removal from taking what is about to be acknowledged once more.

        Raises OSError: it has begun. A removal looks at the folder's time once the folder has stepped aside.
        """
        for row in kept:
            path = self._folder / row.path
            os.utime(path.parent)
            path.stat()

    def set_aside(self, path: Path) -> None:
        """Move a file that is not what its name says to the quarantine."""
        if path.is_file():
            path.replace(self._folder / QUARANTINE / f"{uuid.uuid4().hex}.dcm")

    def _attempt(self) -> None:
        self._begun += 1
        self._failure = RetryLaterError("the inbox's index does not follow")
        try:
            with translated_errors():
                self._name_and_index()
            self._failure = None
        except RetryLaterError as error:
            self._failure = error
            raise
        finally:
            self._ended += 1

    def _name_and_index(self) -> None:
        studies: dict[str, list[Pending]] = {}
        now = utc_now()
        for number, one in enumerate(list(self._waiting.values())):
            # in the order in which they came
            at = one.received_at if one.was_received else now + timedelta(microseconds=number)
            studies.setdefault(one.instance.study_instance_uid, []).append(replace(one, received_at=at))
        named = [one for uid, batch in studies.items() for one in self._name_study(uid, batch)]
        self.index(named)
        if len(self._studies) > MAX_REMEMBERED:
            self._studies.clear()
            self._durable_folders.clear()
        for one in named:
            self._studies.add(one.instance.study_instance_uid)
            self._stuck.pop(one.instance.study_instance_uid, None)
            del self._waiting[one.instance.sop_instance_uid]

    def _name_study(self, uid: str, batch: Sequence[Pending]) -> list[Pending]:
        """Those of a study that have their names; none when it has to be held back, and wait."""
        try:
            with translated_errors():
                named = self.name(batch)
        except RetryLaterError as error:
            if uid not in self._stuck:
                _log.error("a study is held back: %s", error, extra={"study": uid})
            self._stuck[uid] = StudyHeldBackError(str(error))
            return []
        there = {one.slot for one in named}
        for lost in (one for one in batch if one.slot not in there):
            del self._waiting[lost.instance.sop_instance_uid]
        if not named:
            self._stuck.pop(uid, None)
        if uid in self._stuck:  # to whoever looks for what has come, it comes now
            named = [replace(one, received_at=utc_now()) for one in named]
        return named

    def _see(self, sop_instance_uid: str) -> None:
        self._seen[hash(sop_instance_uid) % _SEEN_BYTES] = 1

    def _row(self, one: Pending) -> dict[str, object]:
        path = self.path_of(one.instance).relative_to(self._folder).as_posix()
        return {**vars(one.instance), "path": path, "bytes": one.bytes, "received_at": one.received_at}

    def _make_study_folder(self, folder: Path) -> None:
        """Make the folder; it is on the disk for good when this returns, whoever made it."""
        if folder in self._durable_folders and folder.is_dir():
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)
        self._durable_folders.add(folder)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Disks and databases that are full or silent, in the words of :mod:`app.errors`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise InboxFullError("the inbox's file system is full") from error
        raise RetryLaterError(f"the inbox's disk does not answer: {error.strerror}") from error
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if "database or disk is full" in str(cause):  # SQLITE_FULL
            raise InboxFullError("the index's file system is full") from error
        raise RetryLaterError(f"the inbox's index does not answer: {type(cause).__name__}") from error
