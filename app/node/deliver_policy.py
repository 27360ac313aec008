"""The ``deliver`` section of app.yaml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Destination:
    """A PACS that gets the results.

    Attributes:
        name: what status and audit call it.
        ae_title: its AE title.
        host: name or address.
        port: TCP port.
    """

    name: str
    ae_title: str
    host: str
    port: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.ae_title.strip()) <= 16:
            raise ValueError(f"an AE title has 1 to 16 characters (PS3.5 6.2), found {self.ae_title!r}")
        if not 1 <= len(self.name) <= 64:
            raise ValueError(f"a destination's name has 1 to 64 characters, found {len(self.name)}")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"a TCP port is 1 to 65535, found {self.port}")


@dataclass(frozen=True)
class DeliverPolicy:
    """Where results go, and how stubbornly.

    Attributes:
        destinations: each gets every result; none: results stay in the outbox.
        calling_ae_title: ours, towards the PACS.
        timeout_s: for the connection, for each answer, and for a stalled transfer.
        first_retry_s: wait before the second attempt; doubles each time.
        max_retry_s: longest wait between attempts.
        max_age_days: results that could not be delivered for so long are reported as failed; 0 for never.
    """

    destinations: tuple[Destination, ...] = ()
    calling_ae_title: str = "PSMA_NODE"
    timeout_s: float = 30.0
    first_retry_s: float = 10.0
    max_retry_s: float = 900.0
    max_age_days: float = 0.0

    def __post_init__(self) -> None:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same name")

    def retry_after_s(self, failed_attempts: int) -> float:
        """Wait before the next attempt, after ``failed_attempts`` (1 or more) in a row."""
        doublings = min(max(failed_attempts, 1) - 1, 30)
        return min(self.first_retry_s * 2.0**doublings, self.max_retry_s)
