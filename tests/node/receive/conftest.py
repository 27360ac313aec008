"""A listening node in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.node.peers import ReceivePolicy
from app.node.receive.reception import Reception
from app.node.receive.scp import StoreScp
from app.node.records.database import open_database
from app.node.records.inbox import Inbox

POLICY = ReceivePolicy(port=0, min_free_mb=0)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield engine
    engine.dispose()


@pytest.fixture
def inbox(tmp_path: Path, engine: Engine) -> Inbox:
    return Inbox(tmp_path / "inbox", engine)


@pytest.fixture
def receptions() -> list[Reception]:
    """What the observer of the listening node received."""
    return []


@pytest.fixture
def listen(inbox: Inbox, receptions: list[Reception]) -> Iterator[Callable[..., StoreScp]]:
    """Start a node with some settings changed; stopped after the test."""
    started: list[StoreScp] = []

    def start(**changes: object) -> StoreScp:
        scp = StoreScp(replace(POLICY, **changes), inbox, receptions.append)
        scp.start()
        started.append(scp)
        return scp

    yield start
    for scp in started:
        scp.stop(drain_s=0)


@pytest.fixture
def scp(listen: Callable[..., StoreScp]) -> StoreScp:
    return listen()
