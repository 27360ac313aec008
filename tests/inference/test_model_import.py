"""nnU-Net's training becomes a model that gives nnU-Net's mask; what is not clear or not true is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from app.cli.main import app
from app.domain.decision import ModelRole
from app.domain.volume import Grid
from app.errors import MisconfiguredError
from app.inference.models.channels import NetworkInput
from app.inference.models.store import ModelStore, sha256_of
from app.inference.policy import DeviceChoice
from app.inference.running.segmenter import Segmenter
from tests.inference.nnunet_source import (
    CARD,
    CHECKPOINT,
    TRAINING,
    SingleSums,
    checkpoint,
    export_zip,
    write_card_file,
    write_results,
)
from tests.inference.test_segmenter import SHAPE, SPACING_MM, image


def run_import(source: Path, work: Path, *options: str, card: str = CARD) -> Result:
    """``psma-node models import`` as M2, with trust and a whole card."""
    arguments = ["--role", "M2", "--id", "mine", "--trust", "--card", str(write_card_file(work, card))]
    command = ["models", "import", str(source), "--models-dir", str(work / "models"), *arguments, *options]
    return CliRunner().invoke(app, command)


def refusal(result: Result, work: Path) -> str:
    """Why it was refused; nothing may be left behind."""
    assert isinstance(result.exception, MisconfiguredError)
    assert not list((work / "models").glob("*"))
    assert not (work / "models" / ".importing").exists()
    return str(result.exception)


def nnunets_own_mask(
    results: Path, folds: tuple[int, ...], channels: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """What nnU-Net's predictor says, from its own checkpoints, with its sums in single precision."""
    predictor = SingleSums(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(results / TRAINING), folds, CHECKPOINT)
    properties = {"spacing": list(SPACING_MM[::-1])}
    labels = predictor.predict_single_npy_array(channels, properties, None, None, False)
    return np.asarray(labels) == 1


