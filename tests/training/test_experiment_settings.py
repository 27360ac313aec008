"""An experiment's record: what fits together, and that two experiments never share a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from app.cli.experiment import Size
from app.cohort.manifest import CohortManifest, CohortPatient, image_file, read_manifest, write_manifest
from app.domain.decision import ModelRole
from app.domain.scores import Validation
from app.domain.study import StudyKind
from app.domain.volume import LabelMap
from app.errors import MisconfiguredError
from app.imaging.nifti import read_labels, write_array
from app.training import worker
from app.training.dataset import nnunet_splits, patient_folds, patient_of, pet_lesions, write_splits
from app.training.experiment import begin, experiment_steps, step_names
from app.training.experiment_settings import EXTENTS, ExperimentSettings, PriorMask, with_changes
from app.training.workplace import Workplace
from tests.training.made_cohort import make_cohort


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Six patients of A and two of B, without scans."""
    patients = [
        CohortPatient(id=f"{centre}{n:04d}", centre=centre, scans=())
        for centre, count in (("A", 6), ("B", 2))
        for n in range(1, count + 1)
    ]
    folder = tmp_path / "cohort"
    folder.mkdir()
    write_manifest(CohortManifest(patients=tuple(patients)), folder)
    return folder


def settings_of(cohort: Path, *changes: str) -> ExperimentSettings:
    return with_changes({"cohort": str(cohort), "folds": 2, "epochs": 2}, changes)


