"""A sample of the long run (``make faults``): a kill at each kind of call, each fault that needs no disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import __main__ as long_run
from tests.faults import trials
from tests.faults.killing import Moment, Point
from tests.faults.trials import Break, Finding, Strike

KILLS = {
    "reception": [
        Point("write a slot", 2, Moment.HALF, busy=True),
        Point("sync", 3, Moment.AFTER, busy=True),
        Point("rename", 4, Moment.BEFORE, busy=True),
    ],
    "processing": [
        Point("commit", 20, Moment.AFTER, busy=True),
        Point("stage", 5, Moment.AFTER),
        Point("result", 2, Moment.BEFORE),
    ],
    "delivery": [
        Point("C-STORE-RSP received", 2, Moment.BEFORE),
        Point("N-ACTION-RQ to be sent", 1, Moment.BEFORE),
        Point("N-ACTION-RSP received", 1, Moment.BEFORE),
    ],
    "a commitment of the PACS": [
        Point("N-EVENT-REPORT-RQ received", 1, Moment.BEFORE),
        Point("N-EVENT-REPORT-RSP to be sent", 1, Moment.BEFORE),
    ],
    "a commitment to a scanner": [
        Point("N-ACTION-RSP to be sent", 1, Moment.BEFORE),
        Point("N-EVENT-REPORT-RQ to be sent", 1, Moment.BEFORE),
        Point("N-EVENT-REPORT-RSP received", 1, Moment.BEFORE),
    ],
}
"""Each start is killed at the next point."""

STRIKES = {
    "of the network to the node": [
        Strike(Break.RESET, Point("from the node", 2, Moment.BEFORE)),
        Strike(Break.STALL, Point("to the node", 9, Moment.HALF)),
        Strike(Break.NODE, Point("to the node", 15, Moment.AFTER)),
        Strike(Break.SCANNERS, Point("to the node", 20, Moment.BEFORE)),
    ],
    "of the network to the PACS": [
        Strike(Break.RESET, Point("from the PACS", 2, Moment.BEFORE)),
        Strike(Break.LOSS, Point("to the PACS", 7, Moment.BEFORE)),
        Strike(Break.STALL, Point("from the PACS", 6, Moment.HALF)),
    ],
}


@pytest.mark.parametrize("at", KILLS)
def test_nothing_is_lost_doubled_or_stuck_after_kills(at: str, tmp_path: Path) -> None:
    finding = trials.killed(1, KILLS[at], tmp_path)
    assert finding.deaths == len(KILLS[at])
    assert (finding.promised, finding.committed) == (6, 6)
    assert finding.wrong == ()


@pytest.mark.parametrize("strikes", STRIKES)
def test_nothing_is_lost_doubled_or_stuck_after_a_strike(strikes: str, tmp_path: Path) -> None:
    finding = trials.struck(2, STRIKES[strikes], tmp_path)
    assert finding.deaths == sum(one.what is Break.NODE for one in STRIKES[strikes])
    assert (finding.promised, finding.committed) == (6, 6)
    assert finding.wrong == ()


@pytest.mark.parametrize("fault", [name for name in trials.FAULTS if name != trials.DISK_IS_FULL])
def test_nothing_is_lost_doubled_or_stuck_after_a_fault(fault: str, tmp_path: Path) -> None:
    finding = trials.disturbed(1, fault, random.Random(1), tmp_path)  # noqa: S311
    assert (finding.promised, finding.committed) == (6, 6)
    assert finding.wrong == ()


def test_a_study_of_which_an_image_never_comes_is_rejected(tmp_path: Path) -> None:
    """And keeps what came."""
    finding = trials.abandoned(1, [Point("commit", 20, Moment.AFTER, busy=True)], tmp_path)
    assert (finding.promised, finding.committed) == (5, 5)
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
    monkeypatch.setattr("tests.faults.world.PATIENCE_LOOKS", 60)
    finding = trials.killed(1, [Point("stage", 1)], tmp_path)
    assert [line for line in finding.wrong if line.endswith("acknowledged, no file")]


def test_a_report_counts_what_went_wrong() -> None:
    findings = [
        Finding(1, "SIGKILL, sync", "half sync 3", 1, 6, 6),
        Finding(2, "SIGKILL, sync, and at the next start", "after sync 9, then before commit 2", 2, 6, 5, 1,
                ("image 1: acknowledged, no file", "the audit log's chain is broken")),
        Finding(3, "SIGKILL, commit", "before commit 2", 0, 6, 6, 0,
                ("study 2: stuck, delivering: pacs: 3 of 3 acknowledged",)),
    ]  # fmt: skip
    rows = [line.split(" | ") for line in long_run.table(findings)[2:]]
    assert [row[0] for row in rows] == [
        "| SIGKILL, commit", "| SIGKILL, sync", "| SIGKILL, sync, and at the next start", "| **all**",
    ]  # fmt: skip
    assert [int(cell.strip(" |")) for cell in rows[-1][1:]] == [3, 3, 18, 17, 1, 1, 0, 1]
