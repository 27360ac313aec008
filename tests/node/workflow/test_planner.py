"""What the ledgers hold unfinished is started when there is room, in turn, and a lost try is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, update

from app.domain.outcome import ResultFile
from app.domain.study import Patient
from app.node import queue
from app.node.planner import Planner
from app.node.policy import NodePolicy
from app.node.process.priors import PriorWait
from app.node.queue import JUDGING, PROCESSING, DurableEngine, delivery_line, run_workflow_id
from app.node.records.database import open_database, utc_now
from app.node.records.deliveries import Delivery, DeliveryLedger
from app.node.records.runs import Run, RunLedger, RunTransition
from app.node.records.states import Arrival, Rank, RunKey, StudyState
from app.node.records.stores import Heartbeats
from app.node.records.studies import StudyLedger, StudySubject


class FakeEngine:
    """Remembers what was started, which goes on until taken from ``lines``; ``ended`` has ended in it."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.lines: dict[str, str] = {}
        self.ended: set[str] = set()
        self.taken_over: list[str] = []

    def start_run(self, run: Run, line: str) -> bool:
        return self._start(run_workflow_id(run), line)

    def start_delivery(self, delivery: Delivery) -> bool:
        destination = delivery.key.destination
        return self._start(f"{destination}-{delivery.attempt}", delivery_line(destination))

    def _start(self, name: str, line: str) -> bool:
        self.started.append(name)
        self.lines[name] = line
        return True

    def under_way(self, line: str) -> int:
        return list(self.lines.values()).count(line)

    def ended_among(self, workflow_ids: Iterable[str]) -> frozenset[str]:
        return frozenset(self.ended & set(workflow_ids))

    def take_over(self, executor_id: str) -> int:
        self.taken_over.append(executor_id)
        return 1


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    database = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield database
    database.dispose()


def made(engine: Engine) -> tuple[Planner, FakeEngine, RunLedger]:
    """A planner with its parts, and one worker."""
    fake = FakeEngine()
    runs = RunLedger(engine)
    wait = PriorWait(StudyLedger(engine), runs, limit_s=60)
    planner = Planner(runs, DeliveryLedger(engine), fake, Heartbeats(engine, "me", 10), wait, 1, NodePolicy())  # type: ignore[arg-type]
    return planner, fake, runs


def worked(planner: Planner, fake: FakeEngine, runs: RunLedger) -> list[str]:
    """Let each study that goes to the worker end at once; their UIDs, in that order."""
    order = []
    while True:
        planner.plan()
        running = [name for name, line in fake.lines.items() if line == PROCESSING]
        if not running:
            return order
        run = next(run for run in runs.for_workers() if run_workflow_id(run) == running[0])
        runs.claim(run.key, run.attempt, "me")
        runs.end(run.key, run.attempt, RunTransition(StudyState.DONE))
        del fake.lines[running[0]]
        order.append(run.study_instance_uid)