def test_the_same_experiment_goes_on_and_another_is_refused(cohort: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    first = begin(work, settings_of(cohort))
    assert begin(work, settings_of(cohort, "parallel=4")).epochs == first.epochs
    with pytest.raises(MisconfiguredError, match="epochs: 2, now 3"):
        begin(work, settings_of(cohort, "epochs=3"))


def test_a_cohort_that_changed_is_noticed(cohort: Path, tmp_path: Path) -> None:
    begin(tmp_path / "work", settings_of(cohort))
    more = CohortPatient(id="A0009", centre="A", scans=())
    write_manifest(CohortManifest(patients=(*read_manifest(cohort).patients, more)), cohort)
    with pytest.raises(MisconfiguredError, match="cohort_sha256"):
        begin(tmp_path / "work", settings_of(cohort))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["folds=1"], "holds nobody back"),
        (["folds=0", "external_centre="], "nothing to test on"),
        (["external_centre=A"], "trained on"),
        (["simulated=false"], "no key 'simulated'"),
        (["cohort_sha256=0"], "no key 'cohort_sha256'"),
        (["models=M4"], "M4 wants M1, M2"),
        (["models=M2,M4", "prior=truth", "folds=x"], "folds"),
        (["models=M1,M1"], "name each once"),
        (["folds=0"], "held-out results"),
        (["epoch=3"], "no key 'epoch'"),
        (["epochs"], "expected KEY=VALUE"),
        (["plans=nnUNetPlansX"], "plans"),
        (["models=M5"], "models"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(cohort: Path, changes: list[str], words: str) -> None:
    with pytest.raises(MisconfiguredError, match=words):
        settings_of(cohort, *changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [(["internal_centre=C"], "no patient of centre C"), (["folds=7"], "expected at least 7")],
)
def test_a_cohort_without_the_patients_is_refused(
    cohort: Path, tmp_path: Path, changes: list[str], words: str
) -> None:
    with pytest.raises(MisconfiguredError, match=words):
        begin(tmp_path / "work", settings_of(cohort, *changes))


def test_names_are_taken_as_they_stand(cohort: Path) -> None:
    settings = settings_of(cohort, "name=123", "external_centre=", "internal_centre=A")
    assert (settings.name, settings.external_centre) == ("123", "")


def test_a_cohort_says_whether_it_is_simulated(cohort: Path, tmp_path: Path) -> None:
    assert not begin(tmp_path / "one", settings_of(cohort)).simulated
    write_manifest(read_manifest(cohort).model_copy(update={"simulated": True}), cohort)
    assert begin(tmp_path / "other", settings_of(cohort)).simulated


def test_a_truth_that_changed_is_noticed(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path / "cohort", internal=2, external=1)
    begin(tmp_path / "work", settings_of(cohort))
    path = image_file(cohort, "A0001", StudyKind.PET_CT, "truth")
    truth = read_labels(path)
    write_array(path, np.roll(truth.array, 5, axis=0), truth.grid)
    with pytest.raises(MisconfiguredError, match="cohort_sha256"):
        begin(tmp_path / "work", settings_of(cohort))


def test_m4s_prior_is_m1s_result_on_an_unseen_patient_or_the_readers(tmp_path: Path) -> None:
    cohort, place = make_cohort(tmp_path / "cohort", internal=2, external=1), Workplace(tmp_path / "work")
    patient = read_manifest(cohort).patients[0]
    truth = read_labels(image_file(cohort, patient.id, StudyKind.PET_CT, "truth"))
    for number, validation in enumerate((Validation.INTERNAL, Validation.EXTERNAL), start=1):
        found = LabelMap(np.roll(truth.array, number, axis=1), truth.grid)
        path = place.prediction(validation, ModelRole.M1, patient.id, StudyKind.PET_CT)
        path.parent.mkdir(parents=True)
        write_array(path, found.array, found.grid)
        taken = pet_lesions(settings_of(cohort, "prior=m1"), place, patient, validation)
        np.testing.assert_array_equal(taken.array, found.array)
        drawn = pet_lesions(settings_of(cohort, "prior=truth"), place, patient, validation)
        np.testing.assert_array_equal(drawn.array, truth.array)


def test_a_fold_without_a_case_is_refused_with_what_to_do(tmp_path: Path) -> None:
    cohort, place = make_cohort(tmp_path / "cohort", internal=2, external=1), Workplace(tmp_path / "work")
    settings, manifest = settings_of(cohort), read_manifest(cohort)
    place.raw(ModelRole.M4).mkdir(parents=True)
    only_one_patient = {"dataset": {"A0000_prior0": {}, "A0000_prior1": {}}}
    (place.raw(ModelRole.M4) / "dataset.json").write_text(json.dumps(only_one_patient))
    with pytest.raises(MisconfiguredError, match=r"M4: fold \d of 2 has no case .* fewer folds"):
        write_splits(settings, manifest, ModelRole.M4, place)


def test_a_fold_without_a_case_is_refused_before_anything_is_preprocessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = make_cohort(tmp_path / "cohort", internal=2, external=1)
    manifest = read_manifest(cohort)
    only_spect = manifest.patients[0].model_copy(update={"scans": manifest.patients[0].scans[1:]})
    write_manifest(manifest.model_copy(update={"patients": (only_spect, *manifest.patients[1:])}), cohort)
    begin(tmp_path / "work", settings_of(cohort))
    preprocessed: list[object] = []
    monkeypatch.setattr(worker, "plan_and_preprocess", lambda *given: preprocessed.append(given))
    with pytest.raises(MisconfiguredError, match=r"M1: fold \d of 2 has no case"):
        worker.prepare(tmp_path / "work", ModelRole.M1)
    assert preprocessed == []
    worker.prepare(tmp_path / "work", ModelRole.M2)
    assert len(preprocessed) == 1


def test_every_patient_is_held_back_once_and_folds_do_not_depend_on_order() -> None:
    patients = [f"A{n:04d}" for n in range(11)]
    folds = patient_folds(patients, 3, seed=1)
    assert sorted(name for fold in folds for name in fold) == patients
    assert sorted(map(len, folds)) == [3, 4, 4]
    assert patient_folds(patients[::-1], 3, seed=1) == folds
    assert patient_folds(patients, 3, seed=2) != folds


def test_a_patients_cases_are_on_one_side_of_every_split() -> None:
    cases = [f"A000{n}_{kind}" for n in range(4) for kind in ("pet", "spect")]
    for split in nnunet_splits(cases, patient_folds([f"A000{n}" for n in range(4)], 2, seed=1)):
        assert not {patient_of(c) for c in split["train"]} & {patient_of(c) for c in split["val"]}
        assert sorted(split["train"] + split["val"]) == cases


def test_m4_waits_for_the_m1_that_has_not_seen_its_patients(cohort: Path, tmp_path: Path) -> None:
    needs = {step.name: step.needs for step in experiment_steps(tmp_path, settings_of(cohort, "prior=m1"))}
    assert needs["prepare-M4"] == ("model-M1-0", "model-M1-1")
    assert needs["model-M4-all"] == ("prepare-M4", "model-M1-all")
    assert needs["model-M4-0"] == ("prepare-M4",)
    free = {step.name: step.needs for step in experiment_steps(tmp_path, settings_of(cohort, "prior=truth"))}
    assert free["prepare-M4"] == ()


def test_what_is_for_use_comes_first_and_further_seeds_come_last(cohort: Path, tmp_path: Path) -> None:
    settings = settings_of(cohort, "prior=m1", "more_seeds=1")
    names = step_names(settings)
    assert names[:4] == ("prepare-M1", "model-M1-0", "model-M1-1", "model-M1-all")
    in_use = [names.index(f"model-{role}-all") for role in ModelRole]
    assert max(in_use) < min(names.index(f"model-{role}-0") for role in ("M2", "M3", "M4"))
    assert names[-2:] == ("model-M4-all-2", "model-M2-all-2")
    needs = {step.name: step.needs for step in experiment_steps(tmp_path, settings)}
    assert needs["model-M4-all-2"] == ("prepare-M4", "model-M1-all")
    assert len(names) == len(set(names)) == 4 * (1 + 2 + 1) + 2


def test_without_an_external_centre_there_is_nothing_to_repeat(cohort: Path) -> None:
    assert settings_of(cohort, "more_seeds=2").repeated_splits == ("all-2", "all-3")
    assert settings_of(cohort, "more_seeds=2", "external_centre=").repeated_splits == ()


def test_the_sizes_are_experiments() -> None:
    assert set(EXTENTS) == set(Size)
    for size in Size:
        settings = ExperimentSettings.model_validate({"cohort": "x", **EXTENTS[size].settings})
        assert set(settings.models) == set(ModelRole)
    assert EXTENTS[Size.FULL].settings["prior"] is PriorMask.M1
    assert (EXTENTS[Size.FULL].internal, EXTENTS[Size.FULL].external) == (48, 25)
