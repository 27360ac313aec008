"""What a command loads before it answers: only what it needs, whatever that takes. Never how long."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import NODE_COMMANDS, app
from app.node.policy import NodePolicy
from app.node.records.stores import open_stores

ROOT = Path(__file__).resolve().parents[1]

COMPUTING = {"torch", "monai", "holoscan", "nnunetv2", "SimpleITK", "scipy", "highdicom"}
"""What reads, computes and writes a study."""

SERVING = ("dbos", "alembic")
"""What the node needs beside it: for work, and for a database of an earlier version."""

NETWORK = ("pydicom", "pynetdicom", "numpy")

RECORDS = ("sqlalchemy", "pydantic", "yaml")

DRAWING = ("rich", "markdown_it")
"""What draws tables and progress in a terminal."""


def loaded(folder: Path, words: Sequence[str], until: str = "") -> set[str]:
    """The packages in memory when a command has ended, or has come to the end of a function."""
    program = f"""
import signal, sys

def tell():
    print(*{{name.partition(".")[0] for name in sys.modules}}, flush=True)

if {until!r}:
    import importlib, os

    module, kind, name = {until.split(":") if until else ["", "", ""]!r}
    owner = getattr(importlib.import_module(module), kind)
    original = getattr(owner, name)

    def stop_there(*given):
        original(*given)
        tell()
        os._exit(0)

    setattr(owner, name, stop_there)
    # a program that has them blocked is not started over
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
sys.argv = ["psma-node", *{list(words)!r}]
from app.cli.main import main
try:
    main()
except SystemExit as end:
    if end.code:
        raise
tell()
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """Those of a node that has run before."""
    policy = NodePolicy(data_dir=tmp_path / "data")
    open_stores(policy).close()
    words = (f"node.data_dir={policy.data_dir}", f"segment.models_dir={ROOT / 'models'}", "receive.port=0")
    return [part for word in words for part in ("--set", word)]


def test_help_loads_the_command_line_alone(tmp_path: Path) -> None:
    found = loaded(tmp_path, ["--help"])
    assert found & {*COMPUTING, *SERVING, *NETWORK, *RECORDS, *DRAWING} == set()


def test_help_gives_the_first_sentence_of_each_command_whole() -> None:
    printed = CliRunner().invoke(app, ["--help"]).stdout
    words = " ".join(printed.split())
    for command in NODE_COMMANDS:
        sentence = " ".join(str(command.__doc__).split("\n\n")[0].split()).partition(". ")[0]
        assert sentence.removesuffix(".") in words
    assert "..." not in words.replace("COMMAND [ARGS]...", "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["status", "--help"], 0, "List the studies"),
        (["models", "--help"], 0, "SHA-256"),
        (["statu"], 2, "No such command 'statu'. Did you mean 'status'?"),
    ],
)
def test_a_command_is_found_among_all_of_them(words: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "app", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_status_loads_settings_and_the_driver_of_the_database(tmp_path: Path, settings: list[str]) -> None:
    found = loaded(tmp_path, ["status", *settings])
    assert found & {*COMPUTING, *SERVING, *NETWORK, *DRAWING, "sqlalchemy"} == set()
    assert "sqlite3" in found


def test_check_loads_neither_pytorch_nor_the_network_where_nothing_asks_for_them(
    tmp_path: Path, settings: list[str]
) -> None:
    found = loaded(tmp_path, ["check", *settings, "--set", "segment.device=cpu"])
    assert found & {*COMPUTING, *SERVING, *NETWORK} == set()


def test_a_node_listens_before_it_loads_what_it_computes_with(tmp_path: Path, settings: list[str]) -> None:
    words = ["serve", *settings, "--set", "segment.device=cpu"]
    found = loaded(tmp_path, words, until="app.node.receive.scp:StoreScp:start")
    assert found & {*COMPUTING, *SERVING} == set()
    assert "pynetdicom" in found


def test_the_framework_is_loaded_without_all_of_monai_which_can_be_imported_as_ever() -> None:
    program = """
import sys
import operators.framework
print("monai.deploy.core" in sys.modules, "monai.transforms" in sys.modules)
from monai.deploy.core import Application
from monai.transforms import Compose
print(Compose, Application is operators.framework.Application)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    first, second = done.stdout.splitlines()
    assert first == "True False"
    assert second == "<class 'monai.transforms.compose.Compose'> True"


def test_a_framework_that_could_not_be_imported_says_so_again() -> None:
    """The second attempt fails with the same cause, or succeeds when it is gone."""
    program = """
import sys
sys.modules["monai.deploy.core"] = None
for attempt in range(2):
    try:
        import operators.framework
    except ImportError as error:
        print(error.name, "monai" in sys.modules)
del sys.modules["monai.deploy.core"]
import operators.framework
print("monai" in sys.modules)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["monai.deploy.core False", "monai.deploy.core False", "False"]
