"""Long work on many patients: several processes at once, a bar on a terminal, the time left for the log."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from app.errors import MisconfiguredError

REFRESH_PER_S = 2.0
Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in the order in which they end, ``jobs`` at once.

    Raises:
        MisconfiguredError: a process was ended from outside, most likely for want of memory.
    """
    if jobs == 1 or len(tasks) < 2:
        yield from ((task, work(task)) for task in tasks)
        return
    try:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(work, task): task for task in tasks}
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            finally:  # an interruption waits for the tasks under way, not for all
                pool.shutdown(cancel_futures=True)
    except BrokenProcessPool as error:
        found = "a process was ended from outside, perhaps for lack of memory"
        raise MisconfiguredError(f"{found}: run it again with fewer --jobs; finished ones stay") from error


@contextmanager
def progress(what: str, total: float, with_bar: bool = True) -> Iterator[Callable[[float], float]]:
    """A bar on a terminal; yields a function of the work just done: the seconds left at the average pace.

    Args:
        what: names the bar.
        total: all work, in any unit.
        with_bar: False where other processes write to the same terminal, and would tear the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        refresh_per_second=REFRESH_PER_S,
        speed_estimate_period=math.inf,  # patients take longer than rich's 30 s
        disable=not (with_bar and console.is_terminal),
    )
    with bar:
        identity = bar.add_task(what, total=total)
        task = bar.tasks[0]
        bar.advance(identity, 0)  # the clock begins here, not at the first patient

        def advance(done: float) -> float:
            bar.advance(identity, done)
            return task.time_remaining or 0.0

        yield advance
