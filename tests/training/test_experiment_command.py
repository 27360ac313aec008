"""``psma-node experiment`` before anything is trained: its parts and steps by name, one run at a time."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.main import app
from app.cohort.manifest import CohortManifest, CohortPatient, read_manifest, write_manifest
from app.errors import MisconfiguredError
from app.files.durable import hold_folder
from app.training import conclusion, experiment
from app.training.experiment import begin, run_step
from app.training.experiment_settings import read_experiment, with_changes
from app.training.export import command
from app.training.steps import Step, write_mark
from app.training.workplace import Workplace


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Four patients of A and two of B, without scans."""
    patients = tuple(
        CohortPatient(id=f"{centre}{n:04d}", centre=centre, scans=())
        for centre, count in (("A", 4), ("B", 2))
        for n in range(count)
    )
    folder = tmp_path / "cohort"
    folder.mkdir()
    write_manifest(CohortManifest(patients=patients), folder)
    return folder


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the steps that would have run; each is marked as finished."""
    names: list[str] = []

    def run(work: Path, _: object, steps: tuple[Step, ...]) -> None:
        for step in steps:
            names.append(step.name)
            write_mark(Workplace(work).done(step.name), 1.0)

    monkeypatch.setattr(experiment, "_run", run)
    return names


def run_command(cohort: str | Path, work: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["experiment", "--cohort", str(cohort), "--work", str(work), *words])


def test_one_step_runs_by_its_name_and_nothing_else(cohort: Path, tmp_path: Path, ran: list[str]) -> None:
    for name in ("prepare-M1", "model-M1-0"):
        result = run_command(cohort, tmp_path / "work", "--set", "folds=2", "--only", name)
        assert result.exception is None
    assert ran == ["prepare-M1", "model-M1-0"]


def test_a_step_that_waits_for_others_names_them(cohort: Path, tmp_path: Path, ran: list[str]) -> None:
    work = tmp_path / "work"
    settings = begin(work, with_changes({"cohort": str(cohort)}, ["folds=2", "prior=m1"]))
    write_mark(Workplace(work).done("model-M1-0"), 1.0)
    with pytest.raises(MisconfiguredError, match=r"prepare-M4 waits for model-M1-1: .*`--only model-M1-1`"):
        run_step(work, settings, "prepare-M4")
    assert ran == []


def test_an_unknown_part_is_answered_with_all_parts_and_steps(cohort: Path, tmp_path: Path) -> None:
    result = run_command(cohort, tmp_path / "work", "--set", "folds=2", "--only", "eval")
    told = " ".join(result.output.replace("\u2502", " ").split())
    assert result.exit_code == 2
    assert "Value error" not in told
    for name in ("no part or step 'eval'", "cohort", "report", "prepare-M1", "model-M4-all"):
        assert name in told
    assert not (tmp_path / "work").exists()


def test_a_step_before_the_simulated_patients_are_there_names_their_part(tmp_path: Path) -> None:
    result = run_command("simulated", tmp_path / "work", "--only", "prepare-M1")
    assert isinstance(result.exception, MisconfiguredError)
    assert "run `--only cohort` first" in str(result.exception)


def test_two_runs_never_simulate_the_same_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> None:
        pytest.fail("patients were written while another run held the folder")

    monkeypatch.setattr("app.cohort.simulation.simulate_cohort", unwanted)
    work = tmp_path / "work"
    with hold_folder(work, "command"):
        result = run_command("simulated", work)
    assert isinstance(result.exception, MisconfiguredError)
    assert "at work in this folder" in str(result.exception)


def test_a_folder_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MisconfiguredError, match="can't be written to"), hold_folder(tmp_path / "file", "x"):
        pass


def test_a_report_with_other_settings_than_the_training_had_is_refused(
    cohort: Path, tmp_path: Path, ran: list[str]
) -> None:
    run_command(cohort, tmp_path / "work", "--set", "folds=2", "--only", "train")
    assert "model-M4-all" in ran
    result = run_command(cohort, tmp_path / "work", "--set", "folds=3", "--only", "report")
    assert isinstance(result.exception, MisconfiguredError)
    assert "folds: 2, now 3" in str(result.exception)


def test_a_report_on_a_cohort_that_changed_since_the_training_is_refused(
    cohort: Path, tmp_path: Path, ran: list[str]
) -> None:
    run_command(cohort, tmp_path / "work", "--set", "folds=2", "--only", "train")
    manifest = read_manifest(cohort)
    write_manifest(manifest.model_copy(update={"warnings": ("a truth was drawn again",)}), cohort)
    result = run_command(cohort, tmp_path / "work", "--set", "folds=2", "--only", "report")
    assert isinstance(result.exception, MisconfiguredError)
    assert "not the cohort that its models were trained on" in str(result.exception)


@pytest.mark.parametrize("part", ["cohort", "train", "model-M1-all"])
def test_models_are_installed_with_the_report_alone(
    cohort: Path, tmp_path: Path, ran: list[str], part: str
) -> None:
    words = ("--set", "folds=2", "--only", part, "--install", str(tmp_path / "models"))
    result = run_command(cohort, tmp_path / "work", *words)
    assert result.exit_code == 2
    assert "--install" in result.output
    assert ran == []


def test_the_command_of_a_report_on_simulated_patients_makes_the_same_experiment_from_nothing(
    cohort: Path, tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def write_report(work: Path, patients: str) -> Path:
        told.append(command(read_experiment(work), patients))
        return work / "report.html"

    monkeypatch.setattr(conclusion, "write_report", write_report)
    work = tmp_path / "work"
    place = Workplace(work)
    place.models("all").mkdir(parents=True)
    cohort.rename(work / "cohort")
    write_mark(place.done("cohort"), 1.0)
    first = run_command("simulated", work, "--size", "tiny", "--set", "seed=7")
    assert first.exception is None
    assert "--cohort simulated --size tiny " in told[0]
    program, *words = shlex.split(told[0])
    assert program == "psma-node"
    again = CliRunner().invoke(app, [*words, "--work", str(work), "--only", "report"])
    assert again.exception is None
    assert told == [told[0]] * 2


@pytest.mark.parametrize("words", [("--size", "tiny"), ("--only", "cohort")])
def test_what_only_simulated_patients_have_is_refused_for_a_cohort_of_ones_own(
    cohort: Path, tmp_path: Path, ran: list[str], words: tuple[str, ...]
) -> None:
    result = run_command(cohort, tmp_path / "work", "--set", "folds=2", *words)
    assert result.exit_code == 2
    assert "only with --cohort simulated" in result.output
    assert ran == []
    assert not (tmp_path / "work").exists()


def test_a_cohort_named_by_a_dot_has_its_experiment_under_its_own_name(
    cohort: Path, tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cohort)
    words = ("--cohort", ".", "--set", "folds=2", "--only", "train")
    assert CliRunner().invoke(app, ["experiment", *words]).exception is None
    assert (cohort / ".cache" / "experiments" / "cohort" / "experiment.yaml").is_file()
