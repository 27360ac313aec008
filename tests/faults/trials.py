"""The trials: one fault in one world, from first image to last result, and what is wrong afterwards.

A trial is made from its number and the seed alone, so each can be repeated by itself.
"""

from __future__ import annotations

import math
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from tests.faults.killing import COUNTS_EVERY_S, READ_ONLY_DATABASE, READ_ONLY_DISK, Moment, Point
from tests.faults.world import Calls, World, world
from tests.node.workflow.peers import wait_until

MAX_FAULT_S = 2.0
"""How long a disk is full, a database is busy, a PACS is away or a network does not work in a trial."""

BUSY = 0.75
"""The share of kills that are counted from the first byte on; the others may hit the start as well."""

TWICE = 0.2
"""The share of kills after which the next start is killed as well."""

SMALL_DISK_MB = 48
"""The data folder's file system in the trials with a disk of their own; slots made in advance fit."""


@dataclass(frozen=True)
class Finding:
    """How a trial ended.

    Attributes:
        kind: of the fault, for the table.
        fault: what was done, in words.
        deaths: how often the node ended: a kill finds none when its work is over before the n-th call.
        promised: images that were acknowledged; all of them were checked.
        committed: of them those that the node has taken charge of by storage commitment.
        sent_again: results that the PACS got twice under the same UID, which it keeps once.
        wrong: what is wrong, a line each.
    """

    number: int
    kind: str
    fault: str
    deaths: int = 0
    promised: int = 0
    committed: int = 0
    sent_again: int = 0
    wrong: tuple[str, ...] = ()


class Break(StrEnum):
    """What happens at a PDU between the node and a peer."""

    RESET = "connections are reset"
    STALL = "network stalls"
    LOSS = "peer falls silent"
    NODE = "SIGKILL of the node"
    SCANNERS = "SIGKILL of the scanners"


@dataclass(frozen=True)
class Strike:
    """``what`` happens at a PDU; a network is back after ``seconds``."""

    what: Break
    point: Point
    seconds: float = 0.5

    def __str__(self) -> str:
        at = f"{self.point.moment} PDU {self.point.number} {self.point.kind}"
        return f"{self.what} {at}, for {self.seconds:.1f} s"

    @property
    def listener(self) -> str:
        """Who takes the connections: "the node" those of scanners, "the PACS" those of the node."""
        return self.point.kind.split(" ", 1)[1]


Fault = Callable[[World, random.Random], Iterator[None]]
"""Does something to a world that sends and works: before its ``yield`` it begins, after it all is well."""


def _disk_is_full(here: World, choice: random.Random) -> Iterator[None]:
    """Nothing more can be written."""
    ballast = here.folder / "data" / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            yield
    ballast.unlink()


def _is_read_only(here: World, choice: random.Random, what: str) -> Iterator[None]:
    """SQLite's databases, or everything, as if mounted so."""
    (here.folder / what).touch()
    yield
    (here.folder / what).unlink()


def _database_is_busy(here: World, choice: random.Random) -> Iterator[None]:
    """Another program holds the database's write lock."""
    database = here.node.policy.database_file
    wait_until(database.exists, "the node has a database")
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.rollback()
    connection.close()


def _pacs_is_away(here: World, choice: random.Random) -> Iterator[None]:
    """Nobody listens on the PACS's port."""
    here.pacs.stop()
    yield
    here.pacs.start()


def _pacs_is_full(here: World, choice: random.Random) -> Iterator[None]:
    """It answers A700, out of resources."""
    here.pacs.status = 0xA700
    yield
    here.pacs.status = 0


def _pacs_loses(here: World, choice: random.Random) -> Iterator[None]:
    """It acknowledges and forgets; storage commitment finds it out."""
    here.pacs.to_lose = math.inf
    yield
    here.pacs.to_lose = 0


def _clock_jumps(here: World, choice: random.Random) -> Iterator[None]:
    """The wall clock is set by up to a day, forwards or backwards."""
    here.node.set_clock(choice.choice((-86400.0, -3600.0, -30.0, 30.0, 3600.0, 86400.0)))
    yield


DISK_IS_FULL = "disk is full"

FAULTS: dict[str, Fault] = {
    DISK_IS_FULL: _disk_is_full,
    "data folder is read-only": partial(_is_read_only, what=READ_ONLY_DISK),
    "database is read-only": partial(_is_read_only, what=READ_ONLY_DATABASE),
    "database is busy": _database_is_busy,
    "PACS is away": _pacs_is_away,
    "PACS is full": _pacs_is_full,
    "PACS loses what it acknowledged": _pacs_loses,
    "clock jumps": _clock_jumps,
}


def run_trial(number: int, seed: int, calls: Calls, folder: Path) -> Finding:
    """Trial ``number``; ``calls`` says how many calls of each kind a run without fault makes."""
    choice = random.Random(f"{seed} {number}")  # noqa: S311  repeatable, not secret
    (what,) = choice.choices(["kill", "strike", "fault", "short"], [60, 22, 12, 6])
    if what == "kill":
        return killed(number, _kills(choice, calls), folder)
    if what == "strike":
        return struck(number, [_strike(choice, calls)], folder)
    if what == "fault":
        return disturbed(number, choice.choice(list(FAULTS)), choice, folder)
    return abandoned(number, _kills(choice, calls), folder)


