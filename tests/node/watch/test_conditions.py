"""What /healthz and /readyz say, and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine

from app.node.policy import NodePolicy
from app.node.records.database import create_database_engine, open_database
from app.node.watch.probes import (
    DRAINING,
    NOT_LISTENING,
    NOT_STARTED,
    STALE_AFTER_S,
    Conditions,
    LifeSigns,
    Readiness,
)
from tests.node.workflow.peers import free_port


class Clock:
    def __init__(self) -> None:
        self.time_s = 1000.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")


@pytest.fixture
def well(engine: Engine, tmp_path: Path) -> Conditions:
    return Conditions(listening=lambda: True, engine=engine, data_dir=tmp_path, min_free_mb=1.0)


def ready(conditions: Conditions, clock: Callable[[], float]) -> Readiness:
    readiness = Readiness(conditions, clock)
    readiness.look()
    readiness.started()
    return readiness


def test_a_loop_that_moves_does_not_hang_and_one_that_stopped_is_named(clock: Clock) -> None:
    signs = LifeSigns(hung_after_s=300.0, now_s=clock)
    signs.moved("watch")
    signs.moved("heartbeat")
    clock.time_s += 299.0
    signs.moved("heartbeat")
    assert signs.hanging() == ()
    clock.time_s += 2.0
    assert signs.hanging() == ("watch: has not moved for 301 s",)
    signs.moved("watch")
    assert signs.hanging() == ()


def test_a_start_that_takes_hours_hangs_nowhere(clock: Clock) -> None:
    signs = LifeSigns(hung_after_s=300.0, now_s=clock)
    clock.time_s += 7200.0
    assert signs.hanging() == ()


def test_loops_that_rest_for_a_drain_do_not_hang(clock: Clock) -> None:
    signs = LifeSigns(hung_after_s=300.0, now_s=clock)
    signs.moved("watch")
    signs.rest()
    clock.time_s += 7200.0
    assert signs.hanging() == ()


def test_a_node_where_all_is_well_is_ready_once_it_has_started(well: Conditions, clock: Clock) -> None:
    readiness = Readiness(well, clock)
    readiness.look()
    assert readiness.reasons() == (NOT_STARTED,)
    readiness.started()
    assert readiness.reasons() == ()


def test_a_drain_is_reported_at_once_and_alone(well: Conditions, clock: Clock) -> None:
    readiness = ready(replace(well, listening=lambda: False), clock)
    readiness.drain()
    assert readiness.reasons() == (DRAINING,)


def test_a_node_that_should_listen_and_does_not_is_not_ready(well: Conditions, clock: Clock) -> None:
    assert ready(replace(well, listening=lambda: False), clock).reasons() == (NOT_LISTENING,)


def test_a_node_that_only_works_need_not_listen(well: Conditions, clock: Clock) -> None:
    assert ready(replace(well, listening=None), clock).reasons() == ()


def test_every_reason_has_a_line_of_its_own(well: Conditions, clock: Clock) -> None:
    away = create_database_engine(f"postgresql://node:hush@127.0.0.1:{free_port()}/node")
    found = ready(replace(well, engine=away, min_free_mb=1e12, listening=lambda: False), clock).reasons()
    assert found == (NOT_LISTENING, "database: does not answer", "disk: less than 1e+12 MB are free")


def test_a_database_without_the_node_s_tables_does_not_answer(well: Conditions, clock: Clock) -> None:
    other = create_database_engine("sqlite://")
    assert ready(replace(well, engine=other), clock).reasons() == ("database: does not answer",)


def test_a_data_folder_that_is_gone_is_reported_without_its_path(well: Conditions, clock: Clock) -> None:
    gone = replace(well, data_dir=well.data_dir / "gone")
    assert ready(gone, clock).reasons() == ("disk: No such file or directory",)


def test_a_data_folder_that_can_only_be_read_is_reported(
    well: Conditions, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NOSUID, f_bavail=10**9, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _folder: room)
    assert ready(well, clock).reasons() == ("disk: can only be read",)


def test_a_look_that_never_ends_is_reported_without_waiting_for_it(well: Conditions, clock: Clock) -> None:
    readiness = ready(well, clock)
    clock.time_s += STALE_AFTER_S + 1.0
    assert readiness.reasons() == ("database or disk: no answer for 31 s",)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"probe_port": 70000}, "65535"), ({"probe_port": -1}, "65535"), ({"hung_after_s": 15}, "twice")],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NodePolicy(**settings)  # type: ignore[arg-type]  # from a table


def test_probes_are_off_unless_asked_for() -> None:
    assert (NodePolicy().probe_port, NodePolicy().probe_host) == (0, "127.0.0.1")
