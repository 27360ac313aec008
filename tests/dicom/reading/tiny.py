"""Tiny PET, NM and CT images as DICOM files, with every attribute in reach of a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

PET, NM, CT = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("128", "20", "2"))
FRAME_OF_REFERENCE = "1.2.3.9"
STUDY = "1.2.3"

Change = Callable[[Dataset, int], None]
"""Alters the data set of slice ``index`` before it is written."""


@dataclass(frozen=True)
class Scan:
    """Where the slices of a series lie. ``values`` is ``(z, y, x)`` of stored values."""

    values: NDArray[np.int16]
    series_uid: str = "1.2.3.1"
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 5.0)
    origin_mm: tuple[float, float, float] = (-10.0, -20.0, -30.0)
    change: Change = field(default=lambda dataset, index: None)


def ramp(slices: int = 6, rows: int = 4, columns: int = 5) -> NDArray[np.int16]:
    """Every voxel another value, none of them 0."""
    return np.arange(1, slices * rows * columns + 1, dtype=np.int16).reshape(slices, rows, columns)


def code_item(value: str, scheme: str, meaning: str = "x") -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def psma_injection(in_mbq: bool = False) -> Dataset:
    """150 MBq of 68Ga-PSMA-11 at 10:00."""
    item = Dataset()
    item.RadionuclideTotalDose = 150.0 if in_mbq else 150e6
    item.RadionuclideHalfLife = 4062.6
    item.RadiopharmaceuticalStartDateTime = "20260301100000"
    item.RadionuclideCodeSequence = [code_item("35337001", "SCT")]
    item.RadiopharmaceuticalCodeSequence = [code_item("C118961", "NCIt")]
    return item


def lutetium_injection() -> Dataset:
    """7400 MBq of 177Lu, the drug not named, a day before the scan."""
    item = Dataset()
    item.RadionuclideTotalDose = 7400.0
    item.RadiopharmaceuticalStartDateTime = "20260228110000"
    item.RadionuclideCodeSequence = [code_item("447553000", "SCT")]
    return item


def write_pet(folder: Path, scan: Scan) -> list[Path]:
    """BQML, START, scanned at 11:00, 70 kg; slope 2 on even and 3 on odd slices."""

    def fill(dataset: Dataset, index: int) -> None:
        dataset.SOPClassUID, dataset.Modality = PET, "PT"
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        dataset.CorrectedImage = ["DECY", "ATTN", "SCAT"]
        dataset.Units, dataset.DecayCorrection = "BQML", "START"
        dataset.SeriesType = ["WHOLE BODY", "IMAGE"]
        dataset.RescaleSlope, dataset.RescaleIntercept = 2 + index % 2, 0
        dataset.RadiopharmaceuticalInformationSequence = [psma_injection()]

    return _write_slices(folder, scan, fill)


def write_ct(folder: Path, scan: Scan) -> list[Path]:
    """Slope 1, intercept −1024."""

    def fill(dataset: Dataset, index: int) -> None:
        dataset.SOPClassUID, dataset.Modality = CT, "CT"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024

    return _write_slices(folder, scan, fill)


def write_nm(folder: Path, scan: Scan, signed_step_mm: float) -> list[Path]:
    """A RECON TOMO image with the frames of ``scan.values`` in file order; Bq/ml by mapping, slope 100."""
    dataset = _common(scan, 0)
    dataset.SOPClassUID, dataset.Modality = NM, "NM"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    dataset.NumberOfFrames = len(scan.values)
    dataset.FrameIncrementPointer = 0x00540080
    dataset.SliceVector = list(range(1, len(scan.values) + 1))
    dataset.SpacingBetweenSlices = signed_step_mm
    dataset.CorrectedImage = ["ATTN", "SCAT"]
    detector = Dataset()
    detector.ImagePositionPatient = list(scan.origin_mm)
    detector.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    detector.CollimatorGridName = "MEGP"
    dataset.DetectorInformationSequence = [detector]
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    rotation = Dataset()
    rotation.ActualFrameDuration, rotation.NumberOfFramesInRotation = 20000, 60
    dataset.RotationInformationSequence = [rotation]
    dataset.NumberOfDetectors = 2
    dataset.RadiopharmaceuticalInformationSequence = [lutetium_injection()]
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 100.0, 0.0
    mapping.MeasurementUnitsCodeSequence = [code_item("Bq/ml", "UCUM")]
    dataset.RealWorldValueMappingSequence = [mapping]
    scan.change(dataset, 0)
    return [_save(dataset, scan.values, folder / f"nm-{scan.series_uid}")]


def _write_slices(folder: Path, scan: Scan, fill: Change) -> list[Path]:
    paths = []
    for index, plane in enumerate(scan.values):
        dataset = _common(scan, index)
        fill(dataset, index)
        scan.change(dataset, index)
        paths.append(_save(dataset, plane, folder / f"{scan.series_uid}-{index:03d}.dcm"))
    return paths


def _common(scan: Scan, index: int) -> Dataset:
    dataset = Dataset()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, scan.series_uid
    dataset.SOPInstanceUID = f"{scan.series_uid}.{index + 1}"
    dataset.FrameOfReferenceUID = FRAME_OF_REFERENCE
    dataset.PatientID, dataset.PatientWeight, dataset.PatientSize, dataset.PatientSex = "P", 70, 1.8, "M"
    for part in ("Study", "Series", "Acquisition"):
        setattr(dataset, f"{part}Date", "20260301")
        setattr(dataset, f"{part}Time", "110000")
    dataset.ActualFrameDuration = 120000
    x, y, z = scan.spacing_mm
    dataset.PixelSpacing = [y, x]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [*scan.origin_mm[:2], scan.origin_mm[2] + index * z]
    return dataset


def _save(dataset: Dataset, values: NDArray[np.int16], path: Path) -> Path:
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = values.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def rename(paths: Sequence[Path], order: Sequence[int]) -> None:
    """Give the files names that sort in another order."""
    for position, index in enumerate(order):
        path = paths[index]
        path.rename(path.with_name(f"image{position:03d}"))
