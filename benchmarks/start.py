"""How long commands take to answer, and the node to listen: against two imports, and against Orthanc.

    python -m benchmarks.start

A data folder that a node has used before, for ``status`` with a hundred studies; its models are those of the
repository. Takes about a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.demo.pacs import Orthanc
from app.demo.processes import free_port, is_listening, start_program, stopping
from app.domain.selection.screening import CT_IMAGE
from app.node.policy import NodePolicy
from app.node.records.database import insert_missing, utc_now
from app.node.records.inbox_index import InstanceRow
from app.node.records.states import StudyState
from app.node.records.stores import open_stores
from benchmarks.comparison import MIN_RUNS, ROOT, Measure, Result, Row, interleaved, keep, timed

LOOK_EVERY_S = 0.005
IMPORTS = (sys.executable, "-c", "import pydicom, pynetdicom")
"""The libraries that every DICOM program in Python loads: the peer of commands that answer and end."""

BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
COMMANDS = {"--help": 0.3, "status": 0.5, "check": 1.5}
"""What is typed, and within how many seconds it is to answer."""

LISTENS_WITHIN_S = 2.0
STUDIES = 100
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Python may keep what it compiled, as where the program is installed."""


def ran(command: Sequence[str]) -> Callable[[], float]:
    """Seconds of a command, to its end."""
    return timed(lambda: subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=True))


def serving(words: Sequence[str], folder: Path, until: str = "") -> Callable[[], float]:
    """Seconds until the node listens, or has logged an event; it is stopped afterwards."""

    def run() -> float:
        port, log = free_port(), folder / "log"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "app", "serve", *words, "--set", f"receive.port={port}"]
        begun = time.perf_counter()
        with stopping(start_program("psma-node serve", command, log, ENVIRONMENT)) as node:
            while not (f'"event": "{until}"' in log.read_text() if until else is_listening(port)):
                node.require_alive()
                time.sleep(LOOK_EVERY_S)
            return time.perf_counter() - begun

    return run


def orthanc_listens(folder: Path) -> Callable[[], float]:
    """Seconds until an Orthanc that has been used before listens; it is stopped afterwards."""

    def run() -> float:
        peer = Orthanc(folder, "PEER", free_port(), {})
        begun = time.perf_counter()
        try:
            peer.start()
            return time.perf_counter() - begun
        finally:
            peer.stop()

    return run


def use(policy: NodePolicy) -> None:
    """Studies of an image and a report each, complete and queued, in a node's database."""
    stores = open_stores(policy)
    for number in range(STUDIES):
        study = f"1.2.{number}"
        rows = [
            {
                "sop_instance_uid": f"{study}.{kind}", "sha256": f"{number:064}", "study_instance_uid": study,
                "series_instance_uid": f"{study}.{kind}.1", "sop_class_uid": kind, "path": f"{study}/{kind}",
                "bytes": 1, "received_at": utc_now(), "calling_ae": "PEER",
            }
            for kind in (CT_IMAGE, BASIC_TEXT_SR)
        ]  # fmt: skip
        with stores.engine.begin() as connection:
            insert_missing(connection, InstanceRow, rows)
        stores.runs.open(study, f"{number:064}")
        stores.studies.observe(study, StudyState.QUEUED)
    stores.close()


def main() -> None:
    """Measure and keep."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        open_stores(NodePolicy(data_dir=folder / "data")).close()
        use(NodePolicy(data_dir=folder / "full"))
        settings = ["--set", f"node.data_dir={folder / 'data'}"]
        for command, within_s in COMMANDS.items():
            full = ["--set", f"node.data_dir={folder / 'full'}"]
            used = {"--help": [], "status": full}.get(command, settings)
            words = [sys.executable, "-m", "app", command, *used]
            ours, peer = interleaved(ran(words), ran(IMPORTS))
            title = f"psma-node {command}"
            rows += [
                Row(title, "–", Measure.SECONDS, ours, target=within_s),
                Row(title, "import pydicom, pynetdicom", Measure.SHARE, ours, peer),
            ]
        orthanc = orthanc_listens(folder / "orthanc")
        orthanc()  # makes its database
        ours, peer = interleaved(serving(settings, folder), orthanc)
        rows += [
            Row("psma-node serve, until it listens", "–", Measure.SECONDS, ours, target=LISTENS_WITHIN_S),
            Row("psma-node serve, until it listens", "Orthanc", Measure.SHARE, ours, peer),
        ]
        ready = serving(settings, folder, until="ready")
        measured = tuple(ready() for _ in range(MIN_RUNS))
        rows.append(Row("psma-node serve, until it can work on a study", "–", Measure.SECONDS, measured))
    packages = ("typer", "pydantic", "sqlalchemy", "pydicom", "pynetdicom", "torch")
    keep(Result.of("start", rows, packages=packages, programs=("Orthanc",)))


if __name__ == "__main__":
    main()
