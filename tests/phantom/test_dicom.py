"""Simulated patients as files: conformant, and the same numbers in the same place."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from app.domain.volume import FloatArray
from app.phantom.centres import Centre, Modality, TruthFileForm
from app.phantom.dicom.header import Examination, save
from app.phantom.dicom.truth import truth_segmentation, write_truth
from app.phantom.dicom.writer import WrittenPatient, WrittenScan, spect_instance
from app.phantom.patient import COUNTING, SimulatedPatient, draw_protocols


def validator() -> str:
    beside = Path(sys.executable).parent / "dciodvfy"
    found = str(beside) if beside.exists() else shutil.which("dciodvfy")
    if found is None:
        pytest.skip("needs dciodvfy, of the Python package dicom3tools")
    return found


def some(paths: tuple[Path, ...]) -> Iterable[Path]:
    return (paths[0], paths[len(paths) // 2], paths[-1])


def every_kind(files: WrittenPatient) -> list[Path]:
    kinds = []
    for scan in (files.pet, files.spect):
        kinds += [*some(scan.functional), *some(scan.ct), *([scan.truth] if scan.truth else [])]
    return sorted(set(kinds))


def headers(paths: Iterable[Path]) -> list[Dataset]:
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]


def lps(dataset: Dataset) -> FloatArray:
    return np.array([float(value) for value in dataset.ImagePositionPatient])


def examination(patient: SimulatedPatient, modality: Modality) -> Examination:
    return Examination(patient, modality, draw_protocols(patient)[modality])


def test_dciodvfy_finds_no_error(files: WrittenPatient) -> None:
    program, complaints = validator(), []
    for path in every_kind(files):
        run = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
        complaints += [
            f"{path.name}: {line}" for line in (run.stdout + run.stderr).splitlines() if "Error" in line
        ]
    assert complaints == []


def test_uids_are_valid_and_no_instance_shares_one(files: WrittenPatient) -> None:
    found = headers((*files.pet.images, *files.spect.images))
    uids = [header.SOPInstanceUID for header in found]
    assert len(set(uids)) == len(uids)
    assert all(UID(uid).is_valid and uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)
    assert len({header.SeriesInstanceUID for header in found}) == 4
    assert len({header.StudyInstanceUID for header in found}) == 2


def test_one_patient_two_studies_weeks_apart(files: WrittenPatient, patient: SimulatedPatient) -> None:
    pet, spect = headers((files.pet.functional[0], files.spect.functional[0]))
    assert pet.PatientID == spect.PatientID == f"SIM-{patient.centre.value}{patient.number:04d}"
    assert str(pet.PatientName).startswith("SIMULATED^")
    days = (pydicom.valuerep.DA(spect.StudyDate) - pydicom.valuerep.DA(pet.StudyDate)).days
    assert 14 <= days <= 47


@pytest.mark.parametrize("modality", list(Modality))
def test_functional_image_and_ct_share_a_frame_of_reference(
    files: WrittenPatient, modality: Modality
) -> None:
    scan: WrittenScan = getattr(files, modality.value)
    assert (
        len({header.FrameOfReferenceUID for header in headers([*some(scan.functional), *some(scan.ct)])}) == 1
    )


def test_pet_headers_give_back_the_suv(files: WrittenPatient, patient: SimulatedPatient) -> None:
    volume = patient.pet.functional
    for z in (0, 40, 140, len(files.pet.functional) - 1):
        image = pydicom.dcmread(files.pet.functional[z])
        given = image.RadiopharmaceuticalInformationSequence[0]
        assert (image.Units, image.DecayCorrection, float(image.RescaleIntercept)) == ("BQML", "START", 0.0)
        series_start = pydicom.valuerep.DT(image.SeriesDate + image.SeriesTime)
        elapsed_s = (
            series_start - pydicom.valuerep.DT(given.RadiopharmaceuticalStartDateTime)
        ).total_seconds()
        left_bq = float(given.RadionuclideTotalDose) * 2 ** (-elapsed_s / float(given.RadionuclideHalfLife))
        bqml = image.pixel_array * float(image.RescaleSlope)
        suv = bqml * float(image.PatientWeight) * 1000 / left_bq
        assert 50 * 60 < elapsed_s < 80 * 60
        assert np.abs(suv - volume.array[z]).max() <= 1e-4 * volume.array[z].max()
        assert np.allclose(lps(image), volume.grid.to_lps(np.array([[0.0, 0.0, z]]))[0], atol=1e-6)


def test_pet_slopes_differ_from_slice_to_slice(files: WrittenPatient) -> None:
    assert len({str(header.RescaleSlope) for header in headers(files.pet.functional[::20])}) > 5


def test_pet_bed_times_run_on_from_the_series_time(files: WrittenPatient) -> None:
    found = headers(files.pet.functional[::10])
    begun = pydicom.valuerep.DT(found[0].SeriesDate + found[0].SeriesTime)
    for header in found:
        bed_s = (pydicom.valuerep.DT(header.AcquisitionDate + header.AcquisitionTime) - begun).total_seconds()
        reference_s, duration_s = (
            float(header.FrameReferenceTime) / 1000,
            float(header.ActualFrameDuration) / 1000,
        )
        assert bed_s < reference_s < bed_s + duration_s / 2
    assert found[-1].AcquisitionTime > found[0].AcquisitionTime


def test_ct_gives_back_hounsfield_units_in_place(files: WrittenPatient, patient: SimulatedPatient) -> None:
    for scan, paths in ((patient.pet, files.pet.ct), (patient.spect, files.spect.ct)):
        for path in (paths[0], paths[-1]):
            image = pydicom.dcmread(path)
            x, y, z = scan.ct.grid.to_index(lps(image))[0]
            hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
            assert np.allclose([x, y, z - round(z)], 0, atol=1e-6)
            assert np.array_equal(hu, scan.ct.array[round(z)])


def spect_frames(image: Dataset) -> list[tuple[FloatArray, np.ndarray]]:
    """Position and counts of each frame, by PS3.3 C.8.4.15."""
    detector = image.DetectorInformationSequence[0]
    orientation = np.array([float(value) for value in detector.ImageOrientationPatient])
    step = np.cross(orientation[:3], orientation[3:]) * float(image.SpacingBetweenSlices)
    first = np.array([float(value) for value in detector.ImagePositionPatient])
    return [(first + (n - 1) * step, image.pixel_array[f]) for f, n in enumerate(image.SliceVector)]


def test_spect_headers_give_back_the_suv_in_place(files: WrittenPatient, patient: SimulatedPatient) -> None:
    image = pydicom.dcmread(files.spect.functional[0])
    given, mapping = image.RadiopharmaceuticalInformationSequence[0], image.RealWorldValueMappingSequence[0]
    start = pydicom.valuerep.DT(image.AcquisitionDate + image.AcquisitionTime)
    elapsed_s = (start - pydicom.valuerep.DT(given.RadiopharmaceuticalStartDateTime)).total_seconds()
    assert 0.5 < elapsed_s / 86400 < 4.5
    activity_bq = float(given.RadionuclideTotalDose) * 1e6  # NM states MBq
    left_bq = activity_bq * 2 ** (-elapsed_s / 574300.0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "Bq/ml"
    to_suv = mapping.RealWorldValueSlope * float(image.PatientWeight) * 1000 / left_bq
    grid, array = patient.spect.functional.grid, patient.spect.functional.array
    for position, counts in spect_frames(image):
        x, y, z = grid.to_index(position)[0]
        assert np.allclose([x, y, z - round(z)], 0, atol=1e-6)
        assert np.abs(counts * to_suv - array[round(z)]).max() <= 0.51 * to_suv


def test_centre_b_writes_its_spect_from_the_head_down(written: Mapping[Centre, WrittenPatient]) -> None:
    a, b = (headers(written[centre].spect.functional)[0] for centre in Centre)
    assert float(a.SpacingBetweenSlices) > 0 > float(b.SpacingBetweenSlices)
    assert b.FrameIncrementPointer == 0x00540080


def test_counts_and_the_calibration_factor_give_the_mapping(
    files: WrittenPatient, patient: SimulatedPatient
) -> None:
    image = headers(files.spect.functional)[0]
    rotation, counting = image.RotationInformationSequence[0], COUNTING[patient.centre]
    seconds = (
        float(rotation.ActualFrameDuration)
        / 1000
        * rotation.NumberOfFramesInRotation
        * image.NumberOfDetectors
    )
    voxel_ml = (
        float(np.prod([float(v) for v in image.PixelSpacing]) * abs(float(image.SpacingBetweenSlices))) / 1000
    )
    expected = counting.calibration_bq_per_cps / seconds / voxel_ml
    assert image.RealWorldValueMappingSequence[0].RealWorldValueSlope == pytest.approx(expected, rel=1e-9)


def test_counts_only_leaves_out_the_mapping_and_keeps_the_counts(patient: SimulatedPatient) -> None:
    exam = examination(patient, Modality.SPECT)
    plain, mapped = spect_instance(exam, rwvm=False), spect_instance(exam)
    assert "RealWorldValueMappingSequence" not in plain
    assert plain.PixelData == mapped.PixelData


@pytest.mark.parametrize("modality", list(Modality))
def test_the_truth_seg_is_the_truth(
    files: WrittenPatient, patient: SimulatedPatient, modality: Modality
) -> None:
    scan: WrittenScan = getattr(files, modality.value)
    truth = getattr(patient, modality.value).truth
    assert scan.truth is not None
    segmentation = hd.seg.segread(scan.truth)
    rebuilt = np.zeros(truth.grid.shape, np.uint16)
    for frame, groups in zip(
        segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True
    ):
        position = lps(groups.PlanePositionSequence[0])
        z = round(float(truth.grid.to_index(position)[0, 2]))
        rebuilt[z][frame > 0] = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    assert np.array_equal(rebuilt, truth.array)
    assert segmentation.number_of_segments == truth.count


def test_the_same_patient_is_the_same_bytes(
    files: WrittenPatient, patient: SimulatedPatient, tmp_path: Path
) -> None:
    exam = examination(patient, Modality.SPECT)
    again = spect_instance(exam)
    truth = truth_segmentation(exam, [again])
    assert files.spect.truth is not None
    assert save(again, tmp_path / "spect.dcm").read_bytes() == files.spect.functional[0].read_bytes()
    assert save(truth, tmp_path / "truth.dcm").read_bytes() == files.spect.truth.read_bytes()


@pytest.mark.parametrize("form", list(TruthFileForm))
def test_a_patient_without_lesion_has_no_truth(
    patient: SimulatedPatient, form: TruthFileForm, tmp_path: Path
) -> None:
    empty = replace(patient.spect.truth, array=np.zeros_like(patient.spect.truth.array))
    healthy = replace(patient, spect=replace(patient.spect, truth=empty, kinds=()))
    exam = examination(healthy, Modality.SPECT)
    assert write_truth(exam, [spect_instance(exam)], form, tmp_path / "truth") is None
    assert list(tmp_path.iterdir()) == []
