"""A simulated patient's truth gives the same training labels as SEG, as RTSTRUCT and as NIfTI."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name

from app.cohort import simulation as cohort_simulation
from app.cohort.simulation import Simulation, simulate_cohort
from app.cohort.truth import numbered_lesions
from app.dicom.outlines.seg import read_segmentation
from app.dicom.outlines.truth import read_structure_set
from app.dicom.reading.loading import read_functional
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_study
from app.domain.volume import Grid, LabelMap
from app.imaging.labels import nearest_labels
from app.imaging.nifti import read_labels
from app.phantom.centres import Centre, Modality, TruthFileForm
from app.phantom.dicom.header import Examination, save
from app.phantom.dicom.truth import write_truth
from app.phantom.dicom.writer import pet_slices, spect_instance
from app.phantom.patient import SimulatedPatient, draw_protocols
from tests.phantom.simulated import simulated

NUMBERS = {Centre.A: 3, Centre.B: 5}


@pytest.fixture(scope="module")
def patients() -> Mapping[Centre, SimulatedPatient]:
    """One patient of each centre; B's SPECT is stored from the head down."""
    return {centre: simulated(number, centre) for centre, number in NUMBERS.items()}


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Of two masks."""
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def read(path: Path, form: TruthFileForm, grid: Grid) -> LabelMap:
    """As ``cohort build`` reads it."""
    if form is TruthFileForm.SEG:
        return read_segmentation(path, grid).labels
    if form is TruthFileForm.RTSTRUCT:
        return read_structure_set(path, grid, grid).labels
    return nearest_labels(read_labels(path), grid)


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("centre", list(Centre))
def test_the_three_forms_give_the_same_labels(
    patients: Mapping[Centre, SimulatedPatient], centre: Centre, modality: Modality, tmp_path: Path
) -> None:
    patient = patients[centre]
    exam = Examination(patient, modality, draw_protocols(patient)[modality])
    functional = pet_slices(exam) if modality is Modality.PET else [spect_instance(exam)]
    for number, instance in enumerate(functional):
        save(instance, tmp_path / f"{number}.dcm")
    (series,) = read_study(tmp_path).series
    volume = read_functional(series, LoadPolicy()).suv
    assert volume is not None
    meant = exam.acquisition.truth
    assert meant.count > 3
    found = {}
    for form in TruthFileForm:
        path = write_truth(exam, functional, form, tmp_path / form.value)
        assert path is not None
        labels = read(path, form, volume.grid)
        least = 0.99 if form is TruthFileForm.RTSTRUCT else 1.0
        assert dice(labels.mask, meant.mask) >= least
        found[form] = numbered_lesions(labels)[0]
        assert abs(found[form].count - meant.count) <= 1  # one may lie in two places
    for form in TruthFileForm:
        np.testing.assert_array_equal(found[form].array, found[TruthFileForm.SEG].array)


def test_a_nifti_holds_ras_and_is_named_after_its_series(
    patients: Mapping[Centre, SimulatedPatient], tmp_path: Path
) -> None:
    patient = patients[Centre.A]
    exam = Examination(patient, Modality.SPECT, draw_protocols(patient)[Modality.SPECT])
    instance = spect_instance(exam)
    path = write_truth(exam, [instance], TruthFileForm.NIFTI, tmp_path)
    assert path is not None
    assert path.name == f"{instance.SeriesInstanceUID}.nii.gz"
    image = sitk.ReadImage(str(path))
    x, y, _ = exam.acquisition.truth.grid.origin_mm
    assert float(image.GetMetaData("qoffset_x")) == pytest.approx(-x, abs=1e-3)
    assert float(image.GetMetaData("qoffset_y")) == pytest.approx(-y, abs=1e-3)


@pytest.fixture
def two_scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The phantom replaced by two empty files, one of them with a truth; which patients were written."""
    from app.phantom import patient
    from app.phantom.dicom import writer
    from app.phantom.dicom.writer import WrittenPatient, WrittenScan

    written: list[int] = []

    def write(number: int, out_dir: Path, truth_form: TruthFileForm) -> WrittenPatient:
        written.append(number)
        truth = out_dir / "truth" / "x.nii.gz"
        truth.parent.mkdir(parents=True)
        truth.write_bytes(b"truth")
        return WrittenPatient(WrittenScan((), (), truth), WrittenScan((), (), None))

    monkeypatch.setattr(patient, "simulate_patient", lambda number, centre: number)
    monkeypatch.setattr(writer, "write_patient", write)
    return written


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """Of ``truth.csv``."""
    with (folder / "truth" / "truth.csv").open() as file:
        return [(row["patient_id"], row["kind"], row["file"]) for row in csv.DictReader(file)]


def test_a_simulated_reader_says_when_nothing_is_to_be_seen(two_scans: list[int], tmp_path: Path) -> None:
    simulate_cohort(Simulation(Centre.A, range(7, 8), tmp_path, TruthFileForm.NIFTI))
    assert rows(tmp_path) == [("SIM-A0007", "PET/CT", "A0007/pet.nii.gz"), ("SIM-A0007", "SPECT/CT", "")]
    assert (tmp_path / "truth" / "A0007" / "pet.nii.gz").read_bytes() == b"truth"
    assert not (tmp_path / "dicom" / "A0007" / "truth").exists()


def test_a_simulation_goes_on_where_it_stopped_and_can_be_extended(
    two_scans: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="app.cohort.simulation")  # other tests set the level of "app"
    simulate_cohort(Simulation(Centre.A, range(2), tmp_path))
    (tmp_path / "dicom" / "A0001").rename(tmp_path / "dicom" / ".A0001.part")  # killed while it was written
    simulate_cohort(Simulation(Centre.A, range(1, 4), tmp_path))
    assert two_scans == [0, 1, 1, 2, 3]
    assert [row[0] for row in rows(tmp_path)][::2] == ["SIM-A0000", "SIM-A0001", "SIM-A0002", "SIM-A0003"]
    assert "3 of 3 patients written, 0:00:00 left" in caplog.text


def test_a_folder_holds_one_centre_and_one_form(two_scans: list[int], tmp_path: Path) -> None:
    simulate_cohort(Simulation(Centre.A, range(1), tmp_path))
    for other in (
        Simulation(Centre.B, range(1), tmp_path),
        Simulation(Centre.A, range(1), tmp_path, TruthFileForm.NIFTI),
    ):
        with pytest.raises(cohort_simulation.MisconfiguredError, match="another simulation"):
            simulate_cohort(other)
