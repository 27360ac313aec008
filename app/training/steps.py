"""Steps that depend on each other: each is a process, several run at once, and finished ones are skipped."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.cohort.pool import progress
from app.errors import PsmaNodeError
from app.files.durable import write_durably

log = logging.getLogger(__name__)
POLL_S = 0.2
END_WITHIN_S = 20.0
"""A child that was asked to end gets this long; then it is killed. Its checkpoint is whole either way."""


class StepFailedError(PsmaNodeError):
    """A step's process ended with an error; its log says why."""


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: names its log and its mark.
        command: what to run.
        environment: its whole environment.
        needs: names of steps that come before it.
        effort: how long it takes, in any unit that all steps share; for the time left.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    needs: tuple[str, ...] = ()
    effort: float = 1.0


@dataclass
class StepRunner:
    """Runs steps as their needs are met.

    Attributes:
        parallel: processes at once.
        logs: standard output of step ``x`` goes to ``logs/x.log``; standard error is passed on.
        mark: the file that says that a step is finished, with the seconds it took.
    """

    parallel: int
    logs: Path
    mark: Callable[[str], Path]
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _begun_s: dict[str, float] = field(default_factory=dict)
    _failed: dict[str, int] = field(default_factory=dict)

    def run(self, steps: Sequence[Step]) -> None:
        """Run all that isn't finished yet; one that fails stops only those that need it.

        Raises:
            StepFailedError: some failed; naming them, their logs, and what was not begun for their sake.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        left = [step for step in steps if not self.mark(step.name).exists()]
        if len(left) < len(steps):
            log.info("%d of %d steps were finished before", len(steps) - len(left), len(steps))
        self._failed.clear()
        try:
            # no bar: the steps write their own lines to the terminal
            with progress("steps", sum(step.effort for step in left), with_bar=False) as advance:
                while left or self._running:
                    left = self._start_ready(left)
                    if not self._running:
                        break  # what is left needs a step that failed
                    time.sleep(POLL_S)
                    self._collect(steps, advance)
        finally:
            self._end_all()
        if self._failed:
            raise StepFailedError(self._what_failed(left))

    def _start_ready(self, left: list[Step]) -> list[Step]:
        waiting = []
        for step in left:
            is_ready = all(self.mark(name).exists() for name in step.needs)
            if is_ready and len(self._running) < self.parallel:
                self._start(step)
            else:
                waiting.append(step)
        return waiting

    def _start(self, step: Step) -> None:
        log.info("%s begins", step.name)
        self._begun_s[step.name] = time.monotonic()
        with (self.logs / f"{step.name}.log").open("ab") as output:
            self._running[step.name] = subprocess.Popen(  # noqa: S603 - our own modules
                step.command, stdout=output, env=dict(step.environment)
            )

    def _collect(self, steps: Sequence[Step], advance: Callable[[float], float]) -> None:
        for name, child in list(self._running.items()):
            code = child.poll()
            if code is None:
                continue
            del self._running[name]
            if code:
                self._failed[name] = code
                log.error("%s failed with exit code %d; see %s", name, code, self.logs / f"{name}.log")
                continue
            write_mark(self.mark(name), time.monotonic() - self._begun_s[name])
            effort = next(step.effort for step in steps if step.name == name)
            finished = sum(self.mark(step.name).exists() for step in steps)
            words = "%s is finished; %d of %d steps, about %.0f min left"
            log.info(words, name, finished, len(steps), advance(effort) / 60.0)

    def _end_all(self) -> None:
        """No child outlives the command."""
        for child in self._running.values():
            child.terminate()
        for child in self._running.values():
            try:
                child.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._running.clear()

    def _what_failed(self, left: Sequence[Step]) -> str:
        logs = ", ".join(f"{name} (see {self.logs / name}.log)" for name in sorted(self._failed))
        kept = f"; not begun: {', '.join(step.name for step in left)}" if left else ""
        return f"failed: {logs}{kept}. What is finished stays; run the same command again to go on"


def write_mark(mark: Path, seconds: float) -> None:
    """Say that a step is finished, and how long it took (what a kill lost is not in it)."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_durably(mark, f"{seconds:.1f}\n".encode())


def read_mark(mark: Path) -> float:
    """Seconds that a finished step took."""
    return float(mark.read_text())
