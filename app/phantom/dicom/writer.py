"""A simulated patient as DICOM files: PET/CT, SPECT/CT, and the true lesions of both.

PET Image Storage (PS3.3 A.21), NM Image Storage as RECON TOMO (A.5, C.8.4), CT Image Storage (A.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, NuclearMedicineImageStorage, PositronEmissionTomographyImageStorage

from app.domain.codes import BECQUEREL_PER_MILLILITRE
from app.domain.quantities.decay import mean_activity_offset_s
from app.phantom.centres import Modality, TruthFileForm
from app.phantom.dicom.header import (
    Examination,
    coded_item,
    decimal,
    new_instance,
    position,
    radiopharmaceutical,
    save,
    set_acquired,
    set_pixels,
    set_plane,
    set_series,
    set_supine,
)
from app.phantom.dicom.truth import write_truth
from app.phantom.patient import BEDS, COUNTING, CountingProtocol, SimulatedPatient, draw_protocols

LARGEST_STORED = 32767
LARGEST_COUNT = 65535
LU177_WINDOW_KEV = (187.2, 228.8)
"""20 % around the 208 keV line."""

SLICE_VECTOR = Tag(0x0054, 0x0080)


def pet_slices(exam: Examination) -> list[Dataset]:
    """One dataset a slice, feet first; Bq/ml at the start of the series, each slice with its own slope."""
    volume = exam.acquisition.functional
    to_bqml = exam.protocol.bqml_per_suv(exam.patient.weight_kg)
    slices = []
    for z in range(volume.grid.shape[0]):
        header = new_instance(exam, PositronEmissionTomographyImageStorage, exam.uid("pet", str(z)))
        _set_series(header, exam)
        header.ImageType = ["ORIGINAL", "PRIMARY"]
        header.InstanceNumber, header.ImageIndex = z + 1, z + 1
        set_plane(header, volume.grid, z)
        _set_timing(header, exam, z * volume.grid.spacing_mm[2])
        _set_bqml(header, volume.array[z] * np.float32(to_bqml))
        slices.append(header)
    return slices


def _set_series(header: Dataset, exam: Examination) -> None:
    header.SeriesInstanceUID = exam.uid("pet series")
    set_series(header, "PT", 1, "PET WB AC", exam.protocol.scan_start)
    set_supine(header)
    given = radiopharmaceutical(exam.protocol, exam.protocol.injection.activity_bq)
    given.RadionuclideHalfLife = decimal(exam.protocol.injection.nuclide.half_life_s)
    header.RadiopharmaceuticalInformationSequence = [given]
    header.Units, header.CountsSource, header.SeriesType = "BQML", "EMISSION", ["WHOLE BODY", "IMAGE"]
    header.NumberOfSlices = exam.acquisition.functional.grid.shape[0]
    header.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "RADL", "DECY", "RAN"]
    header.DecayCorrection, header.CollimatorType = "START", "NONE"
    header.AttenuationCorrectionMethod, header.ScatterCorrectionMethod = "measured,CT", "simulated"
    header.RandomsCorrectionMethod = "DLYD"
    header.ReconstructionMethod = f"simulated, FWHM {exam.acquisition.scanner.resolution_fwhm_mm:g} mm"


def _set_timing(header: Dataset, exam: Examination, above_feet_mm: float) -> None:
    """Bed positions from the thighs up; Frame Reference Time is that of the mean activity (C.8.9.4.1.5)."""
    beds = BEDS[exam.patient.centre]
    begun_s = int(above_feet_mm // beds.bed_mm) * (beds.bed_s + beds.move_s)
    set_acquired(header, exam.protocol.scan_start + timedelta(seconds=begun_s))
    half_life_s = exam.protocol.injection.nuclide.half_life_s
    reference_s = begun_s + mean_activity_offset_s(beds.bed_s, half_life_s)
    header.ActualFrameDuration = round(beds.bed_s * 1000)
    header.FrameReferenceTime = decimal(round(reference_s * 1000, 3))
    header.DecayFactor = decimal(round(float(2 ** (reference_s / half_life_s)), 6))


def _set_bqml(header: Dataset, bqml: NDArray[np.float32]) -> None:
    """Stored values with the slice's own slope, exactly as the header's decimal string says it."""
    peak = float(bqml.max())
    header.RescaleSlope = decimal(float(f"{peak / LARGEST_STORED:.6g}") * 1.00001) if peak > 0 else "1"
    header.RescaleIntercept = "0"
    set_pixels(header, np.rint(bqml / float(header.RescaleSlope)).astype(np.int16))
    header.WindowCenter, header.WindowWidth = decimal(round(peak / 2, 3)), decimal(round(max(peak, 1.0), 3))


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
    header.RadiopharmaceuticalInformationSequence = DicomSequence([given])
    _set_energy_window(header)
    _set_frames(header, exam)
    counting = COUNTING[exam.patient.centre]
    _set_tomography(header, counting)
    _set_counts(header, exam, counting, rwvm)
    return header


def _set_energy_window(header: Dataset) -> None:
    window, limits = Dataset(), Dataset()
    limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit = (decimal(v) for v in LU177_WINDOW_KEV)
    window.EnergyWindowName, window.EnergyWindowRangeSequence = "Lu177 208", DicomSequence([limits])
    header.NumberOfEnergyWindows, header.EnergyWindowInformationSequence = 1, DicomSequence([window])


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
    header.DetectorInformationSequence = DicomSequence(detectors)


def _set_tomography(header: Dataset, counting: CountingProtocol) -> None:
    rotation, arc_deg = Dataset(), 360.0 / counting.detectors
    rotation.StartAngle, rotation.AngularStep = "0", decimal(arc_deg / counting.views)
    rotation.RotationDirection, rotation.ScanArc = "CW", decimal(arc_deg)
    rotation.ActualFrameDuration = round(counting.view_s * 1000)
    rotation.NumberOfFramesInRotation = counting.views
    rotation.RadialPosition = "250"
    header.RotationInformationSequence = DicomSequence([rotation])
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
    if counts.max() > LARGEST_COUNT:
        raise ValueError(f"counts of 16 bits are at most {LARGEST_COUNT}, found {counts.max():.0f}")
    ordered = counts[::-1] if exam.acquisition.scanner.slices_descend else counts
    set_pixels(header, ordered.astype(np.uint16))
    header.CountsAccumulated = int(counts.sum(dtype=np.float64))
    header.WindowCenter, header.WindowWidth = (
        decimal(int(counts.max()) // 4),
        decimal(int(counts.max()) // 2 + 1),
    )
    if rwvm:
        header.RealWorldValueMappingSequence = DicomSequence([_mapping(bqml_per_count)])


def _mapping(bqml_per_count: float) -> Dataset:
    item = Dataset()
    item.add_new(0x00409216, "US", 0)  # First Value Mapped: its VR is that of the pixels
    item.add_new(0x00409211, "US", LARGEST_COUNT)
    item.RealWorldValueIntercept, item.RealWorldValueSlope = 0.0, bqml_per_count
    item.LUTExplanation, item.LUTLabel = "Activity concentration at the start of the acquisition", "BQML"
    item.MeasurementUnitsCodeSequence = DicomSequence([coded_item(BECQUEREL_PER_MILLILITRE)])
    return item


def ct_slices(exam: Examination) -> list[Dataset]:
    """One dataset a slice, feet first; HU with slope 1 and intercept -1024, as CTs store it."""
    volume, series_uid = exam.acquisition.ct, exam.uid("ct series")
    slices = []
    for z in range(volume.grid.shape[0]):
        header = new_instance(exam, CTImageStorage, exam.uid("ct", str(z)))
        header.SeriesInstanceUID = series_uid
        set_series(header, "CT", 2, "CT low dose", exam.protocol.ct_start)
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        header.InstanceNumber, header.AcquisitionNumber = z + 1, 1
        header.PatientPosition, header.KVP = "HFS", "120"
        header.ConvolutionKernel, header.XRayTubeCurrent = "SIMULATED", 60
        set_plane(header, volume.grid, z)
        header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "-1024", "1", "HU"
        header.WindowCenter, header.WindowWidth = "40", "400"
        set_pixels(header, (np.rint(volume.array[z]) + 1024).astype(np.uint16))
        slices.append(header)
    return slices


@dataclass(frozen=True)
class WrittenScan:
    """Files of one examination; ``truth`` is None when no lesion is to be seen."""

    functional: tuple[Path, ...]
    ct: tuple[Path, ...]
    truth: Path | None

    @property
    def images(self) -> tuple[Path, ...]:
        """What a scanner would send: functional image and CT, not the truth."""
        return self.functional + self.ct


@dataclass(frozen=True)
class WrittenPatient:
    """Files of both examinations."""

    pet: WrittenScan
    spect: WrittenScan


def write_patient(
    patient: SimulatedPatient, out_dir: Path, rwvm: bool = True, truth_form: TruthFileForm = TruthFileForm.SEG
) -> WrittenPatient:
    """Write a patient to ``out_dir``: ``pet/``, ``ct_pet/``, ``spect/``, ``ct_spect/`` and ``truth/``.

    The same patient gives the same bytes. ``rwvm=False`` writes a SPECT in counts without a unit.
    """
    protocols = draw_protocols(patient)
    pet = Examination(patient, Modality.PET, protocols[Modality.PET])
    spect = Examination(patient, Modality.SPECT, protocols[Modality.SPECT])
    return WrittenPatient(
        pet=_write_scan(pet, pet_slices(pet), out_dir, truth_form),
        spect=_write_scan(spect, [spect_instance(spect, rwvm)], out_dir, truth_form),
    )


def _write_scan(
    exam: Examination, functional: list[Dataset], out_dir: Path, truth_form: TruthFileForm
) -> WrittenScan:
    name = exam.modality.value
    return WrittenScan(
        functional=_write_series(functional, out_dir / name),
        ct=_write_series(ct_slices(exam), out_dir / f"ct_{name}"),
        truth=write_truth(exam, functional, truth_form, out_dir / "truth"),
    )


def _write_series(instances: Sequence[Dataset], folder: Path) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(save(one, folder / f"{one.Modality}{one.InstanceNumber:04d}.dcm") for one in instances)
