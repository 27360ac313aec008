"""One benchmark's figures: ours and a peer's, run in turns, as ratios; kept as JSON with machine and date.

A benchmark is a module of this folder that ends in :func:`keep`::

    def main() -> None:
        ours, peer = interleaved(timed(our_way), timed(their_way), runs=5)
        row = Row("segment a PET/CT", "nnUNetPredictor", Measure.SPEED, ours, peer, target=5.0)
        keep(Result.of("segmentation", [row], packages=("torch", "nnunetv2")))

:mod:`benchmarks.report` runs them, and makes ``docs/performance.md`` from what is kept.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEFORE = RESULTS / "before"
"""Results of an earlier commit; the page shows their tables beside those of the same benchmark."""

MIN_RUNS = 5
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What decides between the ways that the network may be run."""

VERSION_OF = {
    "DCMTK": (("storescp", "--version"), r"dcmtk: storescp v(\S+)"),
    "Orthanc": (("Orthanc", "--version"), r"Orthanc (\S+)"),
}
"""Programs that serve as peers, and how they say their version."""


class Measure(StrEnum):
    """What a row's figures mean, and so which way is better."""

    SPEED = "speed"
    """Seconds; the ratio is peer / ours, and a target is the least that is wanted."""

    SHARE = "share"
    """Megabytes or seconds; the ratio is ours / peer, and a target is the most that is allowed."""

    SECONDS = "seconds"
    """Ours alone, where no peer does the same; a target is the most that is allowed."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        title: what was done.
        peer: what it is compared with; "–" for none.
        measure: what the figures mean.
        ours, theirs: figures of each run, in the order they were run; ``theirs`` is empty without a peer.
        target: the least (:attr:`Measure.SPEED`) or the most of the ratio; None where none was set.
        note: what a reader must know to judge it.
    """

    title: str
    peer: str
    measure: Measure
    ours: tuple[float, ...]
    theirs: tuple[float, ...] = ()
    target: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse figures that cannot be compared."""
        wanted = 0 if self.measure is Measure.SECONDS else len(self.ours)
        if len(self.theirs) != wanted or not self.ours:
            raise ValueError(f"{self.title}: found {len(self.ours)} and {len(self.theirs)} runs")
        if min(*self.ours, *self.theirs, 1.0) <= 0:
            raise ValueError(f"{self.title}: a figure is not above 0")

    @property
    def ratios(self) -> tuple[float, ...]:
        """One of each pair of runs; seconds where there is no peer."""
        if self.measure is Measure.SECONDS:
            return self.ours
        over, under = (self.theirs, self.ours) if self.measure is Measure.SPEED else (self.ours, self.theirs)
        return tuple(a / b for a, b in zip(over, under, strict=True))

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without a target."""
        if self.target is None:
            return None
        middle = median(self.ratios)
        return middle >= self.target if self.measure is Measure.SPEED else middle <= self.target


@dataclass(frozen=True)
class Table:
    """Figures that are no ratio, such as a profile: written as they are."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Result:
    """What one benchmark found, where and when.

    Attributes:
        name: the module in ``benchmarks``.
        rows, tables: what was found.
        day: ISO date.
        commit: of the working tree; "+" behind it when files of the program differed from it.
        machine: processor, its flags that matter, cores, memory, load (that of the benchmark, and of others);
            the file system where it matters.
        versions: of Python, the packages and the programs used.
        arguments: of the module, where they choose what is measured: a result is kept for each of them.
    """

    name: str
    rows: tuple[Row, ...]
    tables: tuple[Table, ...]
    day: str
    commit: str
    machine: dict[str, str]
    versions: dict[str, str]
    arguments: str = ""

    @property
    def title(self) -> str:
        """The module and its arguments: what stands behind ``python -m benchmarks.``."""
        return f"{self.name} {self.arguments}".rstrip()

    @classmethod
    def of(
        cls,
        name: str,
        rows: Sequence[Row],
        tables: Sequence[Table] = (),
        *,
        packages: Sequence[str] = (),
        programs: Sequence[str] = (),
        folder: Path | None = None,
    ) -> Result:
        """A result of now and here; ``folder``: whose file system matters."""
        versions = {"Python": platform.python_version()}
        versions |= {package: importlib.metadata.version(package) for package in packages}
        versions |= {program: program_version(program) for program in programs}
        day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        return cls(name, tuple(rows), tuple(tables), day, commit(), machine(folder), versions)

    @classmethod
    def read(cls, path: Path) -> Result:
        """As :func:`keep` wrote it."""
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["rows"] = tuple(_row(**row) for row in found["rows"])
        found["tables"] = tuple(_table(**table) for table in found["tables"])
        return cls(**found)


def _row(measure: str, ours: Sequence[float], theirs: Sequence[float], **others: Any) -> Row:
    return Row(measure=Measure(measure), ours=tuple(ours), theirs=tuple(theirs), **others)


def _table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    return Table(title, tuple(columns), tuple(tuple(line) for line in lines))


def keep(result: Result, folder: Path = RESULTS) -> Path:
    """Write a result to ``folder``, in place of an earlier one of that name and those arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    words = re.findall(r"\w+", result.title)
    path = folder / f"{'-'.join(words)}.json"
    path.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """``work``, but it returns the seconds it took."""

    def run() -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    return run


def interleaved(
    ours: Callable[[], float], peer: Callable[[], float], runs: int = MIN_RUNS
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Figures of both, run in turns: the one that begins changes, so that neither always runs second.

    Args:
        ours, peer: each runs once and returns its figure (:func:`timed` for seconds).
    """
    found: tuple[list[float], list[float]] = ([], [])
    for run in range(runs):
        for which in (0, 1) if run % 2 == 0 else (1, 0):
            found[which].append((ours, peer)[which]())
    return tuple(found[0]), tuple(found[1])


def peak_mb() -> float:
    """The most memory that this process held since it began or :func:`forget_peak`, in MB (10^6 bytes).

    From VmHWM: the ``ru_maxrss`` of a child begins with its parent's.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024 / 1e6


def forget_peak() -> None:
    """Let :func:`peak_mb` begin anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def machine(folder: Path | None) -> dict[str, str]:
    """The processor, its flags that matter, cores, memory; the file system of ``folder``."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    found = {
        "processor": model[1] if model else platform.machine(),
        "flags": ", ".join(flag for flag in CPU_FLAGS if flag in known) or "none of " + ", ".join(CPU_FLAGS),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_gb:.0f} GB",
        "load at the end": f"{os.getloadavg()[0]:.1f}",
    }
    if folder is not None:
        found["file system"] = _said(("df", "--output=fstype", str(folder))).split()[-1]
    return found


def program_version(name: str) -> str:
    """Of a peer; ``not installed`` is an answer too."""
    command, pattern = VERSION_OF[name]
    found = re.search(pattern, _said(command))
    return found[1] if found else "not installed"


def commit() -> str:
    """Of the working tree, with "+" when files of the program differ from it."""
    found = _said(("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")).strip()
    changed = _said(("git", "-C", str(ROOT), "status", "--porcelain", "--", "app", "operators"))
    return (found or "unknown") + ("+" if changed.strip() else "")


def _said(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except FileNotFoundError:
        return ""
