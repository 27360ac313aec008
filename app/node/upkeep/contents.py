"""``psma-node discard``: images that came with more than one content, and which of the contents stands.

Nothing is removed: a content that is discarded stays in the inbox, is not analysed, and may be chosen again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from app.dicom.reading.compression import IsolatedDecoder
from app.dicom.reading.content import differing_tags, named
from app.errors import MisconfiguredError
from app.node.records.audit import AuditEvent
from app.node.records.database import iso_or_empty
from app.node.records.inbox_index import InstanceRow
from app.node.records.states import StudyState
from app.node.records.stores import NodeStores


@dataclass(frozen=True)
class _Numbered:
    """One content of an image: the first that came is number 1."""

    number: int
    row: InstanceRow

    def is_named(self, names: Sequence[str]) -> bool:
        return str(self.number) in names or self.row.calling_ae in names


def describe_contents(stores: NodeStores, study_instance_uid: str) -> tuple[str, ...]:
    """A line for the contents of each series that have one number and one sender.

    Raises:
        MisconfiguredError: no image of the study has more than one content.
    """
    groups: dict[tuple[str, int, str], list[InstanceRow]] = defaultdict(list)
    first: dict[str, InstanceRow] = {}
    for item in _numbered(stores, study_instance_uid):
        groups[item.row.series_instance_uid, item.number, item.row.calling_ae].append(item.row)
        first.setdefault(item.row.sop_instance_uid, item.row)
    return tuple(
        f"series {series}, content {number} from {sender}: {_words(stores, rows, first)}"
        for (series, number, sender), rows in sorted(groups.items())
    )


def discard_contents(stores: NodeStores, study_instance_uid: str, names: Sequence[str], series: str) -> str:
    """Discard the contents with these numbers or from these senders; the others of the same images stand.

    Args:
        stores: of a node that runs or is stopped.
        study_instance_uid: of the study.
        names: numbers as :func:`describe_contents` gives them, or AE titles.
        series: only images of this series, where it is not empty.

    Returns what will be done, in words.

    Raises:
        MisconfiguredError: no such content, or no content of an image would be left.
    """
    images: dict[str, list[_Numbered]] = defaultdict(list)
    for item in _numbered(stores, study_instance_uid):
        if series in ("", item.row.series_instance_uid):
            images[item.row.sop_instance_uid].append(item)
    named = [items for items in images.values() if any(item.is_named(names) for item in items)]
    if not named:
        raise MisconfiguredError(f"no content {' or '.join(names)}; psma-node discard STUDY lists them")
    if any(all(item.is_named(names) for item in items) for items in named):
        raise MisconfiguredError(f"without {' and '.join(names)} nothing of an image would be left")
    chosen = [(item.row.path, item.is_named(names)) for items in named for item in items]
    discarded = [path for path, is_named in chosen if is_named]
    stores.inbox.choose(discarded, [path for path, is_named in chosen if not is_named])
    facts = {"discarded": list(names), "series": series, "files": len(discarded)}
    stores.audit.append(AuditEvent.CONTENT_CHOSEN, study_instance_uid, facts)
    stores.studies.observe(study_instance_uid, StudyState.RECEIVING, "a person has chosen its content")
    return (
        f"{len(discarded)} images are discarded; the study is analysed unless its result is from the others"
    )


def _numbered(stores: NodeStores, study_instance_uid: str) -> Iterator[_Numbered]:
    rows = stores.inbox.contents(study_instance_uid)
    if not rows:
        raise MisconfiguredError(f"no image of study {study_instance_uid} came with more than one content")
    count: dict[str, int] = defaultdict(int)
    for row in rows:
        count[row.sop_instance_uid] += 1
        yield _Numbered(count[row.sop_instance_uid], row)


def _words(stores: NodeStores, rows: Sequence[InstanceRow], first: dict[str, InstanceRow]) -> str:
    one = rows[0]
    syntax = f", {UID(one.transfer_syntax_uid).name}" if one.transfer_syntax_uid else ""
    words = f"{len(rows)} images{syntax}, received {iso_or_empty(one.received_at)}"
    other = first[one.sop_instance_uid]
    if other is not one:
        folder = stores.inbox.folder
        with IsolatedDecoder() as decoder:
            tags = differing_tags(folder / other.path, folder / one.path, decoder)
        words += f"; the first differs from content 1 in {named(tags)}"
    return f"{words}; discarded" if one.discarded else words
