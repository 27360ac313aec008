"""Studies from files: headers only, whatever the files are called and however they are nested.

A file that can't be read becomes a reason; instances that contradict each other, faults of their series.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.errors import InvalidDicomError

from app.dicom import header_values as header
from app.dicom.dicom_file import archive_kind, read_header
from app.dicom.reading.compression import IsolatedDecoder
from app.dicom.reading.content import differing_tags, named
from app.dicom.reading.series_header import KEYWORDS, FileHeader, announced_images, file_header
from app.dicom.reading.set_aside import without_foreign
from app.domain.clocks import earliest, earliest_clocks
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.pair import FUNCTIONAL_CLASSES
from app.domain.selection.screening import CT_IMAGE, MODALITY_OF_CLASS
from app.domain.study import Series, Study
from app.errors import UnusableStudyError

MUST_AGREE = {
    "sop_class_uid": "SOPClassUID",
    "modality": "Modality",
    "frame_of_reference_uid": "FrameOfReferenceUID",
    "image_type": "ImageType",
    "corrected_image": "CorrectedImage",
    "units": "Units",
    "timezone_offset": "TimezoneOffsetFromUTC",
    "radiopharmaceutical": "RadiopharmaceuticalInformationSequence",
    "series_type": "SeriesType",
}
"""Fields of a series that every one of its instances must give the same, with their keywords."""


Conflicts = dict[str, tuple[int, ...]]
"""The tags in which the contents of one SOP Instance UID differ, by that."""

UNPACK = "Unpack it, and give the folder with its files"


@dataclass(frozen=True)
class StudyReading:
    """What a set of files holds.

    Attributes:
        studies: in order of Study Instance UID.
        unreadable: one reason a file that is no usable DICOM, by its name relative to the folder.
    """

    studies: tuple[Study, ...]
    unreadable: tuple[Reason, ...] = ()


def read_studies(source: Path | Iterable[Path]) -> StudyReading:
    """Every study in a folder (nested folders too) or in the given files.

    The result does not depend on names or order of the files: instances are sorted by SOP Instance UID,
    duplicates count once, whatever their lossless transfer syntax (:mod:`app.dicom.reading.content`). Two
    contents under one SOP Instance UID, and instances that contradict each other, become faults of a series.

    Raises:
        FileNotFoundError: ``source`` is a path where nothing is.
    """
    root, paths = _files(source)
    headers: list[FileHeader] = []
    unreadable: list[Reason] = []
    with header.tolerant():
        for path in paths:
            found = _read(path, root)
            if isinstance(found, Reason):
                unreadable.append(found)
            else:
                headers.append(found)
    unique, conflicting = _without_duplicates(headers)
    by_study = _grouped(unique, lambda item: item.study.study_instance_uid)
    lines = tuple(str(reason) for reason in unreadable)
    studies = [replace(_study(members, conflicting), unreadable=lines) for _, members in by_study]
    return StudyReading(tuple(with_cts_elsewhere(study, studies) for study in studies), tuple(unreadable))


def with_cts_elsewhere(study: Study, studies: Sequence[Study]) -> Study:
    """A study, with the CTs of its functional images' frames of reference that came in other studies."""
    frames = {one.frame_of_reference_uid for one in study.series if one.sop_class_uid in FUNCTIONAL_CLASSES}
    found = tuple(
        (ct.frame_of_reference_uid, f"CT series {ct.series_instance_uid} of study {other.study_instance_uid}")
        for other in studies
        if other.study_instance_uid != study.study_instance_uid
        and other.patient.patient_id == study.patient.patient_id
        for ct in other.series
        if ct.sop_class_uid == CT_IMAGE and ct.frame_of_reference_uid in frames - {""}
    )
    return replace(study, cts_elsewhere=found)


def read_study(source: Path | Iterable[Path]) -> Study:
    """The only study in ``source``.

    Raises:
        UnusableStudyError: there is none, or more than one.
    """
    reading = read_studies(source)
    if len(reading.studies) == 1:
        return reading.studies[0]
    found = f"{len(reading.studies)} studies"
    wanted = Reason(RefusalCode.UNREADABLE, "StudyInstanceUID", found, "the files of one study")
    raise UnusableStudyError(wanted, *reading.unreadable)


