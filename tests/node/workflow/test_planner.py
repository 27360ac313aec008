"""Whatever the ledgers hold unfinished has one try stored in the engine, and a lost one is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.node.process.priors import PriorWait
from app.node.queue import Planner, run_workflow_id
from app.node.records.database import open_database, utc_now
from app.node.records.deliveries import Delivery, DeliveryLedger
from app.node.records.runs import Run, RunLedger, RunTransition
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import Heartbeats
from app.node.records.studies import StudyLedger


class FakeEngine:
    """Remembers what was planned; ``ended`` says what has come to an end in it."""

    def __init__(self) -> None:
        self.planned: list[str] = []
        self.ended: set[str] = set()
        self.taken_over: list[str] = []

    def plan_run(self, run: Run) -> None:
        self.planned.append(run_workflow_id(run))

    def plan_delivery(self, delivery: Delivery) -> None:
        self.planned.append(f"{delivery.key.destination}-{delivery.attempt}")

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
    """A planner with its parts."""
    fake = FakeEngine()
    runs = RunLedger(engine)
    wait = PriorWait(StudyLedger(engine), runs, limit_s=60)
    planner = Planner(runs, DeliveryLedger(engine), fake, Heartbeats(engine, "me", 10), wait)  # type: ignore[arg-type]
    return planner, fake, runs


def test_each_try_is_planned_once(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    run, _ = runs.open("1.2", "a" * 64)
    planner.plan()
    planner.plan()
    assert fake.planned == [run_workflow_id(run)]
    runs.claim(run.key, 1, "me")
    runs.end(run.key, 1, RunTransition(StudyState.FAILED, "why", utc_now(), at_fault=True))
    planner.plan()
    assert len(fake.planned) == 2
    assert fake.planned[1].endswith("-2")


def test_finished_study_is_not_planned(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    run, _ = runs.open("1.2", "a" * 64)
    runs.claim(run.key, 1, "me")
    runs.end(run.key, 1, RunTransition(StudyState.DONE))
    planner.plan()
    assert fake.planned == []


def test_try_that_the_engine_lost_is_planned_again(engine: Engine) -> None:
    planner, fake, runs = made(engine)
    runs.open("1.2", "a" * 64)
    planner.plan()
    fake.ended = set(fake.planned)
    planner.replace_lost()
    planner.replace_lost()
    planner.plan()
    assert fake.planned[1].endswith("-2")
    assert runs.get(RunKey("1.2", 1)).attempt == 2


def test_dead_executor_is_taken_over_once(engine: Engine) -> None:
    planner, fake, _ = made(engine)
    Heartbeats(engine, "dead", 10).stop()
    planner.take_over_dead()
    planner.take_over_dead()
    assert fake.taken_over == ["dead"]
