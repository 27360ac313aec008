"""One DICOM object as the file that leaves."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset

from app.dicom.read_back import parse
from app.dicom.uids import NoticeKind, ResultKind


@dataclass(frozen=True, eq=False)
class Result:
    """One DICOM object.

    Attributes:
        kind: which of an analysis's objects, or of a notice's.
        file_name: unique, safe on any file system.
        dataset: as read back from ``content``.
        content: the file's bytes, those that are verified.
    """

    kind: ResultKind | NoticeKind
    file_name: str
    dataset: Dataset
    content: bytes


def encoded(kind: ResultKind | NoticeKind, dataset: Dataset) -> Result:
    """The file of a dataset, and what it reads as."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    content = buffer.getvalue()
    return Result(kind, f"{kind.value}.{dataset.SOPInstanceUID}.dcm", parse(content), content)
