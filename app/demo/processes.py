"""Programs that the demo starts and, whatever happens, stops again: each by its own process id."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.errors import PsmaNodeError

LOOPBACK = "127.0.0.1"
POLL_S = 0.1
STOP_S = 30.0
"""A node drains before it ends; after this long it is killed."""


class ProgramFailedError(PsmaNodeError):
    """A program of the demo ended or never answered; the message holds its last lines."""


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


class Program:
    """A child process whose output goes to a file.

    It runs in a session of its own: Ctrl-C in the terminal reaches the demo alone, which stops it in order.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def last_lines(self, count: int = 20) -> str:
        """The end of what it printed."""
        with self.log.open(encoding="utf-8", errors="replace") as lines:
            return "".join(deque(lines, maxlen=count)).rstrip()

    def require_alive(self) -> None:
        """Raises ProgramFailedError with its last lines when it has ended."""
        code = self._process.poll()
        if code is not None:
            raise ProgramFailedError(self._with_last_lines(f"{self.name} ended with exit code {code}"))

    def wait_for_port(self, port: int, timeout_s: float) -> None:
        """Return once it listens. Raises ProgramFailedError when it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not is_listening(port):
            self.require_alive()
            if time.monotonic() > deadline:
                problem = f"{self.name} did not listen on port {port} within {timeout_s:.0f} s"
                raise ProgramFailedError(self._with_last_lines(problem))
            time.sleep(POLL_S)

    def _with_last_lines(self, problem: str) -> str:
        return f"{problem}. Its last lines:\n{self.last_lines()}"

    def stop(self, timeout_s: float = STOP_S) -> int:
        """End it (SIGTERM, then SIGKILL) and return its exit code; harmless when it has ended already."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def kill(self) -> None:
        """End it at once, as a power cut would (SIGKILL)."""
        self._process.kill()
        self._process.wait()


@contextmanager
def stops_wait() -> Iterator[None]:
    """SIGINT and SIGTERM are answered at the end: a child that has no name here yet would be left behind."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda it, _: came.append(it))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)


def start_program(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Program:
    """Start ``command`` with its whole environment given; what it prints is added to ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603  # the commands are this program's own
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    return Program(name, process, log)


@contextmanager
def stopping(program: Program) -> Iterator[Program]:
    """The program, stopped at the end of the block."""
    try:
        yield program
    finally:
        program.stop()
