"""A model is used only when every file is what its card says."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import yaml

from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.inference.models.card import read_card, write_card
from app.inference.models.store import ModelStore
from tests.inference.tiny_model import write_tiny_model


def test_a_card_survives_writing_and_reading(tmp_path: Path) -> None:
    card = write_tiny_model(tmp_path)
    assert read_card(tmp_path / "tiny") == card


def test_a_model_is_found_by_its_role(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    store = ModelStore(tmp_path)
    assert store.load(ModelRole.M2).card.id == "tiny"
    with pytest.raises(MisconfiguredError, match="no model has role M4"):
        store.load(ModelRole.M4)


def test_two_models_of_one_role_are_not_guessed_between(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    write_tiny_model(tmp_path, model_id="other")
    with pytest.raises(MisconfiguredError, match="other, tiny all have role M2, expected one"):
        ModelStore(tmp_path).load(ModelRole.M2)


@pytest.mark.parametrize("name", ["weights.safetensors", "plans.json", "dataset.json"])
def test_a_changed_file_is_refused_with_both_checksums(tmp_path: Path, name: str) -> None:
    card = write_tiny_model(tmp_path)
    with (tmp_path / "tiny" / name).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(
        MisconfiguredError, match=rf"{name}: SHA-256 is [0-9a-f]+, expected {card.files[name]}"
    ):
        ModelStore(tmp_path).load(ModelRole.M2)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    (tmp_path / "tiny" / "plans.json").unlink()
    with pytest.raises(MisconfiguredError, match=r"plans\.json: not found"):
        ModelStore(tmp_path).load(ModelRole.M2)


def test_a_missing_folder_says_which_setting_names_it(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"set segment\.models_dir"):
        ModelStore(tmp_path / "none").cards()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "M9"}, "role"),
        ({"licence": ""}, "licence"),
        ({"lisence": "MIT"}, "lisence"),
        ({"files": {"../../weights": "0" * 64}}, "files"),
        ({"files": {"plans.json": "0" * 64}}, "files must list weights.safetensors"),
        ({"id": "another"}, "expected tiny, its folder's name"),
    ],
)
def test_an_invalid_card_names_what_is_wrong(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_tiny_model(tmp_path)
    path = tmp_path / "tiny" / "model.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(MisconfiguredError, match=message):
        ModelStore(tmp_path).cards()


def test_a_card_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    (tmp_path / "tiny" / "model.yaml").write_text("id: [")
    with pytest.raises(MisconfiguredError, match="not readable as YAML"):
        ModelStore(tmp_path).cards()


def test_a_card_that_can_not_be_written_to_its_end_leaves_the_old_one(tmp_path: Path) -> None:
    card = write_tiny_model(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_card(card.model_copy(update={"version": "1"}), tmp_path / "tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_card(tmp_path / "tiny") == card


def test_writing_a_card_leaves_the_verified_files_alone(tmp_path: Path) -> None:
    card = write_tiny_model(tmp_path)
    write_card(card.model_copy(update={"version": "1"}), tmp_path / "tiny")
    assert ModelStore(tmp_path).load(ModelRole.M2).card.version == "1"
