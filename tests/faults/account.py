"""The account of every image and every result: what was promised or made, and what is there.

It reads the inbox's files, the ledgers, the audit log and what the destinations hold, and compares them with
what senders were told.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.node.records.audit import AuditEvent
from app.node.records.inbox_index import InstanceRow
from app.node.records.stores import NodeStores
from tests.node.receive.images import data_set_of
from tests.node.workflow.fake_node import KINDS, derived_uid

REMOVED = str(AuditEvent.STUDY_REMOVED)


def digest(path: Path) -> str:
    """Of the data set: the file meta information is the receiver's own."""
    return hashlib.sha256(data_set_of(path.read_bytes())).hexdigest()


@dataclass(frozen=True)
class Destination:
    """SOP Instance UIDs of what was sent there, and of what it still has."""

    name: str
    kept: Collection[str]
    received: Collection[str]


@dataclass(frozen=True)
class Account:
    """Everything that was sent.

    Attributes:
        promised: SOP Instance UID → digest of what was sent, of each image that was acknowledged.
        images: study → how many images it has, of each that gives results.
        refused: studies that give none.
    """

    promised: Mapping[str, str]
    images: Mapping[str, int]
    refused: Collection[str] = ()

    def of_images(self, stores: NodeStores) -> Iterator[str]:
        """Acknowledged images that are not there, or not once, or not as they were sent; a line each.

        One that retention has removed with its study, as index and audit log say, is accounted for.
        """
        removed = {entry["study"] for entry in stores.audit.entries() if entry["event"] == REMOVED}
        files = self._files(stores)
        rows = {row.sop_instance_uid: (row, path) for row, path in files}
        for uid, content in self.promised.items():
            row, path = rows.get(uid, (None, Path()))
            if row is None:
                yield f"image {uid}: acknowledged, not in the index"
            elif row.removed_at is not None and row.study_instance_uid in removed:
                continue
            elif not path.is_file():
                yield f"image {uid}: acknowledged, no file"
            elif digest(path) != content:
                yield f"image {uid}: acknowledged, its file has another content"
        twice = Counter(row.sop_instance_uid for row, _ in files)
        yield from (f"image {uid}: {count} times in the index" for uid, count in twice.items() if count > 1)

    def _files(self, stores: NodeStores) -> list[tuple[InstanceRow, Path]]:
        kept = [stores.inbox.content(study) for study in (*self.images, *self.refused)]
        return [(row, one.folder / row.path) for one in kept for row in one.rows]

    def of_commitments(
        self, stores: NodeStores, committed: Collection[str], failed: Collection[str]
    ) -> Iterator[str]:
        """Images of which a sender has the storage commitment, or was refused it; a line each wrong one."""
        for_good = {row.sop_instance_uid for row, _ in self._files(stores) if row.committed_at is not None}
        for uid in set(committed) - for_good:
            yield f"image {uid}: acknowledged and committed, the index does not say that it stays"
        for uid in failed:
            yield f"image {uid}: acknowledged, and not committed when its sender asked"

    def of_results(
        self, stores: NodeStores, calls: Collection[str], destinations: Iterable[Destination]
    ) -> Iterator[str]:
        """Results that a destination lacks, or was sent of no revision; a line each.

        Args:
            calls: a line for each run of the pretended chain: study, revision, number of images.
        """
        runs = {study: stores.runs.of_study(study) for study in self.images}
        revisions = {study: [run.key.revision for run in found] for study, found in runs.items()}
        for study, numbers in revisions.items():
            last, count = max(numbers, default=0), self.images[study]
            if f"{study} {last} {count}" not in calls:
                yield f"study {study}: revision {last} was not made of all {count} images"
        for destination in destinations:
            yield from _of_destination(destination, revisions)

    def of_audit(self, stores: NodeStores) -> Iterator[str]:
        """Whether the audit log holds together."""
        if not stores.audit.verify().intact:
            yield "the audit log's chain is broken"


def _of_destination(destination: Destination, revisions: Mapping[str, Sequence[int]]) -> Iterator[str]:
    explained: set[str] = set()
    for study, numbers in revisions.items():
        last = max(numbers, default=0)
        for kind in KINDS:
            if derived_uid(study, kind, last) not in destination.kept:
                yield f"study {study}: {kind} of revision {last} did not reach {destination.name}"
        explained |= {derived_uid(study, kind, number) for kind in KINDS for number in numbers}
    for uid in set(destination.received) - explained:
        yield f"result {uid}: sent to {destination.name}, of no revision"
