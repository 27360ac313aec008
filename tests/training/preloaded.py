"""``psma-node`` with steps that are forked from a process which has PyTorch and nnU-Net in memory already.

    python -m tests.training.preloaded experiment --work FOLDER ...

Each step of an experiment is a process of its own, and so is each of nnU-Net's pools; to import PyTorch and
nnU-Net takes them longer than what they do in a test. That the steps work as programs of their own, and end
when the command is killed, is for the tests that begin an experiment with ``python -m app``.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from app.training.workplace import Workplace, child_environment

USED = (
    "app.inference.running.segmenter",
    "app.training.trainer",
    "nnunetv2.experiment_planning.plan_and_preprocess_api",
)
"""What steps import late."""

PROGRAM = (sys.executable, "-m", "app.training.worker")


class ForkedStep:
    """What :class:`~app.training.steps.StepRunner` needs of ``subprocess.Popen``."""

    def __init__(self, command: Sequence[str], *, stdout: IO[bytes], env: Mapping[str, str]) -> None:
        assert tuple(command[:3]) == PROGRAM
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._code: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            os._exit(_step(command[2:], stdout.fileno(), env))

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, timeout: float = 3600.0) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(PROGRAM, timeout)
            time.sleep(0.02)
        return code

    def terminate(self) -> None:
        os.kill(self._pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)


def _step(argv: Sequence[str], output: int, env: Mapping[str, str]) -> int:
    """The worker with these words and this environment; returns its exit code."""
    from app.training import worker

    os.dup2(output, sys.stdout.fileno())
    os.environ.clear()
    os.environ.update(env)
    logging.getLogger().handlers.clear()  # the command's
    sys.argv = list(argv)
    code: Any = 0
    try:
        worker.main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001  as a program's: its traceback, and 1
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return int(code or 0)


def main() -> None:
    """Load what steps need, then run the command."""
    place = Workplace(Path(sys.argv[sys.argv.index("--work") + 1]).resolve())
    # nnU-Net reads its folders when it is imported
    os.environ.update(child_environment(place, 1, planning=True))
    for name in USED:
        importlib.import_module(name)
    from app.cli.main import main as psma_node
    from app.training import steps

    context = multiprocessing.get_context

    def forking(method: str | None = None) -> Any:
        return context("fork" if method == "spawn" else method)

    multiprocessing.get_context = forking
    # of this module alone: nnU-Net runs programs too
    steps.subprocess = SimpleNamespace(Popen=ForkedStep, TimeoutExpired=subprocess.TimeoutExpired)
    psma_node()


if __name__ == "__main__":
    main()
