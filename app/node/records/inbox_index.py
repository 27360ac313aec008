"""The index of the inbox: what has arrived, which of it stands, and whether it is still what was received."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Index,
    String,
    and_,
    bindparam,
    case,
    false,
    func,
    select,
    true,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.domain.selection.screening import CT_CLASSES, IMAGE_CLASSES
from app.node.records.database import Base, Ledger, Uid, fetch
from app.node.records.header_scan import UnreadableHeaderError
from app.node.records.instances import MismatchedInstanceError, UnsafeUidError, read_received
from app.node.records.overview import InboxStudy, counted_classes
from app.node.records.runs import Run


class InstanceRow(Base):
    """One content received under a SOP Instance UID.

    Attributes:
        sha256: of the data set without its file meta header.
        path: relative to the inbox folder.
        conflict: the UID arrived with more than one content; true of each of its rows that stand.
        transfer_syntax_uid: empty for what version 0.1.0 received.
        discarded: a person has decided for another content of the UID; the file stays.
        committed_at: when a sender was told that the node keeps it (storage commitment).
        removed_at: when ``node.retention`` removed the file; the row stays, so that its study is known should
            it come again.
    """

    __tablename__ = "instances"
    __table_args__ = (
        Index("instances_by_study", "study_instance_uid", "received_at"),
        Index("instances_by_arrival", "received_at", "study_instance_uid"),
    )

    sop_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    study_instance_uid: Mapped[Uid]
    series_instance_uid: Mapped[Uid]
    sop_class_uid: Mapped[Uid]
    path: Mapped[str] = mapped_column(String(512))
    bytes: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime]
    calling_ae: Mapped[str] = mapped_column(String(16))
    conflict: Mapped[bool] = mapped_column(default=False)
    transfer_syntax_uid: Mapped[Uid] = mapped_column(server_default="", default="")
    discarded: Mapped[bool] = mapped_column(server_default=false(), default=False)
    committed_at: Mapped[datetime | None] = mapped_column(default=None)
    removed_at: Mapped[datetime | None] = mapped_column(default=None)


_IS_IMAGE = InstanceRow.sop_class_uid.in_(IMAGE_CLASSES)
"""The one place that decides which of what was received can change a result."""

_STANDS = ~InstanceRow.discarded

IS_HERE = InstanceRow.removed_at.is_(None)

MOST_IN_A_QUERY = 500
"""UIDs asked for at one time: databases bound the parameters of a query."""

NOT_AS_RECEIVED = (UnreadableHeaderError, UnsafeUidError, MismatchedInstanceError)
"""What reading a file of the inbox raises when it is not as it was written."""


@dataclass(frozen=True)
class StudyContent:
    """The images of a study that are analysed together, as of one instant."""

    folder: Path
    rows: tuple[InstanceRow, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the sorted SOP Instance UIDs and content hashes: revisions of a study differ in it.

        Of the images alone that can be analysed. A PACS may send the node's own results back, or a reader's:
        did they count, each revision would send results that make the next one.
        """
        return _digest((row.sop_instance_uid, row.sha256) for row in self.rows)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Their files, sorted by name."""
        return tuple(sorted(self.folder / row.path for row in self.rows))

    def absent(self) -> int:
        """How many are gone, or cut short; no file is read."""
        sizes = ((self.folder / row.path, row.bytes) for row in self.rows)
        return sum(not path.is_file() or path.stat().st_size < size for path, size in sizes)

    def damaged(self) -> int:
        """How many are gone, or not what was received any more; every file is read."""
        return sum(not is_intact(self.folder, row) for row in self.rows)


class InboxIndex(Ledger):
    """Looks up instances; any number of processes may."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        super().__init__(engine)
        self.folder = folder

    def _current(self) -> Engine:
        """The database to read from; a process that stores lets the index catch up first."""
        return self._engine

    def _held_back(self) -> Collection[str]:
        """Studies of which less is indexed than is kept, as far as this process knows: not to be judged."""
        return ()

    def studies(self) -> tuple[InboxStudy, ...]:
        """Every study that is not held back, the one that grew last first."""
        return self._summaries(true())

    def study(self, study_instance_uid: str) -> InboxStudy | None:
        """One study, or ``None`` when nothing of it has arrived, or it is held back."""
        found = self._summaries(InstanceRow.study_instance_uid == study_instance_uid)
        return found[0] if found else None

    def received_after(self, instant: datetime) -> tuple[InboxStudy, ...]:
        """Studies that grew after ``instant`` (aware), the latest first."""
        late = select(InstanceRow.study_instance_uid).where(InstanceRow.received_at > instant)
        return self._summaries(InstanceRow.study_instance_uid.in_(late))

    def paths(self, study_instance_uid: str) -> tuple[Path, ...]:
        """Files of a study, sorted by name; conflicting contents are all there."""
        query = select(InstanceRow.path).where(InstanceRow.study_instance_uid == study_instance_uid, _STANDS)
        return tuple(sorted(self.folder / path for path in fetch(self._current(), query)))

    def content(self, study_instance_uid: str) -> StudyContent:
        """What stands of a study and can be analysed; conflicting contents are all there."""
        of_study = InstanceRow.study_instance_uid == study_instance_uid
        return StudyContent(self.folder, self._contents(of_study, _IS_IMAGE, _STANDS))

    def content_of_run(self, run: Run) -> StudyContent | None:
        """The images that a run had, whatever came or was chosen since; ``None`` when they can't be told."""
        of_study = InstanceRow.study_instance_uid == run.study_instance_uid
        now = self._contents(of_study, _IS_IMAGE)
        then = [row for row in now if row.received_at <= run.created_at]
        count = Counter(row.sop_instance_uid for row in then)
        guesses = (
            then,
            [row for row in then if not row.discarded],
            # a person has taken the choice back since
            [row for row in then if row.discarded or count[row.sop_instance_uid] == 1],
            [row for row in now if not row.discarded],
        )
        contents = (StudyContent(self.folder, tuple(rows)) for rows in guesses)
        return next((content for content in contents if run.is_about(content.digest)), None)

    def contents(self, study_instance_uid: str) -> tuple[InstanceRow, ...]:
        """Every row of the images that came with more than one content, in order of arrival."""
        uid, of_study = InstanceRow.sop_instance_uid, InstanceRow.study_instance_uid == study_instance_uid
        twofold = select(uid).where(of_study, _IS_IMAGE).group_by(uid).having(func.count() > 1)
        return self._contents(of_study, _IS_IMAGE, uid.in_(twofold))

    def conflicting(self) -> tuple[InstanceRow, ...]:
        """Every row of the instances with more than one content that stands, in order of arrival."""
        return self._contents(InstanceRow.conflict.is_(True))

    def choose(self, discarded: Collection[str], standing: Collection[str]) -> None:
        """Discard the contents in these files, and let those in the others stand, all or none of it."""
        rows = InstanceRow.metadata.tables[InstanceRow.__tablename__]
        change = update(rows).where(rows.c.path == bindparam("of")).values(discarded=bindparam("to"))
        choice = [{"of": path, "to": True} for path in discarded]
        with self._current().begin() as connection:
            connection.execute(change, [*choice, *({"of": path, "to": False} for path in standing)])
            flag_conflicts(connection)

    def image_paths(self, study_instance_uid: str) -> tuple[Path, ...]:
        """Those of :meth:`paths` that can be analysed: what the chain is given."""
        return self.content(study_instance_uid).paths

    def other_cts(self, study_instance_uids: Collection[str]) -> tuple[Path, ...]:
        """One image of each CT series in these studies."""
        is_ct = InstanceRow.sop_class_uid.in_(CT_CLASSES)
        in_them = InstanceRow.study_instance_uid.in_(study_instance_uids)
        query = select(func.min(InstanceRow.path)).where(in_them, is_ct, _STANDS, IS_HERE)
        grouped = query.group_by(InstanceRow.study_instance_uid, InstanceRow.series_instance_uid)
        return tuple(sorted(self.folder / path for path in fetch(self._current(), grouped)))

    def rows_of(self, sop_instance_uids: Sequence[str]) -> tuple[InstanceRow, ...]:
        """Every content of these instances."""
        engine, uid = self._current(), InstanceRow.sop_instance_uid
        queries = (select(InstanceRow).where(uid.in_(part)) for part in in_parts(sop_instance_uids))
        return tuple(row for query in queries for row in fetch(engine, query))

    def senders(self, study_instance_uid: str) -> frozenset[str]:
        """Calling AE titles from which something of a study came, whatever stands of it."""
        of_study = InstanceRow.study_instance_uid == study_instance_uid
        return frozenset(fetch(self._current(), select(InstanceRow.calling_ae).where(of_study).distinct()))

    def series_samples(self, study_instance_uid: str) -> tuple[Path, ...]:
        """One image of each series of a study, whatever stands of it."""
        of_study = InstanceRow.study_instance_uid == study_instance_uid
        query = select(func.min(InstanceRow.path)).where(of_study, _IS_IMAGE)
        found = fetch(self._current(), query.group_by(InstanceRow.series_instance_uid))
        return tuple(sorted(self.folder / path for path in found))

    def beside(self, study_instance_uid: str) -> str:
        """What else is kept of a study (:func:`~app.node.records.overview.counted_classes`)."""
        sop_class = InstanceRow.sop_class_uid
        query = (
            select(sop_class, func.count())
            .where(InstanceRow.study_instance_uid == study_instance_uid, ~_IS_IMAGE, _STANDS)
            .group_by(sop_class)
        )
        with self._current().connect() as connection:
            return counted_classes((uid, count) for uid, count in connection.execute(query))

    def content_digest(self, study_instance_uid: str) -> str:
        """See :attr:`StudyContent.digest`."""
        return self.content(study_instance_uid).digest

    def content_digests(self) -> dict[str, str]:
        """See :attr:`StudyContent.digest`: of every study with an image, in one pass."""
        study = InstanceRow.study_instance_uid
        query = select(study, InstanceRow.sop_instance_uid, InstanceRow.sha256).where(_IS_IMAGE, _STANDS)
        with self._current().connect() as connection:
            rows = connection.execution_options(yield_per=10_000).execute(query.order_by(study))
            return {
                uid: _digest((sop_instance_uid, sha256) for _, sop_instance_uid, sha256 in group)
                for uid, group in groupby(rows, key=itemgetter(0))
            }

    def _indexed(self) -> set[str]:
        """Paths of what is here."""
        return set(fetch(self._engine, select(InstanceRow.path).where(IS_HERE)))

    def _contents(self, *which: ColumnElement[bool]) -> tuple[InstanceRow, ...]:
        return fetch(self._current(), select(InstanceRow).where(*which).order_by(InstanceRow.received_at))

    def _summaries(self, wanted: ColumnElement[bool]) -> tuple[InboxStudy, ...]:
        conflicting = func.count(case((InstanceRow.conflict, InstanceRow.sop_instance_uid)).distinct())
        last = func.max(InstanceRow.received_at)
        engine = self._current()
        query = (
            select(
                InstanceRow.study_instance_uid,
                func.count(),
                func.min(InstanceRow.received_at),
                last,
                conflicting,
                func.count(case((_IS_IMAGE, 1))),
                func.max(case((_IS_IMAGE, InstanceRow.received_at))),
                func.count(case((InstanceRow.conflict & _IS_IMAGE, InstanceRow.sop_instance_uid)).distinct()),
            )
            .where(wanted, _STANDS, InstanceRow.study_instance_uid.not_in(self._held_back()))
            .group_by(InstanceRow.study_instance_uid)
            .order_by(last.desc(), InstanceRow.study_instance_uid)
        )
        with engine.connect() as connection:
            return tuple(InboxStudy(*row) for row in connection.execute(query))


