"""SPECT of a simulated examination as NM Image Storage, RECON TOMO (PS3.3 A.5, C.8.4)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import NuclearMedicineImageStorage

from app.domain.codes import BECQUEREL_PER_MILLILITRE
from app.phantom.dicom.header import (
    Examination,
    coded_item,
    decimal,
    new_instance,
    position,
    radiopharmaceutical,
    set_pixels,
    set_series,
    set_supine,
)
from app.phantom.protocol import COUNTING, CountingProtocol

LARGEST_STORED = 65535
LU177_WINDOW_KEV = (187.2, 228.8)
"""20 % around the 208 keV line."""

SLICE_VECTOR = Tag(0x0054, 0x0080)


def spect_instance(exam: Examination, rwvm: bool = True) -> Dataset:
    """The one multi-frame instance of a SPECT: counts, and what they mean in Bq/ml.

    Decay corrected to the start of the acquisition. The scanner decides the order of the frames: from the
    feet up, or from the head down with a negative Spacing Between Slices (C.8.4.15).

    Args:
        rwvm: False leaves the Real World Value Mapping out: counts without a unit, as many cameras write.
    """
    header = new_instance(exam, NuclearMedicineImageStorage, exam.uid("spect"))
    header.SeriesInstanceUID = exam.uid("spect series")
    set_series(header, "NM", 1, "SPECT WB AC SC", exam.protocol.scan_start)
    set_supine(header)
    header.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    header.InstanceNumber = 1
    header.CorrectedImage = ["UNIF", "ATTN", "SCAT", "DECY"]
    given = radiopharmaceutical(exam.protocol, exam.protocol.injection.activity_bq / 1e6)
    header.RadiopharmaceuticalInformationSequence = Sequence([given])
    _set_energy_window(header)
    _set_frames(header, exam)
    counting = COUNTING[exam.patient.centre]
    _set_tomography(header, counting)
    _set_counts(header, exam, counting, rwvm)
    return header


def _set_energy_window(header: Dataset) -> None:
    window, limits = Dataset(), Dataset()
    limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit = (decimal(v) for v in LU177_WINDOW_KEV)
    window.EnergyWindowName, window.EnergyWindowRangeSequence = "Lu177 208", Sequence([limits])
    header.NumberOfEnergyWindows, header.EnergyWindowInformationSequence = 1, Sequence([window])


def _set_frames(header: Dataset, exam: Examination) -> None:
    grid = exam.acquisition.functional.grid
    count, spacing_mm = grid.shape[0], grid.spacing_mm[2]
    descend = exam.acquisition.scanner.slices_descend
    header.NumberOfFrames = header.NumberOfSlices = count
    header.FrameIncrementPointer = SLICE_VECTOR
    header.SliceVector = list(range(1, count + 1))
    header.PixelSpacing = [decimal(grid.spacing_mm[1]), decimal(grid.spacing_mm[0])]
    header.SliceThickness = decimal(spacing_mm)
    header.SpacingBetweenSlices = decimal(-spacing_mm if descend else spacing_mm)
    header.NumberOfDetectors = COUNTING[exam.patient.centre].detectors
    detectors = []
    for number in range(header.NumberOfDetectors):
        detector = Dataset()
        detector.CollimatorType, detector.FocalDistance = "PARA", "0"
        detector.CollimatorGridName = "MEGP"
        detector.StartAngle = decimal(180.0 * number)
        detector.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        detector.ImagePositionPatient = position(grid, count - 1 if descend else 0)
        detectors.append(detector)
    header.DetectorInformationSequence = Sequence(detectors)


def _set_tomography(header: Dataset, counting: CountingProtocol) -> None:
    rotation, arc_deg = Dataset(), 360.0 / counting.detectors
    rotation.StartAngle, rotation.AngularStep = "0", decimal(arc_deg / counting.views)
    rotation.RotationDirection, rotation.ScanArc = "CW", decimal(arc_deg)
    rotation.ActualFrameDuration = round(counting.view_s * 1000)
    rotation.NumberOfFramesInRotation = counting.views
    rotation.RadialPosition = "250"
    header.RotationInformationSequence = Sequence([rotation])
    header.NumberOfRotations, header.TypeOfDetectorMotion = 1, "STEP AND SHOOT"


def _set_counts(header: Dataset, exam: Examination, counting: CountingProtocol, rwvm: bool) -> None:
    """Counts in file order: whole numbers, as a camera has them.

    Raises:
        ValueError: the hottest voxel exceeds 16 bits.
    """
    volume = exam.acquisition.functional
    bqml_per_count = counting.bqml_per_count(volume.grid.voxel_ml)
    counts = np.rint(
        volume.array * np.float32(exam.protocol.bqml_per_suv(exam.patient.weight_kg) / bqml_per_count)
    )
    if counts.max() > LARGEST_STORED:
        raise ValueError(f"counts of 16 bits are at most {LARGEST_STORED}, found {counts.max():.0f}")
    ordered = counts[::-1] if exam.acquisition.scanner.slices_descend else counts
    set_pixels(header, ordered.astype(np.uint16))
    header.CountsAccumulated = int(counts.sum(dtype=np.float64))
    header.WindowCenter, header.WindowWidth = (
        decimal(int(counts.max()) // 4),
        decimal(int(counts.max()) // 2 + 1),
    )
    if rwvm:
        header.RealWorldValueMappingSequence = Sequence([_mapping(bqml_per_count)])


def _mapping(bqml_per_count: float) -> Dataset:
    item = Dataset()
    item.add_new(0x00409216, "US", 0)  # First Value Mapped: its VR is that of the pixels
    item.add_new(0x00409211, "US", LARGEST_STORED)
    item.RealWorldValueIntercept, item.RealWorldValueSlope = 0.0, bqml_per_count
    item.LUTExplanation, item.LUTLabel = "Activity concentration at the start of the acquisition", "BQML"
    item.MeasurementUnitsCodeSequence = Sequence([coded_item(BECQUEREL_PER_MILLILITRE)])
    return item
