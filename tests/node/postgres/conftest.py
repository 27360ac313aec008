"""One Postgres for these tests, a database for each."""

from __future__ import annotations

import re

import pytest

from tests.node.postgres.cluster import Cluster, server_programs
from tests.node.workflow.conftest import new_node, pacs

__all__ = ["new_node", "pacs"]

RUNNING = pytest.StashKey[Cluster]()


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """A running server, the same in every folder that imports this."""
    if RUNNING not in pytestconfig.stash:
        programs = server_programs()
        if programs is None:
            pytest.skip("needs the Debian package postgresql: scripts/install-peers --for-tests")
        server = Cluster(programs)
        pytestconfig.add_cleanup(server.stop)
        pytestconfig.stash[RUNNING] = server.start()
    return pytestconfig.stash[RUNNING]


@pytest.fixture
def database(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """The name of an empty database."""
    name = re.sub(r"\W", "_", request.node.name)[-60:]
    cluster.create(name)
    return name