@pytest.mark.parametrize(("folds", "zipped"), [(("0",), True), (("0", "1"), False)])
def test_an_imported_model_gives_the_mask_that_nnunet_gives(
    tmp_path: Path, folds: tuple[str, ...], zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In single precision, as nnU-Net computes on a processor; bfloat16 has limits of its own."""
    monkeypatch.setattr("app.inference.running.sliding_window.has_bfloat16", lambda: False)
    results = write_results(tmp_path / "results", folds)
    source = export_zip(results, tmp_path / "export.zip") if zipped else results
    outcome = run_import(source, tmp_path, *(word for fold in folds for word in ("--fold", fold)))
    assert outcome.exception is None, outcome.exception
    model = ModelStore(tmp_path / "models").load(ModelRole.M2)
    grid = Grid.axis_aligned(SHAPE, SPACING_MM, (0.0, 0.0, 0.0))
    found = Segmenter(model, DeviceChoice.CPU).segment(NetworkInput(image(), grid))
    expected = nnunets_own_mask(results, tuple(map(int, folds)), image())
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(found, expected)


def test_an_ensemble_is_not_its_first_fold(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", ("0", "1"))
    both = nnunets_own_mask(results, (0, 1), image())
    assert (both != nnunets_own_mask(results, (0,), image())).any()


def test_the_card_says_what_the_user_stated_and_what_the_checkpoint_holds(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", ("all",))
    assert run_import(results, tmp_path).exception is None
    card = ModelStore(tmp_path / "models").card("mine")
    assert card.training_data == "random numbers"
    assert card.metrics == ()
    assert card.demonstration_only
    assert card.inference.mirroring_axes == (0, 1, 2)
    assert card.inference.configuration == "3d_fullres"
    assert "1000 epochs" in card.training_command
    name = f"fold_all/{CHECKPOINT}"
    assert card.converted_from == {name: sha256_of(results / TRAINING / name)}
    kept = json.loads((tmp_path / "models" / "mine" / "dataset.json").read_text())
    assert "dataset" not in kept  # it names patients and folders of the place of training


def test_without_trust_nothing_is_opened_and_the_checksum_is_shown(tmp_path: Path) -> None:
    source = export_zip(write_results(tmp_path / "results"), tmp_path / "export.zip")
    options = ["--role", "M2", "--id", "mine", "--models-dir", str(tmp_path / "models")]
    result = CliRunner().invoke(app, ["models", "import", str(source), *options])
    assert sha256_of(source) in refusal(result, tmp_path)
    assert "--trust" in refusal(result, tmp_path)


def test_several_folds_are_not_chosen_between(tmp_path: Path) -> None:
    source = write_results(tmp_path / "results", ("0", "3"))
    assert "--fold 0 --fold 3" in refusal(run_import(source, tmp_path), tmp_path)
    assert "no checkpoint_final.pth for fold 2" in refusal(
        run_import(source, tmp_path, "--fold", "2"), tmp_path
    )


def test_an_id_in_use_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    first = write_results(tmp_path / "first")
    assert run_import(first, tmp_path).exception is None
    before = ModelStore(tmp_path / "models").card("mine")
    again = write_results(tmp_path / "again", contents=checkpoint(7))
    assert "--replace" in str(run_import(again, tmp_path).exception)
    assert ModelStore(tmp_path / "models").card("mine") == before
    assert run_import(again, tmp_path, "--replace").exception is None
    after = ModelStore(tmp_path / "models").card("mine")
    assert after.weights_sha256 != before.weights_sha256
    assert ModelStore(tmp_path / "models").load(ModelRole.M2).card == after
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]


@pytest.mark.parametrize("model_id", ["../mine", ".importing", "a/b", ""])
def test_an_id_that_is_no_folders_name_is_refused(tmp_path: Path, model_id: str) -> None:
    source = write_results(tmp_path / "results")
    result = run_import(source, tmp_path, "--id", model_id)
    assert "id" in refusal(result, tmp_path)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (CARD.replace("training_data: random numbers\n", ""), "training_data: Field required"),
        (CARD.replace("demonstration_only: true\n", ""), "demonstration_only: Field required"),
        (CARD.replace("channels:", "chanels:"), "chanels"),
        (CARD + "metrics: []\n", "metrics"),
        (CARD.replace("g/ml SUVbw", "Bq/ml"), "other channels than the node feeds to M2"),
        (CARD.replace("SPECT", "PET"), "other channels than the node feeds to M2"),
        (CARD.replace("177Lu-PSMA-617", "PSMA"), "names no tracer"),
        ("[]", "expected the keys of a model card"),
    ],
)
def test_a_card_that_is_not_complete_or_not_true_is_refused(tmp_path: Path, card: str, message: str) -> None:
    source = write_results(tmp_path / "results")
    assert message in refusal(run_import(source, tmp_path, card=card), tmp_path)


def test_m4_must_be_trained_on_the_nodes_own_encoding_of_the_prior(tmp_path: Path) -> None:
    card = CARD.replace("- {name: CT, unit: HU}", "- {name: CT, unit: HU}\n- {name: PET lesions, unit: '1'}")
    source = write_results(tmp_path / "results")
    told = refusal(run_import(source, tmp_path, "--role", "M4", card=card), tmp_path)
    assert "signed distance to the lesions' surface / 20 mm + 1" in told


def test_a_foreground_label_of_another_name_becomes_the_lesion(tmp_path: Path) -> None:
    source = write_results(tmp_path / "results")
    path = source / TRAINING / "dataset.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "labels": {"background": 0, "tumour": 1}}))
    assert run_import(source, tmp_path, "--lesion-label", "tumour").exception is None
    assert ModelStore(tmp_path / "models").card("mine").labels == {"background": 0, "lesion": 1}


def test_plans_with_a_part_of_somebody_elses_are_refused(tmp_path: Path) -> None:
    source = write_results(tmp_path / "results")
    path = source / TRAINING / "plans.json"
    path.write_text(path.read_text().replace("DefaultPreprocessor", "MyPreprocessor"))
    assert "MyPreprocessor" in refusal(run_import(source, tmp_path), tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights = checkpoint(1)["network_weights"]
    weights = {name: value for name, value in weights.items() if not name.startswith("encoder.stages.0")}
    source = write_results(tmp_path / "results", contents=checkpoint(1, network_weights=weights))
    assert "weights do not fit" in refusal(run_import(source, tmp_path), tmp_path)


def test_folds_that_are_mirrored_differently_are_no_ensemble(tmp_path: Path) -> None:
    source = write_results(tmp_path / "results", ("0", "1"))
    torch.save(
        checkpoint(1, inference_allowed_mirroring_axes=None), source / TRAINING / "fold_1" / CHECKPOINT
    )
    told = refusal(run_import(source, tmp_path, "--fold", "0", "--fold", "1"), tmp_path)
    assert "not folds of one training" in told
