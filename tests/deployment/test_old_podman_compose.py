"""The compose files as Debian 12's podman-compose (1.0.3) reads them: the words that it gives to Podman.

It has no ``config``; a stand-in for Podman writes down how it was called. It passes over what it does not
know: profiles, ``stop_grace_period``, ``pids_limit``, conditions of ``depends_on`` (docs/how-to/deploy.md).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from app.node.watch.probes import LIVENESS_PATH, ProbeServer
from tests.deployment.manifests import COMPOSE, MAP, PAGES_TEXT, PREFIX, ROOT, merged_compose

PROGRAM = ROOT / ".cache" / "podman-compose-1.0.3" / "podman_compose.py"
STAND_IN = """#!{python}
import json, os, sys
print("podman version 4.3.1")
with open({log!r}, "a") as stream:
    stream.write(json.dumps([os.getcwd(), *sys.argv[1:]]) + "\\n")
sys.exit({code} if sys.argv[1] == "run" else 0)
"""

BLOCKS = re.findall(r"```sh\n(.*?)```", PAGES_TEXT, re.DOTALL)
SHELL = "\n".join(BLOCKS)
"""The commands of the pages."""

COMMANDS = sorted(set(re.findall(r"(?:^|&& )docker-compose (.+)$", SHELL, re.MULTILINE)))

CHECK = "run --rm --no-deps node check"

Words = list[str]


def called(site: Path, kind: str, *words: str, podman_code: int = 0) -> list[Words]:
    """The calls of Podman, each with the folder that it was made in; what it runs ends with the code."""
    if not PROGRAM.exists():
        pytest.fail(f"{PROGRAM} is missing: scripts/install-old-podman-compose")
    for name in COMPOSE[kind]:
        shutil.copy(MAP / name, site / name)
    log, podman = site / "calls.jsonl", site / "podman"
    podman.write_text(STAND_IN.format(python=sys.executable, log=str(log), code=podman_code))
    podman.chmod(0o755)
    files = [word for name in COMPOSE[kind] for word in ("-f", str(site / name))]
    command = [sys.executable, str(PROGRAM), "--podman-path", str(podman), *files, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in log.read_text().splitlines()]


def started(site: Path, kind: str) -> dict[str, Words]:
    """The words of ``podman run`` for each service, by its name among the services."""
    runs = [call for call in called(site, kind, "up", "-d") if call[1] == "run"]
    assert {call[0] for call in runs} == {str(site)}, "relative paths are those of the site's folder"
    return {values(call, "--network-alias")[0]: call for call in runs}


def values(words: Words, option: str) -> Words:
    """What follows an option, each time that it stands there."""
    return [after for word, after in pairwise(words) if word == option]


@pytest.mark.parametrize("kind", COMPOSE)
def test_it_starts_the_same_services_of_the_same_images(tmp_path: Path, kind: str) -> None:
    runs, services = started(tmp_path, kind), merged_compose(kind)["services"]
    assert runs.keys() == services.keys()
    for name, service in services.items():
        command = service.get("command", [])
        assert runs[name][-1 - len(command) :] == [service["image"], *command]


@pytest.mark.parametrize("kind", ["SQLite", "all"])
def test_it_shuts_every_service_in(tmp_path: Path, kind: str) -> None:
    for name, words in started(tmp_path, kind).items():
        assert "--read-only" in words, name
        assert values(words, "--cap-drop") == ["ALL"], name
        assert values(words, "--security-opt") == ["no-new-privileges:true"], name


def test_it_hands_on_names_environment_places_ports_and_what_is_started_again(tmp_path: Path) -> None:
    words = started(tmp_path, "Postgres")["node"]
    service = merged_compose("Postgres")["services"]["node"]
    assert "--name=psma-node" in words
    assert set(values(words, "-e")) == {f"{key}={value}" for key, value in service["environment"].items()}
    assert values(words, "-v") == [
        "psma-node-data:/var/lib/psma-node", "./site:/etc/psma-node:ro"
    ]  # fmt: skip
    assert values(words, "--volume") == [
        "./secrets/database_url:/run/secrets/database_url:ro,rprivate,rbind"
    ]
    assert values(words, "-p") == ["11112:11112", "2762:2762"]
    assert (values(words, "-u"), values(words, "--restart")) == (["1000:1000"], ["always"])


def test_it_hands_every_gpu_on_with_the_file_for_podman(tmp_path: Path) -> None:
    assert values(started(tmp_path, "GPU, Podman")["node"], "--device") == ["nvidia.com/gpu=all"]


def test_its_health_check_tells_a_node_that_lives_from_one_that_is_gone(tmp_path: Path) -> None:
    [check] = values(started(tmp_path, "SQLite")["node"], "--healthcheck-command")
    server = ProbeServer("127.0.0.1", 0, {LIVENESS_PATH: lambda: ()})
    server.start()
    environment = {"PATH": f"{MAP}:{os.environ['PATH']}", f"{PREFIX}NODE__PROBE_PORT": str(server.port)}
    command = ["/bin/sh", "-c", check]  # as Podman 4 runs one that is no list
    alive = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    server.stop()
    gone = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert alive.returncode == 0, alive.stderr
    assert gone.returncode == 1


def test_its_health_check_of_postgres_is_the_command_that_the_file_has(tmp_path: Path) -> None:
    [check] = values(started(tmp_path, "Postgres")["database"], "--healthcheck-command")
    said = tmp_path / "pg_isready"
    said.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
    said.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-c", check], env=environment, capture_output=True, text=True, check=True
    )
    kind, _, *words = merged_compose("Postgres")["services"]["database"]["healthcheck"]["test"]
    assert (kind, done.stdout.splitlines()) == ("CMD", [str(said), *words])


@pytest.mark.parametrize("kind", ["SQLite", "all"])
def test_folders_in_memory_have_options_that_podman_4_takes(tmp_path: Path, kind: str) -> None:
    """It refuses ``uid`` and ``gid``, which Docker takes: the container would never be made."""
    for words in started(tmp_path, kind).values():
        for folder in values(words, "--tmpfs"):
            _, _, options = folder.partition(":")
            assert {option.partition("=")[0] for option in options.split(",") if option} <= {"size", "mode"}


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_of_the_page_is_one_that_it_knows(tmp_path: Path, words: str) -> None:
    assert called(tmp_path, "Postgres", *words.split())


def test_it_stops_as_patiently_as_it_is_told_to(tmp_path: Path) -> None:
    calls = called(tmp_path, "SQLite", "down", "-t", "150")
    assert [call[2:] for call in calls if call[1] == "stop"] == [["-t", "150", "psma-node"]]


def test_a_check_starts_no_node(tmp_path: Path) -> None:
    """Without ``--no-deps`` this version would start every service before the one that is asked for."""
    runs = [call for call in called(tmp_path, "SQLite", *CHECK.split()) if call[1] == "run"]
    assert [(run[-1], "--rm" in run) for run in runs] == [("check", True)]
    assert CHECK in SHELL


def test_nothing_goes_on_by_itself_after_a_check(tmp_path: Path) -> None:
    """This version ends with 0 whatever the container ended with: a person has to read what it says."""
    assert called(tmp_path, "SQLite", *CHECK.split(), podman_code=1)
    checks = [block for block in BLOCKS if CHECK in block]
    assert len(checks) == 2
    assert [block for block in checks if not block.rstrip().endswith(CHECK)] == []


def test_the_page_s_docker_compose_hands_it_the_files_of_the_site(tmp_path: Path) -> None:
    """With Podman the page makes a ``docker-compose`` that reads ``.env``, as Docker's own does."""
    [line] = [line for line in SHELL.splitlines() if "exec podman-compose" in line]
    place = "/usr/local/bin/docker-compose"
    subprocess.run(["sh", "-c", line.replace(place, str(tmp_path / "docker-compose"))], check=True)
    told = tmp_path / "podman-compose"
    told.write_text('#!/bin/sh\necho "$COMPOSE_FILE: $*"\n')
    for program in (told, tmp_path / "docker-compose"):
        program.chmod(0o755)
    (tmp_path / ".env").write_text("COMPOSE_FILE=compose.yaml:compose.postgres.yaml\n")
    command = [str(tmp_path / "docker-compose"), "up", "-d"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "compose.yaml:compose.postgres.yaml: up -d\n"
