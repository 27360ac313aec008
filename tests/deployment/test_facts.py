"""What stands in several files is the same in all: ports, paths, names, times, settings."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from app import __version__
from app.node.watch.probes import LIVENESS_PATH, READINESS_PATH, ProbeServer
from app.settings import SHIPPED_CONFIG, Settings, load_settings
from tests.deployment.manifests import (
    COMPOSE,
    KUBERNETES,
    MAP,
    PREFIX,
    kubernetes_objects,
    merged_compose,
    node_environments,
    pod,
    seconds,
    stateful_set,
    unit,
)

DICOM_PORT, PROBE_PORT = 11112, 8080
DATA, SITE_FILE = "/var/lib/psma-node", "/etc/psma-node/app.yaml"
ENVIRONMENTS = dict(node_environments())


def settings_with(
    environment: Mapping[str, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: Path = SHIPPED_CONFIG,
) -> Settings:
    """The settings under an environment; a secret's file is replaced by one that is here."""
    secret = folder / "secret"
    secret.write_text("postgresql://psma_node:x@database:5432/psma_node\n")
    for name, value in environment.items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, str(secret) if name.endswith("__FILE") else value)
    return load_settings(file)


@pytest.mark.parametrize("place", ENVIRONMENTS)
def test_every_variable_is_a_setting_with_a_value_that_is_taken(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = ENVIRONMENTS[place]
    assert any(name.startswith(PREFIX) for name in environment)
    settings = settings_with(environment, tmp_path, monkeypatch)
    if f"{PREFIX}NODE__DATA_DIR" in environment:
        assert settings.node.data_dir == Path(DATA)
    if "Kubernetes" in place or "compose" in place:
        assert (settings.receive.host, settings.receive.port) == ("0.0.0.0", DICOM_PORT)
        assert settings.node.probe_port == PROBE_PORT


def test_a_variable_that_is_no_setting_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Exception, match="unknown key"):
        settings_with({f"{PREFIX}NODE__DRAIN": "1"}, tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", COMPOSE)
def test_compose_leaves_time_for_the_drain(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = merged_compose(kind)["services"]["node"]
    settings = settings_with(node["environment"], tmp_path, monkeypatch)
    assert seconds(node["stop_grace_period"]) >= settings.node.drain_s + 15


@pytest.mark.parametrize("overlay", KUBERNETES)
def test_kubernetes_leaves_time_for_the_drain(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {item["name"]: item["value"] for item in pod(overlay)["containers"][0]["env"]}
    settings = settings_with(environment, tmp_path, monkeypatch)
    assert pod(overlay)["terminationGracePeriodSeconds"] >= settings.node.drain_s + 15


def test_systemd_leaves_time_for_the_drain() -> None:
    keys = unit((MAP / "psma-node.service").read_text())
    assert seconds(keys["TimeoutStopSec"]) >= load_settings(SHIPPED_CONFIG).node.drain_s + 15


def test_a_wrong_setting_does_not_start_the_unit_over_and_over() -> None:
    from app.errors import ExitCode

    keys = unit((MAP / "psma-node.service").read_text())
    assert keys["RestartPreventExitStatus"] == str(ExitCode.MISCONFIGURED)


def test_the_image_is_of_this_version_everywhere() -> None:
    for kind in COMPOSE:
        image = merged_compose(kind)["services"]["node"]["image"]
        with_gpu = any(name.startswith("compose.gpu.") for name in COMPOSE[kind])
        assert image == f"psma-node:{__version__}-{'cuda' if with_gpu else 'cpu'}"
    for overlay in KUBERNETES:
        [container] = pod(overlay)["containers"]
        assert container["image"] == f"psma-node:{__version__}-{'cuda' if 'gpu' in overlay else 'cpu'}"


def test_ports_and_folders_are_those_of_the_image() -> None:
    dockerfile = (MAP / "Dockerfile").read_text()
    assert f"EXPOSE {DICOM_PORT} {PROBE_PORT}" in dockerfile
    assert f"PSMA_NODE__NODE__DATA_DIR={DATA}" in dockerfile
    assert f'SITE_CONFIG = Path("{SITE_FILE}")' in (MAP / "psma-map").read_text()
    assert "USER 1000:1000" in dockerfile
    node = merged_compose("SQLite")["services"]["node"]
    named = {item["target"] if isinstance(item, dict) else item.split(":")[1] for item in node["volumes"]}
    assert named == {DATA, SITE_FILE}
    [container] = pod("base")["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"data": DATA, "config": str(Path(SITE_FILE).parent), "tmp": "/tmp"}  # noqa: S108 - in the container
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "dicom": DICOM_PORT, "probes": PROBE_PORT
    }  # fmt: skip


@pytest.mark.parametrize("kind", COMPOSE)
def test_every_service_is_shut_in(kind: str) -> None:
    for name, service in merged_compose(kind)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


@pytest.mark.parametrize("overlay", KUBERNETES)
def test_the_pod_meets_the_restricted_standard(overlay: str) -> None:
    spec = pod(overlay)
    [container] = spec["containers"]
    assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (True, 1000)
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert {volume.keys() - {"name"} == {"hostPath"} for volume in spec["volumes"]} == {False}


def test_one_node_receives_and_keeps_its_name() -> None:
    assert stateful_set("base")["spec"]["replicas"] == 1
    assert merged_compose("SQLite")["services"]["node"]["hostname"] == "psma-node"


def test_probes_are_asked_where_they_are_answered() -> None:
    [container] = pod("base")["containers"]
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    asked = [container[kind]["httpGet"]["path"] for kind in kinds]
    assert asked == [LIVENESS_PATH, LIVENESS_PATH, READINESS_PATH]


def health_check(port: int) -> int:
    """Compose's health check, with the door and the port that are here."""
    kind, *words = merged_compose("SQLite")["services"]["node"]["healthcheck"]["test"]
    assert kind == "CMD"
    environment = {"PATH": f"{MAP}:{os.environ['PATH']}", f"{PREFIX}NODE__PROBE_PORT": str(port)}
    return subprocess.run(words, env=environment, capture_output=True, check=False).returncode


def test_compose_s_health_check_tells_a_node_that_lives_from_one_that_hangs_or_is_gone() -> None:
    wrong: list[str] = []
    server = ProbeServer("127.0.0.1", 0, {LIVENESS_PATH: lambda: tuple(wrong)})
    server.start()
    port = server.port
    try:
        assert health_check(port) == 0
        wrong.append("watch: has not moved for 301 s")
        assert health_check(port) != 0
    finally:
        server.stop()
    assert health_check(port) != 0


def test_kubernetes_lets_in_and_out_what_the_site_s_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with({}, tmp_path, monkeypatch, MAP / "kubernetes" / "base" / "app.yaml")
    [policy] = [item["spec"] for item in kubernetes_objects("base") if item["kind"] == "NetworkPolicy"]
    [incoming], [outgoing] = policy["ingress"], policy["egress"]
    callers = [address for caller in settings.receive.allowed_callers for address in caller.addresses]
    assert [item["ipBlock"]["cidr"] for item in incoming["from"]] == callers
    assert [port["port"] for port in incoming["ports"]] == ["dicom"]
    [destination] = settings.deliver.destinations
    assert [item["ipBlock"]["cidr"] for item in outgoing["to"]] == [f"{destination.host}/32"]
    assert [port["port"] for port in outgoing["ports"]] == [destination.port]
    [service] = [item["spec"] for item in kubernetes_objects("base") if item["kind"] == "Service"]
    assert service["externalTrafficPolicy"] == "Local", "allowed_callers goes by the sender's address"


def test_the_orthanc_to_try_it_with_knows_the_node_by_its_name() -> None:
    orthanc = json.loads((MAP / "orthanc" / "orthanc.json").read_text())
    title, host, port = orthanc["DicomModalities"]["psma-node"]
    services = merged_compose("Orthanc")["services"]
    assert "orthanc" not in merged_compose("SQLite")["services"], "only who asks for it has it"
    assert (title, port) == (load_settings(SHIPPED_CONFIG).receive.ae_title, DICOM_PORT)
    assert host in services
    assert orthanc["LuaScripts"] == ["/etc/orthanc/send_to_psma_node.lua"]


@pytest.mark.parametrize("kind", COMPOSE)
def test_images_from_a_registry_are_named_in_full_and_ours_plainly(kind: str) -> None:
    """Podman asks no registry for a short name; a plain one is found among Docker's and Podman's images."""
    for name, service in merged_compose(kind)["services"].items():
        registry, slash, _ = service["image"].partition("/")
        assert (registry, slash) == (("docker.io", "/") if name != "node" else (service["image"], "")), name


@pytest.mark.parametrize("kind", ["SQLite", "all"])
def test_what_has_to_run_is_started_again_after_a_boot_by_docker_and_by_podman(kind: str) -> None:
    services = merged_compose(kind)["services"]
    for name in {"node", "database"} & services.keys():
        assert services[name]["restart"] == "always", name


def test_no_password_stands_in_any_of_these_files() -> None:
    kinds = {".yaml", ".json", ".service", ".conf", ".lua"}
    files = [path for path in MAP.rglob("*") if path.suffix in kinds and path.parent.name != "schema"]
    assert len(files) > 10
    for file in files:
        text = re.sub(r"#.*", "", file.read_text())
        assert not re.search(r"://[^\s/:]+:[^\s/@]+@", text), file.name
    postgres = yaml.safe_load((MAP / "compose.postgres.yaml").read_text())
    assert {secret["file"] for secret in postgres["secrets"].values()} == {
        "./secrets/database_url", "./secrets/database_password"
    }  # fmt: skip
