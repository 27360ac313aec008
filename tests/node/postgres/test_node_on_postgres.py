"""The same node on Postgres, by URL alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, inspect

from app.errors import RetryLaterError
from app.node.deliver import scu
from app.node.peers import Destination
from app.node.records import clock
from app.node.records.database import database_url, open_database
from tests.node.postgres.cluster import Cluster
from tests.node.workflow.fake_node import KINDS, derived_uid, secondary_capture
from tests.node.workflow.peers import FakePacs, NodeProcess, wait_until

NewNode = Callable[..., NodeProcess]


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_tables_are_made_whatever_form_the_url_has(cluster: Cluster, database: str, scheme: str) -> None:
    engine = open_database(cluster.url(database, scheme))
    assert {"instances", "runs", "deliveries"} <= set(inspect(engine).get_table_names())
    engine.dispose()


def connected_socket(engine: Engine) -> socket.socket:
    """The socket of a connection of this engine, a copy."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        return socket.socket(fileno=os.dup(driver.fileno()))


def test_a_host_that_vanished_is_noticed_while_it_is_waited_for(cluster: Cluster, database: str) -> None:
    engine = open_database(cluster.url(database))
    with connected_socket(engine) as connected:
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        found = [connected.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in options]
    assert found == [10, 5, 4, 30_000]
    engine.dispose()


def test_the_url_may_say_otherwise(cluster: Cluster, database: str) -> None:
    engine = open_database(cluster.url(database) + "?tcp_user_timeout=7000")
    with connected_socket(engine) as connected:
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
    engine.dispose()


def test_the_workflow_engine_gets_the_same_timeouts_by_the_url() -> None:
    assert database_url("postgres://node@db/node").query["tcp_user_timeout"] == "30000"


def test_nodes_that_start_at_the_same_time_make_the_tables_once(cluster: Cluster, database: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        for engine in pool.map(open_database, [cluster.url(database)] * 6):
            engine.dispose()


def test_killed_while_a_study_runs_the_results_arrive_once(
    pacs: FakePacs, new_node: NewNode, cluster: Cluster, database: str
) -> None:
    settings = {"database_url": cluster.url(database)}
    node = new_node(pacs, behaviour={"seconds": 1.5}, node=settings).start()
    study = node.send_study(1)
    wait_until(lambda: len(node.calls()) == 1, "the chain runs")
    node.kill()
    node.start()
    node.wait_for(study, "done")
    assert len(node.calls()) == 2
    assert pacs.received == {derived_uid(study, kind, 1): 1 for kind in KINDS}
    assert node.stop() == 0
    stores = node.stores()
    assert stores.audit.verify().intact
    tables = inspect(stores.engine)
    assert "runs" in tables.get_table_names()
    assert "workflow_status" in tables.get_table_names("dbos"), "the engine's tables are in the same database"
    stores.close()
    assert not list(node.folder.rglob("*.sqlite*")), "nothing is kept beside the database"


def test_two_nodes_on_one_database_process_no_study_twice(
    pacs: FakePacs, new_node: NewNode, cluster: Cluster, database: str
) -> None:
    settings = {"database_url": cluster.url(database, "postgresql+psycopg")}
    first = new_node(pacs, behaviour={"seconds": 0.7}, node=settings)
    second = new_node(pacs, behaviour={"seconds": 0.7}, node=settings, executor_id="node-b", receives=False)
    first.start(ready=False)
    second.start()
    wait_until(first._is_ready, "the first is ready too")
    studies = [first.send_study(number) for number in range(1, 5)]
    for study in studies:
        second.wait_for(study, "done")
    assert sorted(first.calls()) == sorted(f"{study} 1 1" for study in studies)
    assert set(pacs.received.values()) == {1}
    assert len(pacs.received) == len(studies) * len(KINDS)
    stores = first.stores()
    executors = {run.executor_id for study in studies for run in stores.runs.of_study(study)}
    stores.close()
    assert executors == {"node-a", "node-b"}, "both have worked"
    assert (first.stop(), second.stop()) == (0, 0)


def test_server_that_is_away_a_while_loses_nothing(
    pacs: FakePacs, new_node: NewNode, cluster: Cluster, database: str
) -> None:
    node = new_node(pacs, node={"database_url": cluster.url(database)}).start()
    first = node.send_study(1)
    node.wait_for(first, "done")
    cluster.stop_server()
    try:
        path = secondary_capture(node.folder / "late.dcm", "1.2.826.0.1.2", derived_uid("late"))
        to_node = Destination("node", "PSMA_NODE", "127.0.0.1", node.port)
        with pytest.raises(RetryLaterError, match="status A700"):  # the sender keeps what can't be indexed
            scu.send([path], to_node, "SCANNER")
    finally:
        cluster.start_server()
    second = node.send_study(2)
    node.wait_for(second, "done")
    assert len(node.calls()) == 2
    assert set(pacs.received.values()) == {1}


def test_hosts_whose_clocks_differ_go_by_that_of_the_database(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, truth = open_database(cluster.url(database)), clock._host_time
    ahead, behind, right = (clock.SharedClock() for _ in range(3))
    for host, wrong in ((ahead, timedelta(hours=2)), (behind, timedelta(days=-3)), (right, timedelta(0))):
        with monkeypatch.context() as patch:
            patch.setattr(clock, "_host_time", lambda wrong=wrong: truth() + wrong)
            host.follow(engine)
            assert abs(host.now() - truth()) < timedelta(minutes=1)
    assert right._ahead == timedelta(0), "clocks that agree are left as they are"
    engine.dispose()
