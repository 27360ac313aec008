"""An experiment's record: what fits together, and that two experiments never share a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cohort.manifest import CohortManifest, CohortPatient, read_manifest, write_manifest
from app.domain.analysis import ModelRole
from app.errors import MisconfiguredError
from app.training.cases import nnunet_splits, patient_folds, patient_of
from app.training.experiment import begin, experiment_steps
from app.training.experiment_settings import ExperimentSettings, PriorMask, with_changes
from app.training.sizes import EXTENTS, Size


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
        (["folds=0", "external_centre=''"], "nothing to test on"),
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


def test_the_sizes_are_experiments() -> None:
    for size in Size:
        settings = ExperimentSettings.model_validate({"cohort": "x", **EXTENTS[size].as_settings()})
        assert settings.simulated
        assert set(settings.models) == set(ModelRole)
    assert EXTENTS[Size.FULL].prior is PriorMask.M1
    assert (EXTENTS[Size.FULL].internal, EXTENTS[Size.FULL].external) == (48, 25)
