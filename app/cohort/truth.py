"""The truths in a folder, which of them belongs to which scan, and their outlines as numbered lesions."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np

from app.cohort.manifest import TruthForm
from app.dicom import header_values as header
from app.dicom.outlines.seg import read_segmentation
from app.dicom.outlines.truth import (
    Outlines,
    TruthHeader,
    UnusableTruthError,
    read_structure_set,
    read_truth_header,
)
from app.domain.analysis import Loaded
from app.domain.selection.pair import Selection
from app.domain.study import StudyKind
from app.domain.volume import LabelMap
from app.errors import MisconfiguredError
from app.imaging.labels import CONNECTIVITY, label_lesions, nearest_labels, share_outside
from app.imaging.nifti import read_labels

CSV_FILE = "truth.csv"
COLUMNS = ("patient_id", "kind", "file")
NIFTI_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Truth:
    """What a reader outlined in one scan.

    Attributes:
        path: the file; ``None`` when ``truth.csv`` says that there was nothing to outline.
        warnings: how it was matched, where that was not by the series it refers to.
    """

    form: TruthForm
    path: Path | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TruthRow:
    """One line of ``truth.csv``; ``path`` is ``None`` for "no lesion"."""

    line: int
    patient_id: str
    kind: StudyKind
    path: Path | None


@dataclass(frozen=True)
class TruthFolder:
    """Everything in the truth folder.

    Attributes:
        headers: SEG and RTSTRUCT, each SOP instance once.
        nifti: by name without suffix.
        unreadable: how many files are neither DICOM nor NIfTI nor ``truth.csv``.
    """

    root: Path
    headers: tuple[TruthHeader, ...] = ()
    nifti: tuple[tuple[str, Path], ...] = ()
    rows: tuple[TruthRow, ...] = ()
    unreadable: int = 0


def read_truth_folder(root: Path) -> TruthFolder:
    """List the truths below ``root``; outlines are read later.

    Raises:
        MisconfiguredError: no such folder, or ``truth.csv`` is not as described.
    """
    if not root.is_dir():
        raise MisconfiguredError(f"no such folder of truths: {root}")
    headers: dict[str, TruthHeader] = {}
    nifti, unreadable = [], 0
    for path in sorted(item for item in root.rglob("*") if item.is_file()):
        stem = _nifti_stem(path)
        if stem is not None:
            nifti.append((stem, path))
        elif path.name != CSV_FILE:
            try:
                found = read_truth_header(path)
            except header.READ_ERRORS:
                unreadable += 1
                continue
            if found is not None:
                headers.setdefault(found.sop_instance_uid, found)
    table = root / CSV_FILE
    rows = _read_rows(table) if table.is_file() else ()
    return TruthFolder(root, tuple(headers.values()), tuple(nifti), rows, unreadable)


def truth_of(
    scan: Selection, names: Sequence[str], folder: TruthFolder, taken: frozenset[str]
) -> Truth | str:
    """The truth of a scan, or why there is none.

    ``truth.csv`` decides; without a row the series that a DICOM truth refers to; then its study and frame of
    reference; then a NIfTI's name.

    Args:
        names: what ``truth.csv`` may call the patient: Patient ID, pseudonym.
        taken: functional series of all scans; what was drawn on another one of them is not this scan's.
    """
    rows = [row for row in folder.rows if row.kind is scan.kind and row.patient_id in names]
    if rows:
        return _of_row(rows, scan, taken)
    found = [*_of_references(scan, folder, taken), *_of_name(scan, folder)]
    if len(found) > 1:
        several = f"found {len(found)} truths for one scan, expected one"
        return f"{several}: leave one in the folder, or name one in {CSV_FILE}"
    if found:
        return found[0]
    expected = f"a SEG or RTSTRUCT that refers to it, <SeriesInstanceUID>.nii.gz, or a row in {CSV_FILE}"
    return f"no truth: expected {expected} (with an empty file for no lesion)"


def used_by(scan: Selection) -> tuple[str, str]:
    """The series that a truth of this scan may have been drawn on."""
    return scan.functional.series_instance_uid, scan.ct.series_instance_uid


def unused(
    folder: TruthFolder, scans: Sequence[Selection], known: Collection[str]
) -> Iterator[tuple[str, str, Path | None]]:
    """Truths and rows that no scan of the source can have, why, and the file; its name may be a person's.

    A row finds its patient by the names in ``known``.
    """
    series = {uid for scan in scans for uid in used_by(scan)}
    studies = {scan.study.study_instance_uid for scan in scans}
    named = {row.path for row in folder.rows}
    for item in folder.headers:
        is_known = item.path in named or item.study_instance_uid in studies
        if not is_known and not item.referenced_series & series:
            why = "it refers to no scan of the source that the node would take"
            yield f"truth {item.sop_instance_uid}", why, item.path
    for number, (stem, path) in enumerate(folder.nifti, start=1):
        if path not in named and stem not in series:
            what = f"NIfTI {number} of {len(folder.nifti)} in order of path"
            yield what, f"named after no scan's series, and not in {CSV_FILE}", path
    for row in folder.rows:
        if row.patient_id not in known:
            why = "no such patient in the source, or several with this Patient ID: name them by pseudonym"
            yield f"{CSV_FILE}, line {row.line}", why, None
    if folder.unreadable:
        yield f"{folder.unreadable} file(s) of the truths", "neither DICOM nor NIfTI", None


def read_outlines(truth: Truth, loaded: Loaded, roi: str) -> Outlines:
    """The reader's regions on the functional grid.

    Raises:
        UnusableTruthError: they can't be used for this scan.
    """
    grid = loaded.uptake.grid
    if truth.path is None:
        return Outlines(LabelMap(np.zeros(grid.shape, np.uint16), grid))
    if truth.form is TruthForm.SEG:
        return read_segmentation(truth.path, grid, roi)
    if truth.form is TruthForm.RTSTRUCT:
        return read_structure_set(truth.path, grid, loaded.ct.grid, roi)
    try:
        labels = read_labels(truth.path)
    except MisconfiguredError as error:  # its message names the file, and that may name a person
        raise UnusableTruthError(str(error).replace(str(truth.path), "the truth")) from error
    same = labels.grid.matches(grid)
    return Outlines(nearest_labels(labels, grid), share_outside(labels, grid), not same)


def numbered_lesions(regions: LabelMap) -> tuple[LabelMap, bool]:
    """Lesions as the product numbers them, unless the reader has numbered lesions already.

    One region is a mask: its connected components are the lesions, largest first. Of several regions, each
    part within one connected component of all that is outlined is a lesion. So regions in one place each are
    lesions as they are, in their order, also where they touch or where a small one cuts another in two; and a
    region in many places (``bone metastases``) is as many lesions, largest first.

    Returns:
        The lesions, and whether a region was taken apart.
    """
    outlined = regions.mask
    numbers = regions.array[outlined].astype(np.int64)
    present = len(np.unique(numbers))
    if present <= 1:
        return label_lesions(outlined, regions.grid, 0.0).labels, False
    places = cc3d.connected_components(outlined.astype(np.uint8), connectivity=CONNECTIVITY)
    parts = numbers * (int(places.max()) + 1) + places[outlined]
    known, part_of, sizes = np.unique(parts, return_inverse=True, return_counts=True)
    count = len(known)
    order = np.arange(count) if count == present else np.argsort(-sizes, kind="stable")
    lesion_of = np.zeros(count, np.uint16)
    lesion_of[order] = np.arange(1, count + 1)
    lesions = np.zeros(regions.array.shape, np.uint16)
    lesions[outlined] = lesion_of[part_of]
    return LabelMap(lesions, regions.grid), count != present


def _of_row(rows: Sequence[TruthRow], scan: Selection, taken: frozenset[str]) -> Truth | str:
    if len(rows) > 1:
        lines = " and ".join(str(row.line) for row in rows)
        return f"{CSV_FILE} has several rows for this patient and kind: lines {lines}"
    row = rows[0]
    if row.path is None:
        return Truth(TruthForm.STATED, None)
    if not row.path.is_file():
        return f"{CSV_FILE}, line {row.line}, names a file that is not there"
    if _nifti_stem(row.path) is not None:
        return Truth(TruthForm.NIFTI, row.path)
    try:
        found = read_truth_header(row.path)
    except header.READ_ERRORS:
        found = None
    if found is None:
        return f"{CSV_FILE}, line {row.line}, names a file that is neither SEG, RTSTRUCT nor NIfTI"
    return _misfit(found, scan, taken) or _truth(found, scan)


def _of_references(scan: Selection, folder: TruthFolder, taken: frozenset[str]) -> list[Truth | str]:
    direct = [item for item in folder.headers if item.referenced_series & set(used_by(scan))]
    if direct:
        return [_misfit(item, scan, taken) or _truth(item, scan) for item in direct]
    # failing that: one study, one frame of reference
    return [_truth(item, scan) for item in folder.headers if not _misfit(item, scan, taken)]


def _of_name(scan: Selection, folder: TruthFolder) -> list[Truth]:
    uid = scan.functional.series_instance_uid
    return [Truth(TruthForm.NIFTI, path) for stem, path in folder.nifti if stem == uid]


def _truth(found: TruthHeader, scan: Selection) -> Truth:
    form = TruthForm.SEG if found.is_segmentation else TruthForm.RTSTRUCT
    if found.referenced_series & set(used_by(scan)):
        return Truth(form, found.path)
    what = "another series of the study" if found.referenced_series else "no series"
    return Truth(form, found.path, (f"the truth refers to {what}; matched by study and frame of reference",))


def _misfit(found: TruthHeader, scan: Selection, taken: frozenset[str]) -> str:
    """Why a truth can't be this scan's; empty when it can."""
    frame = scan.functional.frame_of_reference_uid
    if found.referenced_series & set(used_by(scan)):
        if frame and found.frames_of_reference and frame not in found.frames_of_reference:
            return "the truth refers to this scan, and lies in another frame of reference"
        return ""
    if found.referenced_series & taken:
        return "the truth was drawn on another scan"
    same_study = found.study_instance_uid == scan.study.study_instance_uid
    if same_study and frame in found.frames_of_reference:
        return ""
    return "the truth is of another study or frame of reference"


def _nifti_stem(path: Path) -> str | None:
    for suffix in NIFTI_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def _read_rows(path: Path) -> tuple[TruthRow, ...]:
    expected = f"columns {','.join(COLUMNS)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise MisconfiguredError(f"{path}: found other columns, expected {expected}")
            return tuple(_row(line, fields, path) for line, fields in enumerate(reader, start=2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MisconfiguredError(f"{path}: not readable as CSV, expected {expected} in UTF-8") from error


def _row(line: int, fields: dict[str, str | None], path: Path) -> TruthRow:
    values = {name: (fields.get(name) or "").strip() for name in COLUMNS}
    kinds = [kind for kind in StudyKind if kind.value == values["kind"]]
    if not kinds or not values["patient_id"] or fields.get(None):  # type: ignore[call-overload]
        expected = f"a patient_id, a kind ({' or '.join(StudyKind)}) and a file or nothing"
        raise MisconfiguredError(f"{path}, line {line}: expected {expected}")
    file = path.parent / values["file"] if values["file"] else None
    return TruthRow(line, values["patient_id"], kinds[0], file)
