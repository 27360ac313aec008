"""Tiles side by side on a CPU's cores, and the memory that they use one after the other.

One thread for each tile keeps a core busy where a few threads for one small tile wait for each other. What a
tile's answer is depends on that thread alone, so results don't depend on how many there are.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``."""

KEPT_BYTES = 2**28
"""Freed memory that stays with the process between tiles: the maps of small tiles."""

LARGE_BYTES = 2**25
"""A larger block is given back at once; glibc's own limit, which it comes to by itself."""


def in_order(work: Callable[[Item], Answer], items: Iterable[Item], workers: int) -> Iterator[Answer]:
    """``work`` of each item, in the items' order; ``workers`` of them at a time, each in a single thread."""
    if workers == 1:
        yield from map(work, items)
        return
    threads = torch.get_num_threads()
    waiting: deque[Future[Answer]] = deque()
    try:
        with ThreadPoolExecutor(workers, "tile", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for item in items:
                waiting.append(pool.submit(_inferred, work, item))
                if len(waiting) == 2 * workers:  # so that answers don't pile up
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)  # of threads to come, too


def _inferred(work: Callable[[Item], Answer], item: Item) -> Answer:
    with torch.inference_mode():  # a thread's own
        return work(item)


def keep_freed_memory() -> None:
    """Don't give a tile's memory back, for the next one would get it zeroed by the kernel, page by page.

    A fifth of a small network's time. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(_c_library(), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back_memory() -> None:
    """What :func:`keep_freed_memory` kept."""
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
