"""A site names its models by role or by id; what is not clear is refused before the first patient."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import operate
from app.cli.main import app
from app.cli.operate import verified_models
from app.domain.decision import ModelRole
from app.domain.study import StudyKind
from app.errors import MisconfiguredError
from app.inference.models.store import ModelStore, choose_setting, explain_choice, serving_model, site_models
from app.inference.policy import SegmentPolicy
from app.settings import load_settings
from tests.inference.tiny_model import write_tiny_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """One model of each role, and a second M1."""
    for role in ModelRole:
        write_tiny_model(tmp_path, role, f"shipped-{role.value.lower()}")
    write_tiny_model(tmp_path, ModelRole.M1, "own-m1")
    return tmp_path


def test_a_role_that_two_models_have_must_be_named_by_an_id(models: Path) -> None:
    store = ModelStore(models)
    with pytest.raises(MisconfiguredError, match="own-m1, shipped-m1 all have role M1"):
        serving_model(store, SegmentPolicy(), "pet_model")
    assert serving_model(store, SegmentPolicy(pet_model="own-m1"), "pet_model").id == "own-m1"
    assert serving_model(store, SegmentPolicy(), "spect_model_with_prior").id == "shipped-m4"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            {"pet_model": "nobody"},
            "segment.pet_model names nobody, but .* no model is called nobody; present",
        ),
        (
            {"pet_model": "shipped-m2"},
            "segment.pet_model names shipped-m2, whose role is M2; expected M1 or M3",
        ),
        ({"spect_model_without_prior": "shipped-m4"}, "whose role is M4; expected M2 or M3"),
        ({"shadow_models": ("gone",)}, "segment.shadow_models names gone"),
    ],
)
def test_a_policy_that_names_no_fitting_model_is_refused(
    models: Path, policy: dict[str, object], message: str
) -> None:
    with pytest.raises(MisconfiguredError, match=message):
        site_models(ModelStore(models), SegmentPolicy(**{"pet_model": "own-m1", **policy}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "item", ["pet_model=M2", "spect_model_without_prior=M4", "shadow_models=[M1]", "shadow_models=[a, a]"]
)
def test_a_role_where_it_can_not_be_is_refused_in_the_settings(item: str) -> None:
    with pytest.raises(MisconfiguredError, match=item.partition("=")[0]):
        load_settings(overrides=[f"segment.{item}"])


def test_the_choice_is_explained_by_role_or_by_id(models: Path) -> None:
    store = ModelStore(models)
    for policy, words in (
        (SegmentPolicy(spect_model_with_prior="M3"), "M3 serves SPECT/CT: the site's policy uses no prior"),
        (SegmentPolicy(spect_model_with_prior="shipped-m4"), "shipped-m4 (M4) serves SPECT/CT: the earlier"),
    ):
        setting = choose_setting(StudyKind.SPECT_CT, has_prior=True)
        card = serving_model(store, policy, setting)
        assert explain_choice(card, setting, policy).line.startswith(words)


def test_only_a_site_that_uses_m4_waits_for_a_prior(models: Path) -> None:
    store = ModelStore(models)
    own = SegmentPolicy(pet_model="own-m1", spect_model_with_prior="shipped-m4")
    assert site_models(store, own).wants_prior
    without = SegmentPolicy(pet_model="own-m1", spect_model_with_prior="M2", shadow_models=("shipped-m4",))
    assert not site_models(store, without).wants_prior


@pytest.mark.parametrize("damaged", ["own-m1", "shipped-m3"])
def test_a_wrong_checksum_is_refused_at_start_of_a_shadow_too(models: Path, damaged: str) -> None:
    given = {"models_dir": str(models), "pet_model": "own-m1", "shadow_models": "[shipped-m3]"}
    settings = load_settings(overrides=[f"segment.{key}={value}" for key, value in given.items()])
    assert {card.id for card in verified_models(settings).all} >= {"own-m1", "shipped-m3", "shipped-m4"}
    with (models / damaged / "weights.safetensors").open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(MisconfiguredError, match=rf"{damaged}.weights.safetensors: SHA-256 is"):
        verified_models(settings)


def test_the_node_refuses_to_start_with_a_wrong_checksum(models: Path, tmp_path: Path) -> None:
    """``serve`` as far as its models: exit code 2, and no data folder is made."""
    with (models / "shipped-m2" / "plans.json").open("ab") as stream:
        stream.write(b" ")
    settings = load_settings(
        overrides=[
            f"segment.models_dir={models}",
            "segment.pet_model=own-m1",
            f"node.data_dir={tmp_path / 'data'}",
        ]
    )
    with pytest.raises(MisconfiguredError, match=r"plans\.json: SHA-256 is"):
        operate._refuse_unfit(settings)
    assert not (tmp_path / "data").exists()


def test_check_names_the_damaged_model(models: Path, tmp_path: Path) -> None:
    with (models / "shipped-m2" / "plans.json").open("ab") as stream:
        stream.write(b" ")
    options = [
        f"segment.models_dir={models}",
        "segment.pet_model=own-m1",
        f"node.data_dir={tmp_path / 'data'}",
    ]
    words = ["check", *(word for option in options for word in ("--set", option))]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "plans.json: SHA-256 is" in result.output


def test_shadow_models_leave_the_settings_digest_as_it_is() -> None:
    """They change no result, so results keep their identifiers."""
    assert load_settings(overrides=["segment.shadow_models=[a]"]).digest == load_settings().digest
    assert load_settings(overrides=["segment.pet_model=a"]).digest != load_settings().digest
