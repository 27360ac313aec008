"""A PACS that commits to what it keeps, and that can be away, full, or lose what it took."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pynetdicom import evt

from tests.node.deliver.stub_pacs import StubPacs, listening


@dataclass
class Pacs(StubPacs):
    """``status`` is its answer to C-STORE."""

    status: int = 0x0000
    is_losing: bool = False
    """Whether it acknowledges and forgets what comes."""
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
        if self.status:
            return self.status
        self.loses[str(event.request.AffectedSOPInstanceUID)] = int(self.is_losing)
        return super().take(event)

    def answer(self, association: Any, request: Dataset) -> None:
        """As its parent does; who asked may be gone."""
        with suppress(RuntimeError):
            super().answer(association, request)
