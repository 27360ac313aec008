"""The node of a soak: as ``psma-node serve`` runs it, from an app.yaml and with SIGHUP, but for the chain.

Some studies meet with trouble in the chain (:data:`TROUBLES`); what a node does once an hour comes sooner.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from app.cli.reload import Reloader
from app.domain.outcome import OnStage
from app.errors import PsmaNodeError, RetryLaterError
from app.node import service
from app.node.policy import NodePolicy
from app.node.process.processors import ProcessorPool
from app.node.records.stores import open_stores, translated_start_errors
from app.node.stop_signals import drain_at_stop_signal, end_process
from app.node.upkeep import retention
from app.node.upkeep.removal import RemovalRequest
from app.node.watch.log import configure_logging
from app.settings import load_settings
from tests.faults.world import FaultyNode
from tests.node.workflow import fake_node
from tests.node.workflow.fake_node import Behaviour, FakeProcessor
from tests.node.workflow.peers import FORK_SERVER, free_port

FAILS, LATER = "fails", "later"
TROUBLES = {FAILS: 3, LATER: 1}
"""How many tries of a study end in a fault of the program, or are put off; after three faults a person has to
ask for another try."""

WORKERS = 2


@dataclass(frozen=True)
class Retention:
    """What is removed from the second life on: by state in days, and after how many seconds of quiet."""

    days: dict[str, float]
    quiet_s: float
    engine_days: float = 90.0


class TroubledProcessor(FakeProcessor):
    """The pretended chain, with a fault in some studies; how often it was tried stands in its file of calls,
    which outlives the process."""

    def __init__(self, behaviour: Behaviour, on_stage: OnStage, troubles: dict[str, str]) -> None:
        super().__init__(behaviour, on_stage)
        self._troubles = troubles

    def _misbehave(self, study: str, name: str) -> None:
        trouble = self._troubles.get(study, "")
        lines = self._behaviour.calls.read_text().splitlines()
        if sum(line.startswith(f"{study} ") for line in lines) <= TROUBLES.get(trouble, 0):
            if trouble == LATER:
                raise RetryLaterError("the disk is full")
            raise ValueError(f"cannot read {name}")
        super()._misbehave(study, name)


@dataclass
class SoakNode(FaultyNode):
    """One node, started again whenever it ends; every life is kept."""

    deliver: dict[str, Any] = field(default_factory=dict)
    retention: Retention | None = None
    lives: list[ForkServerProcess] = field(default_factory=list)
    exit_codes: list[int | None] = field(default_factory=list)
    """Of the lives that have ended."""
    probe_port: int = field(default_factory=free_port)

    def _keep_alive(self, points: list[Any]) -> None:
        """As its parent does; nobody kills it from within, and from the second life on retention is on."""
        while not self.given_up.is_set():
            quiet_s = self.retention.quiet_s if self.retention else 60.0
            process = FORK_SERVER.Process(target=run, args=(self.written_plan(), self.folder, quiet_s))
            process.start()
            self.lives.append(process)
            self.process = process
            process.join()
            self.exit_codes.append(process.exitcode)

    @property
    def log_file(self) -> Path:
        """Opened anew at SIGHUP."""
        return self.folder / "psma-node.log"

    @property
    def troubles(self) -> Path:
        """Study Instance UID → its trouble."""
        return self.folder / "troubles.json"

    def _plan(self) -> dict[str, Any]:
        """An app.yaml."""
        node = self._node_settings() | {"log_file": str(self.log_file), "probe_port": self.probe_port}
        if self.retention and self.lives:
            node |= {"retention": self.retention.days, "keep_days": self.retention.engine_days}
        receive = {"port": self.port, "min_free_mb": 1.0, "settle_s": 1.0, **self.receive}
        return {"node": node, "receive": receive, "deliver": self.deliver}

    @property
    def policy(self) -> NodePolicy:
        """What its stores are opened with."""
        return NodePolicy(data_dir=self.folder / "data", executor_id=self.executor_id)


def run(app_yaml: Path, folder: Path, quiet_s: float) -> None:
    """Until SIGTERM."""
    fake_node.begin_forked(folder / "stderr.log")
    _hurry(quiet_s)
    try:
        _serve(app_yaml, folder)
    except PsmaNodeError as error:
        sys.stderr.write(f"psma-node: {error}\n")
        end_process(error.exit_code)


def _serve(app_yaml: Path, folder: Path) -> None:
    settings = load_settings(app_yaml)
    node = settings.node
    configure_logging(Path(node.log_file), node.log_level)
    behaviour = Behaviour(calls=folder / "calls.txt", seconds=0.05)
    troubles = json.loads((folder / "troubles.json").read_text())
    new_chain = partial(TroubledProcessor, behaviour, troubles=troubles)
    plan = service.NodePlan(
        node=node,
        receive=settings.receive,
        deliver=settings.deliver,
        examine=fake_node.examine,
        processors=lambda: ProcessorPool(new_chain, WORKERS),
        judge=fake_node.judge,
    )
    with translated_start_errors(node):
        node_service = service.NodeService(plan, open_stores(node))
        node_service.start()
    drain_at_stop_signal(node_service.stop, Reloader(node_service, settings, app_yaml, []))


def _hurry(quiet_s: float) -> None:
    """What a node does once in an hour, or in half a minute, is to happen often in a soak."""
    service.TIDY_S = 10.0
    service.NOTIFY_S = 0.5
    retention.RemovalRequest = partial(RemovalRequest, quiet_s=quiet_s)  # type: ignore[misc]
