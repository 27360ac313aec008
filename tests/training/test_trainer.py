"""The trainer: nnU-Net's, resumable from its last checkpoint, and what leaves it is a model of the store."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.cohort.manifest import CohortManifest
from app.domain.decision import ModelRole
from app.inference.models.store import ModelStore
from app.inference.policy import DeviceChoice
from app.training import planning
from app.training.experiment_settings import ExperimentSettings
from app.training.export import export_model, model_id
from app.training.model_training import ModelTraining, build_trainer, train
from app.training.planning import TrainingPlans
from app.training.trainer import PsmaSmallTrainer, PsmaTrainer
from app.training.workplace import Workplace, child_environment
from tests.inference import tiny_model


class KilledError(Exception):
    """Stands for a kill signal."""


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelTraining:
    """Three preprocessed cases, a network of two stages, three epochs of two iterations."""
    return prepared(tmp_path / "work", monkeypatch)


def prepared(work: Path, monkeypatch: pytest.MonkeyPatch) -> ModelTraining:
    place = Workplace(work)
    settings = ExperimentSettings(
        name="test", cohort="", simulated=True, plans=TrainingPlans.SMALL, folds=3, epochs=3,
        iterations_per_epoch=2, device=DeviceChoice.CPU,
    )  # fmt: skip
    for name, value in child_environment(place, 1, planning=False).items():
        monkeypatch.setenv(name, value)
    training = ModelTraining(settings, ModelRole.M2, "0", place)
    home = place.preprocessed(ModelRole.M2)
    plans = {**three_stages(), "dataset_name": home.name, "plans_name": TrainingPlans.SMALL.value}
    cases = [f"A000{n}_spect" for n in range(3)]
    for case in cases:
        write_case(home / "tiny", case)
    (home / f"{TrainingPlans.SMALL}.json").write_text(json.dumps(plans))
    listed = {case: {"images": [str(work)], "label": ""} for case in cases}
    description = {**tiny_model.DATASET, "dataset": listed}
    (home / "dataset.json").write_text(json.dumps(description))
    (home / "dataset_fingerprint.json").write_text("{}")
    splits = [{"train": [c for c in cases if c != held], "val": [held]} for held in cases]
    (home / "splits_final.json").write_text(json.dumps(splits))
    return training


def three_stages() -> dict[str, Any]:
    """With two, nnU-Net's deep supervision has one output of weight 0, and the loss is not a number."""
    plans = tiny_model.plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(
        n_stages=3, features_per_stage=[4, 8, 8], kernel_sizes=[[3, 3, 3]] * 3,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]], n_conv_per_stage=[1] * 3, n_conv_per_stage_decoder=[1] * 2,
    )  # fmt: skip
    return plans


def write_case(folder: Path, case: str) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    folder.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(1).standard_normal((2, 24, 24, 24)).astype(np.float32)
    label = np.zeros((1, 24, 24, 24), dtype=np.int16)
    label[0, 10:14, 10:14, 10:14] = 1
    places = {1: np.argwhere(label == 1)}
    nnUNetDatasetBlosc2.save_case(data, label, {"class_locations": places}, str(folder / case))


NOISY = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)
"""nnU-Net and PyTorch warn of their own future."""


@NOISY
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    training: ModelTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = prepared(tmp_path / "undisturbed", monkeypatch)
    train(undisturbed)
    for name, value in child_environment(training.place, 1, planning=False).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("nnunetv2.paths.nnUNet_results", str(training.place.nnunet["nnUNet_results"]))
    seen: list[int] = []
    step = PsmaSmallTrainer.train_step

    def count_steps(self: PsmaSmallTrainer, batch: dict[str, object]) -> dict[str, object]:
        seen.append(self.current_epoch)
        if len(seen) == 4:  # in the second epoch, after the checkpoint at the end of the first
            raise KilledError
        return step(self, batch)

    monkeypatch.setattr(PsmaSmallTrainer, "train_step", count_steps)
    with pytest.raises(KilledError):
        train(training)
    train(training)
    assert seen == [0, 0, 1, 1, 1, 1, 2, 2]
    one, other = load_file(training.weights), load_file(undisturbed.weights)
    assert one.keys() == other.keys()
    assert all(torch.isfinite(tensor).all() for tensor in one.values())
    assert all(torch.equal(one[name], other[name]) for name in one)
    train(training)  # finished: only the weights are written again
    assert len(seen) == 8


