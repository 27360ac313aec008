"""Tiny patients as DICOM, and readers' files of every form: whole cohorts in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import ExplicitVRLittleEndian

from app.domain.volume import Grid
from tests.dicom.reading.tiny import Scan, lutetium_injection, psma_injection, write_ct, write_nm, write_pet

SHAPE = (8, 10, 12)
SPACING_MM = (4.0, 4.0, 5.0)
ORIGIN_MM = (-10.0, -20.0, -30.0)
GRID = Grid.axis_aligned(SHAPE, SPACING_MM, ORIGIN_MM)
LESION = (slice(2, 4), slice(2, 5), slice(3, 7))
SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"


@dataclass(frozen=True)
class Person:
    """A tiny patient. ``number`` gives UIDs and pixels; ``pixels`` those of another number."""

    number: int
    patient_id: str = ""
    birth_date: str = "19500203"
    pet_day: str = "20260301"
    spect_day: str = "20260310"
    pixels: int | None = None
    comment: str = ""
    issuer: str = ""

    @property
    def identifier(self) -> str:
        return self.patient_id or f"MRN-{4711 + self.number}"

    def study(self, kind: str) -> str:
        return f"1.2.3.{self.number}.{1 if kind == 'pet' else 2}"

    def series(self, kind: str) -> str:
        return f"{self.study(kind)}.1"

    def frame(self, kind: str) -> str:
        return f"{self.study(kind)}.9"


def lesion_mask() -> NDArray[np.bool_]:
    """Where every tiny patient is hot."""
    mask = np.zeros(SHAPE, np.bool_)
    mask[LESION] = True
    return mask


def write_person(root: Path, person: Person, kinds: Sequence[str] = ("pet", "spect")) -> None:
    """PET/CT and SPECT/CT below ``root``, in a folder that spells the patient's name."""
    folder = root / f"Zorn_Alfred_{person.number}"
    for kind in kinds:
        rng = np.random.default_rng(person.number if person.pixels is None else person.pixels)
        values = rng.integers(80, 160, SHAPE).astype(np.int16)
        values[lesion_mask()] = 3000
        scan = Scan(values, person.series(kind), SPACING_MM, ORIGIN_MM, _change(person, kind))
        if kind == "pet":
            write_pet(folder / kind, scan)
        else:
            write_nm(folder / kind, scan, SPACING_MM[2])
        ct = np.full(SHAPE, 1024, np.int16)
        ct[:, 0] = 0  # air
        write_ct(folder / kind, replace(scan, values=ct, series_uid=f"{person.study(kind)}.2"))


def _change(person: Person, kind: str):  # type: ignore[no-untyped-def]
    day = person.pet_day if kind == "pet" else person.spect_day

    def change(dataset: Dataset, index: int) -> None:
        dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = person.study(kind), person.frame(kind)
        dataset.PatientID, dataset.PatientName = person.identifier, "Zorn^Alfred"
        dataset.PatientBirthDate, dataset.IssuerOfPatientID = person.birth_date, person.issuer
        dataset.PatientComments = person.comment
        for part in ("Study", "Series", "Acquisition"):
            setattr(dataset, f"{part}Date", day)
        if "RadiopharmaceuticalInformationSequence" in dataset:
            item = psma_injection() if kind == "pet" else lutetium_injection()
            item.RadiopharmaceuticalStartDateTime = f"{day}{'10' if kind == 'pet' else '01'}0000"
            dataset.RadiopharmaceuticalInformationSequence = [item]

    return change


def write_seg(  # noqa: PLR0917 - one parameter an attribute under test
    path: Path,
    labels: NDArray[np.integer],
    grid: Grid,
    person: Person,
    kind: str = "pet",
    segmentation_type: str = "BINARY",
    series: str | None = None,
    frame: str | None = None,
    names: Sequence[str] = (),
) -> Path:
    """A SEG of ``labels`` on its own grid, frames in reverse order, empty ones left out."""
    segmentation = _object(LABEL_MAP if segmentation_type == "LABELMAP" else SEGMENTATION, path, person, kind)
    segmentation.Modality, segmentation.SegmentationType = "SEG", segmentation_type
    segmentation.FrameOfReferenceUID = frame or person.frame(kind)
    if series != "":
        segmentation.ReferencedSeriesSequence = [_series(series or person.series(kind))]
    count = int(labels.max(initial=0))
    segmentation.SegmentSequence = [_segment(n, names) for n in range(1, max(count, 1) + 1)]
    planes: list[tuple[int, int, NDArray[np.integer]]] = []
    for z in reversed(range(grid.shape[0])):
        if segmentation_type == "LABELMAP":
            planes += [(z, 0, labels[z])] if labels[z].any() else []
        else:
            present = (n for n in range(1, count + 1) if (labels[z] == n).any())
            planes += [(z, n, (labels[z] == n).astype(np.uint8)) for n in present]
    planes = planes or [(0, 1, np.zeros(labels.shape[1:], np.uint8))]
    segmentation.SharedFunctionalGroupsSequence = [_shared(grid)]
    segmentation.PerFrameFunctionalGroupsSequence = [_frame(grid, z, n) for z, n, _ in planes]
    _set_pixels(segmentation, np.stack([plane for _, _, plane in planes]), segmentation_type)
    return _save(segmentation, path)


