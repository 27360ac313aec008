"""Whatever threads there were before, none takes a signal that asks the node to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import threading, time
from pathlib import Path
from app.node.stop_signals import block_stop_signals

def begin():
    threading.Thread(target=time.sleep, args=(60.0,), daemon=True).start()

print("from the beginning", flush=True)
for _ in range({before}):
    begin()
block_stop_signals()
begin()
for task in Path("/proc/self/task").iterdir():
    print((task / "status").read_text().partition("SigBlk:")[2].split()[0])
"""


@pytest.mark.parametrize(("before", "starts"), [(0, 1), (1, 2)])
def test_every_thread_has_them_blocked_and_only_a_thread_from_before_needs_another_start(
    before: int, starts: int
) -> None:
    command = [sys.executable, "-c", PROGRAM.format(before=before)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:starts] == ["from the beginning"] * starts
    masks = [int(line, 16) for line in lines[starts:]]
    wanted = sum(1 << (number - 1) for number in (signal.SIGTERM, signal.SIGINT))
    assert [mask & wanted for mask in masks] == [wanted] * (before + 2)
