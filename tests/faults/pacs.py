"""A PACS that commits to what it keeps, and that can be away, full, slow, or lose what it took."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pynetdicom import evt

from tests.node.deliver.stub_pacs import StubPacs, listening


@dataclass
class Pacs(StubPacs):
    """``status`` is its answer to C-STORE, after ``delay_s``."""

    status: int = 0x0000
    delay_s: float = 0.0
    to_lose: float = 0
    """How many of the next objects it acknowledges and forgets."""
    lost: int = 0
    _server: ExitStack = field(default_factory=ExitStack)

    def start(self) -> Pacs:
        """Listen, at the same port as before."""
        self._server.enter_context(listening(self, self.port))
        return self

    def stop(self) -> None:
        """Go away."""
        self._server.close()

    def take(self, event: evt.Event) -> int:
        """As its parent does, when it takes anything."""
        time.sleep(self.delay_s)
        if self.status:
            return self.status
        if self.to_lose:
            self.to_lose -= 1
            self.lost += 1
            self.loses[str(event.request.AffectedSOPInstanceUID)] += 1
        return super().take(event)

    def answer(self, association: Any, request: Dataset) -> None:
        """As its parent does; who asked may be gone."""
        with suppress(RuntimeError):
            super().answer(association, request)
