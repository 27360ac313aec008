"""``/healthz`` and ``/readyz``: does the process live, and can it take a study now? And ``/metrics`` beside.

Liveness asks for little, since who asks will kill the process: the loops move. A database, a disk or a PACS
that is away is no reason to start over; it is a reason not to be sent studies, and readiness says so. What is
asked only reads what was remembered, so a database or a file system that hangs holds up no answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import MisconfiguredError
from app.files.durable import free_mb
from app.node.policy import NodePolicy
from app.node.records.stores import ExecutorRow

Answers = Mapping[str, Callable[[], tuple[str, ...]]]
"""For each path: what is wrong, one sentence each; nothing means well. Must answer without waiting."""

Page = tuple[str, Callable[[], bytes]]
"""A path, and what stands there; must answer without waiting."""

MAX_CONNECTIONS = 16
"""At one time; more are closed at once, and ask again."""

MAX_REQUEST_BYTES = 4096
"""Request line and headers; a kubelet's have about 150 bytes."""

DEADLINE_S = 2.0
"""From the connection to the last byte of the answer."""


class ProbeServer:
    """Answers on a port and a thread of its own, from ``start`` to ``stop``."""

    def __init__(self, host: str, port: int, answers: Answers, page: Page | None = None) -> None:
        self._host, self._port = host, port
        config = Config(
            _application(answers, page),
            loop="asyncio",
            http=_GuardedConnection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,  # a probe every few seconds would drown the log
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=MAX_CONNECTIONS,
        )
        self._server = Server(config)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return self._port

    def start(self) -> None:
        """Listen and answer. Outside the main thread uvicorn leaves the signal handlers alone.

        Raises:
            MisconfiguredError: the address can't be listened on.
        """
        listener = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
            listener.listen(MAX_CONNECTIONS)
        except OSError as error:
            listener.close()
            raise MisconfiguredError(
                f"node.probe_host {self._host} port {self._port} can't be listened on: {error.strerror}; "
                "stop what listens there, or set node.probe_host and node.probe_port"
            ) from error
        self._port = int(listener.getsockname()[1])
        run = self._server.run
        self._thread = threading.Thread(target=run, args=([listener],), name="probe-server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port; answers under way have until their deadline."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join()


class _GuardedConnection(H11Protocol):
    """uvicorn's connection with the limits that uvicorn lacks, so that no client can hold the server up."""

    _received_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        self.loop.call_later(DEADLINE_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._received_bytes > MAX_REQUEST_BYTES:
            self.transport.close()
        else:
            super().data_received(data)


def _application(answers: Answers, page: Page | None) -> ASGIApp:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await _response(answers, page, scope)(scope, receive, send)

    return application


def _response(answers: Answers, page: Page | None, scope: Scope) -> PlainTextResponse:
    """One answer, and the connection ends; it quotes nothing of the request."""
    path = "" if scope["query_string"] else scope["raw_path"].decode()
    look = answers.get(path)
    if scope["method"] not in ("GET", "HEAD"):
        return _words(HTTPStatus.METHOD_NOT_ALLOWED, ("method not allowed",), Allow="GET, HEAD")
    if page is not None and path == page[0]:
        return PlainTextResponse(page[1](), headers=_ALWAYS, media_type=PROMETHEUS_TEXT)
    if look is None:
        return _words(HTTPStatus.NOT_FOUND, ("unknown path",))
    wrong = look()
    return _words(HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK, wrong or ("ok",))


_ALWAYS = {"Cache-Control": "no-store", "Connection": "close"}

PROMETHEUS_TEXT = "text/plain; version=0.0.4"
"""What Prometheus expects; the character set is added."""


def _words(status: HTTPStatus, lines: tuple[str, ...], **headers: str) -> PlainTextResponse:
    return PlainTextResponse("".join(f"{line}\n" for line in lines), status, _ALWAYS | headers)


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
        self._started = True

    def drain(self) -> None:
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
        if os.statvfs(conditions.data_dir).f_flag & os.ST_RDONLY:
            return "disk: can only be read"
        room_mb = free_mb(conditions.data_dir)
    except OSError as error:
        return f"disk: {error.strerror}"
    if room_mb < conditions.min_free_mb:
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

METRICS_PATH = "/metrics"


class Probes:
    """The node's answers to probes, over HTTP where ``node.probe_port`` is set."""

    def __init__(self, policy: NodePolicy, conditions: Conditions, page: Page | None = None) -> None:
        self._signs = LifeSigns(policy.hung_after_s)
        self._readiness = Readiness(conditions)
        answers = {LIVENESS_PATH: self._signs.hanging, READINESS_PATH: self._readiness.reasons}
        self._server = ProbeServer(policy.probe_host, policy.probe_port, answers, page)
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
        self._server.stop()
