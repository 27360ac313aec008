"""A wall clock that is set, or another host's: no study is taken for complete too soon, none is held up, and
no node that lives is taken for dead."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from sqlalchemy import update

from app.domain.study import StudyKind
from app.node.peers import DeliverPolicy, Destination, ReceivePolicy
from app.node.policy import NodePolicy
from app.node.receive import watcher as watching
from app.node.receive.watcher import Watcher
from app.node.records import clock
from app.node.records import stores as keeping
from app.node.records.clock import CLOCK, SharedClock, waits_until
from app.node.records.inbox_index import InstanceRow
from app.node.records.runs import Run
from app.node.records.states import Arrival, StudyState
from app.node.records.stores import Heartbeats, NodeStores, open_stores
from app.node.watch.status import study_statuses
from tests.node.receive.images import STUDY, ct_slice, received
from tests.node.workflow.fake_node import examine

SETTLE_S = 60.0
JUMPS = [timedelta(days=-1), timedelta(seconds=-90), timedelta(seconds=90), timedelta(days=1)]


class Clocks:
    """A wall clock that can be set, and the steady one beside it."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
        self.steady_s = 1000.0

    def pass_s(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.steady_s += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(watching, "utc_now", lambda: made.wall)
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: made.steady_s))
    return made


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


def arrive(stores: NodeStores, number: int, at: datetime) -> None:
    """An image, stamped by the wall clock."""
    image = ct_slice(number)
    image.StudyDescription, image.StudyDate = str(StudyKind.PET_CT), "20260301"
    stores.inbox.store(received(image))
    stores.inbox.settle()
    with stores.engine.begin() as connection:
        here = InstanceRow.sop_instance_uid == image.SOPInstanceUID
        connection.execute(update(InstanceRow).where(here).values(received_at=at))


def new_watcher(stores: NodeStores) -> Watcher:
    return Watcher(stores, ReceivePolicy(settle_s=SETTLE_S), examine, calm_s=2.0)


def states(stores: NodeStores) -> list[StudyState]:
    """Of every revision."""
    return [run.state for run in stores.runs.of_study(STUDY)]


@pytest.mark.parametrize("jump", JUMPS, ids=str)
@pytest.mark.parametrize("seen_before", [True, False])
def test_a_clock_that_is_set_between_an_image_and_the_look_changes_nothing(
    stores: NodeStores, clocks: Clocks, jump: timedelta, seen_before: bool
) -> None:
    watcher = new_watcher(stores)
    watcher.look()
    clocks.pass_s(1)
    arrive(stores, 1, clocks.wall)
    if seen_before:
        watcher.look()
    clocks.wall += jump
    clocks.pass_s(SETTLE_S - 2)
    watcher.look()
    assert states(stores) == []
    clocks.pass_s(SETTLE_S)
    watcher.look()
    assert states(stores) == [StudyState.QUEUED]


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_an_image_that_comes_after_the_clock_was_set_is_seen(
    stores: NodeStores, clocks: Clocks, jump: timedelta
) -> None:
    watcher = new_watcher(stores)
    watcher.look()
    clocks.wall += jump
    clocks.pass_s(1)
    arrive(stores, 1, clocks.wall)
    watcher.look()
    clocks.pass_s(SETTLE_S - 2)
    watcher.look()
    assert states(stores) == []
    clocks.pass_s(3)
    watcher.look()
    assert states(stores) == [StudyState.QUEUED]


def test_a_start_before_the_last_image_by_the_clock_waits_for_quiet_once_more(
    stores: NodeStores, clocks: Clocks
) -> None:
    arrive(stores, 1, clocks.wall + timedelta(days=1))
    watcher = new_watcher(stores)
    watcher.look()
    assert states(stores) == []
    clocks.pass_s(SETTLE_S)
    watcher.look()
    assert states(stores) == [StudyState.QUEUED]


