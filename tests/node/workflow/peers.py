"""The other side of the tests: a PACS that can be absent, slow or unwilling, and a node on its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import SecondaryCaptureImageStorage, Verification

from app.node.deliver import scu
from app.node.peers import Destination
from app.node.policy import NodePolicy
from app.node.records.stores import NodeStores, open_stores
from app.node.watch.status import StudyStatus, known_statuses
from tests.node.workflow.fake_node import ANYBODY, Subject, derived_uid, pet_image, run_forked

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a forked process must not inherit a pool of threads
FORK_SERVER = multiprocessing.get_context("forkserver")
NEEDED = ("planner", "queue", "watch.metrics")
"""What a node loads once it listens; each would do so anew."""
FORK_SERVER.set_forkserver_preload(
    ["tests.node.workflow.fake_node", "alembic.command", *(f"app.node.{name}" for name in NEEDED)]
)
PATIENCE_S = 40.0
"""Far longer than anything here takes: the machine may be busy."""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for ``condition``; fails the test when it does not come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


class FakePacs:
    """Counts what it is sent; ``status`` is its answer, after ``delay_s``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: Counter[str] = Counter()
        self.status = 0x0000
        self.delay_s = 0.0
        self._server: Any = None

    def start(self) -> FakePacs:
        """Listen."""
        entity = AE(ae_title="PACS")
        entity.add_supported_context(SecondaryCaptureImageStorage)
        entity.add_supported_context(Verification)
        handlers = [(evt.EVT_C_STORE, self._on_store)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def stop(self) -> None:
        """Go away."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _on_store(self, event: Any) -> int:
        time.sleep(self.delay_s)
        if self.status == 0:
            self.received[str(event.request.AffectedSOPInstanceUID)] += 1
        return self.status


@dataclass
class NodeProcess:
    """One node; kill and start it as often as you like."""

    folder: Path
    pacs_port: int
    executor_id: str = "node-a"
    receives: bool = True
    behaviour: dict[str, Any] = field(default_factory=dict)
    node: dict[str, Any] = field(default_factory=dict)
    receive: dict[str, Any] = field(default_factory=dict)
    destinations: list[dict[str, Any]] = field(default_factory=list)
    """Beside the PACS."""
    process: ForkServerProcess | None = None
    port: int = field(default_factory=free_port)
    starts: int = 0

    @property
    def policy(self) -> NodePolicy:
        """As the node's own."""
        settings = self._node_settings()
        return NodePolicy(**{**settings, "data_dir": Path(settings["data_dir"])})

    @property
    def log(self) -> Path:
        """JSON lines of every start."""
        return self.folder / f"{self.executor_id}.log"

    def start(self, ready: bool = True) -> NodeProcess:
        """Start, and wait for the line that says it is ready."""
        self.starts += 1
        self.process = FORK_SERVER.Process(target=run_forked, args=(self.written_plan(), self.log))
        self.process.start()
        if ready:
            wait_until(self._is_ready, "the node is ready")
        return self

    def written_plan(self) -> Path:
        """The file with which the process starts."""
        plan = self.folder / f"{self.executor_id}.json"
        plan.write_text(json.dumps(self._plan()))
        return plan

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.join()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.ended()

    def ended(self) -> int:
        """The exit code, when it has ended."""
        assert self.process is not None
        self.process.join(PATIENCE_S)
        assert self.process.exitcode is not None, "it does not end"
        return self.process.exitcode

    def events(self) -> list[str]:
        """The ``event`` of every log record."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]

    def calls(self) -> list[str]:
        """One line for each time the chain was run: study, revision, number of files."""
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    def facts(self) -> list[str]:
        """What the chain was given with the images, a line each time: study, when it began, decisions."""
        path = self.folder / "facts.txt"
        return path.read_text().splitlines() if path.exists() else []

    def send_study(self, number: int, instance: int = 1, subject: Subject = ANYBODY) -> str:
        """Send one instance of a study to the node; returns the study's UID."""
        study = f"1.2.826.0.1.{number}"
        path = self.folder / f"send-{number}-{instance}.dcm"
        self.send([pet_image(path, study, derived_uid("sent", number, instance), subject)], "SCANNER")
        return study

    def send(self, paths: Sequence[Path], calling_ae: str) -> None:
        """Send files to the node, which takes them all."""
        node = Destination("node", "PSMA_NODE", "127.0.0.1", self.port)
        assert all(answer.ok for answer in scu.send(paths, node, calling_ae))

    def status(self, study: str) -> StudyStatus:
        """The study's state, read from the database as ``psma-node status`` does."""
        found = [item for item in self.statuses() if item.study_instance_uid == study]
        assert found, "the node does not know the study"
        return found[0]

    def statuses(self) -> Sequence[StudyStatus]:
        """Every study's state."""
        return known_statuses(self.policy)

    def stores(self) -> NodeStores:
        """The node's stores, opened by another process."""
        return open_stores(self.policy)

    def wait_for(self, study: str, state: str) -> StudyStatus:
        """Wait until the study is in ``state``."""
        wait_until(lambda: self.status(study).state == state, f"the study is {state}")
        return self.status(study)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.exitcode is None, self.log.read_text()
        return self.log.exists() and self.events().count("ready") == self.starts

    def _plan(self) -> dict[str, Any]:
        pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": self.pacs_port}
        destinations = [pacs, *self.destinations]
        deliver = {"destinations": destinations, "first_retry_s": 0.3, "max_retry_s": 0.6, "timeout_s": 10.0}
        receive = {"port": self.port, "settle_s": 0.5, "min_free_mb": 1.0, **self.receive}
        return {
            "node": self._node_settings(),
            "deliver": deliver,
            "receive": receive,
            "behaviour": {"calls": str(self.folder / "calls.txt"), **self.behaviour},
            "serve": {"receives": self.receives},
        }

    def _node_settings(self) -> dict[str, Any]:
        return {
            "data_dir": str(self.folder / "data"),
            "executor_id": self.executor_id,
            "poll_s": 0.2,
            "heartbeat_s": 0.5,
            "dead_after_s": 4.0,
            "drain_s": 20.0,
            "first_retry_s": 0.2,
            "max_retry_s": 0.4,
            "min_free_mb": 1.0,
            **self.node,
        }
