"""What every form of truth has in common: the references of a reader's file, and the regions drawn in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from app.dicom import header_values as header
from app.dicom.results.policy import LABEL_MAP_SEGMENTATION_STORAGE
from app.domain.volume import LabelMap
from app.errors import PsmaNodeError

SEGMENTATION_CLASSES = (SegmentationStorage, LABEL_MAP_SEGMENTATION_STORAGE)

TRUTH_CLASSES = (*SEGMENTATION_CLASSES, RTStructureSetStorage)

_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence",
)  # fmt: skip


@dataclass(frozen=True)
class TruthHeader:
    """References of a SEG or RTSTRUCT.

    Attributes:
        frames_of_reference: UIDs of the coordinate systems it draws in; empty when it names none.
        referenced_series: Series Instance UIDs of the images that it was drawn on.
    """

    path: Path
    is_segmentation: bool
    sop_instance_uid: str
    study_instance_uid: str
    frames_of_reference: frozenset[str]
    referenced_series: frozenset[str]


def read_truth_header(path: Path) -> TruthHeader | None:
    """The references of a SEG or RTSTRUCT; ``None`` for any other DICOM object.

    Raises:
        one of :data:`app.dicom.header_values.READ_ERRORS`: no DICOM file, or a damaged one.
    """
    with header.tolerant():
        dataset = header.read_header(path, _KEYWORDS)
        sop_class = header.uid(dataset, "SOPClassUID")
        if sop_class not in TRUTH_CLASSES:
            return None
        frames = [dataset, *header.items(dataset, "ReferencedFrameOfReferenceSequence")]
        return TruthHeader(
            path=path,
            is_segmentation=sop_class in SEGMENTATION_CLASSES,
            sop_instance_uid=header.uid(dataset, "SOPInstanceUID"),
            study_instance_uid=header.uid(dataset, "StudyInstanceUID"),
            frames_of_reference=_uids(frames, "FrameOfReferenceUID"),
            referenced_series=_uids(_series_items(dataset), "SeriesInstanceUID"),
        )


def _series_items(dataset: Dataset) -> list[Dataset]:
    """Of SEG the Common Instance Reference (C.12.2), of RTSTRUCT the RT Referenced Series (C.8.8.5)."""
    studies = (
        study
        for frame in header.items(dataset, "ReferencedFrameOfReferenceSequence")
        for study in header.items(frame, "RTReferencedStudySequence")
    )
    structures = [series for study in studies for series in header.items(study, "RTReferencedSeriesSequence")]
    return [*header.items(dataset, "ReferencedSeriesSequence"), *structures]


def _uids(items: list[Dataset], keyword: str) -> frozenset[str]:
    return frozenset(found for item in items if (found := header.uid(item, keyword)))


class UnusableTruthError(PsmaNodeError):
    """A reader's file can't be used for this scan; the message says why and names no patient."""


@contextmanager
def being_read(what: str) -> Iterator[None]:
    """Reading a reader's file, which scanners and programs write with values that the Standard forbids.

    Raises:
        UnusableTruthError: the file is damaged.
    """
    try:
        with header.tolerant():
            yield
    except (*header.READ_ERRORS, RuntimeError) as error:
        raise UnusableTruthError(f"the {what} is damaged or incomplete ({type(error).__name__})") from error


@dataclass(frozen=True, eq=False)
class Outlines:
    """Regions of one file on the functional image's grid.

    Attributes:
        labels: each region's number, in the file's order; a number may be missing where nothing is left.
        share_outside: share of what was drawn that lies outside the functional image, 0..1.
        resampled: drawn on another grid than the functional image's.
        warnings: what a person should know.
    """

    labels: LabelMap
    share_outside: float = 0.0
    resampled: bool = False
    warnings: tuple[str, ...] = ()


def chosen(names: Iterable[tuple[int, str]], wanted: str) -> list[int]:
    """Numbers of the regions whose name holds the regular expression ``wanted`` (case ignored; empty: all).

    Raises:
        UnusableTruthError: there are regions, and none is wanted.
    """
    named = list(names)
    numbers = [number for number, name in named if re.search(wanted, name, re.IGNORECASE)]
    if named and not numbers:
        raise UnusableTruthError(f"none of {len(named)} outlined regions has a name that --roi allows")
    return numbers
