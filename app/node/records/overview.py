"""What ``psma-node status`` shows of a node's database, by a few queries to the database's driver.

The import of SQLAlchemy takes as long as all the rest of that command, and queries for each study take the
longer, the more there are. ``tests/node/workflow/test_overview.py`` proves that these find what the ledgers
find.
"""

from __future__ import annotations

import runpy
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from app.domain.selection.screening import IMAGE_CLASSES
from app.domain.study import is_placeholder
from app.node.records.migrations import REVISION
from app.node.records.states import DeliveryState, RunKey, StudyState, Turn

if TYPE_CHECKING:
    from app.node.policy import NodePolicy


@dataclass(frozen=True)
class InboxStudy:
    """A study as far as it has arrived.

    Attributes:
        conflicts: UIDs that came with more than one content, of which a person has not chosen one yet.
        image_conflicts: those of them that can be analysed.
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
    image_conflicts: int = 0


@dataclass(frozen=True)
class KnownStudy:
    """What the node last knew of a study (:class:`~app.node.records.studies.StudyRow`)."""

    state: StudyState | None
    reason: str
    acquired_at: datetime | None
    patient_id: str | None = field(repr=False)
    accession_number: str | None = field(repr=False)


@dataclass(frozen=True)
class LastRun:
    """The latest revision of a study (:class:`~app.node.records.runs.Run`); ``turn``: while it waits."""

    key: RunKey
    state: StudyState
    stage: str
    reason: str
    next_try_at: datetime | None
    by_headers: bool
    started_at: datetime | None
    turn: Turn


@dataclass(frozen=True)
class DeliveryStatus:
    """How far one destination is: ``acknowledged`` of ``total`` instances, ``committed`` of those.

    ``committed`` counts those that the destination took charge of, or was found to have; it stays 0 where the
    settings ask for no such proof.
    """

    destination: str
    state: DeliveryState
    acknowledged: int
    total: int
    reason: str
    next_try_at: datetime | None
    committed: int = 0


@dataclass(frozen=True)
class Overview:
    """Every study of a node, by Study Instance UID.

    Attributes:
        inbox: as received, the one that began to arrive first first.
        others: what is kept of a study beside its images: how many of which SOP Class UID.
        earlier_pets: of a SPECT, the studies of the same patient with a PET result from before it, the latest
            first.
    """

    inbox: tuple[InboxStudy, ...]
    known: dict[str, KnownStudy]
    latest: dict[str, LastRun]
    deliveries: dict[RunKey, list[DeliveryStatus]]
    others: dict[str, list[tuple[str, int]]]
    earlier_pets: dict[str, list[str]]


class Connection(Protocol):
    """Of a driver of either database (PEP 249)."""

    def cursor(self) -> Any: ...


_KNOWN = """
    SELECT study_instance_uid, state, reason, coalesce(pet_acquired_at, spect_acquired_at), patient_id,
        accession_number
    FROM studies"""

_LATEST = """
    SELECT study_instance_uid, revision, state, stage, reason, next_try_at, by_headers, started_at, rank,
        sender, queued_at
    FROM runs AS last
    WHERE revision = (SELECT max(revision) FROM runs WHERE study_instance_uid = last.study_instance_uid)"""

_DELIVERIES = """
    SELECT d.study_instance_uid, d.revision, d.destination, d.state,
        count(CASE WHEN i.acknowledged_at IS NOT NULL AND i.dicom_status IS NOT NULL THEN 1 END),
        count(i.sop_instance_uid), d.reason, d.next_try_at, count(i.committed_at)
    FROM deliveries AS d LEFT JOIN delivered_instances AS i ON i.study_instance_uid = d.study_instance_uid
        AND i.revision = d.revision AND i.destination = d.destination
    GROUP BY d.study_instance_uid, d.revision, d.destination
    ORDER BY d.created_at, d.destination"""

_IS_IMAGE = f"sop_class_uid IN ({', '.join(map(repr, map(str, IMAGE_CLASSES)))})"

_INBOX = f"""
    SELECT study_instance_uid, count(*), min(received_at), max(received_at),
        count(DISTINCT CASE WHEN conflict THEN sop_instance_uid END),
        count(CASE WHEN {_IS_IMAGE} THEN 1 END), max(CASE WHEN {_IS_IMAGE} THEN received_at END),
        count(DISTINCT CASE WHEN conflict AND {_IS_IMAGE} THEN sop_instance_uid END)
    FROM instances WHERE NOT discarded
    GROUP BY study_instance_uid
    ORDER BY min(received_at), max(received_at) DESC, study_instance_uid"""  # noqa: S608  constants alone

_OTHERS = f"""
    SELECT study_instance_uid, sop_class_uid, count(*) FROM instances
    WHERE NOT discarded AND NOT {_IS_IMAGE}
    GROUP BY study_instance_uid, sop_class_uid"""  # noqa: S608  constants alone

_EARLIER_PETS = """
    SELECT spect.study_instance_uid, pet.study_instance_uid, spect.patient_id
    FROM studies AS spect JOIN studies AS pet ON pet.patient_id = spect.patient_id
        AND pet.issuer = spect.issuer AND pet.study_instance_uid <> spect.study_instance_uid
        AND pet.pet_acquired_at < spect.spect_acquired_at
    WHERE pet.study_instance_uid IN (SELECT study_instance_uid FROM pet_results)
    ORDER BY pet.pet_acquired_at DESC"""


def overview(connection: Connection) -> Overview:
    """Everything at once; in this order, since a study is in the inbox before it is in a ledger."""
    known = {
        uid: KnownStudy(StudyState(state) if state else None, reason, _local(acquired), *whose)
        for uid, state, reason, acquired, *whose in _rows(connection, _KNOWN)
    }
    latest = {row[0]: _last_run(*row) for row in _rows(connection, _LATEST)}
    deliveries = defaultdict(list)
    for uid, revision, name, state, done, total, reason, next_try, committed in _rows(
        connection, _DELIVERIES
    ):
        delivery = DeliveryStatus(
            name, DeliveryState(state), done, total, reason, _instant(next_try), committed
        )
        deliveries[RunKey(uid, revision)].append(delivery)
    others, earlier_pets = defaultdict(list), defaultdict(list)
    for spect, pet, patient_id in _rows(connection, _EARLIER_PETS):
        if not is_placeholder(patient_id):
            earlier_pets[spect].append(pet)
    inbox = tuple(_inbox_study(*row) for row in _rows(connection, _INBOX))
    if any(study.image_count < study.instance_count for study in inbox):
        for uid, sop_class_uid, count in _rows(connection, _OTHERS):
            others[uid].append((sop_class_uid, count))
    return Overview(inbox, known, latest, deliveries, others, earlier_pets)


def _last_run(uid: str, revision: int, state: str, stage: str, reason: str, *others: Any) -> LastRun:
    next_try, by_headers, started, rank, sender, created = others
    key = RunKey(uid, revision)
    turn = Turn(key, rank, sender, _utc(created))
    return LastRun(
        key, StudyState(state), stage, reason, _instant(next_try), bool(by_headers), _instant(started), turn
    )


def quick_overview(policy: NodePolicy) -> Overview | None:
    """That of a node with an SQLite database of this version, read without SQLAlchemy.

    ``None`` for every other: to open it, to take it over from an earlier version, or to say what is wrong
    with it is for :func:`app.node.records.stores.open_known_stores`.
    """
    if policy.database_url:
        return None
    place = f"file:{quote(str(policy.database_file))}?mode=rw"  # rw: no file is made
    try:
        with closing(sqlite3.connect(place, uri=True)) as connection:
            is_current = _rows(connection, "SELECT version_num FROM alembic_version") == [(REVISION,)]
            return overview(connection) if is_current else None
    except sqlite3.Error:  # whoever opens it in full meets the same, and has words for it
        return None


def counted_classes(counts: Iterable[tuple[str, int]]) -> str:
    """How many objects of which SOP Class UID, in the words of PS3.6 A; empty for nothing."""
    named = sorted((_class_names().get(uid, (uid,))[0], count) for uid, count in counts)
    return ", ".join(f"{count} {name}" for name, count in named)


@cache
def _class_names() -> Mapping[str, Sequence[str]]:
    """pydicom's table of UIDs alone: all of pydicom takes a quarter of a second to import."""
    package = find_spec("pydicom")
    if package is None or package.origin is None:  # it is installed with this program
        raise ModuleNotFoundError("pydicom")
    path = Path(package.origin).with_name("_uid_dict.py")
    table: Mapping[str, Sequence[str]] = runpy.run_path(str(path))["UID_dictionary"]
    return table


def _rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    with closing(connection.cursor()) as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def _inbox_study(uid: str, count: int, first: Any, last: Any, *rest: Any) -> InboxStudy:
    conflicts, images, last_image, image_conflicts = rest
    return InboxStudy(
        uid, count, _utc(first), _utc(last), conflicts, images, _instant(last_image), image_conflicts
    )


def _utc(stored: str | datetime) -> datetime:
    """An instant of either driver: SQLite has text; both are without their zone, which is UTC."""
    found = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return found.replace(tzinfo=UTC)


def _instant(stored: str | datetime | None) -> datetime | None:
    return None if stored is None else _utc(stored)


def _local(stored: str | None) -> datetime | None:
    return None if stored is None else datetime.fromisoformat(stored)
