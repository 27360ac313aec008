"""One Postgres for these tests, a database for each."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.node.postgres.cluster import Cluster, server_programs
from tests.node.workflow.conftest import new_node, pacs

__all__ = ["new_node", "pacs"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running server."""
    programs = server_programs()
    if programs is None:
        pytest.skip("needs the Debian package postgresql: scripts/install-peers --for-tests")
    server = Cluster(programs)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def database(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """The name of an empty database."""
    name = re.sub(r"\W", "_", request.node.name)[-60:]
    cluster.create(name)
    return name
