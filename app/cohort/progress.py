"""The progress of long work: a bar on a terminal, and the time left for the log."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REFRESH_PER_S = 2.0


@contextmanager
def progress(what: str, total: float, with_bar: bool = True) -> Iterator[Callable[[float], float]]:
    """Yields a function that takes the work just done and returns the seconds left at the average pace.

    Args:
        what: names the bar.
        total: all work, in any unit.
        with_bar: False where other processes write to the same terminal, and would tear the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(
        *columns,
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
