"""A model goes from node to node as one file, and arrives as it left."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save
from typer.testing import CliRunner, Result

from app.cli.main import app
from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.inference.models.card import write_card
from app.inference.models.store import ModelStore, sha256_of
from tests.inference.tiny_model import write_tiny_model


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, words)])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "here")
    result = run("export", "tiny", "--out", tmp_path / "tiny.zip", "--models-dir", tmp_path / "here")
    assert result.exit_code == 0, result.output
    return tmp_path / "tiny.zip"


def rewritten(package: Path, changes: dict[str, bytes | None]) -> Path:
    """The package with members changed, added, or (``None``) left out."""
    with zipfile.ZipFile(package) as archive:
        members: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    path = package.with_name("changed.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, **changes}.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_arrives_as_it_left_and_needs_no_trust(package: Path, tmp_path: Path) -> None:
    result = run("import", package, "--models-dir", tmp_path / "there")
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "there" / "tiny") == contents(tmp_path / "here" / "tiny")
    assert ModelStore(tmp_path / "there").load(ModelRole.M2).card.id == "tiny"


def test_who_the_model_was_trained_on_does_not_arrive(tmp_path: Path) -> None:
    card = write_tiny_model(tmp_path / "here")
    folder = tmp_path / "here" / "tiny"
    described = json.loads((folder / "dataset.json").read_text())
    cases = {"Doe^John": {"images": ["/home/doe/pet.nii.gz"]}}
    (folder / "dataset.json").write_text(json.dumps({**described, "dataset": cases}))
    files = {**card.files, "dataset.json": sha256_of(folder / "dataset.json")}
    write_card(card.model_copy(update={"files": files}), folder)
    run("export", "tiny", "--out", tmp_path / "tiny.zip", "--models-dir", tmp_path / "here")
    result = run("import", tmp_path / "tiny.zip", "--models-dir", tmp_path / "there")
    assert result.exit_code == 0, result.output
    assert b"doe" not in b"".join(contents(tmp_path / "there" / "tiny").values()).lower()
    arrived = ModelStore(tmp_path / "there").load(ModelRole.M2).card  # loading verifies every file
    assert arrived.weights_sha256 == card.weights_sha256


def test_packing_again_gives_the_same_bytes(package: Path, tmp_path: Path) -> None:
    run("import", package, "--models-dir", tmp_path / "there")
    for path in (tmp_path / "there" / "tiny").iterdir():
        os.utime(path, (1e9, 1e9))
        path.chmod(0o600)
    run("export", "tiny", "--out", tmp_path / "again.zip", "--models-dir", tmp_path / "there")
    assert (tmp_path / "again.zip").read_bytes() == package.read_bytes()


def test_a_damaged_model_is_not_exported(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "here")
    (tmp_path / "here" / "tiny" / "plans.json").write_text("{}")
    result = run("export", "tiny", "--out", tmp_path / "tiny.zip", "--models-dir", tmp_path / "here")
    assert isinstance(result.exception, MisconfiguredError)
    assert not (tmp_path / "tiny.zip").exists()


def test_a_model_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "here")
    result = run("export", "other", "--out", tmp_path / "x.zip", "--models-dir", tmp_path / "here")
    assert "no model is called other; present: tiny" in str(result.exception)


def test_tampered_weights_are_refused_and_leave_nothing(package: Path, tmp_path: Path) -> None:
    weights = load_file(tmp_path / "here" / "tiny" / "weights.safetensors")
    first = min(weights)
    tampered = save({**weights, first: weights[first] + 1})
    changed = rewritten(package, {"tiny/weights.safetensors": tampered})
    result = run("import", changed, "--models-dir", tmp_path / "there")
    assert "weights.safetensors: SHA-256 is" in str(result.exception)
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tiny/plans.json": None}, "other files than its card lists: tiny/plans.json"),
        ({"tiny/extra.py": b"import os"}, "other files than its card lists: tiny/extra.py"),
        ({"tiny/model.yaml": b"id: tiny"}, "not a valid model card"),
        ({"tiny/model.yaml": b"!!python/object/apply:os.system [true]"}, "not readable as YAML"),
    ],
)
def test_a_package_that_is_not_what_its_card_says_is_refused(
    package: Path, tmp_path: Path, changes: dict[str, bytes | None], message: str
) -> None:
    result = run("import", rewritten(package, changes), "--models-dir", tmp_path / "there")
    assert message in str(result.exception)
    assert not list((tmp_path / "there").iterdir())


def test_a_package_keeps_its_own_role_and_id(package: Path, tmp_path: Path) -> None:
    result = run("import", package, "--role", "M1", "--id", "mine", "--models-dir", tmp_path / "there")
    assert "its card says what it is" in str(result.exception)


def test_a_model_that_is_there_is_replaced_only_when_asked(package: Path, tmp_path: Path) -> None:
    assert "--replace" in str(run("import", package, "--models-dir", tmp_path / "here").exception)
    assert run("import", package, "--models-dir", tmp_path / "here", "--replace").exit_code == 0