def write_structures(
    path: Path,
    contours: Sequence[Sequence[NDArray[np.float64]]],
    person: Person,
    kind: str = "pet",
    names: Sequence[str] = (),
) -> Path:
    """An RTSTRUCT with one ROI for each list of contours, LPS mm ``(n, 3)``."""
    structures = _object(STRUCTURES, path, person, kind)
    structures.Modality = "RTSTRUCT"
    frame, study = Dataset(), Dataset()
    frame.FrameOfReferenceUID = person.frame(kind)
    study.RTReferencedSeriesSequence = [_series(person.series(kind))]
    frame.RTReferencedStudySequence = [study]
    structures.ReferencedFrameOfReferenceSequence = [frame]
    structures.StructureSetROISequence = [_roi(n, names) for n in range(1, len(contours) + 1)]
    structures.ROIContourSequence = [_drawn(n, each) for n, each in enumerate(contours, start=1)]
    return _save(structures, path)


def _object(sop_class: str, path: Path, person: Person, kind: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, f"1.2.9.{abs(hash(str(path))) % 10**9}"
    dataset.StudyInstanceUID, dataset.PatientID = person.study(kind), person.identifier
    dataset.SeriesInstanceUID = f"{dataset.SOPInstanceUID}.1"
    return dataset


def _series(uid: str) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = uid
    return item


def _segment(number: int, names: Sequence[str]) -> Dataset:
    item = Dataset()
    item.SegmentNumber = number
    item.SegmentLabel = names[number - 1] if names else f"Lesion {number}"
    return item


def _roi(number: int, names: Sequence[str]) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ROIName = number, names[number - 1] if names else f"Lesion {number}"
    return item


def _drawn(number: int, contours: Sequence[NDArray[np.float64]]) -> Dataset:
    item, sequence = Dataset(), []
    for points in contours:
        contour = Dataset()
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
        contour.ContourData = [f"{value:.4f}" for value in points.ravel()]
        sequence.append(contour)
    item.ReferencedROINumber, item.ContourSequence = number, sequence
    return item


def _shared(grid: Grid) -> Dataset:
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    x, y, z = grid.spacing_mm
    measures.PixelSpacing, measures.SliceThickness = [y, x], z
    cosines = [*(grid.affine[:3, 0] / x), *(grid.affine[:3, 1] / y)]
    orientation.ImageOrientationPatient = [f"{value:.10f}" for value in cosines]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    return shared


def _frame(grid: Grid, z: int, number: int) -> Dataset:
    frame, place = Dataset(), Dataset()
    place.ImagePositionPatient = [f"{v:.6f}" for v in grid.to_lps(np.array([[0.0, 0.0, float(z)]]))[0]]
    frame.PlanePositionSequence = [place]
    if number:
        segment = Dataset()
        segment.ReferencedSegmentNumber = number
        frame.SegmentIdentificationSequence = [segment]
    return frame


def _set_pixels(dataset: Dataset, frames: NDArray[np.integer], segmentation_type: str) -> None:
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 1 if segmentation_type == "BINARY" else 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    if segmentation_type == "FRACTIONAL":  # 0.51 and 0.49 of 200
        dataset.MaximumFractionalValue, dataset.SegmentationFractionalType = 200, "PROBABILITY"
        frames = np.where(frames > 0, 102, 98)
    packed = pack_bits(frames.astype(np.uint8)) if bits == 1 else frames.astype(np.uint8).tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset["PixelData"].VR = "OB"


def _save(dataset: Dataset, path: Path) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
