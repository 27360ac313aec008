"""The node, started as a hospital starts it (``psma-node serve``), and the scanner that sends to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from app.demo.pacs import Pacs
from app.demo.processes import LOOPBACK, Program, ProgramFailedError, free_port, start_program, stops_wait
from app.errors import RetryLaterError
from app.node.deliver.scu import send
from app.node.peers import Destination

NODE_AE_TITLE = "PSMA_NODE"
SCANNER_AE_TITLE = "DEMO_SCANNER"
START_S = 300.0
"""The framework and the models take 10 s on a quiet machine; on one busy with tests much longer."""

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "app")


@dataclass(frozen=True)
class ListedStudy:
    """A study as ``psma-node status`` lists it."""

    study_instance_uid: str
    state: str
    stage: str
    reason: str


class Node:
    """One node on the loopback; it can be stopped, killed and started again with all that it keeps."""

    def __init__(self, folder: Path, destination: Pacs, port: int, overrides: Sequence[str] = ()) -> None:
        self.port = port
        self.log = folder / "node.log"
        self._folder = folder
        self._overrides = [*_overrides(folder, destination, port), *overrides]
        self._program: Program | None = None

    def start(self) -> None:
        """Start it and wait until it listens. Raises ProgramFailedError, with its last lines."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        with stops_wait():
            self._program = start_program("The node", self._command("serve"), self.log, self._environment())
        self._program.wait_for_port(self.port, START_S)

    def stop(self) -> int:
        """Let it drain and end; its exit code, 0 when it was not running."""
        program, self._program = self._program, None
        return program.stop() if program is not None else 0

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        program, self._program = self._program, None
        if program is not None:
            program.kill()

    def require_alive(self) -> None:
        """Raises ProgramFailedError with its last lines when it has ended."""
        if self._program is not None:
            self._program.require_alive()

    def last_lines(self, count: int = 20) -> str:
        """The end of its log."""
        return self._program.last_lines(count) if self._program is not None else ""

    def status(self) -> tuple[ListedStudy, ...]:
        """What ``psma-node status --json`` says. Raises ProgramFailedError when it can't say it."""
        done = subprocess.run(  # noqa: S603  # our own command
            self._command("status", "--json"),
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ProgramFailedError(f"psma-node status ended with {done.returncode}: {done.stderr.strip()}")
        return tuple(_listed(item) for item in json.loads(done.stdout)["studies"])

    def status_of(self, study_instance_uid: str) -> ListedStudy | None:
        """The status of one study, ``None`` before the node knows of it."""
        found = [item for item in self.status() if item.study_instance_uid == study_instance_uid]
        return found[-1] if found else None

    @property
    def _scratch(self) -> Path:
        return self._folder / "tmp"

    def _environment(self) -> dict[str, str]:
        # torch leaves a cache in the folder for temporary files
        return {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(self._scratch)}

    def _command(self, *words: str) -> list[str]:
        return [*COMMAND, *words, "--config", str(REPOSITORY / "app.yaml"), *self._settings()]

    def _settings(self) -> list[str]:
        """Also of the node in a container, which the tests of the image start."""
        return [word for item in self._overrides for word in ("--set", item)]


def _listed(item: dict[str, Any]) -> ListedStudy:
    stage, reason = item.get("stage") or "", item.get("reason") or ""
    return ListedStudy(item["study_instance_uid"], item["state"], stage, reason)


def _overrides(folder: Path, destination: Pacs, port: int) -> list[str]:
    pacs = {"name": "pacs", "ae_title": destination.ae_title, "host": LOOPBACK, "port": destination.port}
    caller = {"ae_title": SCANNER_AE_TITLE, "addresses": [LOOPBACK]}
    values: dict[str, object] = {
        "receive.ae_title": NODE_AE_TITLE,
        "receive.host": LOOPBACK,
        "receive.port": port,
        "receive.allowed_callers": [caller],
        "receive.settle_s": 2.0,
        "receive.min_free_mb": 200.0,
        "segment.models_dir": str(REPOSITORY / "models"),
        "deliver.destinations": [pacs],
        "deliver.calling_ae_title": NODE_AE_TITLE,
        "deliver.first_retry_s": 1.0,
        "deliver.max_retry_s": 5.0,
        "node.data_dir": str(folder / "data"),
        "node.executor_id": "demo",
        "node.poll_s": 0.5,
        "node.min_free_mb": 200.0,
    }
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]  # JSON is YAML


def new_node(folder: Path, destination: Pacs, overrides: Sequence[str] = ()) -> Node:
    """A node on a free port, not started yet, that keeps everything in ``folder`` and sends to one PACS."""
    return Node(folder, destination, free_port(), overrides)


ACKNOWLEDGED = re.compile(r"with status SUCCESS\s*: (\d+)")
"""dcmsend's own summary; its exit code is 0 even when every image was refused."""


def study_instance_uid(images: Sequence[Path]) -> str:
    """The study that images belong to. Raises ValueError unless it is exactly one."""
    headers = (pydicom.dcmread(path, specific_tags=["StudyInstanceUID"]) for path in images)
    uids = {str(header.StudyInstanceUID) for header in headers}
    if len(uids) != 1:
        raise ValueError(f"found images of {len(uids)} studies, expected one")
    return uids.pop()


def send_images(images: Sequence[Path], port: int) -> None:
    """Send images to the node on the loopback; every one is acknowledged when this returns.

    With DCMTK's ``dcmsend`` where it is installed, which much of what hospitals own builds on; else with the
    sender that delivers results.

    Raises:
        RetryLaterError: the node does not take all of them.
    """
    program = shutil.which("dcmsend")
    if program is None:
        _send_with_the_nodes_own_sender(images, port)
    else:
        _send_with_dcmtk(program, images, port)


def _send_with_dcmtk(program: str, images: Sequence[Path], port: int) -> None:
    addressed = ["--aetitle", SCANNER_AE_TITLE, "--call", NODE_AE_TITLE, LOOPBACK, str(port)]
    done = subprocess.run(  # noqa: S603  # a known program
        [program, "--verbose", *addressed, *map(str, images)],
        env={**os.environ, "TCP_NODELAY": "1"},  # DCMTK leaves Nagle on: 40 ms an image
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    acknowledged = ACKNOWLEDGED.search(done.stdout)
    count = int(acknowledged.group(1)) if acknowledged else 0
    if done.returncode != 0 or count != len(images):
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise RetryLaterError(f"the node took {count} of {len(images)} images; dcmsend says:\n{last}")


def _send_with_the_nodes_own_sender(images: Sequence[Path], port: int) -> None:
    node = Destination("the node", NODE_AE_TITLE, LOOPBACK, port)
    refused = [item for item in send(images, node, SCANNER_AE_TITLE) if not item.ok]
    if refused:
        first = f"status {refused[0].status:04X} {refused[0].comment}"
        raise RetryLaterError(f"the node refused {len(refused)} of {len(images)} images: {first}")