def _digest(contents: Iterable[tuple[str, str]]) -> str:
    """Of pairs of SOP Instance UID and SHA-256."""
    lines = sorted(f"{uid} {sha256}\n" for uid, sha256 in contents)
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def in_parts(uids: Sequence[str]) -> Iterator[Sequence[str]]:
    """UIDs as many at a time as are asked for in a query."""
    return (uids[at : at + MOST_IN_A_QUERY] for at in range(0, len(uids), MOST_IN_A_QUERY))


def is_intact(folder: Path, row: InstanceRow) -> bool:
    """Whether the file below the inbox's ``folder`` is still what was received."""
    try:
        found = read_received(folder / row.path)
    except (OSError, *NOT_AS_RECEIVED):
        return False
    syntax = row.transfer_syntax_uid or found.identity.transfer_syntax_uid
    return (found.identity.sha256, found.identity.transfer_syntax_uid) == (row.sha256, syntax)


def flag_conflicts(connection: Connection, sop_instance_uid: str | None = None) -> bool:
    """Flag the UIDs, or one, with more than one content that stands; returns whether there is any.

    After the commit, so that the last writer sees all.
    """
    uid = InstanceRow.sop_instance_uid
    wanted = true() if sop_instance_uid is None else uid == sop_instance_uid
    twofold = select(uid).where(wanted, _STANDS).group_by(uid).having(func.count() > 1)
    conflict = and_(_STANDS, uid.in_(twofold))
    changed = update(InstanceRow).where(wanted, InstanceRow.conflict != conflict)
    connection.execute(changed.values(conflict=conflict))
    return connection.scalar(twofold.limit(1)) is not None
