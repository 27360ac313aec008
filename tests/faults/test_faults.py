"""A sample of the long run (``make faults``): a kill at each kind of call, each fault that needs no disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import __main__ as long_run
from tests.faults import trials
from tests.faults.killing import KillPoint, Moment
from tests.faults.trials import Finding

KILLS = [
    KillPoint("write a slot", 2, Moment.HALF, busy=True),
    KillPoint("sync", 3, Moment.AFTER, busy=True),
    KillPoint("rename", 4, Moment.BEFORE, busy=True),
    KillPoint("send", 5, Moment.BEFORE, busy=True),
    KillPoint("commit", 20, Moment.AFTER, busy=True),
    KillPoint("stage", 5, Moment.AFTER, busy=True),
    KillPoint("result", 2, Moment.BEFORE, busy=True),
]


@pytest.mark.parametrize("point", KILLS, ids=str)
def test_nothing_is_lost_doubled_or_stuck_after_a_kill(point: KillPoint, tmp_path: Path) -> None:
    finding = trials.killed(1, [point], tmp_path)
    assert finding.deaths == 1
    assert finding.promised == 6
    assert finding.wrong == ()


@pytest.mark.parametrize("fault", [one for one in trials.OTHER_FAULTS if one not in trials.NEED_A_DISK])
def test_nothing_is_lost_doubled_or_stuck_after_a_fault(fault: trials.Fault, tmp_path: Path) -> None:
    finding = trials.disturbed(1, fault, random.Random(1), tmp_path)  # noqa: S311
    assert finding.promised == 6
    assert finding.wrong == ()


def test_the_account_notices_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that was acknowledged loses its file once all is done."""
    account = trials.World.account

    def one_gone(here: trials.World) -> list[str]:
        wrong = account(here)
        if not wrong:
            next((here.folder / "data" / "inbox").rglob("*.dcm")).unlink()
        return wrong or account(here)

    monkeypatch.setattr(trials.World, "account", one_gone)
    monkeypatch.setattr("tests.faults.world.PATIENCE_S", 5.0)
    finding = trials.killed(1, [KillPoint("stage", 1)], tmp_path)
    assert [line for line in finding.wrong if line.endswith("acknowledged, no file")]


def test_a_report_counts_what_went_wrong() -> None:
    findings = [
        Finding(1, "killed half sync 3", 1, 6, 0, ()),
        Finding(2, "killed after sync 9, then before commit 2", 2, 6, 1, ("image 1: acknowledged, no file",)),
        Finding(3, "killed before commit 2", 0, 6, 0, ("study 2: stuck, waiting: …",)),
    ]
    rows = [line.split(" | ") for line in long_run.table(findings)[2:]]
    assert [row[0] for row in rows] == [
        "| SIGKILL, commit", "| SIGKILL, sync", "| SIGKILL, sync, and at the next start", "| **all**",
    ]  # fmt: skip
    assert [int(cell.strip(" |")) for cell in rows[-1][1:]] == [3, 3, 18, 1, 1, 0]
