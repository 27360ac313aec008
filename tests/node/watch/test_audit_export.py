"""The audit log for others: messages as PS3.15 A.5.1 draws them, over syslog, none lost in an outage."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.files.durable import try_lock
from app.node.peers import TlsPolicy
from app.node.policy import AuditCollector, NodePolicy
from app.node.records.audit import AuditEvent
from app.node.records.stores import NodeStores, open_stores
from app.node.tls import server_context
from app.node.watch import audit_forwarder
from app.node.watch.audit_forwarder import AuditForwarder
from app.node.watch.audit_message import audit_message
from tests.node.certificates import Authority

CODE = {"csd-code", "codeSystemName", "originalText"}
WANTED: dict[str, tuple[list[str], set[str], set[str]]] = {
    # element: children in order (? optional, * any number, + one or more), attributes required, allowed
    "AuditMessage": (
        [
            "EventIdentification",
            "ActiveParticipant+",
            "AuditSourceIdentification",
            "ParticipantObjectIdentification*",
        ],
        set(),
        set(),
    ),
    "EventIdentification": (
        ["EventID", "EventTypeCode*", "EventOutcomeDescription?"],
        {"EventDateTime", "EventOutcomeIndicator"},
        {"EventActionCode"},
    ),
    "ActiveParticipant": (
        ["RoleIDCode*", "MediaIdentifier?"],
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
    ),
    "AuditSourceIdentification": (["AuditSourceTypeCode*"], {"AuditSourceID"}, {"AuditEnterpriseSiteID"}),
    "ParticipantObjectIdentification": (
        ["ParticipantObjectIDTypeCode", "ParticipantObjectName", "ParticipantObjectDetail*"],
        {"ParticipantObjectID"},
        {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole"},
    ),
    "ParticipantObjectDetail": ([], {"type", "value"}, set()),
    **{name: ([], CODE, set()) for name in
       ("EventID", "EventTypeCode", "RoleIDCode", "ParticipantObjectIDTypeCode")},
    **{name: ([], set(), set()) for name in
       ("EventOutcomeDescription", "AuditSourceTypeCode", "ParticipantObjectName")},
}  # fmt: skip
"""Written from the RELAX NG of PS3.15 A.5.1, as far as these messages go."""

TOKENS = {
    "EventActionCode": "[CRUDE]",
    "EventOutcomeIndicator": "0|4|8|12",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectTypeCode": "[1-4]",
    "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
}


def check(element: ElementTree.Element) -> None:
    """The element is as the Standard draws it, with all below it."""
    children, required, allowed = WANTED[element.tag]
    pattern = "".join(f"({name.rstrip('?*+')};){name[-1] if name[-1] in '?*+' else ''}" for name in children)
    assert re.fullmatch(pattern, "".join(f"{child.tag};" for child in element)), element.tag
    assert required <= set(element.attrib) <= required | allowed, element.tag
    for name, value in element.attrib.items():
        assert re.fullmatch(TOKENS.get(name, ".+"), value), (name, value)
    for child in element:
        check(child)


def code(message: ElementTree.Element, path: str) -> str:
    found = message.find(path)
    assert found is not None
    return found.attrib["csd-code"]


@pytest.fixture
def policy(tmp_path: Path) -> NodePolicy:
    return NodePolicy(data_dir=tmp_path / "data", executor_id="node-1")


@pytest.fixture
def stores(policy: NodePolicy) -> NodeStores:
    return open_stores(policy)


@pytest.mark.parametrize("event", AuditEvent)
@pytest.mark.parametrize(
    "facts", [{}, {"reason": "x", "calling_ae": "A\0<&B", "address": "10.0.0.1", "asked_by": "b"}]
)
def test_every_entry_becomes_a_message_of_the_standard(
    stores: NodeStores, policy: NodePolicy, event: AuditEvent, facts: dict[str, str]
) -> None:
    stores.audit.append(event, "1.2.3", facts)
    [entry] = stores.audit.entries()
    message = ElementTree.fromstring(audit_message(entry, policy))  # noqa: S314  our own
    check(message)
    detail = {one.attrib["type"]: one.attrib["value"] for one in message.iter("ParticipantObjectDetail")}
    assert json.loads(base64.b64decode(detail["facts"])) == facts
    assert base64.b64decode(detail["event"]).decode() == event


@pytest.mark.parametrize(
    ("event", "event_id", "roles"),
    [
        (AuditEvent.STUDY_ARRIVES, "110102", ["110153", "110152"]),
        (AuditEvent.DELIVERED, "110104", ["110153", "110152"]),
        (AuditEvent.CALLER_REFUSED, "110113", ["110153", "110152"]),
        (AuditEvent.STUDY_REMOVED, "110105", ["110150"]),
        (AuditEvent.STARTED, "110100", ["110150"]),
    ],
)
def test_events_have_the_codes_of_the_standard(
    stores: NodeStores, policy: NodePolicy, event: AuditEvent, event_id: str, roles: list[str]
) -> None:
    stores.audit.append(event, "1.2.3", {"calling_ae": "PET", "destination": "pacs", "address": "10.0.0.1"})
    message = ElementTree.fromstring(audit_message(next(stores.audit.entries()), policy))  # noqa: S314
    assert code(message, "EventIdentification/EventID") == event_id
    assert [one.attrib["csd-code"] for one in message.iter("RoleIDCode")] == roles


def test_who_asked_for_a_retry_is_a_participant(stores: NodeStores, policy: NodePolicy) -> None:
    stores.audit.append(AuditEvent.RETRY_ASKED, "1.2.3", {"asked_by": "berta as psma"})
    message = ElementTree.fromstring(audit_message(next(stores.audit.entries()), policy))  # noqa: S314
    requestors = [one.attrib["UserID"] for one in message.iter("ActiveParticipant")
                  if one.attrib["UserIsRequestor"] == "true"]  # fmt: skip
    assert requestors == ["berta as psma"]


class Collector:
    """Takes syslog messages with octet counting (RFC 6587, 5425), over TLS where it has a context."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.frames: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._context = context
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                with suppress(OSError), plain:
                    if self._context is None:
                        self._take(plain)
                    else:
                        with self._context.wrap_socket(plain, server_side=True) as connection:
                            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while length := stream.read(1):
                while (sign := stream.read(1)) != b" ":
                    length += sign
                self.frames.append(stream.read(int(length)))

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def numbers(self) -> list[int]:
        """The entries' numbers, once what was sent has been read."""
        self.stop()
        return [number_in(frame) for frame in self.frames]


