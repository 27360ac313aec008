"""What stands in several files is the same in all: ports, paths, names, times, settings."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from itertools import pairwise
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
    PAGES_TEXT,
    PREFIX,
    ROOT,
    kubernetes_objects,
    merged_compose,
    node_environments,
    pod,
    script,
    seconds,
    stateful_set,
    unit,
)

DICOM_PORT, TLS_PORT, PROBE_PORT = 11112, 2762, 8080
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
        assert [str(one) for one in settings.receive.addresses] == [f"0.0.0.0 port {DICOM_PORT}"]
        assert (settings.node.probe_host, settings.node.probe_port) == ("0.0.0.0", PROBE_PORT)


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
    assert f"EXPOSE {DICOM_PORT} {TLS_PORT} {PROBE_PORT}" in dockerfile
    assert f"PSMA_NODE__NODE__DATA_DIR={DATA}" in dockerfile
    assert f'SITE_CONFIG = Path("{SITE_FILE}")' in (MAP / "psma-map").read_text()
    assert "USER 1000:1000" in dockerfile
    node = merged_compose("SQLite")["services"]["node"]
    named = {item["target"] if isinstance(item, dict) else item.split(":")[1] for item in node["volumes"]}
    assert named == {DATA, str(Path(SITE_FILE).parent)}
    assert node["environment"]["PSMA_NODE_CONFIG"] == SITE_FILE, "without it nothing starts"
    [container] = pod("base")["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"data": DATA, "config": str(Path(SITE_FILE).parent), "tmp": "/tmp"}  # noqa: S108 - in the container
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "dicom": DICOM_PORT, "dicom-tls": TLS_PORT, "probes": PROBE_PORT
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
    assert [port["port"] for port in incoming["ports"]] == ["dicom", "dicom-tls"]
    [destination] = settings.deliver.destinations
    assert [item["ipBlock"]["cidr"] for item in outgoing["to"]] == [f"{destination.host}/32"]
    assert [port["port"] for port in outgoing["ports"]] == [destination.port]
    [service] = [item["spec"] for item in kubernetes_objects("base") if item["kind"] == "Service"]
    assert service["externalTrafficPolicy"] == "Local", "allowed_callers goes by the sender's address"
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == {
        "dicom": DICOM_PORT, "dicom-tls": TLS_PORT
    }  # fmt: skip


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


def clinic(folder: Path) -> Path:
    """The file of docs/how-to/clinic.md."""
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/how-to/clinic.md").read_text(), re.DOTALL)
    file = folder / "clinic.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("place", [name for name in ENVIRONMENTS if "gpu.conf" not in name])
def test_a_clinic_s_file_with_tls_is_taken_as_it_is_in_every_place(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(ENVIRONMENTS[place], tmp_path, monkeypatch, clinic(tmp_path))
    plain, secure = settings.receive.addresses
    assert (plain.host, plain.port, plain.tls) == ("127.0.0.1", DICOM_PORT, False)
    assert (secure.host, secure.port, secure.tls) == ("0.0.0.0", TLS_PORT, True)
    assert (settings.node.probe_host, settings.node.probe_port) == ("0.0.0.0", PROBE_PORT)
    assert bool(settings.node.log_file) == place.endswith(".service"), "nothing else can be written to"


def certificate_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    tls = settings_with({}, folder, monkeypatch, clinic(folder)).tls
    return {tls.certificate, tls.key, tls.authorities}


def bind(volume: str | dict[str, str]) -> tuple[str, str]:
    """Source and target, as docker-compose 1 or 2 prints them."""
    if isinstance(volume, dict):
        return volume["source"], volume["target"]
    source, target = volume.split(":")[:2]
    return source, target


def port_of(port: str | dict[str, object]) -> str:
    """``published:target``, as docker-compose 1 or 2 prints it."""
    if isinstance(port, dict):
        return f"{port['published']}:{port['target']}"
    return port.removesuffix("/tcp")


def test_certificates_lie_where_the_clinic_s_file_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = Path(SITE_FILE).parent
    [volume] = [one for one in pod("base")["volumes"] if one["name"] == "config"]
    assert volume["projected"]["defaultMode"] == 0o440, "for fsGroup to read, and nobody else"
    [secret] = [source["secret"] for source in volume["projected"]["sources"] if "secret" in source]
    projected = {str(mounted / item["path"]) for item in secret["items"]}
    assert projected == certificate_files(tmp_path, monkeypatch)
    volumes = merged_compose("SQLite")["services"]["node"]["volumes"]
    [(source, _)] = [pair for one in volumes if (pair := bind(one))[1] == str(mounted)]
    assert Path(source).name == "site"
    named = script("certificates, container") + script("Kubernetes, certificates")
    assert secret["name"] in named
    for item in secret["items"]:
        assert f"site/{item['path']}" in named
        assert f"--from-file={item['key']}=" in named
    assert "-o 1000" in named, "the container's user has to read the key"


def test_docker_run_on_the_page_is_what_compose_does() -> None:
    node = merged_compose("SQLite")["services"]["node"]
    words = shlex.split(script("without compose").replace("\\\n", " "))
    given = {name: [after for word, after in pairwise(words) if word == name] for name in ("-p", "-e", "-v")}
    published = [port_of(port) for port in node["ports"]]
    assert set(given["-p"]) <= set(published)
    assert dict(word.split("=", 1) for word in given["-e"]) == {
        name: value for name, value in node["environment"].items() if "DATA_DIR" not in name
    }, "the folder of the data is the image's own"
    assert [volume.split(":", 1)[1] for volume in given["-v"]] == [DATA, f"{Path(SITE_FILE).parent}:ro"]
    shut_in = {"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"}
    assert shut_in | {"--restart=always"} <= set(words)
    assert f"--stop-timeout={seconds(node['stop_grace_period']):.0f}" in words
    assert words[-2:] == [node["image"], "serve"]


def test_settings_are_read_again_without_a_restart() -> None:
    """PID 1 is the node, since psma-map becomes it; a signal by Docker itself may count as a stop by hand."""
    assert "docker exec psma-node sh -c 'kill -HUP 1'" in PAGES_TEXT
    assert "docker restart" not in PAGES_TEXT
    assert (MAP / "psma-node").read_text().splitlines()[-1].startswith("exec ")
    assert "os.execve(" in (MAP / "psma-map").read_text()


def test_prometheus_is_let_in_to_the_probes_alone() -> None:
    objects = kubernetes_objects("base", "prometheus")
    [policy] = [item["spec"] for item in objects if item["metadata"]["name"] == "psma-node-metrics"]
    assert policy["policyTypes"] == ["Ingress"]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]] == [["probes"]]
    assert all("namespaceSelector" in place for rule in policy["ingress"] for place in rule["from"])
