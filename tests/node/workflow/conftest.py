"""A node and a PACS for each test, ended whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.workflow.peers import FakePacs, NodeProcess, free_port


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    """A PACS that is up."""
    peer = FakePacs(free_port()).start()
    yield peer
    peer.stop()


@pytest.fixture
def new_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Makes nodes on one data folder; each is started by the test."""
    made: list[NodeProcess] = []

    def make(pacs: FakePacs, **settings: Any) -> NodeProcess:
        made.append(NodeProcess(tmp_path, pacs.port, **settings))
        return made[-1]

    yield make
    for node in made:
        if node.process is not None and node.process.is_alive():
            node.kill()
