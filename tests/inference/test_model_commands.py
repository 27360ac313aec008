"""``psma-node models``: what it tells is whole, and can be typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import models as model_commands
from app.cli.models import app
from app.domain.decision import ModelRole
from app.inference.models.card import ModelCard, read_card, write_card
from app.inference.models.store import settings_to_measure
from app.inference.policy import SHIPPED_MODELS, SegmentPolicy
from app.settings import load_settings

LONG_ID = "psma-m2-trained-at-a-hospital-with-quite-a-long-name-in-2026"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two cards: one with a long id, one with metrics of two centres."""
    for role, name in (("m1", "psma-m1-simulated"), ("m2", LONG_ID)):
        card = read_card(SHIPPED_MODELS / f"psma-{role}-simulated").model_copy(update={"id": name})
        (tmp_path / name).mkdir()
        write_card(card, tmp_path / name)
    return tmp_path


def test_ids_are_whole_and_every_number_says_of_whom_outside_a_terminal(models: Path) -> None:
    listed = CliRunner().invoke(app, ["list", "--models-dir", str(models)], env={"COLUMNS": "60"})
    assert listed.exit_code == 0, listed.output
    assert LONG_ID in listed.output
    assert "0.56 PET/CT, n = 48 (internal validation, simulated patients of centre A)" in listed.output
    assert "0.54 PET/CT, n = 25 (external validation, simulated patients of centre B)" in listed.output


def test_ids_are_whole_in_a_narrow_terminal(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.models.WIDTH_IN_FILES", 90)
    listed = CliRunner().invoke(app, ["list", "--models-dir", str(models)])
    assert LONG_ID in listed.output
    assert "…" not in listed.output


def shipped(role: ModelRole) -> ModelCard:
    return read_card(SHIPPED_MODELS / f"psma-{role.value.lower()}-simulated")


@pytest.mark.parametrize("role", list(ModelRole))
def test_after_an_import_the_command_that_measures_it_is_told(
    role: ModelRole, capsys: pytest.CaptureFixture[str]
) -> None:
    card = shipped(role).model_copy(update={"metrics": ()})
    model_commands._print_card(card, SHIPPED_MODELS)  # it computes on a processor that has bfloat16
    told = capsys.readouterr().out
    for setting in (f"segment.models_dir={SHIPPED_MODELS}", *settings_to_measure(card)):
        assert f"--set {setting}" in told


@pytest.mark.parametrize("role", list(ModelRole))
def test_under_these_settings_the_model_serves_wherever_its_role_can(role: ModelRole) -> None:
    policy: SegmentPolicy = load_settings(None, settings_to_measure(shipped(role))).segment
    serves = {
        ModelRole.M1: {"pet_model"},
        ModelRole.M2: {"spect_model_with_prior", "spect_model_without_prior"},
        ModelRole.M3: {"pet_model", "spect_model_with_prior", "spect_model_without_prior"},
        ModelRole.M4: {"spect_model_with_prior"},
    }[role]
    named = {key for key, value in vars(policy).items() if value == shipped(role).id}
    assert named == serves
