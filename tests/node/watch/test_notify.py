"""Who is told of a fault is told once, whatever happens in between, and no patient is named."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import update

from app.domain.refusal import RefusalCode
from app.node.peers import TlsPolicy
from app.node.policy import NodePolicy, NotifyPolicy
from app.node.records.database import utc_now
from app.node.records.deliveries import DeliveryTransition
from app.node.records.runs import Run, RunTransition
from app.node.records.states import DeliveryKey, DeliveryState, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.watch import notify as room
from app.node.watch.notify import Notifier
from tests.node.workflow.test_commands import ended, queued
from tests.node.workflow.test_ledgers import FILES

REASON = f"[{RefusalCode.UNITS_UNSUPPORTED}] Units: found 'ZYXWVUT^QUINTUS', expected BQML"


class Hook:
    """A webhook that keeps what it gets, and answers with ``status``."""

    def __init__(self) -> None:
        self.status, self.bodies = 200, [dict[str, object]()][:0]
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status == 200:
                    hook.bodies.append(json.loads(body))
                self.send_response(hook.status)
                self.end_headers()

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


class MailServer(socketserver.StreamRequestHandler):
    """As much of SMTP (RFC 5321) as one mail needs."""

    mails: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        mail, in_mail = "", False
        for raw in self.rfile:
            line = raw.decode().rstrip("\r\n")
            if in_mail:
                in_mail = line != "."
                mail += f"{line}\n" if in_mail else ""
                if not in_mail:
                    type(self).mails.append(mail)
                    self.wfile.write(b"250 taken\r\n")
            elif line.upper() == "DATA":
                in_mail = True
                self.wfile.write(b"354 go on\r\n")
            elif line.upper() == "QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 ok\r\n")


def test_mail_goes_to_all_and_names_nobody(stores: NodeStores, tmp_path: Path) -> None:
    MailServer.mails = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        failed(stores, "1.2")
        policy = NotifyPolicy(
            smtp_host="127.0.0.1", smtp_port=server.server_address[1], mail_from="node@clinic.example",
            mail_to=("pacs@clinic.example", "physics@clinic.example"),
        )  # fmt: skip
        one = notifier(stores, tmp_path, policy)
        one.look()
        one.look()
        server.shutdown()
    [mail] = MailServer.mails
    assert "Subject: PSMA node node-1: 1 new fault(s)" in mail
    assert "To: pacs@clinic.example, physics@clinic.example" in mail
    assert "study 1.2 failed" in mail
    assert "QUINTUS" not in mail


@pytest.mark.parametrize("wrong", [{"url": "ftp://x"}, {"smtp_host": "mail"}, {"mail_to": ("nobody",)}])
def test_a_receiver_that_can_not_be_reached_is_a_wrong_setting(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|needs"):
        NotifyPolicy(**wrong)  # type: ignore[arg-type]
