"""The models in the repository: complete, verified, small, measured, and marked for demonstration only."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.decision import ModelRole
from app.inference.models.network import build_network
from app.inference.models.store import ModelStore

MODELS = Path(__file__).resolve().parents[2] / "models"
LIMIT_BYTES = 25_000_000


@pytest.mark.parametrize("role", list(ModelRole))
def test_a_shipped_model_is_what_its_card_says_and_its_card_has_numbers(role: ModelRole) -> None:
    card = ModelStore(MODELS).load(role).card
    assert card.demonstration_only
    assert card.metric_source is not None
    assert card.metric_source.command.startswith("psma-node experiment --cohort COHORT ")
    names = {metric.name for metric in card.metrics}
    assert {"DSC", "voxel PPV", "lesion sensitivity", "lesion PPV"} <= names
    assert {metric.cohort.split()[-1] for metric in card.metrics} == {"A", "B"}


@pytest.mark.parametrize("role", list(ModelRole))
def test_a_shipped_models_card_counts_its_channels_as_its_plans_do(role: ModelRole) -> None:
    import json

    model = ModelStore(MODELS).load(role)
    plans = json.loads((model.folder / "plans.json").read_text())
    dataset = json.loads((model.folder / "dataset.json").read_text())
    network = build_network(plans, dataset, model.card.inference.configuration)
    assert next(network.parameters()).shape[1] == len(model.card.channels)


def test_the_shipped_models_are_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*")) <= LIMIT_BYTES
