"""A whole node tells how it is: from its start, while it works, to the end of its drain."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from app.demo.node import START_S
from app.demo.processes import Program, is_listening, start_program, stopping
from app.errors import MisconfiguredError
from app.node import service
from app.node.deliver import scu
from app.node.peers import DeliverPolicy, Destination, ReceivePolicy
from app.node.policy import NodePolicy
from app.node.records.stores import open_stores
from app.node.service import NodePlan
from app.node.watch.probes import DRAINING, NOT_STARTED
from tests.node.receive.images import write_study
from tests.node.watch.asking import ask
from tests.node.workflow.fake_node import examine
from tests.node.workflow.peers import PATIENCE_S, FakePacs, NodeProcess, free_port, wait_until

ROOT = Path(__file__).resolve().parents[3]
OK = (200, "ok\n")
NewNode = Callable[..., NodeProcess]


def probed(new_node: NewNode, pacs: FakePacs, **settings: object) -> tuple[NodeProcess, int]:
    """A node that is up, and the port it tells how it is on."""
    port = free_port()
    behaviour = settings.pop("behaviour", {})
    node = new_node(pacs, node={"probe_port": port, **settings}, behaviour=behaviour).start()
    return node, port


def test_a_node_that_runs_lives_and_is_ready(new_node: NewNode, pacs: FakePacs) -> None:
    _, port = probed(new_node, pacs)
    assert ask(port, "/healthz") == OK
    assert ask(port, "/readyz") == OK


def test_without_a_port_nobody_answers_and_the_node_runs(new_node: NewNode, pacs: FakePacs) -> None:
    node = new_node(pacs).start()
    assert node.stop() == 0


def test_a_full_disk_is_no_reason_to_be_killed_but_one_to_be_sent_nothing(
    new_node: NewNode, pacs: FakePacs
) -> None:
    port = free_port()
    node = new_node(pacs, node={"probe_port": port}, receive={"min_free_mb": 1e9}).start()
    assert ask(port, "/healthz") == OK
    assert ask(port, "/readyz") == (503, "disk: less than 1e+09 MB are free\n")
    assert node.stop() == 0


def test_from_sigterm_on_it_is_not_ready_and_lives_until_the_study_is_done(
    new_node: NewNode, pacs: FakePacs
) -> None:
    node, port = probed(new_node, pacs, behaviour={"seconds": 4.0})
    node.send_study(1)
    wait_until(lambda: len(node.calls()) == 1, "the study is under way")
    assert node.process is not None
    node.process.terminate()
    wait_until(lambda: "draining" in node.events(), "the node drains")
    wait_until(lambda: ask(port, "/readyz") == (503, DRAINING + "\n"), "it says so")
    assert ask(port, "/healthz") == OK
    node.process.join(PATIENCE_S)
    assert node.process.exitcode == 0
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/healthz")


def test_a_loop_that_hangs_is_named_and_forgiven_when_it_moves_again(
    new_node: NewNode, pacs: FakePacs
) -> None:
    node, port = probed(new_node, pacs, hung_after_s=2.0)
    other = sqlite3.connect(node.policy.data_dir / "node.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # whoever writes waits
    wait_until(lambda: ask(port, "/healthz")[0] == 503, "the heartbeat hangs")
    assert ask(port, "/healthz")[1].startswith("heartbeat: has not moved for ")
    other.execute("ROLLBACK")
    other.close()
    wait_until(lambda: ask(port, "/healthz") == OK, "the heartbeat goes on")


def test_a_port_that_is_taken_stops_the_start(new_node: NewNode, pacs: FakePacs) -> None:
    node = new_node(pacs, node={"probe_port": pacs.port}).start(ready=False)
    assert node.process is not None
    node.process.join(PATIENCE_S)
    assert node.process.exitcode == 2
    assert f"node.probe_host 127.0.0.1 port {pacs.port} can't be listened on" in node.log.read_text()


def serve(folder: Path, *settings: str) -> Program:
    """``psma-node serve`` with the models shipped."""
    folders = [f"node.data_dir={folder / 'data'}", "node.min_free_mb=1", "receive.min_free_mb=1"]
    words = [word for item in (*folders, *settings) for word in ("--set", item)]
    command = [sys.executable, "-m", "app", "serve", "--config", str(ROOT / "app.yaml"), *words]
    environment = {**os.environ, "TMPDIR": str(folder)}
    return start_program("psma-node serve", command, folder / "log.txt", environment)


def test_while_its_models_are_loaded_it_lives_and_is_not_ready(
    new_node: NewNode, pacs: FakePacs, tmp_path: Path
) -> None:
    port, gate = free_port(), tmp_path / "gate"
    behaviour = {"loads_after": str(gate)}
    node = new_node(pacs, node={"probe_port": port}, behaviour=behaviour).start(ready=False)
    wait_until(lambda: is_listening(port), "the probe listens")
    assert (ask(port, "/healthz"), ask(port, "/readyz")) == (OK, (503, NOT_STARTED + "\n"))
    gate.touch()
    wait_until(lambda: ask(port, "/readyz") == OK, "the node is ready")
    node.stop()


def test_psma_node_serve_becomes_ready_and_ends_on_a_signal(tmp_path: Path) -> None:
    port = free_port()
    node = serve(tmp_path, f"node.probe_port={port}", f"receive.port={free_port()}")
    alive, ready = [], None
    with stopping(node):
        node.wait_for_port(port, START_S)
        while ready != OK:
            node.require_alive()
            alive.append(ask(port, "/healthz"))
            ready = ask(port, "/readyz")
            time.sleep(0.05)
        assert node.stop() == 0
    assert set(alive) == {OK}
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/healthz")


def test_what_fails_once_the_node_listens_ends_it_and_what_was_received_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LISTENER_DRAIN_S", 0.1)
    port, probe_port = free_port(), free_port()
    node = NodePolicy(data_dir=tmp_path / "data", probe_port=probe_port, min_free_mb=1.0)
    stores = open_stores(node)
    here = Destination("node", "PSMA_NODE", "127.0.0.1", port)
    open_ones: list[Association] = []

    def broken() -> NoReturn:
        [answer] = scu.send(write_study(tmp_path, 1), here, "SCANNER")
        assert answer.ok
        entity = AE("SCANNER")
        entity.add_requested_context(Verification)
        open_ones.append(entity.associate("127.0.0.1", port, ae_title="PSMA_NODE"))
        assert open_ones[0].is_established
        assert (ask(probe_port, "/healthz"), ask(probe_port, "/readyz")) == (OK, (503, NOT_STARTED + "\n"))
        raise MisconfiguredError("no model fits")

    receive = ReceivePolicy(port=port, min_free_mb=1.0)
    plan = NodePlan(node, receive, DeliverPolicy(), examine, broken)
    with pytest.raises(MisconfiguredError, match="no model fits"):
        service.NodeService(plan, stores).start()
    assert not is_listening(port)
    # threads that are no daemons keep a process from ending
    wait_until(lambda: not open_ones[0].is_alive(), "the open association has ended")
    wait_until(lambda: not any(isinstance(one, Association) for one in threading.enumerate()), "none is")
    assert [study.instance_count for study in stores.inbox.studies()] == [1]
    stores.close()
