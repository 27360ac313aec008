"""What happens inside the node's process: it dies at the n-th call of one kind, its clock jumps, or its disk
takes nothing.

The calls are those by which a node changes anything outside its own memory (files, database, sockets), the
messages between it and its peers, and the stages of the chain. They are counted below the node's own code, so
that its functions may be renamed and moved, and no gap between two of them is left out.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Any

from pynetdicom import evt
from sqlalchemy import event as sql
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import Pool

from app.node import service
from app.node.receive import commitment
from app.node.records import database
from tests.node.workflow import fake_node

RECEIVE = "receive"

COUNTS_EVERY_S = 0.2

STAGES = ("select", "load", "align", "segment", "quantify", "write")

READ_ONLY_DATABASE, READ_ONLY_DISK = "read-only database", "read-only disk"
"""Files in the node's folder: as long as one is there, its databases or all of its data can't be written."""

GRACE_S, PROMISES_S = 1.0, 0.5
"""How long a sender waits for its answer on the association of its request, and how often the node looks
whom it owes one; its own values are longer."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime", "os.chmod")
"""Python's audit events of what changes a file system, beside "open"."""

PR_SET_PDEATHSIG = 1


class Moment(StrEnum):
    """When in the call."""

    BEFORE = "before"
    HALF = "half"
    """Half the bytes are written: a torn write."""
    AFTER = "after"


@dataclass(frozen=True)
class Point:
    """The ``number``-th call (from 1) of ``kind``, or PDU of a way; number 0 for never.

    ``busy``: counted from the first byte that a scanner sends, instead of from the start.
    """

    kind: str
    number: int
    moment: Moment = Moment.BEFORE
    busy: bool = False

    def __str__(self) -> str:
        since = " since the first byte" if self.busy else ""
        return f"{self.moment} {self.kind} {self.number}{since}"


