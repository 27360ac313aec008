"""While Postgres is away the node lives, is not ready, and needs no restart."""

from __future__ import annotations

from collections.abc import Callable

from tests.node.postgres.cluster import Cluster
from tests.node.watch.asking import ask
from tests.node.workflow.peers import FakePacs, NodeProcess, free_port, wait_until


def test_a_database_that_goes_away_costs_readiness_and_not_life(
    cluster: Cluster, database: str, new_node: Callable[..., NodeProcess], pacs: FakePacs
) -> None:
    port = free_port()
    new_node(pacs, node={"database_url": cluster.url(database), "probe_port": port}).start()
    assert ask(port, "/readyz") == (200, "ok\n")
    cluster.stop_server()
    try:
        wait_until(lambda: ask(port, "/readyz") == (503, "database: does not answer\n"), "it says so")
        assert ask(port, "/healthz") == (200, "ok\n")
    finally:
        cluster.start_server()
    wait_until(lambda: ask(port, "/readyz") == (200, "ok\n"), "it is ready again")
