"""What is shipped for running the image: read, merged and validated by the tools of each kind."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MAP = ROOT / "MAP"
PAGES = [ROOT / "docs" / "how-to" / f"{name}.md" for name in ("deploy", "upgrade", "platforms")]
PAGES_TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
"""The pages whose shell blocks a site runs."""
PREFIX = "PSMA_NODE__"

Tree = dict[str, Any]

COMPOSE: dict[str, tuple[str, ...]] = {
    "SQLite": ("compose.yaml",),
    "Postgres": ("compose.yaml", "compose.postgres.yaml"),
    "GPU": ("compose.yaml", "compose.gpu.yaml"),
    "GPU, Podman": ("compose.yaml", "compose.gpu.podman.yaml"),
    "Orthanc": ("compose.yaml", "compose.orthanc.yaml"),
    "all": ("compose.yaml", "compose.postgres.yaml", "compose.gpu.yaml", "compose.orthanc.yaml"),
}
KUBERNETES = ("base", "gpu", "postgres", "gpu-postgres")
COMPONENTS = ("gpu", "postgres", "postgres-outside", "prometheus")


def program(name: str) -> str:
    """Where a tool is; the test fails where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: scripts/install-peers --for-tests")
    return found


@functools.cache
def docker_compose(*files: Path) -> subprocess.CompletedProcess[str]:
    """``docker-compose config``, of version 1 or 2, whichever the distribution has."""
    return _config([program("docker-compose")], files)


def podman_compose(*files: Path) -> subprocess.CompletedProcess[str]:
    """``podman-compose config``. A dry run asks no Podman for its version, so none has to be installed."""
    return _config([str(Path(sys.executable).with_name("podman-compose")), "--dry-run"], files)


def _config(command: Sequence[str], files: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    named = [word for file in files for word in ("-f", str(file))]
    return subprocess.run([*command, *named, "config"], capture_output=True, text=True, check=False)


def merged_compose(kind: str) -> Tree:
    """The services as Compose sees them."""
    done = docker_compose(*(MAP / name for name in COMPOSE[kind]))
    assert done.returncode == 0, done.stderr
    tree: Tree = yaml.safe_load(done.stdout)
    return tree


def documents(file: Path) -> list[Tree]:
    """Every document of a YAML file."""
    return [item for item in yaml.safe_load_all(file.read_text(encoding="utf-8")) if item]


def kubernetes_objects(overlay: str, *components: str) -> list[Tree]:
    """What ``kubectl apply -k`` would send, but for generated ConfigMaps; further components laid over it."""
    objects = _laid_over([], MAP / "kubernetes" / overlay)
    for name in components:
        objects = _laid_over(objects, MAP / "kubernetes" / "components" / name)
    return objects


def _laid_over(objects: list[Tree], folder: Path) -> list[Tree]:
    """As kustomize does it: resources, then components, then patches."""
    [kustomization] = documents(folder / "kustomization.yaml")
    objects = list(objects)
    for name in kustomization.get("resources", []):
        place = folder / name
        objects += _laid_over([], place) if place.is_dir() else documents(place)
    for name in kustomization.get("components", []):
        objects = _laid_over(objects, folder / name)
    for patch in kustomization.get("patches", []):
        [operations] = documents(folder / patch["path"])
        index = _place(objects, patch["target"])
        objects[index] = jsonpatch.apply_patch(objects[index], operations)
    return objects


def _place(objects: Sequence[Tree], target: Mapping[str, str]) -> int:
    """Where the one object of that kind and name is."""
    wanted = target["kind"], target["name"]
    [index] = [at for at, item in enumerate(objects) if (item["kind"], item["metadata"]["name"]) == wanted]
    return index


def stateful_set(overlay: str) -> Tree:
    """The one StatefulSet."""
    [found] = [item for item in kubernetes_objects(overlay) if item["kind"] == "StatefulSet"]
    return found


def pod(overlay: str) -> Tree:
    """Its pod."""
    spec: Tree = stateful_set(overlay)["spec"]["template"]["spec"]
    return spec


def unit(text: str) -> dict[str, str]:
    """``KEY=value`` lines of a unit file; of a key that stands twice the last."""
    lines = (line.split("=", 1) for line in text.splitlines() if "=" in line and line[:1] not in "#;")
    return {key.strip(): value.strip() for key, value in lines}


def node_environments() -> Iterator[tuple[str, Mapping[str, str]]]:
    """The node's environment in everything that is shipped, with what it is of."""
    for kind in COMPOSE:
        yield f"compose, {kind}", merged_compose(kind)["services"]["node"]["environment"]
    for overlay in KUBERNETES:
        [container] = pod(overlay)["containers"]
        yield f"Kubernetes, {overlay}", {item["name"]: item["value"] for item in container["env"]}
    for name in ("psma-node.service", "psma-node-gpu.conf"):
        words = unit((MAP / name).read_text(encoding="utf-8"))["Environment"].split()
        yield name, dict(word.split("=", 1) for word in words)


def script(name: str) -> str:
    """The shell block of the pages that begins with ``# name``."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGES_TEXT, re.DOTALL)
    [found] = [block for block in blocks if block.startswith(f"# {name}\n")]
    return str(found)


def seconds(text: str) -> float:
    """Compose's and systemd's ``150s`` or ``2m30s``."""
    minutes, found, rest = text.rpartition("m")
    return (60 * float(minutes) if found else 0.0) + float(rest.removesuffix("s") or 0)
