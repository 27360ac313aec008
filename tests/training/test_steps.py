"""Steps run as their needs are met, are never run twice, and leave nothing behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from app.training.steps import Step, StepFailedError, StepRunner, read_mark

APPEND = "import sys, time; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n')"


def step(log: Path, name: str, *needs: str, code: str = APPEND) -> Step:
    return Step(name, (sys.executable, "-c", code, str(log), name), dict(os.environ), needs)


def runner(folder: Path, parallel: int = 2) -> StepRunner:
    return StepRunner(parallel, folder / "logs", lambda name: folder / "steps" / name)


def test_a_step_waits_for_what_it_needs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    runner(tmp_path).run([step(log, "c", "b"), step(log, "b", "a"), step(log, "a")])
    assert log.read_text().split() == ["a", "b", "c"]
    assert read_mark(tmp_path / "steps" / "a") > 0.0


def test_a_finished_step_is_not_run_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    steps = [step(log, "a"), step(log, "b", "a")]
    runner(tmp_path).run(steps[:1])
    runner(tmp_path).run(steps)
    assert log.read_text().split() == ["a", "b"]


def test_a_failed_step_stops_only_what_needs_it_and_is_named_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    steps = [
        step(log, "bad", code="print('why'); raise SystemExit(3)"),
        step(log, "after", "bad"),
        step(log, "apart"),
    ]
    with pytest.raises(StepFailedError, match=r"failed: bad \(see .*bad\.log\); not begun: after"):
        runner(tmp_path).run(steps)
    assert log.read_text().split() == ["apart"]
    assert (tmp_path / "logs" / "bad.log").read_text() == "why\n"
    assert not (tmp_path / "steps" / "bad").exists()


def test_a_failed_step_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    log, door = tmp_path / "log", tmp_path / "door"
    code = f"import os; raise SystemExit(0 if os.path.exists({str(door)!r}) else 1)"
    with pytest.raises(StepFailedError):
        runner(tmp_path).run([step(log, "a", code=code)])
    door.touch()
    runner(tmp_path).run([step(log, "a", code=code)])
    assert (tmp_path / "steps" / "a").exists()


def test_no_process_outlives_an_interruption(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"

    class Interrupted(StepRunner):
        def _collect(self, steps: object, clock: object) -> None:
            if pid_file.exists() and pid_file.read_text():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted(1, tmp_path / "logs", lambda name: tmp_path / name).run([step(pid_file, "a", code=code)])
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
