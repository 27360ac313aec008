"""Several patients at once, what an interruption leaves, and the bar with the time left."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.cohort import patient as cohort_patient
from app.cohort import pool as cohort_pool
from app.cohort.manifest import PatientRecord
from app.cohort.pool import progress
from app.errors import MisconfiguredError


class FakePool:
    """A pool whose first patient is built, while the others wait for ever."""

    def __init__(self, *_: object, **__: object) -> None:
        self.futures: list[Future[PatientRecord]] = []

    def __enter__(self) -> FakePool:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, *_: object) -> Future[PatientRecord]:
        future: Future[PatientRecord] = Future()
        if not self.futures:
            future.set_result(PatientRecord(digest="x", patient=None))
        self.futures.append(future)
        return future

    def shutdown(self, cancel_futures: bool = False) -> None:
        for future in self.futures:
            if cancel_futures:
                future.cancel()


def tasks(count: int) -> list[Any]:
    return [SimpleNamespace(name=f"A{n:04d}", cohort=Path(), digest="x") for n in range(count)]


def test_an_interruption_does_not_build_the_rest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FakePool()
    monkeypatch.setattr(cohort_pool, "ProcessPoolExecutor", lambda *_, **__: pool)

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(cohort_patient, "_in_words", interrupted)
    monkeypatch.setattr(cohort_patient, "_complete", lambda task: None)
    with pytest.raises(KeyboardInterrupt):
        cohort_patient.build_all(tasks(3), jobs=2)
    assert [future.cancelled() for future in pool.futures] == [False, True, True]


def test_a_process_ended_from_outside_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakePool):
        def submit(self, *_: object) -> Future[PatientRecord]:
            future: Future[PatientRecord] = Future()
            future.set_exception(cohort_pool.BrokenProcessPool())
            return future

    monkeypatch.setattr(cohort_pool, "ProcessPoolExecutor", Broken)
    monkeypatch.setattr(cohort_patient, "_complete", lambda task: None)
    with pytest.raises(MisconfiguredError, match="fewer --jobs"):
        cohort_patient.build_all(tasks(2), jobs=2)


def test_the_time_left_is_that_of_the_average_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    with progress("patients", 4) as advance:
        left = []
        for took_s in (100.0, 20.0, 60.0, 60.0):
            now[0] += took_s
            left.append(advance(1))
    assert left == [300.0, 120.0, 60.0, 0.0]


@pytest.mark.parametrize(
    ("terminal", "with_bar", "drawn"), [("1", True, True), ("1", False, False), ("0", True, False)]
)
def test_a_bar_is_drawn_on_a_terminal_alone(
    terminal: str,
    with_bar: bool,
    drawn: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    with progress("patients", 2, with_bar) as advance:
        advance(1)
    shown = capsys.readouterr()
    assert ("patients" in shown.err, shown.out) == (drawn, "")
