"""The scanner's part: sending images by C-STORE."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pydicom

from app.demo.node import NODE_AE_TITLE, SCANNER_AE_TITLE
from app.demo.processes import LOOPBACK
from app.errors import RetryLaterError
from app.node.deliver.scu import send
from app.node.policy import Destination

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
