"""The long run: ``make soak``, or ``python -m tests.soak --studies 500 --senders 8 --seed 1``.

The report is written at the end; the folder of a run with something wrong is kept in ``WORK``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.comparison import commit
from tests.faults.trials import small_disk
from tests.soak.node import Retention
from tests.soak.report import report, verdict
from tests.soak.schedule import Scale
from tests.soak.world import soak_world

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "soak.md"
WORK = ROOT / ".cache" / "soak"
DISK_MB = 800
"""Of the data folder, where root runs it: enough for room made in advance and for what retention leaves."""

DAY_S = 86_400.0
KEEP_S = {"done_days": 100.0, "rejected_days": 40.0, "failed_days": 600.0}
"""How long images stay after the last of their study; longer than a late image needs to come."""

ROUNDS_IN_A_MINUTE = 0.3
RESTARTS_IN_A_MINUTE = 0.4


def long_scale(studies: int, senders: int, seed: int, minutes: float) -> Scale:
    """As many disturbances and restarts as there is time for."""
    days = {state: seconds / DAY_S for state, seconds in KEEP_S.items()}
    return Scale(
        studies=studies,
        senders=senders,
        seed=seed,
        lasts_s=60.0 * minutes,
        restarts=max(2, round(RESTARTS_IN_A_MINUTE * minutes)),
        rounds=max(1, round(ROUNDS_IN_A_MINUTE * minutes)),
        longest_s=6.0,
        retention=Retention(days, quiet_s=30.0, engine_days=120.0 / DAY_S),
        outage_s=90.0,
    )


@contextmanager
def _disk(folder: Path, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    with small_disk(folder / "data", DISK_MB):
        yield


def main() -> int:
    """The exit code is 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the senders take")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--work", type=Path, default=WORK)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"seed-{options.seed}-", dir=options.work))
    scale = long_scale(options.studies, options.senders, options.seed, options.minutes)
    has_a_disk = os.geteuid() == 0
    of_commit = commit()
    command = (
        f"python -m tests.soak --studies {scale.studies} --senders {scale.senders} --seed {scale.seed} "
        f"--minutes {options.minutes:g}"
    )
    with _disk(folder, has_a_disk), soak_world(folder, scale, has_a_disk) as here:
        found = verdict(here, here.run())
        options.report.write_text(report(here, found, command, of_commit))
        if found and has_a_disk:
            shutil.copytree(folder / "data", folder / "data-at-the-end")
    sys.stdout.writelines(f"WRONG {line}\n" for line in found)
    if not found:
        shutil.rmtree(folder)
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
