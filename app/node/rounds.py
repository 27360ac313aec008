"""What a node does again and again, each on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import PsmaNodeError

SHORTEST_PAUSE_S = 0.05
"""A loop that is not woken rests so long."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """What a loop does each time, ``pause_s`` apart, or sooner when the work returns after how many seconds;
    ``moved`` is called when it begins and when it ends."""

    name: str
    work: Callable[[], float | None]
    pause_s: float
    moved: Callable[[], None] = lambda: None


def start_loop(one: Round, wake: threading.Event, stopping: threading.Event) -> threading.Thread:
    """Do the work again and again, or earlier when woken, until ``stopping``."""

    def run() -> None:
        while not stopping.is_set():
            one.moved()
            sooner = None
            try:
                sooner = one.work()
            except PsmaNodeError as error:
                _log.warning("%s: will be tried again", one.name, extra={"reason": str(error)})
            except Exception as error:  # noqa: BLE001  a database that is away a moment must not end the loop
                _log.error("%s: will be tried again", one.name, exc_info=error)
            one.moved()
            wake.wait(one.pause_s if sooner is None else min(one.pause_s, max(sooner, SHORTEST_PAUSE_S)))
            if wake is not stopping:
                wake.clear()

    thread = threading.Thread(target=run, name=one.name, daemon=True)
    thread.start()
    return thread