class Counting:
    """Counts the calls of each kind, and kills this process at one of them."""

    def __init__(self, point: Point) -> None:
        self._point = point
        self._calls: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()

    def wrap(self, kind: str | Callable[..., str], owner: Any, name: str, halved: int | None = None) -> None:
        """Count ``owner.name`` as ``kind``, which may follow from its arguments (empty: as nothing); argument
        ``halved`` is what a torn write cuts short."""
        call: Callable[..., Any] = getattr(owner, name)

        @wraps(call)
        def counted(*arguments: Any, **named: Any) -> Any:
            if not self._is_it(kind if isinstance(kind, str) else kind(*arguments)):
                return call(*arguments, **named)
            if self._point.moment is Moment.HALF and halved is not None:
                cut = memoryview(arguments[halved])
                call(*arguments[:halved], cut[: len(cut) // 2], *arguments[halved + 1 :], **named)
            elif self._point.moment is Moment.AFTER:
                call(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        setattr(owner, name, counted)

    def _is_it(self, kind: str) -> bool:
        point = self._point
        if not kind:
            return False
        with self._lock:
            self._calls[kind] += 1
            if self._busy or kind == RECEIVE:
                self._busy[kind] += 1
            number = (self._busy if point.busy else self._calls)[kind]
            return kind == point.kind and number == point.number

    def keep_in(self, file: Path) -> None:
        """Write the counts down, again and again: they say how many calls there are to choose from."""
        while True:
            with self._lock:
                counts = json.dumps({"calls": self._calls, "busy": self._busy})
            write_whole(file, counts)
            time.sleep(COUNTS_EVERY_S)


def write_whole(file: Path, text: str) -> None:
    """So that a reader sees all of it or what was there before; by calls that are not counted."""
    subprocess.run(
        ["sh", "-c", 'cat > "$0.new" && mv "$0.new" "$0"', file], input=text, text=True, check=True
    )


def count_calls(point: Point) -> Counting:
    """Every way out of the process, counted."""
    counting = Counting(point)
    counting.wrap("write a slot", os, "pwrite", halved=1)
    counting.wrap("sync", os, "fdatasync")
    counting.wrap("sync", os, "fsync")
    counting.wrap("rename", os, "replace")
    counting.wrap("rename", os, "rename")
    counting.wrap("rename", pathlib.Path, "replace")
    counting.wrap("remove", os, "unlink")
    counting.wrap("remove", pathlib.Path, "unlink")
    counting.wrap("commit", DefaultDialect, "do_commit")
    for name in ("recv", "recv_into"):
        counting.wrap(RECEIVE, socket.socket, name)
    for name in ("send", "sendall"):
        counting.wrap("send", socket.socket, name, halved=1)
    counting.wrap(_message, evt, "trigger")
    counting.wrap("stage", fake_node.FakeProcessor, "_misbehave")
    counting.wrap("result", fake_node, "secondary_capture")
    counting.wrap("result", fake_node, "write_outcome")
    _play_every_stage(counting)
    return counting


def _message(_association: Any, event: Any, attributes: Any = None) -> str:
    """A message that pynetdicom is about to send, or has received and is about to act on, by its name in
    PS3.7 annex E; the images of scanners go another way."""
    if event not in (evt.EVT_DIMSE_SENT, evt.EVT_DIMSE_RECV):
        return ""
    name = type(attributes["message"]).__name__.replace("_", "-")
    return f"{name} {'to be sent' if event is evt.EVT_DIMSE_SENT else 'received'}"


def _play_every_stage(counting: Counting) -> None:
    """The pretended chain reports one stage; here it goes through all, each a point to die at."""
    begin = fake_node.FakeProcessor.__init__

    def with_stages(self: Any, behaviour: Any, on_stage: Callable[[str], None]) -> None:
        stages = Stages(on_stage)
        counting.wrap("stage", stages, "tell")
        begin(self, behaviour, lambda _: stages.all())

    fake_node.FakeProcessor.__init__ = with_stages  # type: ignore[method-assign]


class Stages:
    """Tells the node of one stage after the other."""

    def __init__(self, on_stage: Callable[[str], None]) -> None:
        self._on_stage = on_stage

    def tell(self, stage: str) -> None:
        """As the chain does when a stage begins."""
        self._on_stage(stage)

    def all(self) -> None:
        """Every stage once."""
        for stage in STAGES:
            self.tell(stage)


def follow_clock(file: Path) -> None:
    """The wall clock of this process is ahead by the seconds that ``file`` holds (behind, when negative)."""
    now, utc_now = time.time, database.utc_now

    def shift() -> float:
        try:
            return float(file.read_text() or 0)
        except FileNotFoundError:
            return 0.0

    def jumped() -> Any:
        return utc_now() + timedelta(seconds=shift())

    time.time = lambda: now() + shift()
    for module in list(sys.modules.values()):
        if getattr(module, "utc_now", None) is utc_now:
            module.utc_now = jumped  # type: ignore[attr-defined]


def obey_read_only(folder: Path) -> None:
    """Nothing of the node's data can be written while ``folder`` says so: its databases give the error of
    SQLite, its files that of the system."""
    database_file, disk_file = folder / READ_ONLY_DATABASE, folder / READ_ONLY_DISK
    data, write = f"{folder / 'data'}/", os.pwrite

    def refuse(path: object = "") -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        changes = arguments[2] & WRITING if event == "open" else event in CHANGES
        if changes and str(arguments[0]).startswith(data) and disk_file.exists():
            refuse(arguments[0])

    def pwrite(*arguments: Any) -> int:
        if disk_file.exists():
            refuse()
        return write(*arguments)

    def checked_out(connection: Any, record: Any, _proxy: Any) -> None:
        is_read_only = database_file.exists() or disk_file.exists()
        if record.info.get(READ_ONLY_DATABASE, False) != is_read_only:
            connection.execute(f"PRAGMA query_only = {int(is_read_only)}")
            record.info[READ_ONLY_DATABASE] = is_read_only

    os.pwrite = pwrite
    sys.addaudithook(audit)
    sql.listen(Pool, "checkout", checked_out)


def run(plan_file: Path, log_file: Path, point: Point) -> None:
    """A node (:func:`tests.node.workflow.fake_node.run_forked`) that dies at ``point``, or with those who
    started it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    folder = plan_file.parent
    commitment.GRACE_S, service.PROMISES_S = GRACE_S, PROMISES_S
    counting = count_calls(point)
    follow_clock(folder / "clock")
    obey_read_only(folder)
    if not point.number:
        threading.Thread(target=counting.keep_in, args=(folder / "counts",), daemon=True).start()
    fake_node.run_forked(plan_file, log_file)
