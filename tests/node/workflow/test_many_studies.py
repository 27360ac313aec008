"""What a clinic routes here by the thousand costs the same, however much of it there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, delete, event, insert, update

from app.node.peers import DeliverPolicy, ReceivePolicy, TlsPolicy
from app.node.policy import NodePolicy
from app.node.receive.watcher import Watcher
from app.node.records import pending
from app.node.records.database import utc_now
from app.node.records.inbox_index import InstanceRow
from app.node.records.runs import Run
from app.node.records.settlement import settle_left
from app.node.records.states import Arrival, StudyState
from app.node.records.stores import Heartbeats, NodeStores, open_stores
from app.node.records.studies import StudyRow
from app.node.watch import metrics as measuring
from app.node.watch.metrics import Measured, NodeMetrics
from tests.node.receive.images import ct_slice, received
from tests.node.workflow.fake_node import examine
from tests.node.workflow.test_planner import made

REFUSED = 2000


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


def routed(stores: NodeStores, count: int, state: StudyState) -> None:
    """Studies that headers refuse, in a state; each has an image, whose file nobody reads."""
    now = utc_now() - timedelta(hours=1)
    runs, studies, images = [], [], []
    for number in range(count):
        uid = f"1.2.{number}"
        at = now + timedelta(milliseconds=number)
        runs.append(
            {"study_instance_uid": uid, "revision": 1, "content_digest": "d" * 64, "state": state}
            | {"created_at": at, "queued_at": at, "changed_at": at, "started_at": at, "by_headers": True}
            | {"reason": "", "attempt": 1, "faults": 0, "postponements": 0, "executor_id": "", "sender": "X"}
            | {"interruptions": 0, "rank": 2, "stage": ""}
        )
        studies.append({"study_instance_uid": uid, "state": StudyState.QUEUED, "reason": ""})
        images.append(
            {"sop_instance_uid": f"{uid}.1", "sha256": "0" * 64, "study_instance_uid": uid, "path": uid}
            | {"series_instance_uid": "1", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2", "bytes": 1}
            | {"received_at": at, "calling_ae": "X", "conflict": False}
        )
    with stores.engine.begin() as connection:
        for row, values in ((Run, runs), (StudyRow, studies), (InstanceRow, images)):
            connection.execute(insert(row), values)


@contextmanager
def plans(engine: Engine) -> Iterator[list[str]]:
    """How SQLite carries out each query and change that is made meanwhile, a line a step."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE")):
            asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    found: list[str] = []
    yield found
    event.remove(engine, "before_cursor_execute", note)
    with engine.connect() as connection:
        for statement, parameters in asked:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found += [f"{row[3]} of {statement}" for row in rows]


def test_no_look_reads_a_table_from_end_to_end(stores: NodeStores) -> None:
    routed(stores, 50, StudyState.QUEUED)
    planner, _, runs = made(stores.engine)
    runs.open("1.3", "d" * 64)
    watcher = Watcher(stores, ReceivePolicy(), examine, calm_s=0)
    watcher.look()  # the first reads everything once
    heartbeats = Heartbeats(stores.engine, "me", 60)
    with plans(stores.engine) as steps:
        planner.plan()
        watcher.look()
        heartbeats.beat()
        heartbeats.claim_dead()
        settle_left(stores)
        assert stores.runs.given_up() == ()
    # the others: of the studies that are held back, which are none
    small = ("SCAN executors", "SCAN CONSTANT ROW", "SCAN (subquery")
    scans = [step for step in steps if step.startswith("SCAN") and not step.startswith(small)]
    assert scans == []
    judged = [step for step in steps if "by_headers = 1" in step]
    assert judged != []
    assert [step for step in judged if "TEMP B-TREE" in step] == [], "the first are found without the others"
    started = [step for step in steps if "ORDER BY runs.started_at" in step]
    assert [step.partition(" of ")[0] for step in started] == [
        "SEARCH runs USING INDEX runs_by_start (by_headers=? AND started_at>?)"
    ]


def read_rows(engine: Engine, work: Callable[[], object]) -> int:
    """How many rows of the ledgers are read by SQLAlchemy meanwhile."""
    read: list[Run] = []

    def note(row: Run, *_: Any) -> None:
        read.append(row)

    event.listen(Run, "load", note)
    work()
    event.remove(Run, "load", note)
    return len(read)


