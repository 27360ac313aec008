"""What every form of truth has in common: the references of a reader's file, and the regions drawn in it.

And the form made of contours, RTSTRUCT: closed and planar, filled by the even-odd rule (PS3.3 C.8.8.6).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from app.dicom import header_values as header
from app.dicom.contours import filled
from app.dicom.dicom_file import read_header, read_with_pixels
from app.dicom.results.policy import LABEL_MAP_SEGMENTATION_STORAGE
from app.domain.volume import FloatArray, Grid, LabelMap
from app.errors import PsmaNodeError
from app.imaging.labels import inside, nearest_labels

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
        dataset = read_header(path, _KEYWORDS)
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


FLAT_MM = 0.1
"""A contour lies in a slice's plane when no point leaves it by more."""

HALF_WAY = 0.01
"""Of a slice: planes are rounded to this, so a slice exactly half way is still reached."""

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True, eq=False)
class _Contour:
    """One closed contour of one region: LPS mm ``(n, 3)``."""

    label: int
    points_mm: FloatArray


def read_structure_set(path: Path, grid: Grid, ct_grid: Grid, wanted: str = "") -> Outlines:
    """The regions of an RTSTRUCT on ``grid``.

    Contours in planes of the functional slices are filled on its rows and columns, and a slice between two
    contours takes the nearest one that is not further than half a step; contours in other planes are filled
    on the CT first, which they were then drawn on.

    Args:
        grid, ct_grid: of the functional image and its CT.
        wanted: regular expression for ROI Name; empty takes all.

    Raises:
        UnusableTruthError: not readable, no ROI is wanted, or contours in planes of neither image.
    """
    with being_read("RTSTRUCT"):
        contours, skipped = _contours(read_with_pixels(path), wanted)
    warnings = (f"{skipped} points or open contours were left out",) if skipped else ()
    if not contours:
        return Outlines(LabelMap(np.zeros(grid.shape, np.uint16), grid), warnings=warnings)
    return _placed(contours, grid, ct_grid, warnings)


def _placed(contours: list[_Contour], grid: Grid, ct_grid: Grid, warnings: tuple[str, ...]) -> Outlines:
    points = np.concatenate([contour.points_mm for contour in contours])
    outside = 1.0 - float(inside(grid.to_index(points), grid).mean())
    if _flat_in(contours, grid):
        resampled = not _on_slices(contours, grid)
        reach = _half_step(contours, grid, ct_grid) if resampled else FLAT_MM / _step_mm(grid)
        labels, overlaps = _fill(contours, grid, reach)
    elif _flat_in(contours, ct_grid):
        on_ct, overlaps = _fill(contours, ct_grid, 0.5)
        labels, resampled = nearest_labels(on_ct, grid), True
    else:
        raise UnusableTruthError("the contours lie in planes of neither the functional image nor its CT")
    if overlaps:
        warnings = (*warnings, f"{overlaps} voxels lie in several regions; the last one has them")
    return Outlines(labels, outside, resampled, warnings)


def _contours(structures: Dataset, wanted: str) -> tuple[list[_Contour], int]:
    """Closed contours of the wanted ROIs, labelled ``1..n`` in their order, and how many were no areas."""
    named = [
        (int(item.ROINumber), header.text(item, "ROIName"))
        for item in header.items(structures, "StructureSetROISequence")
    ]
    label_of = {number: label for label, number in enumerate(chosen(named, wanted), start=1)}
    contours, skipped = [], 0
    for region in header.items(structures, "ROIContourSequence"):
        label = label_of.get(int(region.ReferencedROINumber))
        for item in header.items(region, "ContourSequence") if label is not None else ():
            points = np.array(item.ContourData, dtype=np.float64).reshape(-1, 3)
            if str(item.ContourGeometricType) in CLOSED and len(points) > 2:
                contours.append(_Contour(int(label or 0), points))
            else:
                skipped += 1
    return contours, skipped


def _flat_in(contours: Iterable[_Contour], grid: Grid) -> bool:
    """Whether every contour lies in a plane of the grid's slices, between them or on them."""
    apart = (np.ptp(grid.to_index(contour.points_mm)[:, 2]) for contour in contours)
    return max(float(each) for each in apart) * _step_mm(grid) <= FLAT_MM


def _on_slices(contours: Iterable[_Contour], grid: Grid) -> bool:
    """Whether every contour lies on a slice of the grid."""
    planes = np.array([_plane(contour, grid) for contour in contours])
    return bool(np.abs(planes - np.rint(planes)).max() * _step_mm(grid) <= FLAT_MM)


def _half_step(contours: Sequence[_Contour], grid: Grid, ct_grid: Grid) -> float:
    """Half a step of the stack that contours were drawn on, in slices of ``grid``: so far each one holds."""
    if _flat_in(contours, ct_grid) and _on_slices(contours, ct_grid):
        return _step_mm(ct_grid) / _step_mm(grid) / 2.0
    gaps = np.diff(np.unique([_plane(contour, grid) for contour in contours]))
    gaps = gaps[gaps * _step_mm(grid) > FLAT_MM]
    return float(gaps.min()) / 2.0 if gaps.size else 0.5


def _fill(contours: Iterable[_Contour], grid: Grid, reach: float) -> tuple[LabelMap, int]:
    """Contours filled on rows and columns of ``grid``; each slice takes the region's nearest plane."""
    by_label: dict[int, dict[float, list[FloatArray]]] = defaultdict(lambda: defaultdict(list))
    for contour in contours:
        plane = round(_plane(contour, grid), 2)
        by_label[contour.label][plane].append(grid.to_index(contour.points_mm)[:, :2])
    labels, overlaps = np.zeros(grid.shape, np.uint16), 0
    for label, planes in sorted(by_label.items()):
        places = np.array(sorted(planes))
        for z in range(max(0, int(places[0] - reach)), min(grid.shape[0], int(places[-1] + reach) + 2)):
            nearest = float(places[int(np.abs(places - z).argmin())])
            if abs(nearest - z) > reach + HALF_WAY:
                continue
            mask = _mask(planes[nearest], grid.shape[1:])
            overlaps += int(np.count_nonzero(labels[z][mask]))
            labels[z][mask] = label
    return LabelMap(labels, grid), overlaps


def _mask(polygons: Iterable[FloatArray], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Even-odd over all contours of a plane: one within another is a hole."""
    mask = np.zeros(shape, dtype=np.bool_)
    for polygon in polygons:
        low = np.maximum(np.floor(polygon.min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(polygon.max(axis=0)).astype(int) + 1, np.array(shape[::-1]))
        width, height = (high - low).tolist()
        if width > 0 and height > 0:
            part = mask[low[1] : high[1], low[0] : high[0]]
            part ^= filled(polygon - low, (height, width))
    return mask


def _plane(contour: _Contour, grid: Grid) -> float:
    return float(grid.to_index(contour.points_mm)[:, 2].mean())


def _step_mm(grid: Grid) -> float:
    """Distance of slices along their normal."""
    return grid.voxel_ml * 1000.0 / float(np.linalg.norm(np.cross(grid.affine[:3, 0], grid.affine[:3, 1])))
