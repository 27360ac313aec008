"""Shadow models in the node: after the results are on their way, kept in rows, never in the way."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.domain.decision import ModelRole, ModelUsed
from app.domain.outcome import MaskSummary, ShadowComparison
from app.domain.study import StudyKind
from app.node import queue
from app.node.policy import NodePolicy
from app.node.process.shadows import MOST_WAITING, WaitingShadows
from app.node.process.work import AttemptKind, AttemptResult
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from tests.node.workflow.test_revisions import STUDY, give, result

SERVING = ModelUsed("m2", ModelRole.M2, "1", "a" * 64, demonstration_only=True)
SHADOW = ModelUsed("new-m2", ModelRole.M2, "2", "b" * 64, demonstration_only=False)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path))
    yield opened
    opened.close()


def comparison(dice: float | None = 0.75, problem: str = "") -> ShadowComparison:
    found = None if problem else MaskSummary(4, 30.0)
    served = MaskSummary(3, 20.0)
    return ShadowComparison(
        "1.2.3.2", StudyKind.SPECT_CT, SERVING, served, "new-m2", SHADOW, False, found, dice, 1.5, problem
    )


def compare(stores: NodeStores, *comparisons: ShadowComparison) -> None:
    waiting = WaitingShadows(stores)
    waiting.put(STUDY, 1, lambda: comparisons)
    waiting.compare(RunKey(STUDY, 1))


def events(stores: NodeStores, tmp_path: Path) -> str:
    path = tmp_path / "audit" / "audit.jsonl"
    return path.read_text() if path.is_file() else ""


def test_a_comparison_becomes_a_row_and_an_audit_entry(stores: NodeStores, tmp_path: Path) -> None:
    give(stores, 1, result(1), StudyState.DELIVERING)
    compare(stores, comparison())
    [row] = stores.shadows.all()
    assert (row.study_instance_uid, row.revision, row.kind) == (STUDY, 1, "SPECT/CT")
    assert (row.serving_id, row.serving_lesions, row.serving_ml) == ("m2", 3, 20.0)
    assert (row.shadow_id, row.shadow_version, row.shadow_weights_sha256) == ("new-m2", "2", "b" * 64)
    assert (row.shadow_lesions, row.shadow_ml, row.dice, row.problem) == (4, 30.0, 0.75, "")
    assert "shadow models compared" in events(stores, tmp_path)


def test_rows_are_only_ever_added(stores: NodeStores) -> None:
    give(stores, 1, result(1), StudyState.DONE)
    compare(stores, comparison(0.5))
    compare(stores, comparison(None, "out of memory"))
    assert [(row.dice, row.problem) for row in stores.shadows.all()] == [(0.5, ""), (None, "out of memory")]


def test_a_shadow_leaves_the_run_and_its_deliveries_as_they_are(stores: NodeStores) -> None:
    key = give(stores, 1, result(1), StudyState.DELIVERING)
    stores.deliveries.plan(key, result(1).files, ["pacs"])
    before = stores.runs.get(key), stores.deliveries.of_run(key)
    compare(stores, comparison())
    assert (stores.runs.get(key), stores.deliveries.of_run(key)) == before


def test_a_fault_of_the_shadow_work_ends_there(stores: NodeStores) -> None:
    def fail() -> tuple[ShadowComparison, ...]:
        raise RuntimeError("out of memory")

    give(stores, 1, result(1), StudyState.DELIVERING)
    waiting = WaitingShadows(stores)
    waiting.put(STUDY, 1, fail)
    waiting.compare(RunKey(STUDY, 1))
    assert stores.runs.get(RunKey(STUDY, 1)).state is StudyState.DELIVERING
    assert stores.shadows.all() == ()


def test_work_of_a_study_that_was_not_served_is_dropped(stores: NodeStores) -> None:
    give(stores, 1, None, StudyState.FAILED)
    compare(stores, comparison())
    assert stores.shadows.all() == ()


def test_after_a_restart_the_log_says_that_shadows_did_not_run(
    stores: NodeStores, caplog: pytest.LogCaptureFixture
) -> None:
    give(stores, 1, result(1), StudyState.DONE)
    WaitingShadows(stores).compare(RunKey(STUDY, 1))
    assert "shadow models not run" in caplog.text


def test_work_that_waits_does_not_fill_the_memory(stores: NodeStores) -> None:
    waiting = WaitingShadows(stores)
    for revision in range(1, MOST_WAITING + 3):
        waiting.put(STUDY, revision, tuple)
    assert waiting.take(RunKey(STUDY, 1)) is None
    assert waiting.take(RunKey(STUDY, MOST_WAITING + 2)) is not None
    assert waiting.take(RunKey(STUDY, MOST_WAITING + 2)) is None


def test_shadows_run_after_the_delivery_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Work:
        def run_chain(self, *_: object) -> AttemptResult:
            order.append("chain")
            return AttemptResult(AttemptKind.DONE)

        def record(self, *_: object) -> str:
            order.append("record")
            return ""

    class Shadows:
        def compare(self, *_: object) -> None:
            order.append("shadows")

    monkeypatch.setattr(queue, "step", lambda name, function, *arguments: function(*arguments))
    process = queue.process_workflow(Work(), lambda: order.append("planner woken"), Shadows())  # type: ignore[arg-type]
    process(STUDY, 1, 1)
    assert order == ["chain", "record", "planner woken", "shadows"]


def test_the_listing_sums_up_each_pair_of_models(stores: NodeStores, tmp_path: Path) -> None:
    give(stores, 1, result(1), StudyState.DONE)
    compare(stores, comparison(0.5), comparison(0.75), comparison(None, "no prior"))
    options = ["models", "shadow", "--set", f"node.data_dir={tmp_path}"]
    listing = CliRunner().invoke(app, options)
    assert listing.exit_code == 0, listing.output
    assert "new-m2 next to m2: 2 compared, 1 without result; DSC median 0.625, lowest 0.500" in listing.output
    assert "+10.0 ml" in listing.output
    written = tmp_path / "shadows.csv"
    assert CliRunner().invoke(app, [*options, "--csv", str(written)]).exit_code == 0
    with written.open() as stream:
        assert [row["dice"] for row in csv.DictReader(stream)] == ["0.5", "0.75", ""]
