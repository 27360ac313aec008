"""The ``receive`` section of app.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network


@dataclass(frozen=True)
class Caller:
    """Who may send.

    Attributes:
        ae_title: calling AE title, exactly; ``*`` for any from these addresses.
        addresses: IP addresses or networks (``10.1.2.0/24``) it calls from.
    """

    ae_title: str
    addresses: tuple[str, ...] = ("127.0.0.1", "::1")

    def __post_init__(self) -> None:
        if not self.ae_title.strip():
            raise ValueError("a caller needs an AE title (or * for any)")
        for address in self.addresses:
            ip_network(address)

    def allows(self, ae_title: str, address: str) -> bool:
        """Whether an association of ``ae_title`` from ``address`` is this caller's."""
        return self.ae_title in ("*", ae_title) and self.allows_address(address)

    def allows_address(self, address: str) -> bool:
        """Whether the address alone is one of this caller's."""
        found = ip_address(address)
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in ip_network(network) for network in self.addresses)


@dataclass(frozen=True)
class ReceivePolicy:
    """How studies come in.

    Attributes:
        ae_title: ours; associations that call another title are rejected.
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        allowed_callers: who may send; nobody else is let in.
        settle_s: a study is taken to be complete after this many seconds without a new image, or sooner when
            its headers say that all are there.
        give_up_s: a study that never becomes complete is processed (and told why it can't be used) after
            this many seconds without a new image; nothing is deleted.
        min_free_mb: below this much free disk (10^6 bytes) images are refused with status A700.
        max_associations: associations at one time.
        max_pdu_bytes: largest PDU we announce and accept.
        max_instance_mb: largest data set accepted (10^6 bytes); a larger one ends its association.
        association_timeout_s: a connection that has not asked for an association by then is closed (ARTIM).
        idle_timeout_s: an association on which nothing happens is aborted.
        pdu_timeout_s: a PDU, once begun, has to be complete by then.
    """

    ae_title: str = "PSMA_NODE"
    host: str = "127.0.0.1"
    port: int = 11112
    allowed_callers: tuple[Caller, ...] = (Caller("*"),)
    settle_s: float = 60.0
    give_up_s: float = 3600.0
    min_free_mb: float = 2000.0
    max_associations: int = 32
    max_pdu_bytes: int = 262_144
    max_instance_mb: float = 2000.0
    association_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    pdu_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.ae_title.strip()) <= 16:
            raise ValueError(f"an AE title has 1 to 16 characters (PS3.5 6.2), found {self.ae_title!r}")
        if self.give_up_s < self.settle_s:
            raise ValueError("give_up_s must not be shorter than settle_s")
