"""The long run: ``make faults``, or ``python -m tests.faults --trials 1250 --seed 1``.

Each trial's finding is a line of ``WORK/seed-N.jsonl`` as soon as it is known, so that a run that was stopped
goes on; the folder of a trial with something wrong is kept in ``WORK``, with its finding, the node's log and
its data. At the end the report is written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.comparison import commit
from tests.faults.trials import Finding, calls_without_fault, run_trial
from tests.faults.world import Calls

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "faults.md"
WORK = ROOT / ".cache" / "faults"
LOST, STUCK, DOUBLED = ": acknowledged", "stuck", "of no revision"
"""Words of :mod:`tests.faults.world` by which findings are told apart."""


WHAT_A_TRIAL_IS = """\
Each trial is a node of its own with a pretended chain; everything else is the real thing. Two scanners send
two studies at the same time, one of them in two associations, some images twice, and the last image of the
first study late; then they ask by storage commitment whether they may delete what they sent, and one of them
leaves before the answer. The node delivers to a PACS that it asks for storage commitment as well; in every
second trial that answers on an association of its own. A fault strikes; then the node is started again if it
died, the scanners send what they were not promised, and all must come out: each image that was acknowledged
is in the index once, and in a file with the content that was sent; what the node has taken charge of is
marked to stay, and each request has its answer; each study ends with a result made of all its images; the
PACS holds every result of the last revision, and was sent none that no revision explains; the chain of the
audit log is whole.

- SIGKILL strikes at the n-th call of a kind, before it, after it, or in the middle of a write; where a node's
  work was over before the n-th call, it did not die. Messages are named as in PS3.7 annex E: N-ACTION-RSP to
  be sent is the answer to a scanner that asks for storage commitment, N-EVENT-REPORT-RQ received is the
  PACS's answer to the node.
- At the n-th PDU between the node and a peer, before it, after it, or amid it, connections are reset, nothing
  passes for a while, the peer falls silent for good, or the node or the scanners are killed. A scanner that
  was killed knows nothing of what it was promised, and sends everything again.
- An image never comes: the study must be rejected with what is missing, and nothing else may suffer.
- A fault of disk, database, PACS or clock begins at a random instant while images come and studies are worked
  on. What is over ends within two seconds.""".splitlines()


def one_trial(number: int, seed: int, calls: Calls, work: Path) -> Finding:
    """A trial in a folder of its own, which stays when something is wrong."""
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"trial-{number}-", dir=work))
    try:
        finding = run_trial(number, seed, calls, folder)
    except Exception as error:  # noqa: BLE001  a trial that can't be judged must not end the others
        (folder / "error.txt").write_text(traceback.format_exc())
        wrong = (f"stuck: {type(error).__name__}: {error}",)
        finding = Finding(number, "not judged", folder.name, wrong=wrong)
    if finding.wrong:
        (folder / "finding.json").write_text(json.dumps(asdict(finding) | {"seed": seed}, indent=1))
    else:
        shutil.rmtree(folder)
    return finding


def run_all(numbers: Iterable[int], seed: int, jobs: int, work: Path) -> None:
    """What is missing among the trials, ``jobs`` at a time."""
    work.mkdir(parents=True, exist_ok=True)
    kept = work / f"seed-{seed}.jsonl"
    done = {finding.number for finding in read(kept)}
    calls = calls_of_a_run(work, seed)
    missing = [number for number in numbers if number not in done]
    with ThreadPoolExecutor(jobs) as pool, kept.open("a") as lines:
        futures = [pool.submit(one_trial, number, seed, calls, work) for number in missing]
        for count, future in enumerate(as_completed(futures), 1):
            finding = future.result()
            lines.write(json.dumps(asdict(finding)) + "\n")
            lines.flush()
            sys.stderr.write(f"{count} of {len(missing)}: {finding.number} {finding.kind}: {finding.fault}\n")
            sys.stderr.writelines(f"    WRONG {line}\n" for line in finding.wrong)


def calls_of_a_run(work: Path, seed: int) -> Calls:
    """Of one run without a fault, kept: the same trial is the same fault when a run goes on."""
    file = work / f"seed-{seed}.calls.json"
    if not file.exists():
        with tempfile.TemporaryDirectory() as folder:
            file.write_text(json.dumps(calls_without_fault(Path(folder))))
    calls: Calls = json.loads(file.read_text())
    return calls


def read(file: Path) -> list[Finding]:
    """The findings of a run so far."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [Finding(**{**row, "wrong": tuple(row["wrong"])}) for row in map(json.loads, lines)]


def table(findings: Sequence[Finding]) -> list[str]:
    """A row for each kind of fault."""
    columns = ("fault", "trials", "deaths of the node", "images promised", "of them committed")
    columns += ("lost or spoilt", "stuck", "results doubled", "wrong otherwise")
    rows = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    by_kind = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)
    for kind, some in [*sorted(by_kind.items()), ("**all**", list(findings))]:
        sums = (sum(getattr(one, name) for one in some) for name in ("deaths", "promised", "committed"))
        wrong = [line for one in some for line in one.wrong]
        faults = [sum(word in line for line in wrong) for word in (LOST, STUCK, DOUBLED)]
        faults.append(len(wrong) - sum(faults))
        rows.append(f"| {kind} | " + " | ".join(map(str, (len(some), *sums, *faults))) + " |")
    return rows


def report(findings: Sequence[Finding], seed: int, of_commit: str) -> str:
    """``docs/faults.md``."""
    again = sum(finding.sent_again for finding in findings)
    wrong = [f"- trial {one.number}, {one.fault}: {line}" for one in findings for line in one.wrong]
    return "\n".join(
        [
            "# Faults",
            "",
            f"Made by `make faults` (`python -m tests.faults --trials {len(findings)} --seed {seed}`), "
            f"{datetime.now(UTC):%Y-%m-%d}, commit {of_commit}. Trial N alone: `--only N`.",
            "",
            *WHAT_A_TRIAL_IS,
            "",
            *table(findings),
            "",
            f"{again} results reached the PACS a second time under the same UID, which it keeps once:",
            "the node had died or was cut off before it had written down that the PACS took them, or the",
            "PACS had lost them.",
            *(["", "## What went wrong", "", *wrong] if wrong else []),
            "",
        ]
    )


def main() -> int:
    """The exit code is 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1250)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one trial, without a report")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, default=WORK)
    options = parser.parse_args()
    if options.only:
        finding = one_trial(
            options.only, options.seed, calls_of_a_run(options.work, options.seed), options.work
        )
        sys.stdout.write(f"{finding}\n")
        return bool(finding.wrong)
    run_all(range(1, options.trials + 1), options.seed, options.jobs, options.work)
    findings = sorted(read(options.work / f"seed-{options.seed}.jsonl"), key=lambda one: one.number)
    REPORT.write_text(report(findings, options.seed, commit()))
    return any(finding.wrong for finding in findings)


if __name__ == "__main__":
    raise SystemExit(main())