def number_in(frame: bytes) -> int:
    head, _, xml = frame.decode("utf-8").partition("\ufeff")
    assert re.fullmatch(r"<85>1 \S+ \S+ psma-node \d+ DICOM\+RFC3881 - ", head)
    assert datetime.fromisoformat(head.split()[1]).tzinfo is not None
    message = ElementTree.fromstring(xml)  # noqa: S314
    check(message)
    [number] = [one for one in message.iter("ParticipantObjectDetail") if one.attrib["type"] == "number"]
    return int(base64.b64decode(number.attrib["value"]))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsPolicy:
    folder = tmp_path_factory.mktemp("ca")
    authority = Authority(folder, "site")
    return authority.certify("collector")


def forwarder(stores: NodeStores, port: int, tls: TlsPolicy, transport: str = "tcp") -> AuditForwarder:
    collector = AuditCollector("127.0.0.1", port, transport)  # type: ignore[arg-type]
    return AuditForwarder(stores.audit.path, NodePolicy(audit_collector=collector), tls)


def test_entries_go_over_tls_once_and_in_order(stores: NodeStores, tls: TlsPolicy) -> None:
    collector = Collector(context=server_context(tls))
    for _ in range(3):
        stores.audit.append(AuditEvent.STUDY_ARRIVES, "1.2.3")
    one = forwarder(stores, collector.port, tls, "tls")
    one.look()
    stores.audit.append(AuditEvent.PROCESSED, "1.2.3")
    one.look()
    one.look()
    assert collector.numbers() == [1, 2, 3, 4]


