"""Any of nnU-Net's plans, or a file of one's own; what can't be trained or run is refused at the start."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.cohort.manifest import read_manifest
from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.inference.models.store import ModelStore
from app.training.experiment import begin
from app.training.experiment_settings import ExperimentSettings, read_experiment, with_changes
from app.training.export import command
from app.training.planning import NOT_RUN, PLANNERS, TrainingPlans
from app.training.workplace import Workplace
from tests.inference import tiny_model
from tests.training.made_cohort import make_cohort

SPACING_MM = [9.6, 9.6, 9.6]


def own_plans(**changes: Any) -> dict[str, Any]:
    """Plans of two channels with statistics that no scan here has, and a network of three stages."""
    plans = tiny_model.plans()
    plans["configurations"]["3d_fullres"]["spacing"] = SPACING_MM
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(
        n_stages=3, features_per_stage=[4, 8, 8], kernel_sizes=[[3, 3, 3]] * 3,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]], n_conv_per_stage=[1] * 3, n_conv_per_stage_decoder=[1] * 2,
    )  # fmt: skip
    return {**plans, **changes}


def write_plans(path: Path, plans: dict[str, Any]) -> Path:
    path.write_text(json.dumps(plans))
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("made") / "cohort", internal=2, external=1)


def settings_of(cohort: Path, *changes: str) -> ExperimentSettings:
    return with_changes({"cohort": str(cohort), "folds": 2, "prior": "truth"}, changes)


def test_every_planner_of_nnunet_is_known() -> None:
    from nnunetv2.experiment_planning import experiment_planners as home
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    found: dict[str, str] = {}
    for module in pkgutil.walk_packages(home.__path__, f"{home.__name__}."):
        for name, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, ExperimentPlanner):
                found[inspect.signature(kind.__init__).parameters["plans_name"].default] = name
    known = {plans.value: name for plans, name in PLANNERS.items() if plans is not TrainingPlans.SMALL}
    assert {plans: name for plans, name in found.items() if plans not in NOT_RUN} == known
    assert set(NOT_RUN) <= found.keys()


@pytest.mark.parametrize("plans", [*TrainingPlans])
def test_plans_of_every_planner_are_taken_by_name(cohort: Path, plans: TrainingPlans) -> None:
    assert settings_of(cohort, f"plans={plans}").plans == plans


@pytest.mark.parametrize(
    ("plans", "words"),
    [
        ("nnUNetPlansX", r"no plans 'nnUNetPlansX'; there are psma-small, nnUNetPlans, .* or give a file"),
        (NOT_RUN[0], "the node can't run"),
        ("away.json", r"away\.json: no such plans file"),
        ("a b.json", "only letters, digits"),
    ],
)
def test_plans_that_are_not_there_are_refused(cohort: Path, plans: str, words: str) -> None:
    with pytest.raises(MisconfiguredError, match=words):
        settings_of(cohort, f"plans={plans}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", r"not a plans\.json of nnU-Net"),
        ("[1]", r"not a plans\.json of nnU-Net"),
        ('{"configurations": {}}', "it has no transpose_forward"),
        (
            '{"configurations": {"2d": {}}, "transpose_forward": [0], "transpose_backward": [0]}',
            "has the configurations 2d; only 3d_fullres is trained",
        ),
    ],
)
def test_a_file_that_holds_no_plans_to_train_is_refused(
    cohort: Path, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(MisconfiguredError, match=words):
        settings_of(cohort, f"plans={tmp_path / 'own.json'}")


def test_an_experiment_keeps_its_plans_and_refuses_others(cohort: Path, tmp_path: Path) -> None:
    work, path = tmp_path / "work", write_plans(tmp_path / "own.json", own_plans())
    begin(work, settings_of(cohort, f"plans={path}"))
    moved = tmp_path / "elsewhere" / "own.json"
    moved.parent.mkdir()
    path.rename(moved)
    again = begin(work, settings_of(cohort, f"plans={moved}"))  # the same content is the same experiment
    assert again.plans == read_experiment(work).plans == "own.json"
    assert str(tmp_path) not in command(again)
    write_plans(moved, own_plans(comment="other"))
    with pytest.raises(MisconfiguredError, match="not the plans that this experiment began with"):
        begin(work, settings_of(cohort, f"plans={moved}"))


def test_a_model_is_trained_with_a_files_plans_and_its_own_datas_statistics(
    cohort: Path, tmp_path: Path
) -> None:
    path, work = write_plans(tmp_path / "own.json", own_plans()), tmp_path / "work"
    words = ["epochs=1", "iterations_per_epoch=1", "folds=2", "prior=truth", "device=cpu", f"plans={path}"]
    program = [sys.executable, "-m", "tests.training.preloaded", "experiment"]
    whole = [*program, "--cohort", str(cohort), "--work", str(work)]
    for step in ("prepare-M4", "model-M4-0"):
        told = [*whole, *(w for word in words for w in ("--set", word)), "--only", step]
        ended = subprocess.run(told, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert "copying" not in ended.stderr
        assert str(cohort) not in ended.stderr
    log = (work / "logs" / "prepare-M4.log").read_text()
    assert "copying" in log
    model = ModelStore(Workplace(work).models("0")).load(ModelRole.M4)
    assert "spacing, patch, batch and network of the plans in own.json" in model.card.deviations
    plans = json.loads((Workplace(work).models("0") / model.card.id / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["spacing"] == SPACING_MM
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 8, 8]
    assert configuration["normalization_schemes"] == ["CTNormalization", "CTNormalization", "NoNormalization"]
    statistics = plans["foreground_intensity_properties_per_channel"]
    assert sorted(statistics) == ["0", "1", "2"]
    assert statistics["0"]["mean"] != own_plans()["foreground_intensity_properties_per_channel"]["0"]["mean"]
    assert plans["plans_name"] == "own-own"
    assert len(read_manifest(cohort).of_centre("A")) == 2
