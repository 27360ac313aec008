"""A step that runs twice changes nothing the second time; what is planned is stored once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.domain.outcome import ResultFile
from app.node.policy import NodePolicy
from app.node.records.database import open_database, utc_now
from app.node.records.deliveries import DeliveryLedger, DeliveryTransition
from app.node.records.outbox import Outbox
from app.node.records.runs import RunLedger, RunTransition
from app.node.records.states import DeliveryKey, DeliveryState, RunKey, StudyState
from app.node.records.stores import Heartbeats

STUDY = "1.2.3"
RUN = RunKey(STUDY, 1)
FILES = [ResultFile(kind, f"{kind}.dcm", "1.2", f"1.2.{kind}", "1.3") for kind in ("SEG", "SR")]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    database = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield database
    database.dispose()


def test_same_content_is_one_revision_and_new_content_the_next(engine: Engine) -> None:
    ledger = RunLedger(engine)
    first, created = ledger.open(STUDY, "a")
    again, created_again = ledger.open(STUDY, "a")
    second, _ = ledger.open(STUDY, "b")
    assert (created, created_again) == (True, False)
    assert first == again
    assert (first.key.revision, second.key.revision) == (1, 2)
    assert [run.key.revision for run in ledger.latest()] == [2]


def test_given_up_are_last_revisions_that_failed_and_have_no_next_try(engine: Engine) -> None:
    ledger = RunLedger(engine)
    for study in ("1.3", "1.1", "1.2", "1.4"):
        run, _ = ledger.open(study, "a")
        ledger.claim(run.key, 1, "x")
        next_try_at = utc_now() if study == "1.2" else None
        ledger.end(run.key, 1, RunTransition(StudyState.FAILED, "why", next_try_at, at_fault=True))
    ledger.open("1.4", "b")
    assert [run.study_instance_uid for run in ledger.given_up()] == ["1.3", "1.1"], "the first is the first"
    found = {(run.study_instance_uid, run.revision) for run in ledger.latest()}
    assert found == {("1.3", 1), ("1.1", 1), ("1.2", 1), ("1.4", 2)}


def test_ending_written_twice_counts_once(engine: Engine) -> None:
    ledger = RunLedger(engine)
    ledger.open(STUDY, "a")
    ledger.claim(RUN, 1, "x")
    failed = RunTransition(StudyState.FAILED, "why", utc_now(), at_fault=True)
    assert ledger.end(RUN, 1, failed)
    assert not ledger.end(RUN, 1, failed)
    run = ledger.get(RUN)
    assert (run.attempt, run.faults) == (2, 1)


def test_try_that_is_out_of_date_can_not_start(engine: Engine) -> None:
    ledger = RunLedger(engine)
    run, _ = ledger.open(STUDY, "a")
    ledger.requeue(run)
    assert ledger.claim(RUN, 1, "x") is None
    assert ledger.claim(RUN, 2, "x") is not None


def test_a_try_that_was_cut_off_is_no_fault_and_is_counted_by_itself(engine: Engine) -> None:
    ledger = RunLedger(engine)
    ledger.open(STUDY, "a")
    ledger.claim(RUN, 1, "x")
    for interruptions in (1, 2):
        crashed = ledger.claim(RUN, 1, "x")
        assert crashed is not None
        assert (crashed.faults, crashed.interruptions) == (0, interruptions)
    ledger.end(RUN, 1, RunTransition(StudyState.QUEUED, "disk full", utc_now()))
    assert (ledger.get(RUN).faults, ledger.get(RUN).interruptions) == (0, 0)


def test_a_try_that_was_stopped_on_purpose_is_no_interruption(engine: Engine) -> None:
    ledger = RunLedger(engine)
    ledger.open(STUDY, "a")
    ledger.claim(RUN, 1, "x")
    ledger.note_stopped("another")
    assert ledger.get(RUN).stage == "starting"
    ledger.note_stopped("x")
    again = ledger.claim(RUN, 1, "x")
    assert again is not None
    assert (again.stage, again.interruptions) == ("starting", 0)


def test_planned_deliveries_stay_as_they_are_when_planned_again(engine: Engine) -> None:
    ledger = DeliveryLedger(engine)
    key = DeliveryKey(RUN, "pacs")
    ledger.plan(RUN, FILES, ["pacs", "archive"])
    ledger.acknowledge(key, "1.2.SEG", 0)
    ledger.end(key, 1, DeliveryTransition(DeliveryState.PENDING, "down", utc_now()))
    ledger.plan(RUN, FILES, ["pacs", "archive"])
    assert [item.acknowledged_at is None for item in ledger.instances(key)] == [False, True]
    assert ledger.get(key).attempt == 2
    assert len(ledger.pending()) == 2


def test_silent_executor_is_claimed_by_one_reaper_only(engine: Engine) -> None:
    Heartbeats(engine, "dead", 10).stop()
    Heartbeats(engine, "alive", 10).beat()
    assert Heartbeats(engine, "b", 10).claim_dead() == ("dead",)
    assert Heartbeats(engine, "c", 10).claim_dead() == ()


def test_results_that_were_not_finished_are_never_seen(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "x")
    with pytest.raises(OSError, match="full"), outbox.fill(RUN) as folder:
        (folder / "seg.dcm").write_bytes(b"half")
        raise OSError("disk full")
    assert not outbox.folder_of(RUN).exists()
    with outbox.fill(RUN) as folder:
        (folder / "seg.dcm").write_bytes(b"first")
        (folder / "gone.dcm").write_bytes(b"first")
    with outbox.fill(RUN) as folder:
        (folder / "seg.dcm").write_bytes(b"second")
    found = {path.name: path.read_bytes() for path in outbox.folder_of(RUN).iterdir()}
    assert found == {"seg.dcm": b"second"}
    assert outbox.recover() == 0


def test_waits_double_up_to_their_limit() -> None:
    policy = NodePolicy(first_retry_s=10, max_retry_s=60)
    assert [policy.retry_after_s(tries) for tries in (1, 2, 3, 4, 99)] == [10, 20, 40, 60, 60]


def test_heartbeat_limits_that_would_kill_a_slow_node_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        NodePolicy(heartbeat_s=10, dead_after_s=15)
    assert NodePolicy(heartbeat_s=10, dead_after_s=21).dead_after_s == 21
