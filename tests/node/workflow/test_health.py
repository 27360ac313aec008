"""``psma-node check`` says what is wrong and what to do."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import MisconfiguredError
from app.node.policy import Caller, DeliverPolicy, Destination, NodePolicy, ReceivePolicy
from app.node.receive.scp import StoreScp
from app.node.records.database import open_database
from app.node.records.inbox import Inbox
from app.node.watch.health import (
    CheckResult,
    check_database,
    check_destination,
    check_disk,
    check_listener,
    guarded,
    node_checks,
)
from tests.node.workflow.peers import FakePacs, free_port


def test_healthy_node_has_nothing_to_do(tmp_path: Path, pacs: FakePacs) -> None:
    deliver = DeliverPolicy((Destination("pacs", "PACS", "127.0.0.1", pacs.port),))
    node = NodePolicy(data_dir=tmp_path / "new" / "data", min_free_mb=1)
    results = node_checks(node, ReceivePolicy(port=free_port()), deliver)
    names = ["database", "disk", "contents", "listener", "destination pacs"]
    assert [result.name for result in results] == names
    assert all(result.ok and not result.advice for result in results)
    assert not (tmp_path / "new").exists(), "a check leaves nothing behind"


def test_absent_pacs_fails_with_advice() -> None:
    deliver = DeliverPolicy((Destination("pacs", "PACS", "127.0.0.1", free_port()),))
    result = check_destination(deliver.destinations[0], deliver)
    assert not result.ok
    assert "Connection refused" in result.found
    assert "does it run" in result.advice


def test_full_disk_fails(tmp_path: Path) -> None:
    result = check_disk(NodePolicy(data_dir=tmp_path, min_free_mb=1e9))
    assert not result.ok
    assert "at least" in result.advice


def test_port_of_another_program_fails_and_that_of_this_node_does_not(tmp_path: Path, pacs: FakePacs) -> None:
    receive, node = ReceivePolicy(port=pacs.port), NodePolicy(data_dir=tmp_path)
    result = check_listener(receive, node)
    assert not result.ok
    assert result.found == f"PSMA_NODE on 127.0.0.1 port {pacs.port}: Address already in use"
    with node.lock_file.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert check_listener(receive, node).ok


def test_node_that_answers_at_the_port_differs_from_a_pacs_that_answers_to_any_name(tmp_path: Path) -> None:
    port = free_port()
    callers = (Caller("CT1", ("127.0.0.1",)),)
    receive = ReceivePolicy(port=port, host="0.0.0.0", allowed_callers=callers)
    scp = StoreScp(receive, Inbox(tmp_path / "inbox", open_database("sqlite://")), print)
    scp.start()
    try:
        result = check_listener(receive, NodePolicy(data_dir=tmp_path / "other"))
        stranger = check_listener(replace(receive, ae_title="OTHER"), NodePolicy(data_dir=tmp_path / "other"))
        with pytest.raises(MisconfiguredError, match="stop what listens there"):
            StoreScp(receive, Inbox(tmp_path / "inbox", open_database("sqlite://")), print).start()
    finally:
        scp.stop()
    assert result.ok
    assert result.found.endswith("the node is running")
    assert not stranger.ok


def test_data_folder_that_can_not_be_made_is_named_as_configured() -> None:
    result = check_disk(NodePolicy(data_dir=Path("/proc/x")))
    assert not result.ok
    assert result.found == "node.data_dir /proc/x can't be made: /proc takes no new files or folders"


def test_database_file_that_does_not_open_is_named(tmp_path: Path) -> None:
    (tmp_path / "node.sqlite").mkdir()
    result = check_database(NodePolicy(data_dir=tmp_path))
    assert not result.ok
    assert f"{tmp_path / 'node.sqlite'}: unable to open database file" in result.found
    assert "may this user" in result.advice


def test_database_that_does_not_answer_fails() -> None:
    url = f"postgresql+psycopg://node:secret@127.0.0.1:{free_port()}/node"
    result = check_database(NodePolicy(database_url=url))
    assert not result.ok
    assert "Connection refused" in result.found
    assert "secret" not in result.found + result.advice


def test_fault_in_one_check_is_its_result() -> None:
    def broken() -> CheckResult:
        raise KeyError("x")

    result = guarded("models", broken)
    assert not result.ok
    assert result.found.startswith("KeyError at test_health.py")
