"""The inbox: every instance received is safe on disk before its sender gets an answer.

Layout of the folder::

    incoming/      files being written; whatever is here at a start was never acknowledged
    studies/<StudyInstanceUID>/<SOPInstanceUID>_<digest>.dcm
    quarantine/    files found at a start that can't be what their names say

A file's name follows from its bytes, so the same bytes can't be kept twice, whatever is interrupted. Other
bytes under the same SOP Instance UID are compared as they are decoded (:mod:`app.dicom.reading.content`): the
same image in another transfer syntax is not kept again. A file that was damaged after its reception is found
by its digest when the instance comes again, and replaced.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Engine, delete, select
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from app.errors import RetryLaterError
from app.files.durable import free_mb, make_folder, sync_folder
from app.node.records.database import fetch, utc_now
from app.node.records.header_scan import UnreadableHeaderError
from app.node.records.inbox_index import NOT_AS_RECEIVED, InboxIndex, flag_conflicts, is_intact
from app.node.records.instances import (
    InstanceRow,
    ReceivedInstance,
    instance_file_name,
    read_received,
    study_folder_name,
)

_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))

_LOCKS = 64
"""Instances stored at the same time that don't wait for each other, as a rule."""

_log = logging.getLogger(__name__)


class InboxFullError(RetryLaterError):
    """There is no room to keep the instance: the sender has to try again (status A700)."""


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

    Any number of processes may read; one stores. Threads may share it.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        super().__init__(folder, engine)
        self._incoming = folder / "incoming"
        self._studies = folder / "studies"
        self._quarantine = folder / "quarantine"
        for part in (self._incoming, self._studies, self._quarantine):
            make_folder(part)
        # a process that was cut off while it made them may not have come to this
        sync_folder(folder)
        sync_folder(folder.parent)
        self._durable_folders: set[Path] = set()
        self._durable_folders_lock = threading.Lock()
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def store(self, instance: ReceivedInstance) -> Stored:
        """Keep an instance. When this returns, it is on disk (file, folder and index) for good.

        Raises:
            InboxFullError: no space left; nothing of the instance is kept.
            RetryLaterError: the index does not answer; the file may be kept and is found at the next start.
        """
        path = self._path_of(instance)
        one_at_a_time = self._locks[hash(instance.sop_instance_uid) % _LOCKS]
        with _translated_errors(), one_at_a_time:
            kept = self._contents(InstanceRow.sop_instance_uid == instance.sop_instance_uid)
            known = any(row.sha256 == instance.sha256 for row in kept)
            damaged = [row for row in kept if not is_intact(self.folder, row)]
            if known and all(row.sha256 != instance.sha256 for row in damaged):
                return Stored.DUPLICATE
            whole = [self.folder / row.path for row in kept if row not in damaged]
            temporary = self._incoming / f"{uuid.uuid4().hex}.part"
            try:
                self._write(instance, temporary)
                if not known and _holds_the_same(temporary, whole):
                    return Stored.DUPLICATE
                self._name(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            if known:
                _log.warning("a damaged file was written again", extra={"study": instance.study_instance_uid})
                return Stored.DUPLICATE
            return self._index(instance, path, utc_now(), damaged)

    def free_mb(self) -> float:
        return free_mb(self.folder)

    def recover(self) -> Recovery:
        """Put in order what a kill or a power cut left; to be called before anything is received."""
        with _translated_errors():
            removed = self._remove_unfinished()
            found = {path.relative_to(self.folder).as_posix() for path in self._studies.glob("*/*")}
            indexed = set(fetch(self._engine, select(InstanceRow.path)))
            outcomes = Counter(self._adopt(self.folder / path) for path in sorted(found - indexed))
            with self._engine.begin() as connection:
                flag_conflicts(connection)
        recovery = Recovery(removed, outcomes[True], outcomes[False], len(indexed - found))
        if recovery != Recovery():
            _log.warning("inbox put in order: %s", recovery)
        return recovery

    def _path_of(self, instance: ReceivedInstance) -> Path:
        folder = self._studies / study_folder_name(instance.study_instance_uid)
        return folder / instance_file_name(instance.sop_instance_uid, instance.sha256)

    def _write(self, instance: ReceivedInstance, temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(instance.file_header())
            file.write(instance.data_set)
            file.flush()
            os.fsync(file.fileno())

    def _name(self, temporary: Path, path: Path) -> None:
        """Rename what is on the disk already: at no instant is a partial file under its final name."""
        self._make_study_folder(path.parent)
        temporary.replace(path)
        sync_folder(path.parent)

    def _make_study_folder(self, folder: Path) -> None:
        """Make the folder; it is on the disk for good when this returns, whoever made it."""
        with self._durable_folders_lock:
            if folder in self._durable_folders and folder.is_dir():
                return
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
            self._durable_folders.add(folder)

    def _index(
        self,
        instance: ReceivedInstance,
        path: Path,
        received_at: datetime,
        damaged: Sequence[InstanceRow] = (),
    ) -> Stored:
        """Index a file in the place of ``damaged`` ones, with which it can't be compared any more."""
        row = InstanceRow(
            sop_instance_uid=instance.sop_instance_uid,
            sha256=instance.sha256,
            study_instance_uid=instance.study_instance_uid,
            series_instance_uid=instance.series_instance_uid,
            sop_class_uid=instance.sop_class_uid,
            path=path.relative_to(self.folder).as_posix(),
            bytes=path.stat().st_size,
            received_at=received_at,
            calling_ae=instance.calling_ae,
            transfer_syntax_uid=instance.transfer_syntax_uid,
        )
        try:
            with Session(self._engine) as session, session.begin():
                session.add(row)
                for lost in damaged:
                    session.execute(delete(InstanceRow).where(InstanceRow.path == lost.path))
        except IntegrityError:  # the same content came in over another association at the same time
            return Stored.DUPLICATE
        for lost in damaged:
            _log.error("a damaged file was replaced", extra={"study": instance.study_instance_uid})
            self._set_aside(self.folder / lost.path)
        with self._engine.begin() as connection:
            several = flag_conflicts(connection, instance.sop_instance_uid)
        return Stored.CONFLICT if several else Stored.NEW

    def _remove_unfinished(self) -> int:
        """Files being written when the process stopped: their senders got no answer, and send again."""
        unfinished = list(self._incoming.iterdir())
        for path in unfinished:
            path.unlink()
        return len(unfinished)

    def _adopt(self, path: Path) -> bool:
        """Index a file that was renamed but not committed; set aside what is not what its name says."""
        try:
            instance = read_received(path)
            if self._path_of(instance) != path:
                raise UnreadableHeaderError("the content is not the one its name was made from")
        except NOT_AS_RECEIVED as error:
            _log.error("file without an index row set aside in quarantine: %s", error)
            self._set_aside(path)
            return False
        self._index(instance, path, datetime.fromtimestamp(path.stat().st_mtime, UTC))
        return True

    def _set_aside(self, path: Path) -> None:
        if path.is_file():
            path.replace(self._quarantine / f"{uuid.uuid4().hex}.dcm")


def _holds_the_same(new: Path, kept: Sequence[Path]) -> bool:
    from app.dicom.reading.compression import IsolatedDecoder
    from app.dicom.reading.content import differing_tags

    with IsolatedDecoder() as decoder:
        return any(not differing_tags(new, path, decoder) for path in kept)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Full disks and silent databases in the words of :mod:`app.errors`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise InboxFullError("the inbox's file system is full") from error
        raise
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if "database or disk is full" in str(cause):  # SQLITE_FULL
            raise InboxFullError("the index's file system is full") from error
        raise RetryLaterError(f"the inbox's index does not answer: {type(cause).__name__}") from error
