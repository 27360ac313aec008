"""Work on the slices of a volume, several at a time: numpy and scipy let go of the interpreter meanwhile.

Each slice is worked on as it would be alone, so the results are the same to the bit however many threads
there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Found = TypeVar("Found")

MOST_THREADS = 4
"""Passes over pixels wait for the memory; more than a few threads gain nothing."""

RUNS_A_THREAD = 8
"""Slices are handed out in runs: asking for each alone costs as much as some passes take."""


def thread_count() -> int:
    """How many threads such work gets on the cores that this process may use."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0)))


def slice_by_slice(work: Callable[[int], Found], slices: int) -> list[Found]:
    """What ``work`` gives for each slice, in their order; the first error is raised."""
    step = -(-slices // (RUNS_A_THREAD * thread_count())) or 1

    def run(start: int) -> list[Found]:
        return [work(z) for z in range(start, min(start + step, slices))]

    with ThreadPoolExecutor(thread_count()) as threads:
        return [found for several in threads.map(run, range(0, slices, step)) for found in several]