def _files(source: Path | Iterable[Path]) -> tuple[Path, list[Path]]:
    """The common folder, and every regular file, sorted."""
    if not isinstance(source, Path):
        paths = sorted(set(source))
        root = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
        return root, paths
    if source.is_file():
        return source.parent, [source]
    if not source.is_dir():
        raise FileNotFoundError(f"no such file or folder: {source}")
    return source, files_beneath(source)


def files_beneath(folder: Path) -> list[Path]:
    """Every regular file, sorted, in linked folders too; each real folder once, so that rings come to an end.

    A link to nothing is there as a file that can't be read: the folder behind it may not be mounted.
    """
    return sorted(_walked(folder))


def _walked(folder: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for path in (Path(parent, name) for name in files):
            if path.is_file() or (path.is_symlink() and not path.exists()):
                yield path


def _read(path: Path, root: Path) -> FileHeader | Reason:
    name = path.relative_to(root).as_posix()
    expected = "a DICOM file with SOP Class, SOP Instance, Series and Study Instance UID"
    try:
        dataset = read_header(path, KEYWORDS)
        missing = [
            keyword
            for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
            if not header.uid(dataset, keyword)
        ]
        if missing:
            found = f"{name}: {', '.join(missing)} absent or malformed"
            return Reason(RefusalCode.UNREADABLE, missing[0], found, expected)
        return file_header(dataset, path)
    except header.READ_ERRORS as error:
        what, advice = _foreign(path) if isinstance(error, InvalidDicomError) else (type(error).__name__, "")
        return Reason(RefusalCode.UNREADABLE, "", f"{name}: {what}", expected, advice)


def _foreign(path: Path) -> tuple[str, str]:
    """What a file without DICOM's preamble is, and what to do, where that is not what UNREADABLE says."""
    archive = archive_kind(path)
    if archive:
        return f"a {archive} archive", UNPACK
    return "not a DICOM file (PS3.10: DICM after 128 bytes)", ""


def _without_duplicates(headers: Sequence[FileHeader]) -> tuple[list[FileHeader], Conflicts]:
    """One header a SOP Instance UID, sorted by it; and the UIDs under which there are several contents."""
    unique: list[FileHeader] = []
    conflicting: Conflicts = {}
    with IsolatedDecoder() as decoder:
        for uid, same in _grouped(headers, lambda item: item.instance.sop_instance_uid):
            kept = same if len(same) == 1 else _contents(same, decoder)
            if len(kept) > 1:
                first, second, *_ = (item.instance.path for item in kept)
                conflicting[uid] = differing_tags(first, second, decoder)
            # kept apart, so that every series that one of them claims to be in gets the fault
            unique.extend(kept)
    return unique, conflicting


def _contents(same: Sequence[FileHeader], decoder: IsolatedDecoder) -> list[FileHeader]:
    """One header a content; the other bytes of another transfer syntax are the same one."""
    kept: list[FileHeader] = []
    by_bytes = {_content_sha256(item.instance.path): item for item in reversed(same)}
    for _, item in sorted(by_bytes.items()):
        path = item.instance.path
        if all(differing_tags(path, other.instance.path, decoder) for other in kept):
            kept.append(item)
    return kept


def _content_sha256(path: Path) -> str:
    """Digest of the data set alone: preamble and file meta tell who wrote the file, not what is in it."""
    content = path.read_bytes()
    start = 0
    if content[128:136] == b"DICM\x02\x00\x00\x00" and content[136:138] == b"UL":
        start = 144 + int.from_bytes(content[140:144], "little")
    return hashlib.sha256(content[start:]).hexdigest()


def _grouped(
    headers: Sequence[FileHeader], uid_of: Callable[[FileHeader], str]
) -> list[tuple[str, list[FileHeader]]]:
    """Headers by a UID, sorted by it; those of one UID in the order in which they came."""
    groups: dict[str, list[FileHeader]] = defaultdict(list)
    for item in headers:
        groups[uid_of(item)].append(item)
    return sorted(groups.items())


def _study(members: Sequence[FileHeader], conflicting: Conflicts) -> Study:
    images = [item for item in members if item.series.sop_class_uid in MODALITY_OF_CLASS] or members
    faults = _several_patients(images)
    by_series = _grouped(members, lambda item: item.series.series_instance_uid)
    series = []
    for _, mates in by_series:
        # a report or capture under another patient's number is set aside by itself
        series.append(_series(mates, conflicting, faults or _several_patients([*images[:1], *mates])))
    with_issuer = max(images, key=lambda item: bool(item.study.patient.issuer))
    return replace(with_issuer.study, series=tuple(series))


def _several_patients(members: Sequence[FileHeader]) -> tuple[Reason, ...]:
    """That images are of several patients; an issuer that only some of them name is no other patient."""
    patients = {item.study.patient for item in members}
    issuers = {patient.issuer for patient in patients} - {""}
    if len({patient.patient_id for patient in patients}) == 1 and len(issuers) < 2:
        return ()
    found, expected = "several patients in one study", "one PatientID and issuer in all images of a study"
    return (Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, "PatientID", found, expected),)


