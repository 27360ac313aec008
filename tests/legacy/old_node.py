"""The nodes of version 0.1.0 that make the data folder, the destinations, and who sends the images.

It runs with the code of commit 124f28a alone, as :mod:`tests.legacy.make_data_folder` does; its imports stay
as they are when files move.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom
from app.node.deliver_policy import Destination
from app.node.json_log import configure_logging
from app.node.node_policy import NodePolicy
from app.node.shadows import WaitingShadows
from app.node.status import StudyStatus, study_statuses
from app.node.stores import NodeStores, open_stores

from app import __version__
from app.node import scu
from app.node.service import NodeService
from app.node.stop_signals import block_stop_signals, drain_at_stop_signal
from tests.legacy.pretended_chain import PARTS, PretendedChain, examine
from tests.node_workflow.fake_node import derived_uid, pet_image, plan_from
from tests.node_workflow.peers import FakePacs, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
SOON_S = 120.0
"""A next try planned so far ahead is due whenever the folder is opened again."""


class ScriptedPacs(FakePacs):
    """Takes everything, but for the studies that are named."""

    def __init__(self) -> None:
        super().__init__(free_port())
        self.out_of_resources: set[str] = set()
        self.refuses: set[str] = set()
        self.hangs_after: dict[str, int] = {}
        self.end = threading.Event()

    def _on_store(self, event: Any) -> int:
        uid, study = str(event.request.AffectedSOPInstanceUID), str(event.dataset.StudyInstanceUID)
        if study in self.out_of_resources:
            return 0xA700
        if uid in self.refuses:
            return 0xA900
        if self.hangs_after.get(study, 1) == 0:
            self.end.wait()
            return 0xA700
        if study in self.hangs_after:
            self.hangs_after[study] -= 1
        return super()._on_store(event)


@dataclass
class OldNode:
    """A node of version 0.1.0 in a process of its own."""

    folder: Path
    pacs: dict[str, ScriptedPacs]
    executor_id: str
    database_url: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def start(self, *, workers: int, poll_s: float, retry_s: float, receives: bool = True) -> OldNode:
        """Start, and wait until it is ready."""
        node = {
            "data_dir": str(self.folder / "data"), "database_url": self.database_url,
            "executor_id": self.executor_id, "workers": workers, "poll_s": poll_s, "heartbeat_s": 0.5,
            "dead_after_s": 30.0, "first_retry_s": retry_s, "max_retry_s": retry_s, "min_free_mb": 1.0,
        }  # fmt: skip
        destinations = [
            {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": peer.port}
            for name, peer in self.pacs.items()
        ]
        plan = {
            "node": node,
            "receive": {"port": self.port, "settle_s": 0.5, "min_free_mb": 1.0},
            "deliver": {"destinations": destinations, "first_retry_s": SOON_S, "timeout_s": 600.0},
            "behaviour": {"calls": str(self.folder / "calls.txt")},
            "serve": {"receives": receives},
        }
        file = self.folder / f"{self.executor_id}.json"
        file.write_text(json.dumps(plan))
        log = self.folder / f"{self.executor_id}.log"
        self.starts += 1
        with log.open("ab") as stream:
            command = [sys.executable, "-m", "tests.legacy.old_node", str(file)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
        wait_until(lambda: log.read_text().count('"ready"') == self.starts, f"{self.executor_id} is ready")
        return self

    def stop(self) -> None:
        """SIGTERM."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @property
    def policy(self) -> NodePolicy:
        """As the node's own."""
        return NodePolicy(data_dir=self.folder / "data", database_url=self.database_url)


class Scene:
    """Sends images to the first node and waits for what comes of them."""

    def __init__(self, node: OldNode, stores: NodeStores) -> None:
        self.node = node
        self.stores = stores

    def send(self, name: str, *numbers: int) -> None:
        """Images of a study, over one association."""
        self.send_files([self.image(name, number) for number in numbers])

    def send_files(self, paths: list[Path]) -> None:
        """Files as they are."""
        node = Destination("node", "PSMA_NODE", "127.0.0.1", self.node.port)
        assert all(answer.ok for answer in scu.send(paths, node, "SCANNER"))

    def image(self, name: str, number: int) -> Path:
        """One small image of a study."""
        part = PARTS[name]
        uid = derived_uid("sent", part.number, number)
        path = pet_image(self.node.folder / f"{part.number}-{number}.dcm", part.uid, uid, part.subject)
        image = pydicom.dcmread(path)
        image.StudyTime = image.AcquisitionTime = "091500"
        image.AcquisitionDate = part.day
        image.IssuerOfPatientID = part.issuer
        if part.announced:
            image.NumberOfSlices = part.announced
        image.save_as(path, enforce_file_format=True)
        return path

    def status(self, name: str) -> StudyStatus:
        """As ``psma-node status`` shows it."""
        return next(
            item for item in study_statuses(self.stores) if item.study_instance_uid == PARTS[name].uid
        )

    def wait(self, name: str, state: str, also: Callable[[StudyStatus], bool] = lambda _: True) -> None:
        """Until the study is in that state."""

        def reached() -> bool:
            known = any(item.study_instance_uid == PARTS[name].uid for item in study_statuses(self.stores))
            return known and self.status(name).state == state and also(self.status(name))

        wait_until(reached, f"{name}: {state}")

    def acknowledged(self, name: str, destination: str) -> int:
        """How many results of a study a destination has taken."""
        found = [item for item in self.status(name).deliveries if item.destination == destination]
        return found[0].acknowledged if found else -1


def name_this_host() -> None:
    """In Postgres the audit log is named after its host: it shall not be the one where this was made."""
    socket.gethostname = lambda: "psma-node"


def run_node(plan_file: Path) -> None:
    """One of the nodes, until it is stopped or killed."""
    name_this_host()
    block_stop_signals()
    shadows = WaitingShadows()
    plan = replace(
        plan_from(json.loads(plan_file.read_text())),
        examine=examine,
        processor_factory=lambda on_stage: PretendedChain(on_stage, shadows),
        version=__version__,
        shadows=shadows,
    )
    configure_logging()
    service = NodeService(plan, open_stores(plan.node))
    service.start()
    logging.getLogger("psma_node").info("ready")
    drain_at_stop_signal(service)


if __name__ == "__main__":
    run_node(Path(sys.argv[1]))
