"""Everything shipped for running the image passes its own tool, and the tools do refuse what is wrong."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.deployment.manifests import (
    COMPONENTS,
    COMPOSE,
    KUBERNETES,
    MAP,
    docker_compose,
    documents,
    kubernetes_objects,
    pod,
    podman_compose,
    program,
    stateful_set,
)

KUBERNETES_VERSION = "1.37"
INSTALLED_AT = "/opt/psma-node/.venv/bin/psma-node"
EXPOSURE = "20"
"""``systemd-analyze security``: tenths; 0 is shut in, 100 is open. With a network it is about 15."""


@pytest.mark.parametrize("kind", COMPOSE)
@pytest.mark.parametrize("tool", [docker_compose, podman_compose])
def test_compose_files_are_taken_alone_and_together(tool: type[docker_compose], kind: str) -> None:
    done = tool(*(MAP / name for name in COMPOSE[kind]))
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"]["node"]["image"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: {node: {image: x, reed_only: true}}", "reed_only"),
        ("services: {node: {image: x, ports: {a: b}}}", "ports"),
    ],
)
def test_docker_compose_refuses_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(text)
    done = docker_compose(file)
    assert done.returncode != 0
    assert words in done.stderr


def test_podman_compose_refuses_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("services: {node: {image: x, networks: [nowhere]}}")
    done = podman_compose(file)
    assert done.returncode != 0
    assert "missing networks: nowhere" in done.stderr


@pytest.mark.parametrize("overlay", KUBERNETES)
def test_every_kubernetes_object_is_of_its_schema(overlay: str) -> None:
    objects = kubernetes_objects(overlay)
    assert {"Namespace", "StatefulSet", "Service", "NetworkPolicy"} <= {item["kind"] for item in objects}
    for item in objects:
        kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)


def test_what_is_laid_over_the_base_changes_what_it_is_for_alone_and_together() -> None:
    base, both = pod("base"), pod("gpu-postgres")
    [container] = both["containers"]
    added = [item["name"] for item in container["env"] if item not in base["containers"][0]["env"]]
    assert added == ["PSMA_NODE__SEGMENT__DEVICE", "PSMA_NODE__NODE__DATABASE_URL__FILE"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "database" in {volume["name"] for volume in both["volumes"]}
    assert pod("gpu") not in (base, both, pod("postgres"))
    assert [len(kubernetes_objects(overlay)) for overlay in KUBERNETES] == [4, 4, 5, 5]


def test_a_postgres_outside_the_cluster_is_let_out_to_by_its_address() -> None:
    objects = kubernetes_objects("gpu-postgres", "postgres-outside")
    [policy] = [item for item in objects if item["metadata"]["name"] == "psma-node-database"]
    kubernetes_validate.validate(policy, KUBERNETES_VERSION, strict=True)
    database, names = policy["spec"]["egress"]
    assert [place.keys() for place in database["to"]] == [{"ipBlock"}]
    assert [port["port"] for port in database["ports"]] == [5432]
    assert {port["port"] for port in names["ports"]} == {53}


@pytest.mark.parametrize(
    ("key", "value"),
    [("livenesProbe", {}), ("ports", [{"containerPort": "many"}]), ("image", 7), ("readinessProbe", [])],
)
def test_a_schema_refuses_what_is_wrong(key: str, value: object) -> None:
    item = copy.deepcopy(stateful_set("base"))
    item["spec"]["template"]["spec"]["containers"][0][key] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)


FOLDERS = [*KUBERNETES, *(f"components/{name}" for name in COMPONENTS)]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_kustomization_holds_what_kustomize_knows_and_names_files_that_are_there(name: str) -> None:
    folder = MAP / "kubernetes" / name
    [kustomization] = documents(folder / "kustomization.yaml")
    known = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "configMapGenerator"}
    assert kustomization.keys() <= known
    kind, version = ("Component", "v1alpha1") if "components/" in name else ("Kustomization", "v1beta1")
    assert kustomization["kind"] == kind
    assert kustomization["apiVersion"] == f"kustomize.config.k8s.io/{version}"
    generated = [file for item in kustomization.get("configMapGenerator", []) for file in item["files"]]
    patched = [item["path"] for item in kustomization.get("patches", [])]
    taken = [*kustomization.get("resources", []), *kustomization.get("components", [])]
    for file in [*taken, *generated, *patched]:
        assert (folder / file).exists(), file


def test_every_kustomization_is_among_those_that_are_looked_at() -> None:
    found = {str(file.parent.relative_to(MAP / "kubernetes")) for file in MAP.rglob("kustomization.yaml")}
    assert found == set(FOLDERS)


def installed_unit(folder: Path, text: str) -> Path:
    """The unit in a folder of its own, its program one that is here."""
    file = folder / "psma-node.service"
    assert INSTALLED_AT in text
    file.write_text(text.replace(INSTALLED_AT, sys.executable))
    return file


def systemd_analyze(*words: str) -> subprocess.CompletedProcess[str]:
    command = [program("systemd-analyze"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_unit_is_taken_with_and_without_a_gpu(tmp_path: Path) -> None:
    file = installed_unit(tmp_path, (MAP / "psma-node.service").read_text())
    plain = systemd_analyze("verify", "--man=no", str(file))
    assert (plain.returncode, plain.stderr) == (0, "")
    (tmp_path / "psma-node.service.d").mkdir()
    (tmp_path / "psma-node.service.d" / "gpu.conf").write_text((MAP / "psma-node-gpu.conf").read_text())
    with_gpu = systemd_analyze("verify", "--man=no", str(file))
    assert (with_gpu.returncode, with_gpu.stderr) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("ProtectSystem=strict", "ProtectSystems=strict"),
        ("Restart=on-failure", "Restart=when-it-likes"),
        (f"ExecStart={INSTALLED_AT}", f"ExecStart=/nowhere{INSTALLED_AT}"),
    ],
)
def test_systemd_complains_of_what_is_wrong(tmp_path: Path, right: str, wrong: str) -> None:
    text = (MAP / "psma-node.service").read_text()
    assert right in text
    done = systemd_analyze("verify", "--man=no", str(installed_unit(tmp_path, text.replace(right, wrong))))
    assert done.stderr != ""


def test_the_unit_is_shut_in(tmp_path: Path) -> None:
    text = (MAP / "psma-node.service").read_text()
    words = ("security", "--offline=true", f"--threshold={EXPOSURE}")
    assert systemd_analyze(*words, str(installed_unit(tmp_path, text))).returncode == 0
    open_door = text.replace("CapabilityBoundingSet=\n", "").replace("ProtectSystem=strict\n", "")
    assert systemd_analyze(*words, str(installed_unit(tmp_path, open_door))).returncode != 0
