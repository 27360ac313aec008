"""Whether the node's loops still turn: each leaves a sign of life, and one that has gone quiet is named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class LifeSigns:
    """When each loop was last seen to move.

    Safe from any thread. A loop is known from its first sign on, so a start that takes long hangs nowhere.
    """

    def __init__(self, hung_after_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._hung_after_s = hung_after_s
        self._now_s = now_s
        self._seen_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def moved(self, loop: str) -> None:
        """The loop has begun a round, ended one, or got on within one."""
        with self._lock:
            self._seen_at[loop] = self._now_s()

    def rest(self) -> None:
        """The loops end on purpose: their silence means nothing any more."""
        with self._lock:
            self._hung_after_s = float("inf")

    def hanging(self) -> tuple[str, ...]:
        """One sentence for each loop that has not moved for ``hung_after_s``."""
        with self._lock:
            now_s = self._now_s()
            silent_s = {loop: now_s - seen_at for loop, seen_at in sorted(self._seen_at.items())}
            return tuple(
                f"{loop}: has not moved for {silence:.0f} s"
                for loop, silence in silent_s.items()
                if silence > self._hung_after_s
            )
