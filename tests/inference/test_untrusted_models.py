"""What a model folder may not do: choose code to run, or take another input than the chain feeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.inference.models.card import InputChannel, read_card
from app.inference.models.store import ModelStore, VerifiedModel
from app.inference.policy import DeviceChoice
from app.inference.running.segmenter import Segmenter
from tests.inference.tiny_model import CONFIGURATION, write_tiny_model


@pytest.fixture
def model(tmp_path: Path) -> VerifiedModel:
    write_tiny_model(tmp_path)
    return ModelStore(tmp_path).load(ModelRole.M2)


def with_architecture(model: VerifiedModel, **changes: Any) -> VerifiedModel:
    """The model with another network in its plans; its checksums are those of whoever made it."""
    path = model.folder / "plans.json"
    plans = json.loads(path.read_text())
    plans["configurations"][CONFIGURATION]["architecture"].update(changes)
    path.write_text(json.dumps(plans))
    return model


def test_plans_that_name_a_function_to_call_are_refused_and_nothing_runs(
    model: VerifiedModel, tmp_path: Path
) -> None:
    trace = tmp_path / "it-ran"
    (tmp_path / "hubconf.py").write_text(f"open({str(trace)!r}, 'w').close()\ndef net(**k): pass\n")
    arguments = {"repo_or_dir": str(tmp_path), "model": "net", "source": "local"}
    bad = with_architecture(model, network_class_name="torch.hub.load", arch_kwargs=arguments)
    with pytest.raises(MisconfiguredError, match=r"torch\.hub\.load"):
        Segmenter(bad, DeviceChoice.CPU)
    assert not trace.exists()


def test_plans_that_name_an_unknown_layer_are_refused(model: VerifiedModel) -> None:
    path = model.folder / "plans.json"
    arguments = json.loads(path.read_text())["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    bad = with_architecture(model, arch_kwargs={**arguments, "nonlin": "os.system"})
    with pytest.raises(MisconfiguredError, match=r"os\.system"):
        Segmenter(bad, DeviceChoice.CPU)


def test_a_card_with_channels_in_another_order_is_refused(model: VerifiedModel) -> None:
    card = read_card(model.folder)
    swapped = card.model_copy(update={"channels": card.channels[::-1]})
    with pytest.raises(MisconfiguredError, match=r"CT \[HU\], SPECT \[g/ml SUVbw\]"):
        Segmenter(VerifiedModel(swapped, model.folder), DeviceChoice.CPU)


def test_a_card_with_another_unit_is_refused(model: VerifiedModel) -> None:
    card = read_card(model.folder)
    counts = InputChannel(name="SPECT", unit="Bq/ml", normalisation="none")
    other = card.model_copy(update={"channels": (counts, *card.channels[1:])})
    with pytest.raises(MisconfiguredError, match="Bq/ml"):
        Segmenter(VerifiedModel(other, model.folder), DeviceChoice.CPU)


def test_a_card_without_a_lesion_label_is_refused(model: VerifiedModel) -> None:
    card = read_card(model.folder)
    other = card.model_copy(update={"labels": {"background": 0, "organ": 1}})
    with pytest.raises(MisconfiguredError, match="organ"):
        Segmenter(VerifiedModel(other, model.folder), DeviceChoice.CPU)