def test_each_try_is_started_once(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    run, _ = runs.open("1.2", "a" * 64)
    planner.plan()
    planner.plan()
    assert fake.started == [run_workflow_id(run)]
    runs.claim(run.key, 1, "me")
    runs.end(run.key, 1, RunTransition(StudyState.FAILED, "why", utc_now(), at_fault=True))
    fake.lines.clear()
    planner.plan()
    assert len(fake.started) == 2
    assert fake.started[1].endswith("-2")


def test_a_try_of_later_is_not_started_and_its_time_is_known(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    run, _ = runs.open("1.2", "a" * 64)
    runs.claim(run.key, 1, "me")
    later = utc_now() + timedelta(seconds=100)
    runs.end(run.key, 1, RunTransition(StudyState.FAILED, "why", later, at_fault=True))
    due_in_s = planner.plan()
    assert fake.started == []
    assert due_in_s is not None
    assert 90 < due_in_s <= 100


def test_finished_study_is_not_started(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    run, _ = runs.open("1.2", "a" * 64)
    runs.claim(run.key, 1, "me")
    runs.end(run.key, 1, RunTransition(StudyState.DONE))
    assert planner.plan() is None
    assert fake.started == []


def test_what_headers_refuse_waits_for_no_worker_and_takes_none(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    runs.open("1.1", "a" * 64)
    planner.plan()
    for number in range(300):
        runs.open(f"1.2.{number}", "b" * 64, Arrival("ROUTER", by_headers=True))
    good, _ = runs.open("1.3", "c" * 64)
    planner.plan()
    assert sorted(fake.lines.values()) == [JUDGING, PROCESSING]
    assert fake.lines.pop(fake.started[0]) == PROCESSING  # the study under way ends
    planner.plan()
    assert fake.started[-1] == run_workflow_id(good)


def test_the_worker_takes_what_is_urgent_then_therapy_then_routine_then_what_is_sent_again(
    engine: Engine,
) -> None:
    planner, fake, runs = made(engine)
    for rank in (Rank.REPLAY, Rank.ROUTINE, Rank.THERAPY, Rank.URGENT):
        runs.open(rank.name, "a" * 64, Arrival("A", rank))
    assert worked(planner, fake, runs) == ["URGENT", "THERAPY", "ROUTINE", "REPLAY"]


def test_the_senders_take_turns(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    for number in range(4):
        runs.open(f"a{number}", "a" * 64, Arrival("A"))
    runs.open("b0", "a" * 64, Arrival("B"))
    runs.open("b1", "a" * 64, Arrival("B"))
    assert worked(planner, fake, runs) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_the_pet_goes_in_the_place_of_the_spect_that_waits_for_it(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    studies, patient = StudyLedger(engine), Patient("P-1")
    studies.identify(StudySubject("pet", patient, datetime(2026, 3, 1)))
    studies.identify(StudySubject("spect", patient, spect_acquired_at=datetime(2026, 3, 2)))
    for study, rank in (("other", Rank.ROUTINE), ("pet", Rank.ROUTINE), ("spect", Rank.URGENT)):
        studies.observe(study, StudyState.QUEUED)
        runs.open(study, "a" * 64, Arrival("A", rank))
    assert worked(planner, fake, runs) == ["pet", "spect", "other"]


def test_one_delivery_at_a_time_to_each_destination(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    deliveries = DeliveryLedger(engine)
    files = [ResultFile("SEG", "seg.dcm", "1.2", "1.2.3", "1.3")]
    for study in ("1.1", "1.2"):
        run, _ = runs.open(study, "a" * 64)
        runs.claim(run.key, 1, "me")
        runs.end(run.key, 1, RunTransition(StudyState.DELIVERING))
        deliveries.plan(run.key, files, ["pacs", "archive"])
    planner.plan()
    planner.plan()
    assert sorted(fake.lines.values()) == ["to archive", "to pacs"]
    fake.lines.clear()
    planner.plan()
    assert len(fake.started) == 4


def test_try_that_the_engine_lost_is_planned_again(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    runs.open("1.2", "a" * 64)
    planner.plan()
    fake.ended = set(fake.started)
    fake.lines.clear()
    planner.replace_lost()
    planner.replace_lost()
    planner.plan()
    assert fake.started[1].endswith("-2")
    assert runs.get(RunKey("1.2", 1)).attempt == 2


def test_a_try_whose_ending_can_not_be_written_counts_as_cut_off_and_waits(engine: Engine) -> None:
    """Each computes everything again: uncounted it would go on for ever."""
    planner, fake, runs = made(engine)
    run, _ = runs.open("1.2", "a" * 64)
    for number in range(1, 4):
        with engine.begin() as connection:
            connection.execute(update(Run).values(next_try_at=utc_now()))  # the wait is over
        planner.plan()
        assert len(fake.started) == number
        assert runs.claim(run.key, number, "me") is not None
        fake.ended = set(fake.started)
        fake.lines.clear()
        planner.replace_lost()
        planner.replace_lost()
        again = runs.get(run.key)
        assert (again.state, again.interruptions, again.faults) == (StudyState.QUEUED, number, 0)
        assert again.next_try_at is not None
        waits_s = (again.next_try_at - utc_now()).total_seconds()
        assert 0 < NodePolicy().retry_after_s(number) - waits_s < 20
        planner.plan()
        assert len(fake.started) == number, "it waits"


def test_dead_executor_is_taken_over_once(engine: Engine) -> None:
    planner, fake, _ = made(engine)
    Heartbeats(engine, "dead", 10).stop()
    planner.take_over_dead()
    planner.take_over_dead()
    assert fake.taken_over == ["dead"]


def test_what_ends_without_a_word_in_the_engine_has_ended_once_it_was_idle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The engine's database took no write when it ended: there it is pending for ever."""
    engine = DurableEngine(NodePolicy(data_dir=tmp_path, executor_id="mine"), lambda: None)
    kept = {
        "idle": SimpleNamespace(workflow_id="idle", status="PENDING", executor_id="mine"),
        "under way": SimpleNamespace(workflow_id="under way", status="PENDING", executor_id="mine"),
        "elsewhere": SimpleNamespace(workflow_id="elsewhere", status="PENDING", executor_id="other"),
        "over": SimpleNamespace(workflow_id="over", status="SUCCESS", executor_id="mine"),
    }
    cancelled: list[str] = []
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(
        queue.DBOS, "list_workflows", lambda workflow_ids, **_: [kept[name] for name in workflow_ids]
    )
    monkeypatch.setattr(queue.DBOS, "cancel_workflow", cancelled.append)
    engine._under_way["under way"] = PROCESSING
    assert engine.ended_among(kept) == {"over"}
    clock.now_s += queue.IDLE_S - 1
    assert engine.ended_among(kept) == {"over"}
    clock.now_s += 2
    assert engine.ended_among(kept) == {"over", "idle"}
    assert cancelled == ["idle"]
