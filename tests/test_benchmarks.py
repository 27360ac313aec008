"""Ratios of benchmarks are computed as their table says, and the page shows what is kept."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import segmentation
from benchmarks.comparison import BEFORE, ROOT, Measure, Result, Row, Table, interleaved, keep, timed
from benchmarks.report import INTRODUCTION, PAGE, benchmarks, beside, kept, page
from benchmarks.whole_study import StageProfiles, profile, rows

FASTER = Row("segment", "the peer", Measure.SPEED, (2.0, 1.0, 4.0), (8.0, 5.0, 8.0), target=3.0)
SMALLER = Row(
    "memory", "the peer", Measure.SHARE, (3.0,) * 5, (4.0, 4.0, 4.0, 6.0, 6.0), target=0.5, note="MB"
)
ALONE = Row("start", "–", Measure.SECONDS, (1.5, 1.75, 2.5), target=2.0)


def test_a_speed_is_the_peers_seconds_by_ours_and_a_share_ours_by_the_peers() -> None:
    assert FASTER.ratios == (4.0, 5.0, 2.0)
    assert SMALLER.ratios == (0.75, 0.75, 0.75, 0.5, 0.5)
    assert ALONE.ratios == (1.5, 1.75, 2.5)


def test_the_median_meets_a_target_or_does_not() -> None:
    assert (FASTER.met, SMALLER.met, ALONE.met) == (True, False, True)
    assert Row("free", "the peer", Measure.SPEED, (1.0,), (1.0,)).met is None


@pytest.mark.parametrize(
    ("ours", "theirs"), [((1.0,), (1.0, 2.0)), ((), ()), ((0.0,), (1.0,)), ((1.0,), (0.0,))]
)
def test_runs_that_cannot_be_compared_are_no_row(ours: tuple[float, ...], theirs: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="segment"):
        Row("segment", "the peer", Measure.SPEED, ours, theirs)


def test_runs_take_turns_and_the_first_changes() -> None:
    order: list[str] = []

    def run(name: str, figure: float) -> float:
        order.append(name)
        return figure

    found = interleaved(lambda: run("ours", 1.0), lambda: run("peer", 2.0), runs=3)
    assert found == ((1.0,) * 3, (2.0,) * 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert timed(lambda: None)() > 0


def test_a_kept_result_comes_back_and_the_page_hides_no_missed_target(tmp_path: Path) -> None:
    result = Result.of("example", [FASTER, SMALLER, ALONE], packages=("numpy",), folder=tmp_path)
    keep(result, tmp_path)
    assert kept(tmp_path) == [result]
    text = page(kept(tmp_path))
    assert "| segment | the peer | speed | ≥ 3 × | 2 × | 4 × | 5 × | 3 (fewer than 5) | met |" in text
    assert "| memory | the peer | share | ≤ 0.5 × | 0.5 × | 0.75 × | 0.75 × | 5 | **not met** |" in text
    assert "| start | – | seconds | ≤ 2 s | 1.5 s | 1.75 s | 2.5 s | 3 (fewer than 5) | met |" in text
    assert result.commit in text
    assert result.machine["processor"] in text


def test_a_result_is_kept_for_each_choice_of_what_is_measured(tmp_path: Path) -> None:
    small = Result.of("segmentation", [FASTER])
    large = replace(small, arguments="--networks standard,resencl")
    assert keep(large, tmp_path).name == "segmentation-networks-standard-resencl.json"
    keep(small, tmp_path)
    assert kept(tmp_path) == [small, large]
    assert "`python -m benchmarks.segmentation --networks standard,resencl`, " in page(kept(tmp_path))
    assert {result.name for result in kept(tmp_path)} <= set(benchmarks())


def a_call(seconds: float, numbers: str) -> dict[str, Any]:
    return {"s": seconds, "mb": 100 * seconds, "before_mb": 50.0, "numbers": numbers}


def test_the_rows_of_a_segmentation_say_which_numbers_were_used() -> None:
    ours = [a_call(1.0, "bfloat16"), a_call(2.0, "bfloat16")]
    peer = [a_call(5.0, "float32"), a_call(6.0, "float32")]
    speed, whole, added = segmentation.rows_of("M1", ours, peer, 0.9995)
    assert speed.note == "ours in bfloat16, the peer in float32; Dice of the masks 0.99950"
    assert (speed.ratios, whole.ratios) == ((5.0, 3.0), (0.2, 1 / 3))
    assert added.ratios == (50 / 450, 150 / 550)


def test_the_masks_are_compared_on_patients_that_no_shipped_model_was_trained_on() -> None:
    trained = max(
        int(patients)
        for card in (ROOT / "models").glob("*/model.yaml")
        for patients in re.findall(r"^training_data: (\d+) simulated patients", card.read_text(), re.M)
    )
    assert 0 < trained <= min(number for _, number in segmentation.COHORT)


def test_the_page_is_made_of_what_is_kept() -> None:
    """If this fails: python -m benchmarks.report --kept"""
    assert PAGE.read_text(encoding="utf-8") == page(kept(), kept(BEFORE))


def test_each_kept_result_has_its_benchmark() -> None:
    assert {result.name for result in kept()} <= set(benchmarks())


def a_run(factor: float) -> dict[str, Any]:
    """Of the whole command: one second for each stage but segment, which takes four, and one at the end."""
    stages = dict.fromkeys(("select", "load", "align", "quantify", "write"), factor) | {"segment": 4 * factor}
    return {
        "start": 2.0,
        "read": 3 * factor,
        "files": [20, 10],
        "studies": [stages, stages],
        "total": 2.0 + 3 * factor + 18 * factor + 1.0,
        "peak_mb": 500.0,
    }


PEER = {"studies": [{"s": 4.0, "peak_mb": 900.0}, {"s": 2.0, "peak_mb": 1000.0}]}


def test_the_rows_of_a_whole_study_add_its_stages() -> None:
    ours, peer = [a_run(1.0), a_run(2.0)], [PEER, PEER]
    whole, share, seconds, spect, *_, memory = rows(ours, peer)
    assert whole.ours == (2.0 + 2.0 + 9.0 + 1.0, 2.0 + 4.0 + 18.0 + 1.0)
    assert whole.theirs == (4.0, 4.0)
    assert share.ours == seconds.ours == (7.0, 14.0)
    assert spect.ours == (10.0, 20.0)
    assert memory.ratios == (0.5, 0.5)


def test_the_profile_stands_beside_that_of_an_earlier_commit() -> None:
    now, then = (
        Result.of("whole_study", rows([a_run(factor)], [PEER]), [profile([a_run(factor)], [PEER])])
        for factor in (1.0, 3.0)
    )
    (table,) = beside(now, then)
    assert table.title.endswith(f", load {then.machine.pop('load at the end')}")
    assert beside(now, then)[0].title.endswith(then.machine["processor"]), "kept by an earlier version"
    assert dict(zip(table.columns, table.lines[-2], strict=True)) == {
        "stage (median, s)": "write",
        "PET/CT, before": "3.00",
        "PET/CT, after": "1.00",
        "SPECT/CT with prior, before": "3.00",
        "SPECT/CT with prior, after": "1.00",
    }
    assert "| write | 3.00 | 1.00 | 3.00 | 1.00 |" in page([now], [then])


def nap() -> None:
    time.sleep(0.25)


def test_each_stage_has_its_largest_functions_those_of_its_threads_too() -> None:
    stages = StageProfiles()
    stages.begin("load")
    with ThreadPoolExecutor(1) as beside:
        beside.submit(nap)
    stages.begin("align")
    sum(range(10))
    (table,) = stages.tables()
    assert table.title == "both, load: the largest functions", "a stage of no time is left out"
    (calls,) = [calls for name, calls, *_ in table.lines if name.endswith("test_benchmarks.py: nap`")]
    assert calls == "1"


def test_tables_of_other_lines_stand_one_after_another() -> None:
    old, new = (Table("largest", ("function", "s"), ((name, "1"),)) for name in "ab")
    other = Table("gone", ("function", "s"), ())
    now, then = Result.of("one", [], [new]), Result.of("one", [], [old, other])
    before, after, last = beside(now, then)
    assert (before.lines, after, last.lines) == (old.lines, new, ())
    assert before.title.startswith("largest, before (commit ")
    assert last.title.startswith("gone, before (commit ")


def test_the_page_says_of_every_module_what_it_measures() -> None:
    own = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    parts = {"__init__", "comparison", "report", "full_study"}
    others = own - parts - set(benchmarks())
    assert sorted(name for name in others if f"`{name}`" not in INTRODUCTION) == []