def _series(files: Sequence[FileHeader], conflicting: Conflicts, faults: tuple[Reason, ...]) -> Series:
    uid = files[0].series.series_instance_uid
    frames = [frame for item in files for frame in item.frames or (item,)]
    mates, set_aside = without_foreign(frames)
    own = dict.fromkeys(fault for item in mates for fault in item.series.faults)
    found = [*faults, *own, *_conflicts(mates, conflicting), *_contradictions(mates), *_missing_parts(files)]
    instances = {
        (item.instance.sop_instance_uid, item.instance.frame_number or 0): item.instance
        for item in reversed(mates)
    }
    return replace(
        mates[0].series,
        instances=tuple(instances[key] for key in sorted(instances)),
        series_datetime=earliest(item.series.series_datetime for item in mates),
        acquired_at=earliest(item.series.acquired_at for item in mates),
        clocks=earliest_clocks([item.series.clocks for item in mates]),
        expected_instance_count=_announced(files, mates),
        is_lossy=any(item.series.is_lossy for item in mates),
        faults=tuple(replace(reason, series_instance_uid=uid) for reason in found),
        set_aside=set_aside,
    )


def _conflicts(mates: Sequence[FileHeader], conflicting: Conflicts) -> list[Reason]:
    twice = {item.instance.sop_instance_uid for item in mates} & conflicting.keys()
    if not twice:
        return []
    tags = sorted({tag for uid in twice for tag in conflicting[uid]})
    found = f"{len(twice)} UIDs with more than one content, which differ in {named(tags)}"
    expected = "one content for each SOP Instance UID"
    return [Reason(RefusalCode.CONFLICTING_DUPLICATE, "SOPInstanceUID", found, expected)]


def _announced(files: Sequence[FileHeader], mates: Sequence[FileHeader]) -> int | None:
    """An Enhanced PET or CT, whole or with all its parts, holds every frame that it has."""
    is_whole = len(files) == 1 or all(item.parts for item in files)
    if all(item.frames for item in files) and is_whole and not _missing_parts(files):
        return len(mates)
    return announced_images([item.announcement for item in mates])


def _missing_parts(files: Sequence[FileHeader]) -> list[Reason]:
    """A concatenation, one image in several instances (PS3.3 C.7.6.16.2.2.4), of which some never came."""
    announced = max(item.parts for item in files)
    here = len({item.instance.sop_instance_uid for item in files if item.parts})
    if here >= announced:
        return []
    found, expected = f"{here} instances", f"{announced} instances of one concatenation"
    return [Reason(RefusalCode.INCOMPLETE_SERIES, "InConcatenationTotalNumber", found, expected)]


def _contradictions(mates: Sequence[FileHeader]) -> list[Reason]:
    reasons = []
    for name, keyword in MUST_AGREE.items():
        values = sorted({_spelled(getattr(item.series, name)) for item in mates})
        if len(values) > 1:
            found = f"{len(values)} values in one series"
            if name != "radiopharmaceutical":
                found = f"{' and '.join(repr(item) for item in values[:2])} in one series"
            expected = "the same on every instance"
            reasons.append(Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, keyword, found, expected))
    return reasons


def _spelled(value: object) -> str:
    """Image Type beyond value 4 carries per-image remarks of some vendors; the first four tell what it is."""
    return "\\".join(value[:4]) if isinstance(value, tuple) else str(value)
