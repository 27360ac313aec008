"""The audit log to the hospital's audit repository: syslog over TLS (RFC 5424, 5425; PS3.15 A.6, A.7).

The log itself is the queue: what was sent is a place in it, kept on the disk, so an outage of days loses no
entry. An entry counts as sent once the collector's host has acknowledged all of its bytes; where a try ends
in between, it is sent once more.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import PsmaNodeError, RetryLaterError
from app.files.durable import try_lock, write_durably
from app.node.peers import TlsPolicy
from app.node.policy import AuditCollector, NodePolicy
from app.node.records.database import utc_now
from app.node.tls import client_context
from app.node.tls_words import tls_words
from app.node.watch.audit_message import audit_message

SENT_FILE = "forwarded.json"

LOCK_FILE = "forwarding.lock"
"""Held while entries are sent: nodes that share a data folder have one log."""

SPOILT = "a line of the audit log is no entry"

BATCH = 200
"""Entries over one connection, after which their place is kept."""

TIMEOUT_S = 10.0

PRIORITY = 85
"""Facility 10 (security), severity 5 (notice), as PS3.15 A.6 proposes."""

MESSAGE_ID = "DICOM+RFC3881"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Place:
    """How many bytes of the log were sent, and the number of the last entry in them."""

    offset: int = 0
    number: int = 0


class AuditForwarder:
    """Sends what has come to the log since the last look; used by one thread."""

    def __init__(
        self, log: Path, node: NodePolicy, tls: TlsPolicy, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._log_file = log
        self._is_stopping = is_stopping
        self.node = node
        self._tls = tls
        self._place_file = log.with_name(SENT_FILE)
        self._is_down = False

    def look(self) -> None:
        """Send what is there, a batch at a time; an outage is one line in the log, and so is its end."""
        collector = self.node.audit_collector
        if collector is None:
            return
        try:
            self._send(collector)
        except (OSError, PsmaNodeError) as error:
            if not self._is_down:
                words = tls_words(error) if isinstance(error, OSError) else str(error)
                facts = {"host": collector.host, "port": collector.port, "reason": words}
                _log.warning("the audit collector takes nothing; the entries wait", extra=facts)
            self._is_down = True

    def _send(self, collector: AuditCollector) -> None:
        lock = try_lock(self._place_file.with_name(LOCK_FILE)) if self._log_file.exists() else None
        if lock is None:  # no entry yet, or another node of this data folder is about them
            return
        try:
            while self._send_batch(collector) and not self._is_stopping():
                pass
        finally:
            lock.release()

    def _send_batch(self, collector: AuditCollector) -> bool:
        """Whether there may be more."""
        place = self._place()
        entries = list(_entries_from(self._log_file, place))
        if not entries:
            return False
        with _connection(collector, self._tls) as connection:
            for entry, _ in entries:
                line = syslog_line(entry, self.node)
                framed = line if collector.transport == "udp" else b"%d " % len(line) + line
                connection.sendall(framed)
            if collector.transport != "udp":
                _await_acknowledgement(connection)
        last = entries[-1][1]
        write_durably(self._place_file, json.dumps({"offset": last.offset, "number": last.number}).encode())
        if self._is_down:
            _log.info("the audit collector takes entries again", extra={"host": collector.host})
        self._is_down = False
        return len(entries) == BATCH

    def _place(self) -> _Place:
        try:
            kept = json.loads(self._place_file.read_bytes())
            place = _Place(int(kept["offset"]), int(kept["number"]))
        except FileNotFoundError:
            return _Place()
        except (ValueError, KeyError, TypeError):
            _log.error("audit/forwarded.json is damaged: the whole audit log is sent again")
            return _Place()
        size = self._log_file.stat().st_size if self._log_file.exists() else 0
        return place if place.offset <= size else _Place()  # another log: begin anew


def _entries_from(log: Path, place: _Place) -> Iterator[tuple[dict[str, Any], _Place]]:
    """Whole entries after ``place``, and the place after each."""
    if not log.exists():
        return
    offset, number = place.offset, place.number
    with log.open("rb") as file:
        file.seek(offset)
        for _ in range(BATCH):
            line = file.readline()
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            number += 1
            yield _entry(line, number), _Place(offset, number)


def _entry(line: bytes, number: int) -> dict[str, Any]:
    """The entry in a line; one that says so where somebody has spoilt it, so that the others still go."""
    try:
        entry: dict[str, Any] = json.loads(line)
        entry["time"], entry["event"], entry["study"], entry["number"], dict(entry["facts"])
    except (ValueError, KeyError, TypeError):
        now = utc_now().isoformat(timespec="milliseconds")
        return {"time": now, "event": SPOILT, "study": "", "number": number, "facts": {"line": number}}
    return entry


def syslog_line(entry: dict[str, Any], policy: NodePolicy) -> bytes:
    """RFC 5424; the message is UTF-8, which its byte order mark says."""
    head = f"<{PRIORITY}>1 {entry['time']} {socket.gethostname()} psma-node {os.getpid()} {MESSAGE_ID} - "
    return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + audit_message(entry, policy).encode()


@contextmanager
def _connection(collector: AuditCollector, tls: TlsPolicy) -> Iterator[socket.socket]:
    if collector.transport == "udp":
        family = socket.AF_INET6 if ":" in collector.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            datagrams.connect((collector.host, collector.port))
            yield datagrams
        return
    with socket.create_connection((collector.host, collector.port), TIMEOUT_S) as plain:
        if collector.transport == "tcp":
            yield plain
            return
        with client_context(tls).wrap_socket(plain, server_hostname=collector.host) as connection:
            yield connection


def _await_acknowledgement(connection: socket.socket) -> None:
    """Until the peer's host has all bytes (SIOCOUTQ): syslog itself has no answer.

    Raises:
        RetryLaterError: it has not, in time, or has closed the connection.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]:
        if time.monotonic() > deadline:
            raise RetryLaterError("the audit collector does not acknowledge what was sent")
        time.sleep(0.01)
    connection.settimeout(0.01)
    try:
        if not connection.recv(1):
            raise RetryLaterError("the audit collector has closed the connection")
    except (TimeoutError, ssl.SSLWantReadError):
        return
