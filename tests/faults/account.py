"""The account of every image and every result: what was promised or made, and what is there.

It reads the inbox's files, the ledgers, the audit log and what the destinations hold, and compares them with
what senders were told.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.node.records.audit import AuditEvent
from app.node.records.stores import NodeStores
from tests.node.receive.images import data_set_of
from tests.node.workflow.fake_node import KINDS, derived_uid

REMOVED = str(AuditEvent.STUDY_REMOVED)


def digest(path: Path) -> str:
    """Of the data set: the file meta information is the receiver's own."""
    return hashlib.sha256(data_set_of(path.read_bytes())).hexdigest()


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
        kept = [stores.inbox.content(study) for study in (*self.images, *self.refused)]
        files = [(row, one.folder / row.path) for one in kept for row in one.rows]
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

    def of_results(
        self, stores: NodeStores, calls: Collection[str], destinations: Mapping[str, Collection[str]]
    ) -> Iterator[str]:
        """Results that a destination lacks, or has of no revision; a line each.

        Args:
            calls: a line for each run of the pretended chain: study, revision, number of images.
            destinations: by name, the SOP Instance UIDs that each holds.
        """
        runs = {study: stores.runs.of_study(study) for study in self.images}
        revisions = {study: [run.key.revision for run in found] for study, found in runs.items()}
        for study, numbers in revisions.items():
            last, count = max(numbers, default=0), self.images[study]
            if f"{study} {last} {count}" not in calls:
                yield f"study {study}: revision {last} was not made of all {count} images"
        for name, there in destinations.items():
            yield from _of_destination(name, there, revisions)


def _of_destination(
    name: str, there: Collection[str], revisions: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    explained: set[str] = set()
    for study, numbers in revisions.items():
        last = max(numbers, default=0)
        for kind in KINDS:
            if derived_uid(study, kind, last) not in there:
                yield f"study {study}: {kind} of revision {last} did not reach {name}"
        explained |= {derived_uid(study, kind, number) for kind in KINDS for number in numbers}
    yield from (f"result {uid}: at {name}, of no revision" for uid in set(there) - explained)
