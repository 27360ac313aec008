"""The wall clock is set while a study arrives: it is neither taken for complete too soon nor held up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import update

from app.domain.study import StudyKind
from app.node.peers import ReceivePolicy
from app.node.policy import NodePolicy
from app.node.receive import watcher as watching
from app.node.receive.watcher import Watcher
from app.node.records.inbox_index import InstanceRow
from app.node.records.states import StudyState
from app.node.records.stores import NodeStores, open_stores
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
