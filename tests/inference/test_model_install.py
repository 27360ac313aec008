"""A model's folder appears whole or not at all, and each failure is told of the file it is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import MisconfiguredError
from app.inference.importing.install import new_model, unpack
from app.inference.importing.nnunet_results import convert_checkpoint, read_json


def test_a_file_that_is_missing_elsewhere_is_not_blamed_on_the_models_folder(tmp_path: Path) -> None:
    models, missing = tmp_path / "models", tmp_path / "checkpoint_final.pth"
    with pytest.raises(FileNotFoundError) as raised, new_model(models, "mine", replace=False) as folder:
        (folder / "plans.json").write_text("{}")
        missing.read_bytes()
    assert raised.value.filename == str(missing)
    assert not list(models.iterdir())


def test_a_models_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    models = tmp_path / "file" / "models"
    with pytest.raises(MisconfiguredError, match=f"{models}: can't be written to"):
        new_model(models, "mine", replace=False).__enter__()


def test_an_old_model_comes_back_when_the_new_one_can_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "mine" / "model.yaml"
    old.parent.mkdir()
    old.write_text("old")
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == "mine" and target == old.parent:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with (
        pytest.raises(MisconfiguredError, match="can't be written to"),
        new_model(tmp_path, "mine", replace=True) as folder,
    ):
        (folder / "model.yaml").write_text("new")
    assert old.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_missing_file_of_the_source_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(MisconfiguredError, match=f"{missing}: can't be read"):
        convert_checkpoint(missing, tmp_path / "weights")
    with pytest.raises(MisconfiguredError, match=f"{missing}: can't be read"):
        read_json(missing)
    with pytest.raises(MisconfiguredError, match=f"{missing}: can't be unpacked"):
        unpack(missing, {})
    assert not list(tmp_path.iterdir())
