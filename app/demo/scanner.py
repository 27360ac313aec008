"""The scanner's part: sending a folder of images by C-STORE."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pydicom

from app.demo.node import NODE_AE_TITLE, SCANNER_AE_TITLE
from app.demo.processes import LOOPBACK
from app.errors import RetryLaterError
from app.node.deliver_policy import Destination
from app.node.scu import send


def study_instance_uid(folder: Path) -> str:
    """The study that the images of a folder belong to. Raises ValueError unless it is exactly one."""
    headers = (pydicom.dcmread(path, specific_tags=["StudyInstanceUID"]) for path in _files(folder))
    uids = {str(header.StudyInstanceUID) for header in headers}
    if len(uids) != 1:
        raise ValueError(f"the folder holds images of {len(uids)} studies, expected one")
    return uids.pop()


def send_folder(folder: Path, port: int) -> int:
    """Send every image below ``folder`` to the node on the loopback; how many there were.

    With DCMTK's ``dcmsend`` where it is installed, which much of what hospitals own builds on; else with the
    sender that delivers results.

    Raises:
        RetryLaterError: the node does not take all of them.
    """
    files = _files(folder)
    program = shutil.which("dcmsend")
    if program is None:
        _send_with_the_nodes_own_sender(files, port)
    else:
        _send_with_dcmtk(program, folder, port)
    return len(files)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _send_with_dcmtk(program: str, folder: Path, port: int) -> None:
    done = subprocess.run(  # noqa: S603  # a known program
        [
            program, "--scan-directories", "--recurse", "--no-halt",
            "--aetitle", SCANNER_AE_TITLE, "--call", NODE_AE_TITLE, LOOPBACK, str(port), str(folder),
        ],
        env={**os.environ, "TCP_NODELAY": "1"},  # else 40 ms an image, see docs/architecture.md
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RetryLaterError(f"dcmsend ended with {done.returncode}: {done.stderr.strip()[-2000:]}")


def _send_with_the_nodes_own_sender(files: list[Path], port: int) -> None:
    node = Destination("the node", NODE_AE_TITLE, LOOPBACK, port)
    refused = [item for item in send(files, node, SCANNER_AE_TITLE) if not item.ok]
    if refused:
        raise RetryLaterError(f"the node refused {len(refused)} of {len(files)} images: {refused[0].comment}")
