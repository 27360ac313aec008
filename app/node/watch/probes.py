"""A small HTTP server for those who watch the node: GET and HEAD, a status and a few words, nothing else.

It is made so that no client can hold it up: few connections at a time, a short head that has to be complete
within a deadline, one answer, end.

Whether the node can take a study now, looked at now and then and remembered.

What asks only reads what was remembered: a database or a file system that hangs holds up no answer.

Whether the node's loops still turn: each leaves a sign of life, and one that has gone quiet is named.

``/healthz`` and ``/readyz``: does the process live, and can it take a study now?

Liveness asks for little, since who asks will kill the process: the loops move. A database, a disk or a PACS
that is away is no reason to start anew; it is one not to be sent studies, and readiness says so.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from app.errors import MisconfiguredError
from app.node.policy import NodePolicy
from app.node.records.executors import ExecutorRow

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


LOOK_EVERY_S = 5.0
"""How often the conditions are looked at."""

STALE_AFTER_S = 30.0
"""A look that takes longer than this is itself the reason: something hangs."""

NOT_STARTED = "start: models are being loaded, unfinished work is taken up"

DRAINING = "drain: the node was told to stop"

NOT_LISTENING = "listener: takes no associations"


@dataclass(frozen=True)
class Conditions:
    """What has to be so.

    Attributes:
        listening: whether associations are taken; ``None`` for a node that only works.
        engine: the database.
        data_dir, min_free_mb: a folder, and the room it needs (10^6 bytes).
    """

    listening: Callable[[], bool] | None
    engine: Engine
    data_dir: Path
    min_free_mb: float


class Readiness:
    """Safe from any thread."""

    def __init__(self, conditions: Conditions, now_s: Callable[[], float] = time.monotonic) -> None:
        self._conditions = conditions
        self._now_s = now_s
        self._lock = threading.Lock()
        self._started = self._draining = False
        self._looked_at = now_s()
        self._found: tuple[str, ...] = ()

    def started(self) -> None:
        """The models are loaded and the loops run."""
        self._started = True

    def drain(self) -> None:
        """From now on the node is not ready."""
        self._draining = True

    def look(self) -> None:
        """Look at database and disk; may take as long as these take to answer."""
        found = tuple(filter(None, (_database(self._conditions.engine), _disk(self._conditions))))
        with self._lock:
            self._found, self._looked_at = found, self._now_s()

    def reasons(self) -> tuple[str, ...]:
        """Why the node is not ready, one sentence each; empty when it is. Never waits."""
        if self._draining:
            return (DRAINING,)
        if not self._started:
            return (NOT_STARTED,)
        with self._lock:
            silence_s, found = self._now_s() - self._looked_at, self._found
        listening = self._conditions.listening
        deaf = () if listening is None or listening() else (NOT_LISTENING,)
        if silence_s > STALE_AFTER_S:
            return (*deaf, f"database or disk: no answer for {silence_s:.0f} s")
        return (*deaf, *found)


def _database(engine: Engine) -> str:
    try:
        with engine.connect() as connection:
            connection.execute(select(ExecutorRow.executor_id).limit(1)).all()  # reads the file, with SQLite
    except SQLAlchemyError:
        return "database: does not answer"
    return ""


def _disk(conditions: Conditions) -> str:
    try:
        room = os.statvfs(conditions.data_dir)
    except OSError as error:
        return f"disk: {error.strerror}"
    if room.f_flag & os.ST_RDONLY:
        return "disk: can only be read"
    if room.f_bavail * room.f_frsize < conditions.min_free_mb * 1e6:
        return f"disk: less than {conditions.min_free_mb:g} MB are free"
    return ""


class LifeSigns:
    """When each loop was last seen to move.

    Safe from any thread. A loop is known from its first sign on, so a start that takes long hangs nowhere.
    """

    def __init__(self, hung_after_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._hung_after_s = hung_after_s
        self._now_s = now_s
        self._seen_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def moved(self, loop: str) -> None:
        """The loop has begun a round, ended one, or got on within one."""
        with self._lock:
            self._seen_at[loop] = self._now_s()

    def rest(self) -> None:
        """The loops end on purpose: their silence means nothing any more."""
        with self._lock:
            self._hung_after_s = float("inf")

    def hanging(self) -> tuple[str, ...]:
        """One sentence for each loop that has not moved for ``hung_after_s``."""
        with self._lock:
            now_s = self._now_s()
            silent_s = {loop: now_s - seen_at for loop, seen_at in sorted(self._seen_at.items())}
            return tuple(
                f"{loop}: has not moved for {silence:.0f} s"
                for loop, silence in silent_s.items()
                if silence > self._hung_after_s
            )


LIVENESS_PATH = "/healthz"

READINESS_PATH = "/readyz"


class Probes:
    """What the node tells of itself, over HTTP where ``node.probe_port`` is set."""

    def __init__(self, policy: NodePolicy, conditions: Conditions) -> None:
        self._signs = LifeSigns(policy.hung_after_s)
        self._readiness = Readiness(conditions)
        answers = {LIVENESS_PATH: self._signs.hanging, READINESS_PATH: self._readiness.reasons}
        self._server = ProbeServer(policy.probe_host, policy.probe_port, answers)
        self._wanted = policy.probe_port > 0

    def start(self) -> None:
        """Answer: alive, not ready yet.

        Raises:
            MisconfiguredError: the address can't be listened on.
        """
        if self._wanted:
            self._server.start()

    def look(self) -> None:
        """Look at database and disk, where anybody may ask."""
        if self._wanted:
            self._readiness.look()

    def sign_of(self, loop: str) -> Callable[[], None]:
        """What a loop calls whenever it moves."""
        return lambda: self._signs.moved(loop)

    def started(self) -> None:
        """Models loaded, loops running: ready, when the rest is well."""
        self._readiness.started()

    def drain(self) -> None:
        """Not ready any more, and alive until :meth:`stop`, however long what is under way takes."""
        self._readiness.drain()
        self._signs.rest()

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.stop()
