"""Who is told of a fault is told once, whatever happens in between, and no patient is named."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import BinaryIO, ClassVar

import pytest
from sqlalchemy import update

from app.domain.refusal import RefusalCode
from app.errors import MisconfiguredError
from app.node.peers import TlsPolicy
from app.node.policy import NodePolicy, NotifyPolicy
from app.node.records.database import utc_now
from app.node.records.deliveries import DeliveryTransition
from app.node.records.runs import Run, RunTransition
from app.node.records.states import DeliveryKey, DeliveryState, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.watch import notify as room
from app.node.watch.notify import Notifier
from app.settings import load_settings
from tests.node.certificates import Authority
from tests.node.workflow.test_commands import ended, queued
from tests.node.workflow.test_ledgers import FILES

REASON = f"[{RefusalCode.UNITS_UNSUPPORTED}] Units: found 'ZYXWVUT^QUINTUS', expected BQML"


class Hook:
    """A webhook that keeps what it gets, and answers with ``status``."""

    def __init__(self) -> None:
        self.status, self.bodies = 200, [dict[str, object]()][:0]
        self.headers: dict[str, str] = {}
        self.requests = 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.requests += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status == 200:
                    hook.bodies.append(json.loads(body))
                self.send_response(hook.status)
                for name, value in hook.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_GET(self) -> None:
                hook.requests += 1
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"

    def texts(self) -> list[str]:
        return [str(body["text"]) for body in self.bodies]


@pytest.fixture
def hook() -> Iterator[Hook]:
    one = Hook()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def stores(tmp_path: Path) -> NodeStores:
    return open_stores(NodePolicy(data_dir=tmp_path / "data"))


def notifier(stores: NodeStores, tmp_path: Path, policy: NotifyPolicy) -> Notifier:
    node = NodePolicy(data_dir=tmp_path / "data", executor_id="node-1", notify=replace(policy, free_mb=0.0))
    return Notifier(stores, node, TlsPolicy())


def failed(stores: NodeStores, study: str) -> None:
    ended(stores, study, RunTransition(StudyState.FAILED, REASON, at_fault=True))


def test_a_study_that_failed_is_told_once_also_after_a_restart(
    stores: NodeStores, tmp_path: Path, hook: Hook
) -> None:
    one = notifier(stores, tmp_path, NotifyPolicy(url=hook.url))
    one.look()
    assert hook.bodies == []
    failed(stores, "1.2")
    soon = utc_now() + timedelta(seconds=90)
    ended(stores, "1.3", RunTransition(StudyState.FAILED, "x", soon, at_fault=True))
    one.look()
    one.look()
    notifier(stores, tmp_path, NotifyPolicy(url=hook.url)).look()
    [text] = hook.texts()
    assert text.splitlines()[1].startswith(f"study 1.2 failed: {RefusalCode.UNITS_UNSUPPORTED}. ")
    assert "QUINTUS" not in json.dumps(hook.bodies)


def test_a_fault_that_ended_and_comes_again_is_told_again(
    stores: NodeStores, tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = notifier(stores, tmp_path, NotifyPolicy(url=hook.url))
    room_mb = iter((5.0, 5.0, 500.0, 5.0))
    one.node = replace(one.node, notify=replace(one.node.notify, free_mb=100.0))
    monkeypatch.setattr(room, "free_mb", lambda _folder: next(room_mb))
    for _ in range(4):
        one.look()
    assert [text.splitlines()[1][:12] for text in hook.texts()] == ["5 MB are fre"] * 2


def test_what_is_stuck_and_a_destination_that_takes_nothing_are_told(
    stores: NodeStores, tmp_path: Path, hook: Hook
) -> None:
    queued(stores, "1.1")
    queued(stores, "1.2")
    key = ended(stores, "1.3", RunTransition(StudyState.DELIVERING))
    stores.deliveries.plan(key, FILES, ["pacs"])
    soon = utc_now() + timedelta(seconds=90)
    stores.deliveries.end(
        DeliveryKey(key, "pacs"), 1, DeliveryTransition(DeliveryState.PENDING, "it is down", soon)
    )
    long_ago = utc_now() - timedelta(hours=3)
    with stores.engine.begin() as connection:
        connection.execute(update(Run).where(Run.study_instance_uid == "1.1").values(queued_at=long_ago))
        connection.execute(update(room.Delivery).values(created_at=long_ago))
    notifier(stores, tmp_path, NotifyPolicy(url=hook.url)).look()
    [text] = hook.texts()
    assert text.splitlines()[1:] == [
        "study 1.1 is queued for more than 7200 s. psma-node status says for what it waits.",
        "destination pacs has not got everything for more than 7200 s. psma-node check asks it for C-ECHO.",
    ]


def test_a_receiver_that_is_down_is_tried_again_and_given_up_in_the_end(
    stores: NodeStores, tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    now_s = [0.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now_s[0])
    one = notifier(stores, tmp_path, NotifyPolicy(url=hook.url))
    hook.status = 500
    failed(stores, "1.2")
    for _ in range(3):
        one.look()
    assert len(caplog.records) == 1, "it waits"
    hook.status = 200
    now_s[0] = 31.0
    one.look()
    assert len(hook.bodies) == 1
    hook.status = 500
    failed(stores, "1.4")
    for _ in range(20):
        one.look()
        now_s[0] += 1000.0
    told = [record.message for record in caplog.records]
    assert told.count("a notice was not sent, and is tried again") == 1 + room.MAX_TRIES - 1
    assert told.count("a notice was not sent, and is given up") == 1


class NoHttp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(10_000)
        self.request.sendall(b"SSH-2.0-x\r\n")


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/hook", "http://127.0.0.1:port/", "http://[::1/"])
def test_a_webhook_that_speaks_no_http_holds_up_no_mail_and_is_given_up(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    url: str,
) -> None:  # fmt: skip
    now_s = [0.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now_s[0])
    mails: list[str] = []
    monkeypatch.setattr(Notifier, "_mail", lambda _, faults: mails.extend(fault.key for fault in faults))
    failed(stores, "1.2")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), NoHttp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        policy = NotifyPolicy(
            url=url.format(port=server.server_address[1]),
            smtp_host="mail",
            mail_from="a@b.c",
            mail_to=("d@e.f",),
        )
        one = notifier(stores, tmp_path, policy)
        for _ in range(room.MAX_TRIES + 2):
            one.look()
            now_s[0] += 10_000.0
        server.shutdown()
    assert mails == ["failed 1.2 1 1"]
    told = [record.message for record in caplog.records]
    assert told == ["a notice was not sent, and is tried again"] * (room.MAX_TRIES - 1) + [
        "a notice was not sent, and is given up"
    ]


@pytest.mark.parametrize(("days", "told"), [(45.0, []), (60.0, ["ends a certificate 2031-02-20"])])
def test_a_certificate_is_told_of_as_long_before_its_end_as_check_warns(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: float, told: list[str]
) -> None:
    now = datetime(2031, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(room, "utc_now", lambda: now)
    monkeypatch.setattr(room, "expiries", lambda _: {"a certificate": now + timedelta(days=50)})
    node = NodePolicy(data_dir=tmp_path / "data", notify=NotifyPolicy(free_mb=0.0))
    one = Notifier(stores, node, TlsPolicy(warn_days=days))
    assert [fault.key for fault in one._faults(node.notify)] == told


def test_many_faults_are_one_message_of_bounded_length(
    stores: NodeStores, tmp_path: Path, hook: Hook
) -> None:
    for number in range(25):
        failed(stores, f"1.{number}")
    notifier(stores, tmp_path, NotifyPolicy(url=hook.url)).look()
    [text] = hook.texts()
    assert len(text.splitlines()) == 1 + 20 + 1
    assert text.splitlines()[-1] == "and 5 more: psma-node status"


class MailServer(socketserver.BaseRequestHandler):
    """As much of SMTP (RFC 5321, 3207, 4954) as one mail needs."""

    mails: ClassVar[list[str]] = []
    heard: ClassVar[list[str]] = []
    """Commands that came without TLS."""
    tls: ClassVar[ssl.SSLContext | None] = None
    secret: ClassVar[bytes] = b""
    """What AUTH PLAIN has to carry; empty where nobody has to log in."""

    def handle(self) -> None:
        self.request.sendall(b"220 here\r\n")
        with contextlib.suppress(OSError):  # of a client that does not trust us
            self._talk(self.request, self.heard)

    def _talk(self, connection: socket.socket, heard: list[str]) -> None:
        with connection.makefile("rwb", buffering=0) as stream:
            while line := stream.readline().decode().rstrip("\r\n"):
                heard.append(line)
                word = line.split()[0].upper()
                if word == "STARTTLS" and self.tls is not None:
                    stream.write(b"220 go on\r\n")
                    with self.tls.wrap_socket(connection, server_side=True) as secured:
                        self._talk(secured, [])
                    return
                stream.write(self._answer(word, line, is_plain=heard is self.heard))
                if word == "DATA":
                    self.mails.append(self._mail(stream))
                    stream.write(b"250 taken\r\n")

    def _answer(self, word: str, line: str, is_plain: bool) -> bytes:
        if word == "EHLO":
            offers = b"STARTTLS" if self.tls and is_plain else b"AUTH PLAIN" if self.secret else b"8BITMIME"
            return b"250-here\r\n250 " + offers + b"\r\n"
        if word == "AUTH":
            given = base64.b64decode(line.split()[2])
            return b"235 well\r\n" if given == self.secret else b"535 no such user: " + given + b"\r\n"
        return {"DATA": b"354 go on\r\n", "QUIT": b"221 bye\r\n"}.get(word, b"250 ok\r\n")

    @staticmethod
    def _mail(stream: BinaryIO) -> str:
        lines = [raw.decode().rstrip("\r\n") for raw in iter(stream.readline, b".\r\n")]
        return "\n".join(lines)


@pytest.fixture
def mail_server() -> Iterator[type[MailServer]]:
    """What a server says is said by its class: a new one for each test."""

    class Server(MailServer):
        mails: ClassVar[list[str]] = []
        heard: ClassVar[list[str]] = []
        port: ClassVar[int]

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server) as server:
        Server.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Server
        server.shutdown()


def mail_policy(server: type[MailServer], **more: object) -> NotifyPolicy:
    return NotifyPolicy(
        smtp_host="127.0.0.1", smtp_port=server.port, mail_from="node@clinic.example",
        mail_to=("pacs@clinic.example", "physics@clinic.example"), **more,
    )  # fmt: skip


def test_mail_goes_to_all_and_names_nobody(
    stores: NodeStores, tmp_path: Path, mail_server: type[MailServer]
) -> None:
    failed(stores, "1.2")
    one = notifier(stores, tmp_path, mail_policy(mail_server))
    one.look()
    one.look()
    [mail] = mail_server.mails
    assert "Subject: PSMA node node-1: 1 new fault(s)" in mail
    assert "To: pacs@clinic.example, physics@clinic.example" in mail
    assert "study 1.2 failed" in mail
    assert "QUINTUS" not in mail


PASSWORD = "never-in-a-log"  # noqa: S105  of a server that lives here for a second


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("mail"))
    authority.certify("mail")
    authority.certify("other", san="DNS:mail.elsewhere")
    Authority(authority.folder / "strange", "strange-ca")
    return authority


def by_starttls(
    stores: NodeStores, tmp_path: Path, server: type[MailServer], site: Authority, authorities: str = ""
) -> Notifier:
    policy = mail_policy(server, smtp_tls=True, smtp_user="node", smtp_password=PASSWORD)
    tls = TlsPolicy(authorities=authorities or str(site.file))
    return Notifier(stores, replace(notifier(stores, tmp_path, policy).node), tls)


def offers_tls(server: type[MailServer], site: Authority, name: str = "mail") -> None:
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(site.folder / f"{name}.crt", site.folder / f"{name}.key")
    server.secret = f"\0node\0{PASSWORD}".encode()


def test_mail_goes_by_starttls_with_user_and_password(
    stores: NodeStores, tmp_path: Path, mail_server: type[MailServer], site: Authority
) -> None:
    offers_tls(mail_server, site)
    failed(stores, "1.2")
    by_starttls(stores, tmp_path, mail_server, site).look()
    [mail] = mail_server.mails
    assert "study 1.2 failed" in mail
    assert [line.split()[0].upper() for line in mail_server.heard] == ["EHLO", "STARTTLS"]


@pytest.mark.parametrize(
    "fault",
    [
        ("no TLS", "the mail server lacks what the settings ask for: STARTTLS extension not supported"),
        ("name", "the peer's certificate does not pass: IP address mismatch"),
        ("CA", "the peer's certificate does not pass: unable to get local issuer certificate"),
        ("password", "the mail server refuses smtp_user with smtp_password (535)"),
    ],
)
def test_mail_that_would_not_be_safe_is_not_sent_and_the_log_says_why(
    stores: NodeStores, tmp_path: Path, mail_server: type[MailServer], site: Authority,
    caplog: pytest.LogCaptureFixture, fault: tuple[str, str],
) -> None:  # fmt: skip
    kind, words = fault
    if kind != "no TLS":
        offers_tls(mail_server, site, "other" if kind == "name" else "mail")
    if kind == "password":
        mail_server.secret = b"another"
    strange = str(site.folder / "strange" / "strange-ca.crt") if kind == "CA" else ""
    failed(stores, "1.2")
    one = by_starttls(stores, tmp_path, mail_server, site, strange)
    one.look()
    assert mail_server.mails == []
    assert not [line for line in mail_server.heard if line.startswith(("AUTH", "MAIL"))]
    [record] = caplog.records
    assert record.reason.startswith(words)  # type: ignore[attr-defined]
    assert PASSWORD not in f"{record.__dict__} {one.node}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"smtp_user": "node", "smtp_password": PASSWORD},
        {"smtp_tls": True, "smtp_user": "node"},
        {"smtp_tls": True, "smtp_password": PASSWORD},
        {"smtp_tls": True, "smtp_user": "node", "smtp_password": f"{PASSWORD}é"},
    ],
)
def test_a_password_without_tls_or_user_is_refused_and_never_quoted(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(json.dumps({"node": {"notify": wrong}}))
    with pytest.raises(MisconfiguredError, match="smtp_password") as refused:
        load_settings(file)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"), [("smtp_password", 20260101), ("url", "hooks.example/20260101"), ("url", 20260101)]
)
def test_a_secret_of_the_wrong_kind_is_not_quoted(tmp_path: Path, key: str, value: object) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(json.dumps({"node": {"notify": {key: value}}}))
    with pytest.raises(MisconfiguredError, match=f"node.notify.{key}: ") as refused:
        load_settings(file)
    assert "20260101" not in str(refused.value)


def test_a_webhook_that_sends_the_node_elsewhere_is_not_followed(
    stores: NodeStores, tmp_path: Path, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = Hook()
    hook.status, hook.headers = 302, {"Location": elsewhere.url}
    failed(stores, "1.2")
    notifier(stores, tmp_path, NotifyPolicy(url=hook.url)).look()
    elsewhere.server.shutdown()
    elsewhere.server.server_close()
    assert elsewhere.requests == 0
    [record] = caplog.records
    assert record.reason == "the webhook answered 302"  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [{"url": "ftp://x"}, {"smtp_host": "mail"}, {"mail_to": ("nobody",)}])
def test_a_receiver_that_can_not_be_reached_is_a_wrong_setting(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|needs"):
        NotifyPolicy(**wrong)  # type: ignore[arg-type]
