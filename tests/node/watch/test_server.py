"""The HTTP side: what is answered to whom, and that no client can hold it up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from app.errors import MisconfiguredError
from app.node.watch import probes
from app.node.watch.probes import MAX_CONNECTIONS, MAX_REQUEST_BYTES, ProbeServer

WRONG = ("database: does not answer", "disk: less than 5 MB are free")


@pytest.fixture(scope="module")
def server() -> Iterator[ProbeServer]:
    answers = {"/healthz": lambda: (), "/readyz": lambda: WRONG}
    one = ProbeServer("127.0.0.1", 0, answers)
    one.start()
    yield one
    one.stop()


def connect(server: ProbeServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20.0)


def ask(server: ProbeServer, request: str) -> tuple[str, str, str]:
    """Status line, headers in lower case (RFC 9110 5.1), body."""
    with connect(server) as client:
        client.sendall(request.encode())
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    status, _, headers = head.partition("\r\n")
    return status, headers.lower(), body


def get(server: ProbeServer, path: str, method: str = "GET") -> tuple[str, str, str]:
    return ask(server, f"{method} {path} HTTP/1.1\r\nHost: node\r\n\r\n")


def test_what_is_well_is_200_and_ok(server: ProbeServer) -> None:
    status, _, body = get(server, "/healthz")
    assert (status, body) == ("HTTP/1.1 200 OK", "ok\n")


def test_what_is_wrong_is_503_with_a_reason_per_line(server: ProbeServer) -> None:
    status, headers, body = get(server, "/readyz")
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert tuple(body.splitlines()) == WRONG
    assert "cache-control: no-store" in headers


def test_head_has_the_status_and_no_body(server: ProbeServer) -> None:
    status, headers, body = get(server, "/readyz", "HEAD")
    assert (status, body) == ("HTTP/1.1 503 Service Unavailable", "")
    assert "content-length: 56" in headers


@pytest.mark.parametrize("path", ["/", "/healthz/", "/healthz?x=1", "/../etc/passwd", "http://node/healthz"])
def test_every_other_path_is_unknown_and_not_repeated(server: ProbeServer, path: str) -> None:
    status, _, body = get(server, path)
    assert (status, body) == ("HTTP/1.1 404 Not Found", "unknown path\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"])
def test_every_other_method_is_refused(server: ProbeServer, method: str) -> None:
    status, headers, body = get(server, "/healthz", method)
    assert (status, body) == ("HTTP/1.1 405 Method Not Allowed", "method not allowed\n")
    assert "allow: get, head" in headers


@pytest.mark.parametrize("request_text", ["nonsense\r\n\r\n", "GET /healthz HTTP/9.9\r\n\r\n", "\r\n\r\n"])
def test_nonsense_is_not_quoted(server: ProbeServer, request_text: str) -> None:
    _, _, body = ask(server, request_text)
    assert "nonsense" not in body
    assert "9.9" not in body


def test_program_and_version_are_not_revealed(server: ProbeServer) -> None:
    for path in ("/healthz", "/readyz", "/other"):
        answer = " ".join(get(server, path)).lower()
        assert "python" not in answer
        assert "server:" not in answer


def test_a_head_that_never_ends_is_cut_off(server: ProbeServer) -> None:
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 3 * MAX_REQUEST_BYTES)
        assert client.recv(1) == b""


def test_a_client_that_trickles_is_cut_off_however_often_it_sends(
    server: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "DEADLINE_S", 0.3)
    with connect(server) as client, pytest.raises(OSError, match=r"reset|Broken|cut off"):
        for _ in range(400):
            client.sendall(b"x")
            time.sleep(0.05)
            client.setblocking(False)
            try:
                if client.recv(1) == b"":
                    raise ConnectionError("cut off")
            except BlockingIOError:
                pass
            client.setblocking(True)


def test_one_more_than_it_has_room_for_is_closed_at_once(
    server: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "DEADLINE_S", 300.0)
    silent = [connect(server) for _ in range(MAX_CONNECTIONS)]
    with connect(server) as surplus:
        assert surplus.recv(1) == b""
    for client in silent:
        client.close()


def test_silent_clients_neither_hold_up_nor_exhaust_it(
    server: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "DEADLINE_S", 0.5)
    silent = [connect(server) for _ in range(3 * MAX_CONNECTIONS)]
    for client in silent:
        assert client.recv(1) == b"", "it is closed: at once when there are many, after the deadline else"
        client.close()
    assert get(server, "/healthz")[0] == "HTTP/1.1 200 OK"


def test_a_port_that_is_taken_is_a_wrong_setting(server: ProbeServer) -> None:
    with pytest.raises(MisconfiguredError, match=r"node\.probe_host 127\.0\.0\.1 port \d+ can't be"):
        ProbeServer("127.0.0.1", server.port, {}).start()


def test_after_the_stop_nobody_answers() -> None:
    one = ProbeServer("127.0.0.1", 0, {})
    one.start()
    connect(one).close()
    one.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(one).close()


def test_ipv6_is_served() -> None:
    one = ProbeServer("::1", 0, {"/healthz": lambda: ()})
    one.start()
    try:
        with socket.create_connection(("::1", one.port), timeout=20.0) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        one.stop()


def test_a_process_that_cannot_start_a_thread_still_answers(
    server: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for _ in range(2 * MAX_CONNECTIONS):
        status, _, _ = get(server, "/healthz")
        assert status == "HTTP/1.1 200 OK"


def test_an_answer_that_fails_costs_no_place_and_quotes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> tuple[str, ...]:
        raise RuntimeError("hush")

    one = ProbeServer("127.0.0.1", 0, {"/readyz": fail, "/healthz": lambda: ()})
    one.start()
    try:
        for _ in range(2 * MAX_CONNECTIONS):
            assert "hush" not in " ".join(get(one, "/readyz"))
        assert get(one, "/healthz")[0] == "HTTP/1.1 200 OK"
    finally:
        one.stop()
    assert {record.name for record in caplog.records} == {"uvicorn.error"}


def test_neither_requests_nor_nonsense_are_worth_a_line_in_the_log(
    server: ProbeServer, caplog: pytest.LogCaptureFixture
) -> None:
    for request in ("GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n", "nonsense\r\n\r\n"):
        ask(server, request)
    assert not caplog.records
