"""A small HTTP server for those who watch the node: GET and HEAD, a status and a few words, nothing else.

It is made so that no client can hold it up: few connections at a time, a short head that has to be complete
within a deadline, one answer, end.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from app.errors import MisconfiguredError

Answers = Mapping[str, Callable[[], tuple[str, ...]]]
"""For each path: what is wrong, one sentence each; nothing means well. Must answer without waiting."""

MAX_CONNECTIONS = 16
"""At one time; more are closed at once, and ask again."""

MAX_HEAD_BYTES = 4096
"""Request line and headers; a kubelet's have about 150 bytes."""

DEADLINE_S = 2.0
"""For the whole request, and again for taking the answer."""

STOP_POLL_S = 0.1


class ProbeServer:
    """Answers on a port of its own, from ``start`` to ``stop``."""

    def __init__(self, host: str, port: int, answers: Answers) -> None:
        self._host, self._port = host, port
        self._answers = answers
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._port if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Listen, and answer on threads of its own.

        Raises:
            MisconfiguredError: the address can't be listened on.
        """
        try:
            server = _Server(self._host, self._port, self._answers)
        except OSError as error:
            raise MisconfiguredError(
                f"node.probe_host {self._host} port {self._port} can't be listened on: {error.strerror}; "
                "stop what listens there, or set node.probe_host and node.probe_port"
            ) from error
        self._server = server
        threading.Thread(
            target=server.serve_forever, args=(STOP_POLL_S,), name="probe-server", daemon=True
        ).start()

    def stop(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, host: str, port: int, answers: Answers) -> None:
        self.answers = answers
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """As the base's base: the base would ask the name service who this host is."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """On a thread of its own while there are few."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread, so none gives the place back; the caller closes the request
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread's work."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or was too slow is not worth a line in the log."""


class _Handler(BaseHTTPRequestHandler):
    """One request, read whole before it is looked at."""

    server: _Server
    timeout = DEADLINE_S

    def setup(self) -> None:
        """Read the head within the deadline, however slowly it trickles in."""
        super().setup()
        self.rfile.close()
        self.rfile = BytesIO(_head(self.connection))
        self.connection.settimeout(DEADLINE_S)

    def do_GET(self) -> None:
        """The answer with its words."""
        look = self.server.answers.get(self.path)
        if look is None:
            self._answer(HTTPStatus.NOT_FOUND, ("unknown path",))
            return
        wrong = look()
        self._answer(HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK, wrong or ("ok",))

    do_HEAD = do_GET  # noqa: N815  the base's name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """No page that quotes the request, and no other method."""
        known = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._answer(known, (known.phrase.lower(),))

    def send_header(self, keyword: str, value: str) -> None:
        """Nothing about the program and its version."""
        if keyword != "Server":
            super().send_header(keyword, value)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base's name
        """A probe every few seconds would drown the log."""

    def _answer(self, status: HTTPStatus, lines: tuple[str, ...]) -> None:
        body = "".join(f"{line}\n" for line in lines).encode()
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _head(connection: socket.socket) -> bytes:
    """All up to the empty line. Raises OSError when it is too long or not complete in time."""
    head, deadline = b"", time.monotonic() + DEADLINE_S
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or len(head) > MAX_HEAD_BYTES:
            raise TimeoutError("the request is too long or too slow")
        connection.settimeout(left_s)
        part = connection.recv(MAX_HEAD_BYTES)
        if not part:
            raise ConnectionError("the client went away")
        head += part
    return head