HOUR_S = 3600.0
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("planned_in_s", "waits"),
    [(None, False), (-1.0, False), (1.0, True), (HOUR_S + 5, True), (3 * HOUR_S, False), (9e6, False)],
)
def test_a_try_that_a_clock_ahead_has_planned_waits_no_longer_than_any(
    stores: NodeStores, planned_in_s: float | None, waits: bool
) -> None:
    """Hosts may differ by a little, and a wait is at most an hour here."""
    planned_at = None if planned_in_s is None else NOW + timedelta(seconds=planned_in_s)
    assert waits_until(planned_at, NOW, HOUR_S) == (planned_at if waits else None)
    run, _ = stores.runs.open(STUDY, "d", Arrival(by_headers=True))
    with stores.engine.begin() as connection:
        connection.execute(update(Run).values(next_try_at=planned_at))
    assert [one.key for one in stores.runs.for_judge(NOW, HOUR_S, 1)] == ([] if waits else [run.key])


def test_no_longest_wait_of_a_destination_is_taken_for_a_clock_that_was_ahead() -> None:
    archive = Destination("archive", "PACS", "archive", 104, max_retry_s=100_000.0)
    assert DeliverPolicy((archive,)).longest_wait_s == 100_000.0
    assert DeliverPolicy(max_retry_s=5000.0).longest_wait_s == 5000.0
    assert DeliverPolicy().longest_wait_s == DeliverPolicy.commitment_wait_s


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_no_node_is_dead_by_a_clock_that_is_set_or_that_of_another_host(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    clocks = Clocks()
    monkeypatch.setattr(keeping, "utc_now", lambda: clocks.wall)
    monkeypatch.setattr(keeping, "time", SimpleNamespace(monotonic=lambda: clocks.steady_s))
    one, other = Heartbeats(stores.engine, "one", 60), Heartbeats(stores.engine, "other", 60)
    for _ in range(10):
        clocks.pass_s(10)
        one.beat()
        clocks.wall += jump  # as the other has it
        other.beat()
        assert (one.claim_dead(), other.claim_dead()) == ((), ())
        clocks.wall -= jump
    clocks.pass_s(61)  # neither beats any more
    assert one.claim_dead() == ("other",)
    assert one.claim_dead() == (), "claimed for a while"


@pytest.mark.parametrize("ahead_s", [7200.0, -7200.0])
def test_status_counts_down_by_the_clock_that_planned_the_try(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    stores.inbox.store(received(ct_slice(1)))
    stores.inbox.settle()
    stores.runs.open(STUDY, "d")
    stores.studies.observe(STUDY, StudyState.QUEUED)
    monkeypatch.setattr(CLOCK, "_ahead", timedelta(seconds=ahead_s))
    with stores.engine.begin() as connection:
        connection.execute(update(Run).values(next_try_at=CLOCK.now() + timedelta(seconds=600)))
    (status,) = study_statuses(stores)
    assert status.next_step in ("processing again in 600 s", "processing again in 599 s")


def follow(shared: SharedClock, monkeypatch: pytest.MonkeyPatch, ahead_s: float, took_s: float) -> None:
    """Ask a server that is ahead, whose answer takes a while each way."""
    engine = MagicMock()
    engine.dialect.name = "postgresql"
    server = NOW + timedelta(seconds=ahead_s + took_s / 2)
    engine.connect().__enter__().execute().scalar_one.return_value = server
    times = iter([NOW, NOW + timedelta(seconds=took_s)])
    with monkeypatch.context() as patch:
        patch.setattr(clock, "_host_time", lambda: next(times))
        shared.follow(engine)


@pytest.mark.parametrize(
    ("known_s", "ahead_s", "took_s", "expected_s"),
    [
        (0.0, 7200.0, 4.0, 7200.0),
        (0.0, -7200.0, 4.0, -7200.0),
        (0.0, 1.5, 4.0, 0.0),  # the slow answer may account for it
        (7200.0, 7201.5, 4.0, 7200.0),  # a better measurement stands
        (7200.0, 0.0, 4.0, 0.0),  # a clock was set right
    ],
)
def test_a_slow_answer_counts_where_it_can_t_account_for_the_difference(
    monkeypatch: pytest.MonkeyPatch, known_s: float, ahead_s: float, took_s: float, expected_s: float
) -> None:
    shared = SharedClock()
    shared._ahead = timedelta(seconds=known_s)
    follow(shared, monkeypatch, ahead_s, took_s)
    assert shared._ahead == timedelta(seconds=expected_s)


def test_a_database_that_answers_slowly_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = SharedClock()
    for _ in range(3):
        follow(shared, monkeypatch, 0.0, 4.0)
    (line,) = caplog.records
    assert "answers too slowly" in line.message
