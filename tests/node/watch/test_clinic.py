"""The clinic's app.yaml of docs/how-to/clinic.md, and what ``check`` says of broken versions of it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from app.cli.main import app
from app.node import peers
from app.node.peers import DeliverPolicy, Listener, ReceivePolicy
from app.node.policy import NodePolicy
from app.node.receive.commitment import CommitmentDesk
from app.node.receive.scp import StoreScp
from app.node.records.stores import open_stores
from app.settings import SHIPPED_CONFIG, load_settings, settings_adapter
from tests.node.certificates import Authority
from tests.node.workflow.peers import free_port

SECURE = Listener(port=0, tls=True)
PAGE = SHIPPED_CONFIG.parent / "docs" / "how-to" / "clinic.md"
MAX_LINES = 40


def clinic() -> str:
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(text)


@dataclass(frozen=True)
class Site:
    """The clinic on this machine: its file with our folders and ports, two PACSs by TLS, one plain."""

    text: str
    folder: Path
    authority: Authority
    taken_port: int
    plain_pacs: int


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clinic")
    authority = Authority(folder)
    authority.certify("node")
    authority.certify("old", days=-1)
    identity = authority.certify("pacs")
    Authority(folder / "other", "other-ca")
    stores = open_stores(NodePolicy(data_dir=folder / "pacs"))
    desk = CommitmentDesk(stores, DeliverPolicy(), lambda: None)
    pacs = [
        StoreScp(
            ReceivePolicy(ae_title, listeners=(listener,), min_free_mb=0), stores.inbox, print, identity, desk
        )
        for ae_title, listener in (("PACS", SECURE), ("VIEWER", SECURE), ("VIEWER", Listener(port=0)))
    ]
    for one in pacs:
        one.start()
    text = clinic()
    for ours, theirs in (
        ("/etc/psma-node", str(folder)),
        ("/srv/psma-node/models", str(SHIPPED_CONFIG.parent / "models")),
        ("/var/lib/psma-node", str(folder / "data")),
        ("/var/log/psma-node", str(folder / "log")),
        ("pacs.clinic, port: 2762", f"localhost, port: {pacs[0].port}"),
        ("viewer.clinic, port: 2762", f"localhost, port: {pacs[1].port}"),
        ("port: 11112", f"port: {free_port()}"),
        ("port: 2762", f"port: {free_port()}"),
        ("node:\n", "node:\n  min_free_mb: 1\n"),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield Site(text, folder, authority, int(taken.getsockname()[1]), pacs[2].port)
    for one in pacs:
        one.stop(drain_s=0)


def checked(site: Site, text: str) -> tuple[int, str]:
    file = site.folder / "app.yaml"
    file.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(app, ["check", "--config", str(file), "--set", "segment.device=cpu"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_clinic_s_file_is_short_and_says_what_it_promises(tmp_path: Path) -> None:
    assert len(clinic().splitlines()) <= MAX_LINES
    file = tmp_path / "app.yaml"
    file.write_text(clinic(), encoding="utf-8")
    settings = load_settings(file)
    assert [one.tls for one in settings.receive.addresses] == [False, True]
    assert [(one.tls, one.commitment) for one in settings.deliver.destinations] == [
        (True, True),
        (True, True),
    ]
    assert settings.node.probe_port


def test_check_finds_nothing_wrong_with_it(site: Site) -> None:
    exit_code, output = checked(site, site.text)
    assert (exit_code, "FAILED" in output) == (0, False), output
    for line in ("destination pacs", "destination reading", "certificate", "authorities", "clock", "models"):
        assert f"ok      {line}" in output
    assert [words for _, _, words in CONTRADICTIONS.values() if words in " ".join(output.split())] == []


BROKEN = {
    "misspelt key": (
        "ae_title: PSMA_NODE",
        "ae_tittle: PSMA_NODE",
        "unknown key receive.ae_tittle (nearest: ae_title)",
    ),
    "misspelt section": ("deliver:\n", "delivery:\n", "unknown key delivery (nearest: deliver)"),
    "no YAML": ("receive:\n", "receive: [\n", "is not valid YAML: line "),
    "port too high": ("port: 8080", "port: 99999", "node.probe_port: found 99999, expected 0 to 65535"),
    "backslash": ("ae_title: PETCT1", "ae_title: 'PET\\CT1'", "no backslash, no space before or after"),
    "umlaut": ("ae_title: VIEWER", "ae_title: BEFÜNDER", "expected an AE title: 1 to 16 characters of ASCII"),
    "space": (
        "ae_title: PSMA_NODE\n",
        "ae_title: 'PSMA_NODE '\n",
        "found 'PSMA_NODE ', expected an AE title",
    ),
    "address": (
        "[10.20.1.11]",
        "[10.20.1.311]",
        "found '10.20.1.311', expected an IP address, or a network",
    ),
    "no boolean": (
        "tls: true}  #",
        "tls: please}  #",
        "listeners.1.tls: found 'please', expected true or false",
    ),
    "no port": (", port: {viewer}", "", "deliver.destinations.1.port: missing"),
    "kind of result": ("[SEG, SR]", "[SEGM]", "found 'SEGM', expected 'SEG', 'SR', 'PAGE' or 'RTSTRUCT'"),
    "twice the same name": ("name: reading", "name: pacs", "two destinations have the same name"),
    "no association": ("associations: 32", "associations: 0", "found 0, expected 1 to 1000"),
    "heartbeat": (
        "  probe_port",
        "  heartbeat_s: 0\n  probe_port",
        "heartbeat_s: found 0, expected 0.01 to 3600",
    ),
    "two proofs": (
        "SR], commitment",
        "SR], verify: find, commitment",
        "commitment and verify exclude each other",
    ),
    "two listeners alike": (
        "{host: 127.0.0.1, port: {plain}}",
        "{host: 127.0.0.1, port: {secure}}",
        "have the same address and port: 127.0.0.1 port {secure} and 0.0.0.0 port {secure} (TLS)",
    ),
    "short and long form": (
        "  listeners:",
        "  port: 104\n  listeners:",
        "port is the short form of listeners",
    ),
    "no certificate": (
        "  certificate: {folder}/node.crt\n",
        "",
        "tls.certificate is empty, but TLS needs it",
    ),
    "no key": ("node.key", "gone.key", "gone.key: No such file or directory; may the node's user read it?"),
    "another's key": ("node.key", "pacs.key", "the key does not belong to the certificate"),
    "expired": (
        "node.crt\n  key: {folder}/node.key",
        "old.crt\n  key: {folder}/old.key",
        "(old) has expired on 2",
    ),
    "no CA": ("site-ca.crt", "node.crt", "no certificate of a CA in it"),
    "certificate without its CA": (
        "site-ca.crt",
        "node.crt",
        "certificate          can't be compared with the site's CAs: see authorities",
    ),
    "another CA": ("site-ca.crt", "other/other-ca.crt", "the peer's certificate does not pass"),
    "name": (
        "tls: true, com",
        "tls: true, tls_name: pacs.clinic, com",
        "Hostname mismatch, certificate is not valid for",
    ),
    "plain to TLS": (
        "tls: true, commitment",
        "commitment",
        "did not answer or ended the association at once",
    ),
    "TLS to plain": ("port: {viewer}", "port: {open}", "reading (VIEWER at localhost:"),
    "nobody there": ("localhost, port: {viewer}", "localhost, port: 1", "Connection refused"),
    "port taken": ("127.0.0.1, port: {plain}", "127.0.0.1, port: {taken}", "Address already in use"),
    "data folder": ("{folder}/data", "/proc/data", "can't be made: /proc takes no new files or folders"),
    "models": ("models_dir: ", "models_dir: /gone", "/gone"),
}
"""What is changed, into what, and the plain words that ``check`` has for it."""


def filled(site: Site, text: str) -> str:
    """With folders and ports of the site."""
    plain, secure, _, viewer = re.findall(r"[^_]port: (\d+)", site.text)[:4]
    facts = {"folder": str(site.folder), "plain": plain, "secure": secure, "viewer": viewer}
    facts |= {"taken": str(site.taken_port), "open": str(site.plain_pacs)}
    return re.sub(rf"\{{({'|'.join(facts)})\}}", lambda name: facts[name[1]], text)


def broken(site: Site, found: str, put: str) -> str:
    """The site's file with one place changed."""
    found, put = filled(site, found), filled(site, put)
    assert found in site.text
    return site.text.replace(found, put, 1)


