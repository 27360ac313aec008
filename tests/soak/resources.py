"""What a node holds while it lives, and whether that is flat.

The samples of a life fall into four quarters. In the first a node warms up: pools of connections, arenas of
the allocator, caches and the first log file fill. Growth is the median of the last quarter less that of the
second: half a life's work lies between the two, and a median is moved neither by the seconds of a fault nor
by a look at a bad moment. A leak of anything for each study, association, delivery or scrape comes through;
:data:`LIMITS` says from where on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

MIN_SAMPLES = 60
"""A life with fewer is too short to be judged: its quarters are the moments of single studies."""

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Sample:
    """Of a node's process with its children, at one instant; files of its data folder in MB."""

    at_s: float
    memory_mb: float
    descriptors: int
    threads: int
    processes: int
    ledgers_mb: float
    engine_mb: float
    inbox_mb: float


@dataclass(frozen=True)
class Limit:
    """Growth up to ``least``, or to a ``share`` of what is there, is none."""

    name: str
    unit: str
    least: float
    share: float

    def allows(self, growth: float, before: float) -> bool:
        return growth <= max(self.least, self.share * before)


LIMITS = (
    # of the 16 MB in which the inbox marks what it has seen a page is touched now and then
    Limit("memory_mb", "MB", 8.0, 0.04),
    # one for every 20 studies of a last life of 250 would be 6
    Limit("descriptors", "descriptors", 5.0, 0.05),
    Limit("threads", "threads", 3.0, 0.05),
    Limit("processes", "processes", 0.5, 0.0),
)


def growth(values: Sequence[float]) -> float | None:
    """How much more there is in the last quarter than in the second; ``None`` of too few values."""
    if len(values) < MIN_SAMPLES:
        return None
    quarter = len(values) // 4
    return median(values[-quarter:]) - median(values[quarter : 2 * quarter])


def what_grows(life: Sequence[Sample]) -> list[str]:
    """What is not flat over a life, a line each; nothing is said of one that is too short."""
    found = []
    for limit in LIMITS:
        values = [getattr(sample, limit.name) for sample in life]
        more = growth(values)
        if more is not None and not limit.allows(more, median(values) - more):
            found.append(f"{more:+.1f} {limit.unit} from the second to the last quarter of a life")
    return found


def sample(pid: int, data_dir: Path) -> Sample | None:
    """Of a process and its children now; ``None`` when it has ended."""
    try:
        family = [pid, *_descendants(pid)]
        pages = sum(_pages(one) for one in family)
        threads = sum(len(list(Path(f"/proc/{one}/task").iterdir())) for one in family)
        descriptors = sum(len(os.listdir(f"/proc/{one}/fd")) for one in family)  # noqa: PTH208  names alone
    except OSError:  # it has ended, or a child of it: there will be another look
        return None
    return Sample(
        at_s=time.monotonic(),
        memory_mb=pages * _PAGE_MB,
        descriptors=descriptors,
        threads=threads,
        processes=len(family),
        ledgers_mb=_files_mb(data_dir.glob("node.sqlite*")),
        engine_mb=_files_mb(data_dir.glob("workflows.sqlite*")),
        inbox_mb=_files_mb(_below(data_dir / "inbox" / "studies")),
    )


def _pages(pid: int) -> int:
    """Resident (proc(5), statm)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, to_do = [], [pid]
    while to_do:
        of_one = children.get(to_do.pop(), [])
        found += of_one
        to_do += of_one
    return found


def _below(folder: Path) -> Iterator[Path]:
    """Every file; a folder that is removed meanwhile has none."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _files_mb(paths: Iterable[Path]) -> float:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:  # removed meanwhile
            continue
    return total / 1e6