@NOISY
def test_nnunets_own_plans_save_every_five_epochs_and_not_every_fifty(training: ModelTraining) -> None:
    own = replace(training, settings=training.settings.model_copy(update={"plans": TrainingPlans.DEFAULT}))
    home = own.place.preprocessed(own.role)
    (home / f"{TrainingPlans.DEFAULT}.json").write_text((home / f"{TrainingPlans.SMALL}.json").read_text())
    trainer = build_trainer(own)
    assert type(trainer) is PsmaTrainer
    assert trainer.save_every == 5


@NOISY
def test_another_seed_gives_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for seed in (1, 2):
        training = prepared(tmp_path / str(seed), monkeypatch)
        settings = training.settings.model_copy(update={"seed": seed})
        training = ModelTraining(settings, training.role, training.split, training.place)
        train(training)
        found.append(load_file(training.weights))
    assert not all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@NOISY
def test_a_further_seed_trains_on_all_as_an_experiment_of_that_seed_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replace(prepared(tmp_path / "again", monkeypatch), split="all-2")
    assert build_trainer(again).do_split() == build_trainer(replace(again, split="all")).do_split()
    train(again)
    assert again.weights.parent.name == "fold_all-2"
    other = prepared(tmp_path / "other", monkeypatch)
    other = replace(other, settings=other.settings.model_copy(update={"seed": 2}), split="all")
    train(other)
    one, two = load_file(again.weights), load_file(other.weights)
    assert all(torch.equal(one[name], two[name]) for name in one)


@NOISY
def test_a_checkpoint_is_whole_or_not_there(training: ModelTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(content: object, path: str) -> None:
        Path(path).write_bytes(b"half of a checkpo")
        raise KilledError

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KilledError):
        train(training)
    monkeypatch.undo()
    folder = training.weights.parent
    assert [path.name for path in folder.glob("checkpoint_*")] == ["checkpoint_latest.pth.part"]


@NOISY
def test_a_finished_training_becomes_a_model_without_traces_of_the_machine(
    training: ModelTraining, tmp_path: Path
) -> None:
    train(training)
    folder = export_model(training, CohortManifest(simulated=True))
    model = ModelStore(training.place.models("0")).load(ModelRole.M2)
    assert model.card.id == folder.name == model_id(training.settings, ModelRole.M2) == "psma-m2-test"
    assert model.card.demonstration_only
    assert "2 simulated patients of centre A (all but fold 0 of 3), SPECT with CT" in model.card.training_data
    assert "--set folds=3 --set epochs=3 --set iterations_per_epoch=2" in model.card.training_command
    for name in ("model.yaml", "plans.json", "dataset.json"):
        assert str(tmp_path) not in (folder / name).read_text()
    weights = load_file(folder / "weights.safetensors")
    assert all(tensor.dtype is torch.float32 for tensor in weights.values())


def test_plans_differ_from_nnunets_only_in_patch_batch_and_network() -> None:
    stock = tiny_model.plans()
    small = planning.small_plans(stock)
    changed = {key for key in stock if small[key] != stock[key]}
    assert changed == {"plans_name", "configurations"}
    before, after = stock["configurations"]["3d_fullres"], small["configurations"]["3d_fullres"]
    different = {key for key in before if before[key] != after[key]}
    assert different == {"patch_size", "architecture", "data_identifier"}
    assert after["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 16, 32, 64, 128]


def test_every_process_keeps_its_memory_and_starts_no_helpers(tmp_path: Path) -> None:
    environment = child_environment(Workplace(tmp_path), 2, planning=False)
    assert environment["nnUNet_n_proc_DA"] == "0"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert re.fullmatch(r"\d+", environment["MALLOC_MMAP_THRESHOLD_"])
    assert child_environment(Workplace(tmp_path), 2, planning=True)["nnUNet_n_proc_DA"] == "1"


def test_on_a_gpu_helper_processes_prepare_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    place = Workplace(tmp_path)
    assert "nnUNet_n_proc_DA" not in child_environment(place, 2, planning=False, on_gpu=True)
    assert child_environment(place, 2, planning=True, on_gpu=True)["nnUNet_n_proc_DA"] == "1"
