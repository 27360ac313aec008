"""The package's manifests and its door, without building an image; tests/map builds one."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from holoscan_cli.packager.manifest_files import ApplicationManifest, PackageManifest

from app import __version__
from app.files.outcome import NAME, STUDY_FOLDER
from app.node.watch.probes import LIVENESS_PATH, ProbeServer
from app.settings import ApplicationInfo, Resources, Settings, load_settings

MAP = Path(__file__).resolve().parents[2] / "MAP"


def script(name: str) -> ModuleType:
    loader = SourceFileLoader(name.removesuffix(".py").replace("-", "_"), str(MAP / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


manifests, check, door = script("manifests.py"), script("check_manifests.py"), script("psma-map")

SITE = Settings(ApplicationInfo(timeout_s=60), Resources(cpu=3, memory="7Gi", gpu=2, gpu_memory="9Gi"))


def app_manifest() -> dict[str, Any]:
    made: dict[str, Any] = manifests.application_manifest(SITE)
    return copy.deepcopy(made)


def pkg_manifest(platform: str = "cuda") -> dict[str, Any]:
    made: dict[str, Any] = manifests.package_manifest(SITE, ["psma-m1"], platform)
    return copy.deepcopy(made)


def test_manifests_keep_to_their_schemas() -> None:
    assert check.faults(app_manifest(), "app.schema.json") == []
    assert [check.faults(pkg_manifest(kind), "pkg.schema.json") for kind in ("cpu", "cuda")] == [[], []]


def test_manifests_have_the_keys_that_holoscan_writes() -> None:
    assert app_manifest().keys() == ApplicationManifest()._data.keys()
    assert pkg_manifest().keys() == PackageManifest()._data.keys()


def test_manifests_say_what_the_settings_say() -> None:
    assert app_manifest()["timeout"] == 60
    assert pkg_manifest()["resources"] == {"cpu": 3, "memory": "7Gi", "gpu": 2, "gpuMemory": "9Gi"}
    assert pkg_manifest("cpu")["resources"] == {"cpu": 3, "memory": "7Gi", "gpu": 0}
    assert pkg_manifest()["models"] == {"psma-m1": "/opt/holoscan/models/psma-m1"}
    assert app_manifest()["version"] == pkg_manifest()["version"] == __version__


def test_the_command_is_a_list_of_words_as_text() -> None:
    assert json.loads(app_manifest()["command"]) == ["/usr/local/bin/psma-map", "process"]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("timeout", "60", "timeout"),
        ("timeout", -1, "timeout"),
        ("command", ["psma-map"], "command"),
        ("version", 1.0, "version"),
        ("input", {"path": "in", "formats": ["file"]}, "input/path"),
        ("environment", {"HOLOSCAN_INPUT_PATH": "/in"}, "environment"),
        ("colour", "blue", "colour"),
    ],
)
def test_a_fault_in_the_application_manifest_is_named(key: str, value: object, told: str) -> None:
    manifest = app_manifest() | {key: value}
    (fault, *_) = check.faults(manifest, "app.schema.json")
    assert told in fault


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"cpu": 0, "memory": "6Gi", "gpu": 0}, "cpu"),
        ({"cpu": 1, "memory": "6 GB", "gpu": 0}, "memory"),
        ({"cpu": 1, "memory": "6Gi", "gpu": 1}, "gpuMemory"),
    ],
)
def test_a_fault_in_the_package_manifest_is_named(resources: dict[str, Any], told: str) -> None:
    (fault, *_) = check.faults(pkg_manifest() | {"resources": resources}, "pkg.schema.json")
    assert told in fault


def test_the_check_ends_with_an_error_when_there_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "app.json").write_text(json.dumps(app_manifest()))
    (tmp_path / "pkg.json").write_text(json.dumps(pkg_manifest()))
    assert check.main(tmp_path) == 0
    (tmp_path / "pkg.json").write_text(json.dumps(pkg_manifest() | {"models": []}))
    assert check.main(tmp_path) == 1


def test_manifests_are_written_from_the_shipped_settings(tmp_path: Path) -> None:
    words = ["--platform", "cpu", "--models", MAP.parent / "models", "--out", tmp_path]
    environment = {"PYTHONPATH": str(MAP.parent)}
    subprocess.run([sys.executable, MAP / "manifests.py", *words], env=environment, check=True)
    written = json.loads((tmp_path / "app.json").read_text())
    shipped = load_settings(MAP.parent / "app.yaml")
    assert written["timeout"] == shipped.application.timeout_s
    assert check.main(tmp_path) == 0


def test_the_dockerfile_sets_what_the_manifest_says() -> None:
    dockerfile = (MAP / "Dockerfile").read_text(encoding="utf-8")
    found = dict(re.findall(r"(HOLOSCAN_\w+)=(/\S+)", dockerfile))
    assert found == manifests.ENVIRONMENT


def manifest_file(folder: Path, timeout: int) -> dict[str, str]:
    (folder / "app.json").write_text(json.dumps({"timeout": timeout}))
    return {"HOLOSCAN_APP_MANIFEST_PATH": str(folder / "app.json")}


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What the door became, instead of becoming it."""
    seen: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda program, words, environment: seen.append((words, environment)))
    return seen


