"""All benchmarks of speed, and the page made of what they found.

    python -m benchmarks.report                     # run all, then write docs/performance.md
    python -m benchmarks.report --only segmentation,receiver
    python -m benchmarks.report --kept              # run none; write the page from what is kept

Each runs as its own process, one after the other. Only a machine that does nothing else gives figures worth
keeping.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.comparison import BEFORE, MIN_RUNS, RESULTS, ROOT, Measure, Result, Row, Table

PAGE = ROOT / "docs" / "performance.md"
INTRODUCTION = """# Performance

Made by `python -m benchmarks.report` from `benchmarks/results/`; every line can be repeated with
`python -m benchmarks.NAME`. Ours and the peer run in turns on the same machine. *Speed* is the peer's
seconds by ours (more is better), *share* is ours by the peer's (less is better), *seconds* has no peer. A
target is met when the median meets it; a target that is not met is written as such.

The other modules in `benchmarks/` measure no speed against a peer: `ct_agreement`, `prior_margins` and
`lesion_sites` measure how well rules hold on simulated patients ([registration](explanation/registration.md),
[measurements](reference/measurements.md)), `model_limits` and `model_errors` what the shipped models lack,
`training_recipes` and `training_step` ways to train them, `package_start` the
[container image](reference/map.md).
"""
HEAD = ("what", "peer", "measure", "target", "min", "median", "max", "n", "met")


def benchmarks(folder: Path = ROOT / "benchmarks") -> list[str]:
    """Modules that keep a result."""
    found = (path for path in sorted(folder.glob("*.py")) if path.stem not in ("comparison", "report"))
    return [path.stem for path in found if "keep(" in path.read_text(encoding="utf-8")]


def page(results: Sequence[Result], before: Sequence[Result] = ()) -> str:
    """The whole page, in Markdown; ``before``: of an earlier commit, whose tables are shown beside."""
    earlier = {result.title: result for result in before}
    blocks = (_block(result, earlier.get(result.title)) for result in results)
    return "\n".join([INTRODUCTION, _overview(results), *blocks])


def _overview(results: Sequence[Result]) -> str:
    return _table(HEAD, (_cells(row) for result in results for row in result.rows))


def _cells(row: Row) -> tuple[str, ...]:
    ratios = sorted(row.ratios)
    unit = " s" if row.measure is Measure.SECONDS else " ×"
    sense = "≥" if row.measure is Measure.SPEED else "≤"
    target = "–" if row.target is None else f"{sense} {row.target:g}{unit}"
    met = {None: "–", True: "met", False: "**not met**"}[row.met]
    figures = (f"{figure:.3g}{unit}" for figure in (ratios[0], median(ratios), ratios[-1]))
    count = f"{len(ratios)}" if len(ratios) >= MIN_RUNS else f"{len(ratios)} (fewer than {MIN_RUNS})"
    return row.title, row.peer, row.measure.value, target, *figures, count, met


def _block(result: Result, before: Result | None) -> str:
    told = {**result.machine, **result.versions}
    lines = [
        f"## {result.title}\n",
        f"`python -m benchmarks.{result.title}`, {result.day}, commit {result.commit}; "
        + ", ".join(f"{name} {value}" for name, value in told.items())
        + ".\n",
        *(f"- {row.title}: {_runs(row)}{'. ' + row.note if row.note else ''}" for row in result.rows),
        "",
    ]
    for table in result.tables if before is None else beside(result, before):
        lines += [f"{table.title}:\n", _table(table.columns, table.lines)]
    return "\n".join(lines)


def beside(now: Result, before: Result) -> list[Table]:
    """Tables of now with those of before: in one where their lines are about the same, or in turns."""
    machine = before.machine
    told = f"commit {before.commit}, {before.day}, {machine['processor']}"
    if "load at the end" in machine:
        told += f", load {machine['load at the end']}"
    earlier = {table.title: table for table in before.tables}
    found: list[Table] = []
    for table in now.tables:
        old = earlier.pop(table.title, None)
        if old is not None and [line[0] for line in old.lines] == [line[0] for line in table.lines]:
            found.append(_in_one(table, old, told))
        else:
            found += [table] if old is None else [replace(old, title=f"{old.title}, before ({told})"), table]
    return found + [replace(table, title=f"{table.title}, before ({told})") for table in earlier.values()]


def _in_one(now: Table, before: Table, told: str) -> Table:
    """Each column of before, and then that of now."""
    heads = (f"{name}, {when}" for name in now.columns[1:] for when in ("before", "after"))
    lines = (
        (new[0], *(cell for pair in zip(old[1:], new[1:], strict=True) for cell in pair))
        for old, new in zip(before.lines, now.lines, strict=True)
    )
    return Table(f"{now.title}; before: {told}", (now.columns[0], *heads), tuple(lines))


def _runs(row: Row) -> str:
    ours = " ".join(f"{figure:.3g}" for figure in row.ours)
    theirs = " ".join(f"{figure:.3g}" for figure in row.theirs)
    return f"ours {ours}; {row.peer} {theirs}" if theirs else ours


def _table(head: Sequence[str], lines: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def kept(folder: Path = RESULTS) -> list[Result]:
    """Every kept result, by name and arguments."""
    return sorted((Result.read(path) for path in folder.glob("*.json")), key=lambda result: result.title)


def _ran(name: str) -> bool:
    print(f"{name} …", file=sys.stderr, flush=True)
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False).returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, then write the page; 1 when a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="names with commas between them")
    parser.add_argument("--kept", action="store_true", help="run none")
    options = parser.parse_args(arguments)
    known = benchmarks()
    wanted = [] if options.kept else [name for name in options.only.split(",") if name] or known
    if unknown := set(wanted) - set(known):
        parser.error(f"found {', '.join(sorted(unknown))}, expected some of {', '.join(known)}")
    failed = [name for name in wanted if not _ran(name)]
    PAGE.write_text(page(kept(), kept(BEFORE)), encoding="utf-8")
    if failed:
        print(f"failed, and the page has their earlier results: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
