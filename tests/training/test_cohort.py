"""The cohort on disk, and how it is dealt out to the four models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name

from app.domain.analysis import ModelRole
from app.phantom.centres import Centre
from app.phantom.patient import simulate_patient
from app.phantom.priors import PriorDefect
from app.training.cohort import cases_of, draw_defect, patient_of, write_patient
from app.training.dataset import channel_normalisation, dataset_description, grouped_split
from app.training.request import TrainingRequest


def test_m3_sees_pet_and_spect_as_cases_of_their_own() -> None:
    cases = cases_of(ModelRole.M3, "A0007", Path("patients"))
    assert [case.identifier for case in cases] == ["A0007_pet", "A0007_spect"]
    assert all(len(case.images) == 2 for case in cases)


def test_m4_sees_a_patient_with_two_priors() -> None:
    cases = cases_of(ModelRole.M4, "A0007", Path("patients"))
    assert [case.images[2].name for case in cases] == ["prior0.nii.gz", "prior1.nii.gz"]
    assert len({case.label for case in cases}) == 1


@pytest.mark.parametrize("role", list(ModelRole))
def test_no_patient_is_on_both_sides_of_a_split(role: ModelRole) -> None:
    identifiers = [c.identifier for n in range(41) for c in cases_of(role, f"A{n:04d}", Path("patients"))]
    split = grouped_split(identifiers)
    assert {patient_of(i) for i in split["train"]}.isdisjoint({patient_of(i) for i in split["val"]})
    assert sorted(split["train"] + split["val"]) == sorted(identifiers)


def test_even_two_patients_leave_one_to_validate() -> None:
    split = grouped_split(["A0000_pet", "A0001_pet"])
    assert split == {"train": ["A0000_pet"], "val": ["A0001_pet"]}


def test_the_prior_is_not_normalised_and_everything_else_is_by_fixed_numbers() -> None:
    assert channel_normalisation(ModelRole.M4) == {"0": "CT", "1": "CT", "2": "noNorm"}
    assert channel_normalisation(ModelRole.M1) == {"0": "CT", "1": "CT"}


def test_the_data_set_lists_every_case_with_absolute_paths() -> None:
    description = dataset_description(ModelRole.M4, cases_of(ModelRole.M4, "A0001", Path("patients")))
    assert description["numTraining"] == 2
    assert all(Path(image).is_absolute() for image in description["dataset"]["A0001_prior1"]["images"])


def test_15_to_20_percent_of_m4s_cases_have_a_wrong_prior() -> None:
    rng = np.random.default_rng(0)
    defects = [draw_defect(rng) for _ in range(4000)]
    share_of_cases = sum(defect is not PriorDefect.NONE for defect in defects) / len(defects) / 2
    assert 0.15 <= share_of_cases <= 0.20
    assert set(defects) == set(PriorDefect)


def test_iterations_fill_whole_epochs() -> None:
    with pytest.raises(ValueError, match="multiple of 50"):
        TrainingRequest(ModelRole.M1, 2, "A", 75, 1, 1, Path("w"))


def test_a_request_survives_the_way_to_the_child_process() -> None:
    request = TrainingRequest(ModelRole.M4, 12, "A", 100, 3, 1, Path("/tmp/work"))  # noqa: S108 - not used
    assert TrainingRequest.from_json(request.to_json()) == request


def test_a_patient_is_written_once_with_its_images_on_one_grid(tmp_path: Path) -> None:
    write_patient(3, "A", tmp_path, seed=1)
    home = tmp_path / "A0003"
    truth = sitk.ReadImage(str(home / "spect_truth.nii.gz"))
    suv = sitk.ReadImage(str(home / "spect_suv.nii.gz"))
    prior = sitk.ReadImage(str(home / "prior0.nii.gz"))
    assert truth.GetSize() == suv.GetSize() == prior.GetSize()
    assert truth.GetSpacing() == pytest.approx(suv.GetSpacing())
    expected = simulate_patient(3, Centre.A).spect
    assert int(sitk.GetArrayFromImage(truth).sum()) == int(expected.truth.mask.sum())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(suv), expected.functional.array)
    before = (home / "spect_suv.nii.gz").stat().st_mtime_ns
    write_patient(3, "A", tmp_path, seed=1)
    assert (home / "spect_suv.nii.gz").stat().st_mtime_ns == before
    assert json.loads((home / "patient.json").read_text())["prior_defects"][0] == "none"