def test_an_outage_loses_no_entry_and_a_restart_goes_on_where_it_was(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_forwarder, "BATCH", 2)
    first = Collector()
    port = first.port
    stores.audit.append(AuditEvent.STUDY_ARRIVES, "1.2.3")
    one = forwarder(stores, port, TlsPolicy())
    one.look()
    assert first.numbers() == [1]
    for _ in range(5):
        stores.audit.append(AuditEvent.PROCESSED, "1.2.3")
        one.look()
    assert len(caplog.records) == 1, "an outage is one line"
    second = Collector(port)
    forwarder(stores, port, TlsPolicy()).look()
    assert second.numbers() == [2, 3, 4, 5, 6]


def test_a_collector_of_another_ca_gets_nothing(
    stores: NodeStores, tls: TlsPolicy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Authority(tmp_path, "stranger")
    collector = Collector(context=server_context(stranger.certify("collector")))
    stores.audit.append(AuditEvent.STUDY_ARRIVES, "1.2.3")
    forwarder(stores, collector.port, tls, "tls").look()
    assert collector.numbers() == []
    assert "takes nothing" in caplog.text


def test_datagrams_are_not_framed(stores: NodeStores) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(10)
        stores.audit.append(AuditEvent.STUDY_ARRIVES, "1.2.3")
        forwarder(stores, collector.getsockname()[1], TlsPolicy(), "udp").look()
        assert number_in(collector.recv(65_536)) == 1


def test_a_line_that_somebody_spoilt_holds_nothing_up(stores: NodeStores) -> None:
    collector = Collector()
    stores.audit.append(AuditEvent.STUDY_ARRIVES, "1.2.3")
    stores.audit.path.write_text("spoilt\n" + stores.audit.path.read_text())
    forwarder(stores, collector.port, TlsPolicy()).look()
    collector.stop()
    assert b"a line of the audit log is no entry" in collector.frames[0]
    assert number_in(collector.frames[1]) == 1


def test_the_log_is_exported_by_time_and_the_export_is_in_it(stores: NodeStores, policy: NodePolicy) -> None:
    for _ in range(2):
        stores.audit.append(AuditEvent.STUDY_ARRIVES, "1.2.3")
    words = ["audit", "export", "--set", f"node.data_dir={policy.data_dir}", "--by", "berta"]
    lines = CliRunner().invoke(app, words).stdout.splitlines()
    assert lines == stores.audit.path.read_text().splitlines()[:2]
    for line in CliRunner().invoke(app, [*words, "--xml"]).stdout.splitlines():
        check(ElementTree.fromstring(line))  # noqa: S314
    assert CliRunner().invoke(app, [*words, "--until", "2020-01-01"]).stdout == ""
    assert len(CliRunner().invoke(app, [*words, "--since", "2020-01-01"]).stdout.splitlines()) == 5
    last = list(stores.audit.entries())[-1]
    assert (last["event"], last["facts"]["asked_by"]) == ("audit log exported", "berta")
    assert stores.audit.verify().intact


def test_nodes_that_share_a_log_send_each_entry_once(stores: NodeStores) -> None:
    collector = Collector()
    stores.audit.append(AuditEvent.STUDY_ARRIVES, "1.2.3")
    one, other = (forwarder(stores, collector.port, TlsPolicy()) for _ in range(2))
    held = try_lock(stores.audit.path.with_name(audit_forwarder.LOCK_FILE))
    assert held is not None
    other.look()
    assert not stores.audit.path.with_name(audit_forwarder.SENT_FILE).exists(), "another node is about it"
    held.release()
    for _ in range(2):
        one.look()
        other.look()
    assert collector.numbers() == [1]
