"""The trials: one fault in one world, from first image to last result, and what is wrong afterwards.

A trial is made from its number and the seed alone, so each can be repeated by itself.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.killing import COUNTS_EVERY_S, KillPoint, Moment
from tests.faults.world import Calls, World, world

MAX_FAULT_S = 2.0
"""How long a disk is full, a database is busy or a PACS is away in a trial."""

KILLS_IN_TEN = 8
"""Of ten trials so many kill the node, the others do something else to it."""

BUSY = 0.75
"""The share of kills that are counted from the first byte on; the others may hit the start as well."""

SMALL_DISK_MB = 48
"""The data folder's file system in the trials with a disk of their own; slots made in advance fit."""

FREE_MB = 8.0


@dataclass(frozen=True)
class Finding:
    """How a trial ended.

    Attributes:
        fault: what was done, in words.
        deaths: how often the node ended: a kill finds none when its work is over before the n-th call.
        promised: images that were acknowledged; all of them were checked.
        sent_again: results that the PACS got twice under the same UID, which it keeps once.
        wrong: what is wrong, a line each.
    """

    number: int
    fault: str
    deaths: int
    promised: int
    sent_again: int
    wrong: tuple[str, ...]


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


def _database_is_busy(here: World, choice: random.Random) -> Iterator[None]:
    """Another program holds the database's write lock."""
    connection = sqlite3.connect(here.node.policy.data_dir / "node.sqlite", isolation_level=None)
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


def _clock_jumps(here: World, choice: random.Random) -> Iterator[None]:
    """The wall clock is set by up to a day, forwards or backwards."""
    here.node.set_clock(choice.choice((-86400.0, -3600.0, -30.0, 30.0, 3600.0, 86400.0)))
    yield


OTHER_FAULTS: tuple[Fault, ...] = (
    _disk_is_full, _database_is_busy, _pacs_is_away, _pacs_is_full, _clock_jumps,
)  # fmt: skip
NEED_A_DISK = (_disk_is_full,)


def run_trial(number: int, seed: int, calls: Calls, folder: Path) -> Finding:
    """Trial ``number``; ``calls`` says how many calls of each kind a run without fault makes."""
    choice = random.Random(f"{seed} {number}")  # noqa: S311  repeatable, not secret
    if choice.randrange(10) < KILLS_IN_TEN:
        return killed(number, _kill_points(choice, calls), folder)
    return disturbed(number, choice.choice(OTHER_FAULTS), choice, folder)


def calls_without_fault(folder: Path) -> Calls:
    """How often a node does what it can be killed at, from its start to its end."""
    with world(folder) as here:
        here.node.keep_alive()
        here.begin_to_send()
        assert not here.what_is_wrong_after_all()
        time.sleep(2 * COUNTS_EVERY_S)
        return here.node.calls_of_each_kind()


def _kill_points(choice: random.Random, calls: Calls) -> list[KillPoint]:
    """One, or now and then two: the start after a kill is killed as well."""
    points = []
    for _ in range(1 + (choice.random() < 0.2)):
        busy = choice.random() < BUSY
        of_kind = calls["busy" if busy else "calls"]
        kind = choice.choice(sorted(of_kind))
        number = choice.randint(1, of_kind[kind])
        points.append(KillPoint(kind, number, choice.choice(list(Moment)), busy))
    return points


def killed(number: int, points: list[KillPoint], folder: Path) -> Finding:
    """The node dies at the first point, the one started after it at the second."""
    with world(folder) as here:
        here.begin_to_send()
        here.node.keep_alive(points)
        return _judged(number, f"killed {', then '.join(map(str, points))}", here)


def disturbed(number: int, fault: Fault, choice: random.Random, folder: Path) -> Finding:
    """A fault of what the node stands on, for a moment."""
    with _disk_for(fault, folder), world(folder) as here:
        here.node.keep_alive()
        here.begin_to_send()
        time.sleep(choice.uniform(0.0, 3.0))
        for _ in fault(here, choice):
            time.sleep(choice.uniform(0.1, MAX_FAULT_S))
        return _judged(number, fault.__name__.strip("_").replace("_", " "), here)


def _judged(number: int, words: str, here: World) -> Finding:
    wrong = here.what_is_wrong_after_all()
    return Finding(number, words, here.node.deaths, len(here.promised()), here.sent_again(), tuple(wrong))


@contextmanager
def _disk_for(fault: Fault, folder: Path) -> Iterator[None]:
    """A small file system of its own as the data folder, for the fault of a disk."""
    if fault not in NEED_A_DISK:
        yield
        return
    data = folder / "data"
    data.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m", "tmpfs", data)
    try:
        yield
    finally:
        subprocess.run(["umount", data], check=True)


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def as_row(finding: Finding) -> dict[str, object]:
    """For a line of JSON."""
    return asdict(finding)