@pytest.mark.parametrize("fault", BROKEN)
def test_check_says_in_plain_words_what_is_wrong(site: Site, fault: str) -> None:
    found, put, words = BROKEN[fault]
    exit_code, output = checked(site, broken(site, found, put))
    assert exit_code in (1, 2)
    assert "FAILED" in output
    assert filled(site, words) in output
    assert "Traceback" not in output
    assert "fault of the program" not in output


CONTRADICTIONS = {
    "a plain destination that only TLS is open to": (
        "port: {viewer}, tls: true", "port: {open}",
        "commitment reading warning: no listener without TLS that it could call",
    ),
    "nothing is open to other hosts": (
        "host: 0.0.0.0, port", "port", "commitment pacs warning: no listener that it could call"
    ),
    "Prometheus elsewhere": (
        "probe_host: 0.0.0.0", "probe_host: 127.0.0.1",
        "on this host alone, so no Prometheus elsewhere gets /metrics",
    ),
}  # fmt: skip
"""What works, but not for what the page promises: changed, into what, and what ``check`` says."""


@pytest.mark.parametrize("fault", CONTRADICTIONS)
def test_check_says_what_does_not_go_together(
    site: Site, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, put, words = CONTRADICTIONS[fault]
    as_it_is, local = broken(site, found, put), peers.is_this_host
    # the destinations of this test are on this host; those of a clinic aren't
    monkeypatch.setattr(peers, "is_this_host", lambda host: host != "localhost" and local(host))
    exit_code, output = checked(site, as_it_is)
    assert exit_code == 0
    assert words in " ".join(output.split())


def test_the_page_goes_together_with_deploy_and_the_unit() -> None:
    """Destinations may call, Prometheus of deploy.md reaches the port, the unit makes the log's folder."""
    settings = settings_adapter().validate_python(yaml.safe_load(clinic()))
    assert all(map(settings.receive.can_be_called_by, settings.deliver.destinations))
    deploy = PAGE.with_name("deploy.md").read_text(encoding="utf-8")
    [port] = re.findall(r'targets: \["node.example:(\d+)"\]', deploy)
    assert (settings.node.probe_host, settings.node.probe_port) == ("0.0.0.0", int(port))
    unit = (SHIPPED_CONFIG.parent / "MAP" / "psma-node.service").read_text(encoding="utf-8")
    [made] = re.findall(r"^LogsDirectory=(.+)$", unit, re.MULTILINE)
    assert Path(settings.node.log_file).parent == Path("/var/log", made)
