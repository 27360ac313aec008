"""N-EVENT-REPORT on an association that a peer opened: sent without waiting for the peer's answer.

pynetdicom's own way blocks its caller until the next message comes, and takes that for the answer, be it
another request. (``type: ignore[misc]``: the project reads pynetdicom without its types, so its classes are
``Any`` to mypy.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT


class ReportingDimse(DIMSEServiceProvider):  # type: ignore[misc]
    """Calls back when an N-ACTION has been acknowledged, and when the peer acknowledges a report.

    Messages are sent from several threads: each goes to be sent whole, never one amid another's PDUs.
    """

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self.is_tls = False
        """Whether the association is spoken by TLS."""
        self._sending = threading.Lock()
        self.after_action: Callable[[], None] | None = None
        self._reports = 0
        self._told: dict[int, Callable[[], None]] = {}

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """As its parent does; ``after_action`` is called once an N-ACTION is acknowledged."""
        with self._sending:
            super().send_msg(primitive, context_id)
        if isinstance(primitive, N_ACTION):
            after, self.after_action = self.after_action, None
            if after is not None:
                after()

    def report(self, message: N_EVENT_REPORT, context_id: int, told: Callable[[], None]) -> None:
        """Send an N-EVENT-REPORT of ours; ``told`` is called when the peer acknowledges it."""
        with self._sending:
            self._reports += 1
            message.MessageID = self._reports
            self._told[self._reports] = told
            super().send_msg(message, context_id)

    def has_more_to_send(self) -> bool:
        """Whether a message, or the rest of one, still has to be sent; for the thread that sends."""
        with self._sending:
            return not self.dul.to_provider_queue.empty()

    def get_msg(self, block: bool = False) -> tuple[int | None, Any]:
        """As its parent does, but for answers to what was reported."""
        context_id, message = super().get_msg(block)
        if not isinstance(message, N_EVENT_REPORT):
            return context_id, message
        told = self._told.pop(message.MessageIDBeingRespondedTo, None)
        if told is not None and message.Status == 0:
            told()
        return None, None
