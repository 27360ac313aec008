"""Programs of the demo end with it, and say why when they end before."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from app.demo.processes import Program, ProgramFailedError, free_port, start_program, stopping, stops_wait


def start(code: str, folder: Path) -> Program:
    return start_program("the program", [sys.executable, "-c", code], folder / "log", os.environ)


def test_a_program_that_ends_early_shows_its_last_lines(tmp_path: Path) -> None:
    program = start("print('first'); print('the disk is on fire'); raise SystemExit(7)", tmp_path)
    with pytest.raises(ProgramFailedError, match=r"(?s)exit code 7.*the disk is on fire"):
        program.wait_for_port(free_port(), 60)


def test_a_program_that_never_listens_is_given_up(tmp_path: Path) -> None:
    with (
        stopping(start("import time; time.sleep(60)", tmp_path)) as program,
        pytest.raises(ProgramFailedError, match="did not listen"),
    ):
        program.wait_for_port(free_port(), 0.2)


def test_a_program_is_stopped_when_its_block_fails(tmp_path: Path) -> None:
    program = start("import time; time.sleep(60)", tmp_path)
    with pytest.raises(KeyboardInterrupt), stopping(program):
        raise KeyboardInterrupt
    with pytest.raises(ProgramFailedError, match="exit code -15"):
        program.require_alive()


def test_a_program_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    program = start(code, tmp_path)
    while "deaf" not in program.last_lines():
        program.require_alive()
    assert program.stop(timeout_s=0.2) == -9


def test_a_stop_waits_until_a_child_has_its_name() -> None:
    done = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), stops_wait():
            signal.raise_signal(signal.SIGTERM)
            done.append("child")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == ["child"]