def calls_without_fault(folder: Path) -> Calls:
    """How often a node does what it can be killed at, from its start to its end, and what its links carry."""
    with world(folder, linked=True) as here:
        here.node.keep_alive()
        here.begin_to_send()
        assert not here.what_is_wrong_after_all()
        time.sleep(2 * COUNTS_EVERY_S)
        pdus = {way: count for link in here.links.values() for way, count in link.counts.items()}
        return here.node.calls_of_each_kind() | {"pdus": pdus}


def _kills(choice: random.Random, calls: Calls) -> list[Point]:
    """One, or now and then two: the start after a kill is killed as well."""
    points = []
    for _ in range(1 + (choice.random() < TWICE)):
        busy = choice.random() < BUSY
        points.append(_point(choice, calls["busy" if busy else "calls"], busy))
    return points


def _point(choice: random.Random, of_kind: dict[str, int], busy: bool = False) -> Point:
    kind = choice.choice(sorted(of_kind))
    number = choice.randint(1, of_kind[kind])
    return Point(kind, number, choice.choice(list(Moment)), busy)


def _strike(choice: random.Random, calls: Calls) -> Strike:
    return Strike(choice.choice(list(Break)), _point(choice, calls["pdus"]), choice.uniform(0.1, MAX_FAULT_S))


def killed(number: int, points: Sequence[Point], folder: Path) -> Finding:
    """The node dies at the first point, the one started after it at the second."""
    with world(folder, calls_back=_calls_back(number)) as here:
        here.begin_to_send()
        here.node.keep_alive(points)
        twice = ", and at the next start" * (len(points) > 1)
        return _judged(number, f"SIGKILL, {points[0].kind}{twice}", _in_words(points), here)


def struck(number: int, strikes: Sequence[Strike], folder: Path) -> Finding:
    """Something happens to network, node or scanners between two PDUs, or in the middle of one."""
    with world(folder, calls_back=_calls_back(number), linked=True) as here:
        for one in strikes:
            here.links[one.listener].at(one.point, _act(one, here))
        here.begin_to_send()
        here.node.keep_alive()
        kind = f"{strikes[0].what}, PDU to or from {strikes[0].listener}"
        return _judged(number, kind, _in_words(strikes), here)


def _act(strike: Strike, here: World) -> Callable[[], None]:
    link = here.links[strike.listener]
    acts: dict[Break, Callable[[], None]] = {
        Break.RESET: partial(link.reset, strike.seconds),
        Break.STALL: partial(link.stall, strike.seconds),
        Break.LOSS: partial(link.lose, strike.seconds),
        Break.NODE: here.node.die,
        Break.SCANNERS: here.kill_scanners,
    }
    return acts[strike.what]


def disturbed(number: int, name: str, choice: random.Random, folder: Path) -> Finding:
    """A fault of what the node stands on, for a moment."""
    with _disk_for(name, folder), world(folder, calls_back=_calls_back(number)) as here:
        here.node.keep_alive()
        here.begin_to_send()
        time.sleep(choice.uniform(0.0, 3.0))
        for _ in FAULTS[name](here, choice):
            time.sleep(choice.uniform(0.1, MAX_FAULT_S))
        return _judged(number, name, name, here)


def abandoned(number: int, points: Sequence[Point], folder: Path) -> Finding:
    """The last image of a study never comes; and the node dies."""
    with world(folder, calls_back=_calls_back(number), is_short=True) as here:
        here.begin_to_send()
        here.node.keep_alive(points)
        return _judged(number, "an image never comes, and SIGKILL", _in_words(points), here)


def _calls_back(number: int) -> bool:
    """In every second trial the PACS gives its storage commitments on an association of its own."""
    return number % 2 == 0


def _in_words(points: Sequence[object]) -> str:
    return ", then ".join(map(str, points))


def _judged(number: int, kind: str, words: str, here: World) -> Finding:
    wrong = here.what_is_wrong_after_all()
    promises = here.promises
    told = len(promises.acknowledged), len(promises.committed)
    return Finding(number, kind, words, here.node.deaths, *told, here.sent_again(), tuple(wrong))


@contextmanager
def _disk_for(name: str, folder: Path) -> Iterator[None]:
    """A small file system of its own as the data folder, for the fault of a disk; its content stays."""
    if name != DISK_IS_FULL:
        yield
        return
    with small_disk(folder / "data", SMALL_DISK_MB):
        yield
        shutil.copytree(folder / "data", folder / "data of the small disk")


@contextmanager
def small_disk(data: Path, size_mb: int) -> Iterator[None]:
    """A file system of its own, in memory, at an empty folder; only root may make one."""
    data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", data], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", data], check=True)
