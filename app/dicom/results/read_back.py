"""Results as the files that leave: read from their bytes and compared with what was meant.

The writers use highdicom; the reader here uses pydicom alone, so that a library's mistake can't hide in its
mirror. Every check raises :class:`ResultMismatchError` where anything differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import unpack_bits

from app.dicom.contours import filled
from app.dicom.dicom_file import read_header
from app.dicom.header_values import tolerant
from app.dicom.results.context import PATIENT_KEYWORDS, ResultContext
from app.dicom.results.report.quantities import Quantity, lesion_quantities, whole_body_quantities
from app.dicom.results.report.sr import WHOLE_BODY
from app.dicom.results.source_text import file_of
from app.dicom.uids import NoticeKind, ResultKind
from app.domain import codes
from app.domain.outcome import ResultFile
from app.domain.volume import SAME_GRID_TOLERANCE_MM, Grid, LabelMap
from app.files.durable import write_durably

Numbers = dict[tuple[str, str, str], float]
"""(name, derivation, unit) as code values, with the number."""

Named = tuple[str, Dataset]
"""A content item, with the code value of its concept name before it."""


class ResultMismatchError(RuntimeError):
    """A result does not say what was meant: a fault of ours; nothing may be sent."""


def parse(content: bytes) -> Dataset:
    """A DICOM file from its bytes."""
    with tolerant():
        return pydicom.dcmread(BytesIO(content))


def labels_on_grid(segmentation: Dataset, grid: Grid) -> LabelMap:
    """The segments of a BINARY or LABELMAP SEG, not compressed, as numbers on the grid it was drawn on.

    Raises:
        ResultMismatchError: a frame lies elsewhere than on a slice of ``grid``, or two segments overlap.
    """
    _check_planes(segmentation, grid)
    labels = np.zeros(grid.shape, dtype=np.uint16)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    frames = _frames(segmentation)
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        z = _slice_index(groups.PlanePositionSequence[0].ImagePositionPatient, grid)
        if segmentation.SegmentationType == "LABELMAP":
            labels[z] = frame
            continue
        holder = groups if "SegmentIdentificationSequence" in groups else shared
        number = int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        inside = frame > 0
        if labels[z][inside].any():
            raise ResultMismatchError(f"segment {number} overlaps another one in slice {z}")
        labels[z][inside] = number
    return LabelMap(labels, grid)


def numbers_by_group(report: Dataset) -> dict[str, Numbers]:
    """Every measurement group of a TID 1500 report by its tracking identifier (112039 DCM)."""
    return _numbers_by_group(_content_items(report))


def _numbers_by_group(items: Iterable[Named]) -> dict[str, Numbers]:
    groups: dict[str, Numbers] = {}
    for code, item in items:
        if code != "125007":  # Measurement Group
            continue
        identifier = next(child.TextValue for child in item.ContentSequence if _is_named(child, "112039"))
        if identifier in groups:
            raise ResultMismatchError(f"two measurement groups are called {identifier}")
        groups[identifier] = dict(_numbers(item))
    return groups


def texts(report: Dataset) -> tuple[tuple[str, str], ...]:
    """Every text of the report as (concept's code value, text), in order."""
    return _texts(_content_items(report))


def _texts(items: Iterable[Named]) -> tuple[tuple[str, str], ...]:
    return tuple((code, str(item.TextValue)) for code, item in items if item.ValueType == "TEXT")


def check_segmentation(segmentation: Dataset, context: ResultContext) -> None:
    """Voxel by voxel, segment by segment."""
    _check_identity(segmentation, context, ResultKind.SEG)
    meant = context.quantified.segmented.labels
    found = labels_on_grid(segmentation, meant.grid)
    _expect("voxels that differ in the SEG", int((found.array != meant.array).sum()), 0)
    _expect("Frame of Reference UID", str(segmentation.FrameOfReferenceUID), context.frame_of_reference_uid)
    segments = [item for item in segmentation.SegmentSequence if item.SegmentNumber > 0]
    tracking = [(str(item.TrackingID), str(item.TrackingUID)) for item in segments]
    _expect("segments", tracking, [context.tracking(n) for n in range(1, meant.count + 1)])


def check_report(report: Dataset, segmentation: Dataset | None, context: ResultContext) -> None:
    """Number by number, that every lesion refers to its segment, and that all it cites is in its evidence."""
    _check_identity(report, context, ResultKind.SR)
    findings = context.quantified.findings
    meant = {WHOLE_BODY: _as_numbers(whole_body_quantities(context))}
    for lesion in findings.lesions:
        meant[context.tracking(lesion.number)[0]] = _as_numbers(lesion_quantities(lesion, context))
    items = tuple(_content_items(report))
    _expect("numbers in the SR", _numbers_by_group(items), meant)
    sop_instance_uid = None if segmentation is None else str(segmentation.SOPInstanceUID)
    references = [(sop_instance_uid, lesion.number) for lesion in findings.lesions]
    _expect("segments that the SR refers to", list(_segment_references(items)), references)
    _expect("instances that the SR cites without evidence", sorted(_cited(items) - _evidence(report)), [])
    spoken = {code for code, _ in _texts(items)}
    for code in (codes.SUMMARY, codes.INTENDED_USE):
        if code.value not in spoken:
            raise ResultMismatchError(f"the SR lacks its statement {code.meaning}")


def labels_from_contours(structures: Dataset, grid: Grid) -> LabelMap:
    """The ROIs of an RTSTRUCT as numbers on ``grid``: voxels whose centre its contours enclose.

    Raises:
        ResultMismatchError: a contour lies elsewhere than in a slice of ``grid``.
    """
    labels = np.zeros(grid.shape, dtype=np.uint16)
    for region in structures.ROIContourSequence:
        mask = np.zeros(grid.shape, dtype=np.bool_)
        for contour in region.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            index = grid.to_index(points)
            z = round(float(index[0, 2]))
            off_slice_mm = float(np.abs(index[:, 2] - z).max()) * grid.spacing_mm[2]
            if not 0 <= z < grid.shape[0] or off_slice_mm > SAME_GRID_TOLERANCE_MM:
                raise ResultMismatchError(f"contour of ROI {region.ReferencedROINumber} lies off the slices")
            mask[z] ^= filled(index[:, :2], grid.shape[1:])
        labels[mask] = int(region.ReferencedROINumber)
    return LabelMap(labels, grid)


def check_structure_set(structures: Dataset, context: ResultContext) -> None:
    """Drawn again on the image's grid, voxel by voxel."""
    _check_identity(structures, context, ResultKind.RTSTRUCT)
    meant = context.quantified.segmented.labels
    found = labels_from_contours(structures, meant.grid)
    _expect("voxels that differ in the RTSTRUCT", int((found.array != meant.array).sum()), 0)
    frame = str(structures.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID)
    _expect("Frame of Reference UID", frame, context.frame_of_reference_uid)


def check_page(page: Dataset, rgb: NDArray[np.uint8], context: ResultContext) -> None:
    """Pixel by pixel."""
    _check_identity(page, context, ResultKind.PAGE)
    _expect("size of the page", (page.Rows, page.Columns, page.SamplesPerPixel), rgb.shape)
    _expect("pixel values that differ on the page", differing_values(page, rgb), 0)


def differing_values(page: Dataset, rgb: NDArray[np.uint8]) -> int:
    """How many values of a page's pixels are not those that were drawn."""
    found = np.frombuffer(page.PixelData, dtype=np.uint8)[: rgb.size].reshape(rgb.shape)
    return int((found != rgb).sum())


def _check_identity(result: Dataset, context: ResultContext, kind: ResultKind) -> None:
    _expect("SOP Instance UID", str(result.SOPInstanceUID), context.sop_instance_uid(kind))
    _expect("Series Instance UID", str(result.SeriesInstanceUID), context.series_instance_uid(kind))
    study = context.loaded.selection.study.study_instance_uid
    _expect("Study Instance UID", str(result.StudyInstanceUID), study)
    with tolerant():
        source = read_header(context.source)
    for keyword in PATIENT_KEYWORDS:
        with tolerant():
            same = str(result.get(keyword) or "") == str(source.get(keyword) or "")
        if not same:  # the values identify a patient: say which attribute, never what it holds
            raise ResultMismatchError(f"{keyword} of the {kind} is not the source's")


def _expect(what: str, found: object, meant: object) -> None:
    if found != meant:
        raise ResultMismatchError(f"{what}: found {str(found)[:500]}, meant {str(meant)[:500]}")


def _check_planes(segmentation: Dataset, grid: Grid) -> None:
    if segmentation.SegmentationType not in ("BINARY", "LABELMAP"):
        raise ResultMismatchError(f"found a {segmentation.SegmentationType} SEG, expected BINARY or LABELMAP")
    _expect("Rows and Columns", (segmentation.Rows, segmentation.Columns), grid.shape[1:])
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    found = np.column_stack([cosines[:3] * column_mm, cosines[3:] * row_mm])
    # as far as the plane reaches, so that the tolerance is one of position
    apart = np.abs(found - grid.affine[:3, :2]) * np.array([grid.shape[2], grid.shape[1]])
    if apart.max() > SAME_GRID_TOLERANCE_MM:
        raise ResultMismatchError(f"the SEG's planes leave the image's by {apart.max():.4f} mm")


def _slice_index(position: list[float], grid: Grid) -> int:
    point = np.array([float(value) for value in position])
    z = round(float(grid.to_index(point)[0, 2]))
    if not 0 <= z < grid.shape[0]:
        raise ResultMismatchError(f"a frame at {position} lies outside the image")
    apart = float(np.abs(grid.to_lps(np.array([[0.0, 0.0, float(z)]]))[0] - point).max())
    if apart > SAME_GRID_TOLERANCE_MM:
        raise ResultMismatchError(f"a frame at {position} is {apart:.4f} mm off slice {z}")
    return z


def _frames(segmentation: Dataset) -> NDArray[np.unsignedinteger]:
    shape = (int(segmentation.NumberOfFrames), segmentation.Rows, segmentation.Columns)
    count = int(np.prod(shape))
    if segmentation.BitsAllocated == 1:
        return np.asarray(unpack_bits(segmentation.PixelData))[:count].reshape(shape)
    dtype = np.dtype(f"<u{segmentation.BitsAllocated // 8}")
    return np.frombuffer(segmentation.PixelData, dtype=dtype, count=count).reshape(shape)


def _content_items(item: Dataset) -> Iterator[Named]:
    for child in item.get("ContentSequence", []):
        yield _code(child.get("ConceptNameCodeSequence")), child
        yield from _content_items(child)


def _code(sequence: list[Dataset] | None) -> str:
    """A code of more than 16 characters, such as a unit of SUL, is a Long Code Value (PS3.3 8.1)."""
    return str(sequence[0].get("CodeValue") or sequence[0].LongCodeValue) if sequence else ""


def _is_named(item: Dataset, code_value: str) -> bool:
    return _code(item.get("ConceptNameCodeSequence")) == code_value


def _numbers(group: Dataset) -> Iterator[tuple[tuple[str, str, str], float]]:
    for item in group.ContentSequence:
        if item.ValueType != "NUM":
            continue
        children = item.get("ContentSequence", [])
        derivation = next((_code(c.ConceptCodeSequence) for c in children if _is_named(c, "121401")), "")
        measured = item.MeasuredValueSequence[0]
        unit = _code(measured.MeasurementUnitsCodeSequence)
        yield (_code(item.ConceptNameCodeSequence), derivation, unit), float(measured.NumericValue)


def _as_numbers(quantities: tuple[Quantity, ...]) -> Numbers:
    return {
        (q.name.value, "" if q.derivation is None else q.derivation.value, q.unit.value): q.value
        for q in quantities
    }


def _segment_references(items: Iterable[Named]) -> Iterator[tuple[str, int]]:
    for code, item in items:
        if code == "121191" and item.ValueType == "IMAGE":
            reference = item.ReferencedSOPSequence[0]
            yield str(reference.ReferencedSOPInstanceUID), int(reference.ReferencedSegmentNumber)


def _cited(items: Iterable[Named]) -> set[str]:
    """Every instance that the content refers to."""
    references = (each for _, item in items for each in item.get("ReferencedSOPSequence", []))
    return {str(each.ReferencedSOPInstanceUID) for each in references}


def _evidence(report: Dataset) -> set[str]:
    """What a report has to list of the instances that its content refers to (PS3.3 C.17.2.3)."""
    return {
        str(instance.ReferencedSOPInstanceUID)
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(name, [])
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


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


def encoded(kind: ResultKind | NoticeKind, dataset: Dataset, source: Path) -> Result:
    """The file of a dataset, and what it reads as; patient and study are those of the file ``source``."""
    content = file_of(dataset, source)
    return Result(kind, f"{kind.value}.{dataset.SOPInstanceUID}.dcm", parse(content), content)


def store_files(results: Sequence[Result], folder: Path) -> tuple[ResultFile, ...]:
    """Write DICOM objects into ``folder``, for good. Raises OSError."""
    for result in results:
        write_durably(folder / result.file_name, result.content)
    return tuple(
        ResultFile(
            kind=result.kind.value,
            path=result.file_name,
            sop_class_uid=str(result.dataset.SOPClassUID),
            sop_instance_uid=str(result.dataset.SOPInstanceUID),
            series_instance_uid=str(result.dataset.SeriesInstanceUID),
        )
        for result in results
    )
