"""What a crowd of silent connections and a huge data set cost those who receive beside them.

    python -m benchmarks.receiver_limits

Against ``psma-node serve`` on the loopback: how long an association with its C-ECHO takes while 500
connections say nothing, and how much memory one CT of 1990 MB adds to the process that receives it (sent by
DCMTK's dcmsend; its pixels are zeros). Needs 12 GB below /var/tmp, and DCMTK.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import struct
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from app.demo.node import SCANNER_AE_TITLE
from app.demo.processes import LOOPBACK
from benchmarks.comparison import MIN_RUNS, Measure, Result, Row, keep
from benchmarks.receiver import Receiver, make_images, node, send_s

IDLE = 500
SERVED_S = 2.0
"""What was asked of the node."""

MEGABYTES = 1990
"""10^6 bytes of pixels; ``receive.max_instance_mb`` is 2000."""

MEMORY_SHARE = 0.05
"""Of a data set that may be in memory: buffers, and what the process needs by itself meanwhile."""


def echo_s(receiver: Receiver) -> float:
    """Seconds from the connection to the answer. Raises RuntimeError when there is none."""
    ae = AE(SCANNER_AE_TITLE)
    ae.add_requested_context(Verification)
    begun = time.perf_counter()
    association = ae.associate(LOOPBACK, receiver.port, ae_title=receiver.ae_title)
    if not association.is_established:
        raise RuntimeError("the association was not accepted")
    answer = association.send_c_echo()
    took_s = time.perf_counter() - begun
    association.release()
    if answer.Status != 0:
        raise RuntimeError(f"C-ECHO was answered with status {answer.Status:04X}")
    return took_s


def beside_idle_s(receiver: Receiver) -> float:
    """The same while :data:`IDLE` connections are open that say nothing."""
    with ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(socket.create_connection((LOOPBACK, receiver.port), 20.0))
        return echo_s(receiver)


def huge_image(folder: Path, number: int, megabytes: int) -> Path:
    """A CT image of so many 10^6 bytes of zeros, which take no room on the disk."""
    (path,) = make_images(folder / str(number), "CT", "CT", 1)
    image = dcmread(path)
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{image.SeriesInstanceUID}.{number}"
    del image.PixelData
    image.save_as(path, enforce_file_format=True)
    with path.open("ab") as file:
        file.write(struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OW", megabytes * 10**6))
        file.truncate(file.tell() + megabytes * 10**6)
    return path


def memory_mb(pid: int, which: str) -> float:
    """``VmRSS``: now; ``VmHWM``: at most, since :func:`forget_peak`."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.findall(rf"^{which}:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024 / 1e6


def forget_peak(pid: int) -> None:
    """From now on anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def added_mb(receiver: Receiver, pid: int, image: Path) -> float:
    """10^6 bytes of memory that the node had beyond those of before, at most, while it received an image."""
    forget_peak(pid)
    before = memory_mb(pid, "VmRSS")
    send_s([image], receiver)
    return max(0.1, memory_mb(pid, "VmHWM") - before)


def child() -> int:
    """The one process that this one has started."""
    (pid,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return int(pid)


def measured(folder: Path, megabytes: int) -> list[Row]:
    """Both, against one node; a first of each is not counted."""
    with node(folder / "node") as ours:
        pid = child()
        echo_s(ours)
        idle = tuple(beside_idle_s(ours) for _ in range(MIN_RUNS))
        added = []
        for number in range(MIN_RUNS + 1):
            image = huge_image(folder, number + 1, megabytes)
            added.append(added_mb(ours, pid, image))
            image.unlink()
    one = f"memory that one data set of {megabytes} MB adds"
    size = (float(megabytes),) * MIN_RUNS
    title = f"an association and its C-ECHO beside {IDLE} silent connections"
    return [
        Row(title, "–", Measure.SECONDS, idle, target=SERVED_S),
        Row(one, "its size", Measure.SHARE, tuple(added[1:]), size, MEMORY_SHARE),
    ]


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        rows = measured(folder, megabytes)
        found = Result.of(
            "receiver_limits", rows, packages=("pynetdicom",), programs=("DCMTK",), folder=folder
        )
    keep(found if megabytes == MEGABYTES else replace(found, arguments=f"--megabytes {megabytes}"))


if __name__ == "__main__":
    main()
