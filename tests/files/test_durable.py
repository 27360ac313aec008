"""Folders that one process at a time works in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.errors import MisconfiguredError
from app.files.durable import LOCK_FILE, hold_folder, sync_tree, try_lock

ROOT = Path(__file__).resolve().parents[2]


def test_a_folder_is_held_by_one_and_free_once_that_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with (
        hold_folder(folder, "one"),
        pytest.raises(MisconfiguredError, match="another two is at work in this folder"),
        hold_folder(folder, "two"),
    ):
        pass
    with hold_folder(folder, "three"):
        assert (folder / LOCK_FILE).exists()


def test_a_folder_is_free_after_work_that_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), hold_folder(tmp_path, "one"):
        raise RuntimeError
    with hold_folder(tmp_path, "two"):
        pass


HOLDER = """
import os, subprocess, sys
from pathlib import Path
from app.files.durable import try_lock
lock = try_lock(Path(sys.argv[1]))
{start_child}
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "start_child",
    ["subprocess.Popen(['sleep', '60'], close_fds=False)", "os.fork() or os.execlp('sleep', 'sleep', '60')"],
)
def test_a_process_that_is_killed_frees_the_lock_though_its_child_lives_on(
    start_child: str, tmp_path: Path
) -> None:
    program = [sys.executable, "-c", HOLDER.format(start_child=start_child), str(tmp_path / LOCK_FILE)]
    holder = subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd=ROOT
    )
    with holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert try_lock(tmp_path / LOCK_FILE) is None
            holder.kill()
            holder.wait()
            deadline = time.monotonic() + 30.0  # a forked child closes its copy in a moment of its own
            while (lock := try_lock(tmp_path / LOCK_FILE)) is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert lock is not None
            os.killpg(holder.pid, 0)  # the child lives
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_a_lock_that_is_forgotten_is_released(tmp_path: Path) -> None:
    assert try_lock(tmp_path / LOCK_FILE) is not None
    assert try_lock(tmp_path / LOCK_FILE) is not None


def test_folders_within_folders_are_flushed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x")
    sync_tree(tmp_path)
