"""The trainer: nnU-Net's, resumable from its last checkpoint, and what leaves it is a model of the store."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.domain.analysis import ModelRole
from app.inference.model_store import ModelStore
from app.training import planning, worker
from app.training.environment import child_environment, nnunet_folders
from app.training.export import export_model, model_id
from app.training.request import TrainingRequest
from app.training.trainer import PsmaSmallTrainer
from tests.inference import tiny_model


class KilledError(Exception):
    """Stands for a kill signal."""


@pytest.fixture
def request_of_two_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRequest:
    """Three preprocessed cases, a network of two stages, two iterations an epoch."""
    for name, value in child_environment(tmp_path, 1, planning=False).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("app.training.trainer.ITERATIONS_PER_EPOCH", 2)
    request = TrainingRequest(ModelRole.M2, 3, "A", 150, 1, 1, tmp_path)
    home = nnunet_folders(tmp_path)["nnUNet_preprocessed"] / request.dataset_name
    plans = {**tiny_model.plans(), "dataset_name": request.dataset_name, "plans_name": planning.PLANS_NAME}
    cases = [f"A000{n}_spect" for n in range(3)]
    for case in cases:
        write_case(home / "tiny", case)
    (home / f"{planning.PLANS_NAME}.json").write_text(json.dumps(plans))
    (home / "dataset.json").write_text(
        json.dumps({**tiny_model.DATASET, "dataset": {case: {"images": [], "label": ""} for case in cases}})
    )
    (home / "dataset_fingerprint.json").write_text("{}")
    (home / "splits_final.json").write_text(json.dumps([{"train": cases[:2], "val": cases[2:]}]))
    return request


def write_case(folder: Path, case: str) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    folder.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(1).standard_normal((2, 24, 24, 24)).astype(np.float32)
    label = np.zeros((1, 24, 24, 24), dtype=np.int16)
    label[0, 10:14, 10:14, 10:14] = 1
    places = {1: np.argwhere(label == 1)}
    nnUNetDatasetBlosc2.save_case(data, label, {"class_locations": places}, str(folder / case))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
def test_a_killed_training_goes_on_from_its_last_checkpoint(
    request_of_two_epochs: TrainingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, seen = request_of_two_epochs, []
    step = PsmaSmallTrainer.train_step

    def count_steps(self: PsmaSmallTrainer, batch: dict[str, object]) -> dict[str, object]:
        seen.append(self.current_epoch)
        if len(seen) == 5:  # in the third epoch, after the checkpoint at the end of the second
            raise KilledError
        return step(self, batch)

    monkeypatch.setattr(PsmaSmallTrainer, "train_step", count_steps)
    with pytest.raises(KilledError):
        worker.train(request)
    worker.train(request)
    assert seen == [0, 0, 1, 1, 2, 2, 2]
    worker.train(request)  # finished: only the weights are written again
    assert len(seen) == 7


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
def test_a_finished_training_becomes_a_model_without_traces_of_the_machine(
    request_of_two_epochs: TrainingRequest, tmp_path: Path
) -> None:
    worker.train(request_of_two_epochs)
    folder = export_model(request_of_two_epochs, tmp_path / "models")
    model = ModelStore(tmp_path / "models").load(ModelRole.M2)
    assert model.card.id == folder.name == model_id(ModelRole.M2)
    assert model.card.demonstration_only
    assert model.card.training_command.startswith("psma-node train --models M2 --patients 3")
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
    assert after["architecture"]["arch_kwargs"]["features_per_stage"] == [12, 24, 48, 96]


def test_every_process_keeps_its_memory_and_starts_no_helpers(tmp_path: Path) -> None:
    environment = child_environment(tmp_path, 2, planning=False)
    assert environment["nnUNet_n_proc_DA"] == "0"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert re.fullmatch(r"\d+", environment["MALLOC_MMAP_THRESHOLD_"])
    assert child_environment(tmp_path, 2, planning=True)["nnUNet_n_proc_DA"] == "1"