def test_a_round_of_the_planner_reads_few_of_thousands_and_none_while_there_is_no_room(
    stores: NodeStores,
) -> None:
    routed(stores, REFUSED, StudyState.QUEUED)
    planner, fake, runs = made(stores.engine)
    assert read_rows(stores.engine, planner.plan) <= 20
    for number in range(30):
        runs.open(f"1.3.{number}", "d" * 64, Arrival("SCANNER"))
    planner.plan()
    assert len(fake.lines) == 2
    assert read_rows(stores.engine, planner.plan) == 0
    assert read_rows(stores.engine, planner.replace_lost) == 0


def test_tries_that_were_begun_stay_known_while_there_is_no_room(stores: NodeStores) -> None:
    planner, fake, runs = made(stores.engine)
    run, _ = runs.open("1.3", "d" * 64)
    planner.plan()
    planner.plan()
    fake.ended = set(fake.started)
    planner.replace_lost()
    assert runs.get(run.key).attempt == 2


def with_their_revisions(stores: NodeStores) -> None:
    """Each study's revision is that of what is in the inbox."""
    with stores.engine.begin() as connection:
        for uid, digest in stores.inbox.content_digests().items():
            assert digest == stores.inbox.content_digest(uid)
            of_study = Run.study_instance_uid == uid
            connection.execute(update(Run).where(of_study).values(content_digest=digest))


def test_the_watcher_keeps_nothing_of_what_is_done_with(stores: NodeStores) -> None:
    routed(stores, 100, StudyState.REJECTED)
    with_their_revisions(stores)
    watcher = Watcher(stores, ReceivePolicy(), examine, calm_s=0)
    assert watcher.look() is None
    watcher.look()
    kept = [value for value in vars(watcher).values() if isinstance(value, dict)]
    assert [len(one) for one in kept] == [0] * len(kept)


def test_what_is_no_image_opens_a_study_that_was_settled_long_ago_no_more(stores: NodeStores) -> None:
    routed(stores, 1, StudyState.DONE)
    with_their_revisions(stores)
    looks: list[object] = []

    def count(paths: Any) -> Any:
        looks.append(paths)
        return examine(paths)

    watcher = Watcher(stores, ReceivePolicy(), count, calm_s=0)
    watcher.look()
    watcher.look()
    report = {"sop_instance_uid": "1.9", "sha256": "1" * 64, "study_instance_uid": "1.2.0", "path": "r"}
    report |= {"series_instance_uid": "2", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.33", "bytes": 1}
    report |= {"received_at": utc_now(), "calling_ae": "PACS", "conflict": False}
    with stores.engine.begin() as connection:
        connection.execute(insert(InstanceRow), [report])
    assert watcher.look() is None
    assert looks == []


def test_a_study_that_is_removed_while_it_waits_is_forgotten(stores: NodeStores) -> None:
    stores.inbox.store(received(ct_slice(1)))
    stores.inbox.settle()

    def unreadable(_paths: object) -> Any:
        raise ValueError("not yet")

    watcher = Watcher(stores, ReceivePolicy(settle_s=60), unreadable, calm_s=60)
    watcher.look()
    assert len(watcher._open) == 1
    with stores.engine.begin() as connection:
        connection.execute(delete(InstanceRow))
    watcher._calm_s = 0
    watcher.look()
    assert len(watcher._open) == 0


def test_the_inbox_remembers_a_bounded_number_of_studies(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "MAX_REMEMBERED", 2)
    for number in range(6):
        stores.inbox.store(received(ct_slice(1, study=f"1.2.{number}")))
        stores.inbox.settle()
    assert len(stores.inbox.studies()) == 6
    assert len(stores.inbox._pending._studies) <= 3
    assert len(stores.inbox._pending._durable_folders) <= 3


def test_figures_of_very_many_studies_are_looked_at_less_often(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now_s=100.0)

    def look(_self: object) -> None:
        clock.now_s += 2
        looks.append(clock.now_s)

    looks: list[float] = []
    monkeypatch.setattr(measuring, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(NodeMetrics, "_look_at_studies", look)
    policy = NodePolicy(data_dir=tmp_path / "data")
    figures = NodeMetrics(stores, Measured(policy, DeliverPolicy(), TlsPolicy()))
    for _ in range(220):
        figures.look()
        clock.now_s += 1
    assert len(looks) == 3