def test_process_is_the_default_and_has_its_time(tmp_path: Path, became: list[Any]) -> None:
    door.main([], manifest_file(tmp_path, 60))
    assert became[0][0] == [door.TIMEOUT, "--verbose", "--kill-after=30", "60", door.NODE, "process"]


@pytest.mark.parametrize(("manifest", "variable"), [(0, ""), (60, "0")])
def test_no_limit_is_no_limit(tmp_path: Path, became: list[Any], manifest: int, variable: str) -> None:
    door.main(["process", "a", "b"], manifest_file(tmp_path, manifest) | {"HOLOSCAN_TIMEOUT": variable})
    assert became[0][0] == [door.NODE, "process", "a", "b"]


def test_the_environment_s_time_wins(tmp_path: Path, became: list[Any]) -> None:
    door.main(["process"], manifest_file(tmp_path, 60) | {"HOLOSCAN_TIMEOUT": "5"})
    assert "5" in became[0][0]


@pytest.mark.parametrize("text", ["soon", "-1", "1.5"])
def test_a_time_that_is_no_number_ends_with_a_reason(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        door.main(["process"], manifest_file(tmp_path, 60) | {"HOLOSCAN_TIMEOUT": text})
    assert ended.value.code == door.EXIT_MISUSED
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "check", "status"])
def test_other_commands_are_the_node_s_own_without_a_limit(
    tmp_path: Path, became: list[Any], command: str
) -> None:
    door.main([command, "--json"], manifest_file(tmp_path, 60))
    assert became[0][0] == [door.NODE, command, "--json"]


def test_a_mounted_site_file_is_used_unless_another_is_named(
    tmp_path: Path, became: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.yaml"
    monkeypatch.setattr(door, "SITE_CONFIG", site)
    door.main(["check"], {})
    site.write_text("")
    door.main(["check"], {})
    door.main(["check"], {"PSMA_NODE_CONFIG": "/other.yaml"})
    site.unlink()
    door.main(["check"], {"HOLOSCAN_CONFIG_PATH": "/platform.yaml"})
    used = [given.get("PSMA_NODE_CONFIG") for _, given in became]
    assert used == [None, str(site), "/other.yaml", "/platform.yaml"]


def test_a_negative_time_is_refused_in_the_settings() -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        ApplicationInfo(timeout_s=-1)


def test_health_asks_the_probe_of_the_node_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    wrong: list[str] = []
    server = ProbeServer("127.0.0.1", 0, {LIVENESS_PATH: lambda: tuple(wrong)})
    server.start()
    environment = {door.PROBE_PORT: str(server.port)}
    assert door.health(environment) == 0
    wrong.append("watch: has not moved for 301 s")
    assert door.health(environment) == 1
    assert "has not moved" in capsys.readouterr().out
    server.stop()
    assert door.health(environment) == 1
    assert "do not answer" in capsys.readouterr().err


def test_health_without_a_port_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.health({}) == door.EXIT_MISUSED
    assert door.PROBE_PORT in capsys.readouterr().err


def an_earlier_run(folder: Path) -> list[Path]:
    """Its outcomes: of all, and of a study."""
    (folder / f"{STUDY_FOLDER}1").mkdir()
    outcomes = [folder / NAME, folder / f"{STUDY_FOLDER}1" / NAME]
    for outcome in outcomes:
        outcome.write_text('{"status": "done"}')
    return outcomes


def test_an_earlier_run_s_outcomes_are_gone_before_the_time_runs(tmp_path: Path, became: list[Any]) -> None:
    outcomes = an_earlier_run(tmp_path)
    (tmp_path / "notes.txt").write_text("not ours")
    door.main([], manifest_file(tmp_path, 60) | {"HOLOSCAN_OUTPUT_PATH": str(tmp_path)})
    assert became
    assert [outcome.exists() for outcome in outcomes] == [False, False]
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("words", [["check"], ["process", "in", "out"]])
def test_an_outcome_that_this_run_does_not_write_stays(
    tmp_path: Path, became: list[Any], words: list[str]
) -> None:
    outcomes = an_earlier_run(tmp_path)
    door.main(words, manifest_file(tmp_path, 60) | {"HOLOSCAN_OUTPUT_PATH": str(tmp_path)})
    assert became
    assert [outcome.exists() for outcome in outcomes] == [True, True]


def test_an_earlier_outcome_that_can_t_be_removed_ends_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system", str(path))

    an_earlier_run(tmp_path)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(SystemExit) as ended:
        door.main([], manifest_file(tmp_path, 60) | {"HOLOSCAN_OUTPUT_PATH": str(tmp_path)})
    assert ended.value.code == door.EXIT_MISUSED
    assert "Read-only file system" in capsys.readouterr().err
