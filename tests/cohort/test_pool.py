"""Several patients at once, and what an interruption leaves."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.cohort import pool as cohort_pool
from app.cohort.manifest import PatientRecord
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

    monkeypatch.setattr(cohort_pool, "_in_words", interrupted)
    monkeypatch.setattr(cohort_pool, "_complete", lambda task: None)
    with pytest.raises(KeyboardInterrupt):
        cohort_pool.build_all(tasks(3), jobs=2)
    assert [future.cancelled() for future in pool.futures] == [False, True, True]


def test_a_process_ended_from_outside_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakePool):
        def submit(self, *_: object) -> Future[PatientRecord]:
            future: Future[PatientRecord] = Future()
            future.set_exception(cohort_pool.BrokenProcessPool())
            return future

    monkeypatch.setattr(cohort_pool, "ProcessPoolExecutor", Broken)
    monkeypatch.setattr(cohort_pool, "_complete", lambda task: None)
    with pytest.raises(MisconfiguredError, match="fewer --jobs"):
        cohort_pool.build_all(tasks(2), jobs=2)
