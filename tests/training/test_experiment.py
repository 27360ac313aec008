"""A whole experiment with real trainings of a few steps, killed in the middle and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.cohort.manifest import image_file, read_manifest
from app.domain.decision import ModelRole
from app.domain.scores import Validation
from app.domain.study import StudyKind
from app.errors import MisconfiguredError
from app.imaging.nifti import read_labels
from app.inference.models.store import ModelStore
from app.training.conclusion import write_report
from app.training.experiment import lock_experiment
from app.training.experiment_settings import read_experiment
from app.training.model_training import held_out
from app.training.workplace import Workplace
from app.validation.scores import read_scores
from tests.training.made_cohort import make_cohort

SETTINGS = (
    "name=made", "plans=psma-small", "folds=2", "epochs=1", "iterations_per_epoch=1", "device=cpu",
    "parallel=2", "prior=truth", "more_seeds=1",
)  # fmt: skip
MISFIT = "the skeletons don't lie on each other"


def command(cohort: Path, work: Path, program: str = "app") -> list[str]:
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    return [sys.executable, "-m", program, "experiment", "--cohort", str(cohort), "--work", str(work), *words]


def kill_after_first_model(cohort: Path, work: Path, log: Path) -> None:
    """Begin, and kill everything at once when the first training is finished."""
    with log.open("wb") as output:
        child = subprocess.Popen(command(cohort, work), stderr=output, start_new_session=True)
        deadline = time.monotonic() + 600
        while not list(work.glob("steps/model-*.done")) and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert child.poll() is None, log.read_text()
        child.kill()  # the command alone: what it began must notice and end
        child.wait()
        while subprocess.run(["pgrep", "-f", f"worker {work}"], capture_output=True, check=False).stdout:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that was killed once and is finished."""
    base = tmp_path_factory.mktemp("experiment")
    cohort = make_cohort(base / "cohort")
    kill_after_first_model(cohort, base / "work", base / "killed.log")
    goes_on = command(cohort, base / "work", "tests.training.preloaded")
    ended = subprocess.run(goes_on, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "steps were finished before" in ended.stderr
    assert "min left" in ended.stderr
    assert "report.html" in ended.stdout
    return base / "work"


def test_every_scan_of_both_centres_is_scored_once_by_every_model(work: Path) -> None:
    scores = read_scores(work / "scores.csv")
    keys = [(s.key.model, s.key.kind, s.key.validation, s.key.patient) for s in scores]
    assert len(set(keys)) == len(keys)
    internal = {k[3] for k in keys if k[2] is Validation.INTERNAL}
    external = {k[3] for k in keys if k[2] is Validation.EXTERNAL}
    assert (internal, external) == ({f"A000{n}" for n in range(4)}, {"B0000", "B0001"})
    # M1, M2, M4: one kind of scan; M3: two
    assert len(keys) == 6 * (1 + 1 + 2 + 1)


def test_m2_runs_where_no_prior_fits_and_the_score_says_why(work: Path) -> None:
    scores = [s for s in read_scores(work / "scores.csv") if s.key.model is ModelRole.M4]
    used = {s.key.patient: s.key.used for s in scores}
    assert used["B0001"] is ModelRole.M2
    assert {used[name] for name in used if name != "B0001"} == {ModelRole.M4}
    assert next(s.key.why for s in scores if s.key.patient == "B0001") == MISFIT


def test_no_model_was_trained_on_a_patient_that_it_is_tested_on(work: Path) -> None:
    place, settings = Workplace(work), read_experiment(work)
    manifest = read_manifest(settings.cohort_folder)
    for role in ModelRole:
        splits = json.loads((place.preprocessed(role) / "splits_final.json").read_text())
        cases = json.loads((place.raw(role) / "dataset.json").read_text())["dataset"]
        assert not any(name.startswith("B") for name in cases)
        for fold, split in enumerate(splits):
            trained = {name.split("_")[0] for name in split["train"]}
            tested = {patient.id for patient in held_out(settings, manifest, str(fold))}
            assert tested == {name.split("_")[0] for name in split["val"]}
            assert not trained & tested
            assert trained | tested == {f"A000{n}" for n in range(4)}


def test_further_seeds_are_trained_on_all_and_scored_apart(work: Path) -> None:
    again = work / "all-2"
    keys = [score.key for score in read_scores(again / "scores.csv")]
    assert {(key.model, key.validation) for key in keys} == {
        (ModelRole.M2, Validation.EXTERNAL), (ModelRole.M4, Validation.EXTERNAL)
    }  # fmt: skip
    assert {(k.patient, k.used) for k in keys if k.model is ModelRole.M4} == {
        ("B0000", ModelRole.M4), ("B0001", ModelRole.M2)
    }  # fmt: skip
    first, other = ModelStore(work / "models"), ModelStore(again / "models")
    for role in (ModelRole.M2, ModelRole.M4):
        one, two = first.load(role).card, other.load(role).card
        assert one.files["weights.safetensors"] != two.files["weights.safetensors"]
        assert one.training_data.replace("seed 1", "seed 2") == two.training_data
    assert "Spread over seeds" in (work / "report.html").read_text(encoding="utf-8")


def test_a_card_tells_what_the_plans_do_to_each_channel(work: Path) -> None:
    place = Workplace(work)
    card = ModelStore(work / "models").load(ModelRole.M4).card
    plans = json.loads((work / "models" / card.id / "plans.json").read_text())
    schemes = plans["configurations"]["3d_fullres"]["normalization_schemes"]
    assert schemes == ["CTNormalization", "CTNormalization", "NoNormalization"]
    told = [channel.normalisation.split(";")[0].split(":")[0] for channel in card.channels]
    assert told == ["nnU-Net CT scheme", "nnU-Net CT scheme", "none"]
    assert place.preprocessed(ModelRole.M4).is_dir()


def test_a_report_before_the_end_names_what_is_missing(work: Path) -> None:
    mark = Workplace(work).done("model-M3-1")
    mark.rename(mark.with_suffix(".away"))
    try:
        with pytest.raises(MisconfiguredError, match=r"1 step\(s\) are not finished \(model-M3-1\)"):
            write_report(work)
    finally:
        mark.with_suffix(".away").rename(mark)


def test_one_step_by_its_name_is_all_that_runs(work: Path) -> None:
    place, report = Workplace(work), work / "report.html"
    marks = [place.done("model-M3-1"), place.done("model-M2-0")]
    for mark in marks:
        mark.unlink()
    written = report.stat().st_mtime_ns
    for mark in marks:
        words = [*command(work.parent / "cohort", work), "--only", mark.stem]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert ended.stderr.count(" begins") == 1
        assert mark.exists()
    assert report.stat().st_mtime_ns == written


def test_two_runs_at_once_in_one_folder_are_refused(work: Path) -> None:
    with (
        lock_experiment(work),
        pytest.raises(MisconfiguredError, match="at work in this folder"),
        lock_experiment(work),
    ):
        pass


def test_the_models_are_the_nodes_with_their_metrics(work: Path) -> None:
    store = ModelStore(work / "models")
    for role in ModelRole:
        card = store.load(role).card
        assert card.id == f"psma-{role.value.lower()}-made"
        assert card.demonstration_only
        assert {"internal" in m.cohort for m in card.metrics} == {True, False}
        assert card.metric_source is not None
    assert store.load(ModelRole.M3).card.tracers == ("177Lu-PSMA-617", "68Ga-PSMA-11")


def test_predictions_lie_on_the_grid_of_their_scan(work: Path) -> None:
    cohort = work.parent / "cohort"
    path = Workplace(work).prediction(Validation.EXTERNAL, ModelRole.M3, "B0000", StudyKind.SPECT_CT)
    truth = read_labels(image_file(cohort, "B0000", StudyKind.SPECT_CT, "truth"))
    assert read_labels(path).grid.matches(truth.grid)


def test_the_report_says_simulated_and_names_no_folder(work: Path) -> None:
    html = (work / "report.html").read_text(encoding="utf-8")
    assert "SIMULATED" in html
    assert str(work.parent) not in html


def test_a_run_again_does_nothing_but_the_report(work: Path) -> None:
    before = (work / "scores.csv").read_bytes()
    cohort = work.parent / "cohort"
    ended = subprocess.run(command(cohort, work), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert " begins" not in ended.stderr
    assert (work / "scores.csv").read_bytes() == before


def test_other_settings_are_refused_in_the_same_folder(work: Path) -> None:
    changed = [*command(work.parent / "cohort", work), "--set", "seed=2"]
    ended = subprocess.run(changed, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "seed: 1, now 2" in ended.stderr
