"""The inbox: every instance received is safe on disk before its sender gets an answer.

Layout of the folder::

    incoming/      files being written; whatever is here at a start was never acknowledged
    studies/<StudyInstanceUID>/<SOPInstanceUID>_<digest>.dcm
    quarantine/    files found at a start that can't be what their names say

A file's name follows from its content, so the same content can't be kept twice, whatever is interrupted.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydicom.uid import UID
from sqlalchemy import ColumnElement, Engine, case, func, select, true, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from app.domain.selection.screening import IMAGE_CLASSES
from app.errors import RetryLaterError
from app.files.durable import free_mb, make_folder, sync_folder
from app.node.records.database import fetch, utc_now
from app.node.records.header_scan import UnreadableHeaderError
from app.node.records.instances import (
    InstanceRow,
    MismatchedInstanceError,
    ReceivedInstance,
    UnsafeUidError,
    instance_file_name,
    read_received,
    study_folder_name,
)

_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))

_IS_IMAGE = InstanceRow.sop_class_uid.in_(IMAGE_CLASSES)
"""The one place that decides which of what was received can change a result."""

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
class InboxStudy:
    """A study as far as it has arrived.

    Attributes:
        conflicts: UIDs that came with more than one content.
        image_count, last_image_at: of what can be analysed, the classes in
            :data:`~app.domain.selection.screening.IMAGE_CLASSES`; 0 and ``None`` without such an image.
    """

    study_instance_uid: str
    instance_count: int
    first_received_at: datetime
    last_received_at: datetime
    conflicts: int
    image_count: int
    last_image_at: datetime | None


@dataclass(frozen=True)
class Recovery:
    """What was put in order after a stop: counts of files."""

    removed_unfinished: int = 0
    indexed: int = 0
    quarantined: int = 0
    missing: int = 0
    """Rows whose file is gone: someone removed it by hand."""


class Inbox:
    """Keeps instances under ``folder``, and their index in the database ``engine`` leads to.

    Any number of processes may read; one stores. Threads may share it.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self._engine = engine
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

    def store(self, instance: ReceivedInstance) -> Stored:
        """Keep an instance. When this returns, it is on disk (file, folder and index) for good.

        Raises:
            InboxFullError: no space left; nothing of the instance is kept.
            RetryLaterError: the index does not answer; the file may be kept and is found at the next start.
        """
        path = self._path_of(instance)
        with _translated_errors():
            known = self._is_indexed(instance)
            if known and path.exists():
                return Stored.DUPLICATE
            self._write(instance, path)
            if known:
                return Stored.DUPLICATE
            return self._index(instance, path, utc_now())

    def free_mb(self) -> float:
        return free_mb(self.folder)

    def studies(self) -> tuple[InboxStudy, ...]:
        """Every study, the one that grew last first."""
        return self._summaries(true())

    def study(self, study_instance_uid: str) -> InboxStudy | None:
        """One study, or ``None`` when nothing of it has arrived."""
        found = self._summaries(InstanceRow.study_instance_uid == study_instance_uid)
        return found[0] if found else None

    def received_after(self, instant: datetime) -> tuple[InboxStudy, ...]:
        """Studies that grew after ``instant`` (aware), the latest first."""
        late = select(InstanceRow.study_instance_uid).where(InstanceRow.received_at > instant)
        return self._summaries(InstanceRow.study_instance_uid.in_(late))

    def paths(self, study_instance_uid: str) -> tuple[Path, ...]:
        """Files of a study, sorted by name; conflicting contents are all there."""
        query = select(InstanceRow.path).where(InstanceRow.study_instance_uid == study_instance_uid)
        return tuple(sorted(self.folder / path for path in fetch(self._engine, query)))

    def image_paths(self, study_instance_uid: str) -> tuple[Path, ...]:
        """Those of :meth:`paths` that can be analysed: what the chain is given."""
        query = select(InstanceRow.path).where(
            InstanceRow.study_instance_uid == study_instance_uid, _IS_IMAGE
        )
        return tuple(sorted(self.folder / path for path in fetch(self._engine, query)))

    def beside(self, study_instance_uid: str) -> str:
        """What else is kept of a study, in words: how many objects of which class; empty for nothing."""
        sop_class = InstanceRow.sop_class_uid
        query = (
            select(sop_class, func.count())
            .where(InstanceRow.study_instance_uid == study_instance_uid, ~_IS_IMAGE)
            .group_by(sop_class)
        )
        with self._engine.connect() as connection:
            counts = sorted((UID(uid).name, count) for uid, count in connection.execute(query))
        return ", ".join(f"{count} {name}" for name, count in counts)

    def content_digest(self, study_instance_uid: str) -> str:
        """SHA-256 over the sorted SOP Instance UIDs and content hashes: revisions of a study differ in it.

        Of the images alone that can be analysed. A PACS may send the node's own results back, or a reader's:
        did they count, each revision would send results that make the next one.
        """
        query = select(InstanceRow.sop_instance_uid, InstanceRow.sha256).where(
            InstanceRow.study_instance_uid == study_instance_uid, _IS_IMAGE
        )
        with self._engine.connect() as connection:
            lines = sorted(f"{uid} {sha256}\n" for uid, sha256 in connection.execute(query))
        return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()

    def recover(self) -> Recovery:
        """Put in order what a kill or a power cut left; to be called before anything is received."""
        with _translated_errors():
            removed = self._remove_unfinished()
            found = {path.relative_to(self.folder).as_posix() for path in self._studies.glob("*/*")}
            indexed = set(fetch(self._engine, select(InstanceRow.path)))
            outcomes = Counter(self._adopt(self.folder / path) for path in sorted(found - indexed))
            self._flag_conflicts()
        recovery = Recovery(removed, outcomes[True], outcomes[False], len(indexed - found))
        if recovery != Recovery():
            _log.warning("inbox put in order: %s", recovery)
        return recovery

    def _path_of(self, instance: ReceivedInstance) -> Path:
        folder = self._studies / study_folder_name(instance.study_instance_uid)
        return folder / instance_file_name(instance.sop_instance_uid, instance.sha256)

    def _is_indexed(self, instance: ReceivedInstance) -> bool:
        query = select(InstanceRow.path).where(
            InstanceRow.sop_instance_uid == instance.sop_instance_uid, InstanceRow.sha256 == instance.sha256
        )
        return bool(fetch(self._engine, query))

    def _write(self, instance: ReceivedInstance, path: Path) -> None:
        """Write, sync, rename, sync: at no instant is a partial file under its final name."""
        temporary = self._incoming / f"{uuid.uuid4().hex}.part"
        try:
            with temporary.open("wb") as file:
                file.write(instance.file_header())
                file.write(instance.data_set)
                file.flush()
                os.fsync(file.fileno())
            self._make_study_folder(path.parent)
            temporary.replace(path)
            sync_folder(path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _make_study_folder(self, folder: Path) -> None:
        """Make the folder; it is on the disk for good when this returns, whoever made it."""
        with self._durable_folders_lock:
            if folder in self._durable_folders and folder.is_dir():
                return
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
            self._durable_folders.add(folder)

    def _index(self, instance: ReceivedInstance, path: Path, received_at: datetime) -> Stored:
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
        )
        try:
            with Session(self._engine) as session, session.begin():
                session.add(row)
        except IntegrityError:  # the same content came in over another association at the same time
            return Stored.DUPLICATE
        return Stored.CONFLICT if self._flag_conflicts(instance.sop_instance_uid) else Stored.NEW

    def _flag_conflicts(self, sop_instance_uid: str | None = None) -> bool:
        """Flag UIDs with more than one content; after the commit, so that the last writer sees all."""
        query = select(InstanceRow.sop_instance_uid).group_by(InstanceRow.sop_instance_uid)
        if sop_instance_uid is not None:
            query = query.where(InstanceRow.sop_instance_uid == sop_instance_uid)
        twofold = fetch(self._engine, query.having(func.count() > 1))
        for uid in twofold:
            with self._engine.begin() as connection:
                flag = update(InstanceRow).where(InstanceRow.sop_instance_uid == uid).values(conflict=True)
                connection.execute(flag)
        return bool(twofold)

    def _summaries(self, wanted: ColumnElement[bool]) -> tuple[InboxStudy, ...]:
        conflicting = func.count(case((InstanceRow.conflict, InstanceRow.sop_instance_uid)).distinct())
        last = func.max(InstanceRow.received_at)
        query = (
            select(
                InstanceRow.study_instance_uid,
                func.count(),
                func.min(InstanceRow.received_at),
                last,
                conflicting,
                func.count(case((_IS_IMAGE, 1))),
                func.max(case((_IS_IMAGE, InstanceRow.received_at))),
            )
            .where(wanted)
            .group_by(InstanceRow.study_instance_uid)
            .order_by(last.desc(), InstanceRow.study_instance_uid)
        )
        with self._engine.connect() as connection:
            return tuple(InboxStudy(*row) for row in connection.execute(query))

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
        except (UnreadableHeaderError, UnsafeUidError, MismatchedInstanceError) as error:
            _log.error("file without an index row set aside in quarantine: %s", error)
            path.replace(self._quarantine / f"{uuid.uuid4().hex}.dcm")
            return False
        self._index(instance, path, datetime.fromtimestamp(path.stat().st_mtime, UTC))
        return True


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
