"""Sections ``tls``, ``receive`` and ``deliver`` of app.yaml: whom the node speaks with, and how."""

from __future__ import annotations

import typing
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import combinations
from typing import Annotated, Any, Literal

from app.domain.ranges import Form, Range, Ranged, Rule

ResultName = Literal["SEG", "SR", "PAGE", "RTSTRUCT"]
"""As :class:`app.dicom.uids.ResultKind`."""

AE_TITLE = Form(
    r"(?! )[ -\[\]-~]{1,16}(?<! )",
    "an AE title: 1 to 16 characters of ASCII, no backslash, no space before or after (PS3.5 6.2)",
)
AeTitle = Annotated[str, AE_TITLE]
HOST = r"[^\s/:@]+|[0-9a-fA-F:.]+(%\w+)?"
Host = Annotated[str, Form(HOST, "a host name or an IP address, without port")]
Port = Annotated[int, Range(1, 65535)]
OwnPort = Annotated[int, Range(0, 65535)]
"""0 takes a free one, or none."""
TimeLimit = Annotated[float, Range(0.1, 3600)]
RetryWait = Annotated[float, Range(0, 604_800, above=True)]
Megabytes = Annotated[float, Range(0, 1_000_000_000)]


@dataclass(frozen=True)
class _NetworkForm(Rule):
    """An address, or a network without bits beyond its mask."""

    def allows(self, value: Any) -> bool:
        """It can be compared with the address of a caller."""
        try:
            ip_network(value)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return "an IP address, or a network such as 10.1.2.0/24 (no bits beyond the mask)"


Network = Annotated[str, _NetworkForm()]


def is_this_host(host: str) -> bool:
    """Whether an address leads to this host alone (loopback)."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def doubled(first_s: float, tries: int, longest_s: float) -> float:
    """The wait that doubles with each try after the first, up to the longest."""
    return min(first_s * 2.0 ** min(max(tries, 1) - 1, 30), longest_s)


def unmapped(address: str) -> IPv4Address | IPv6Address:
    """An address; one of IPv4 as such, also where it is mapped into IPv6. Raises ValueError: it is none."""
    found = ip_address(address)
    return getattr(found, "ipv4_mapped", None) or found


@dataclass(frozen=True)
class TlsPolicy(Ranged):
    """Who the node is when it speaks TLS, and whose certificates it takes (docs/how-to/tls.md)."""

    certificate: str = ""
    """PEM file with the node's certificate, then those between it and the CA. The files of this section are
    relative to where the program starts, and read again when they change: no restart is needed."""
    key: str = ""
    """PEM file with the certificate's private key, without a password; empty when it is in the same file."""
    authorities: str = ""
    """PEM file with the certificates of the site's CAs: peers have to show one of theirs."""
    warn_days: Annotated[float, Range(0, 365)] = 30.0
    """``check`` and notices warn when a certificate ends within so many days."""


NO_TLS = TlsPolicy()
"""Of a node that speaks plain TCP alone."""


@dataclass(frozen=True)
class Listener(Ranged):
    """An address that the node listens on."""

    host: Annotated[str, Form(rf"({HOST})?", "a host name or an IP address, without port, or nothing")] = ""
    """Address; empty for ``receive.host``."""
    port: OwnPort = 11112
    """TCP port; 0 takes a free one. 2762 is registered for DICOM over TLS."""
    tls: bool = False
    """Speak TLS, and nothing else, on this port."""
    client_certificate: bool = True
    """With TLS: refuse senders that show no certificate of the site's CA."""

    def __str__(self) -> str:
        return f"{self.host} port {self.port}{' (TLS)' if self.tls else ''}"

    def collides(self, host: str, port: int) -> bool:
        """Whether it is taken when something else listens there."""
        hosts = {self.host, host}
        every = "0.0.0.0" in hosts  # noqa: S104  compared, not listened on
        is_same = len(hosts) == 1 or (every and not any(":" in one for one in hosts))
        return is_same and port == self.port != 0


@dataclass(frozen=True)
class Caller(Ranged):
    """A sender that may open associations."""

    ae_title: AeTitle
    """Calling AE title, exactly; ``*`` for any title from these addresses."""
    addresses: tuple[Network, ...] = ("127.0.0.1", "::1")
    """IP addresses or networks (``10.1.2.0/24``) that it calls from."""
    max_associations: Annotated[int, Range(0, 1000)] = 0
    """Associations that it may have open at one time; 0 for as many as the node allows."""
    commitment_port: OwnPort = 0
    """TCP port at the address that it calls from, where it takes answers to its requests for storage
    commitment; 0 when it waits for them on the association of its request."""
    commitment_tls_name: str = ""
    """A request that came by TLS is answered by TLS alone, also at ``commitment_port``: the name that the
    certificate shown there has to carry; empty for the address."""

    def allows(self, ae_title: str, address: str) -> bool:
        return self.ae_title in ("*", ae_title) and self.allows_address(address)

    def allows_address(self, address: str) -> bool:
        return any(unmapped(address) in ip_network(network) for network in self.addresses)


@dataclass(frozen=True)
class ReceivePolicy(Ranged):
    """Who may send studies to the node, and when a study is complete."""

    ae_title: AeTitle = "PSMA_NODE"
    """AE title of the node; associations that call another title are rejected."""
    host: Host = "127.0.0.1"
    """Address to listen on, also of ``listeners`` that name none; 0.0.0.0 to be reached from other hosts."""
    port: OwnPort = Listener.port
    """TCP port; 0 takes a free one."""
    listeners: tuple[Listener, ...] = ()
    """Several addresses, or TLS: they take the place of ``port``, the short form for one without TLS. For
    example ``[{host: 127.0.0.1}, {host: 0.0.0.0, port: 2762, tls: true}]``."""
    allowed_callers: tuple[Caller, ...] = (Caller("*"),)
    """Senders that are accepted; all others are rejected."""
    urgent_callers: tuple[AeTitle, ...] = ()
    """AE titles whose studies are processed first, as are those whose headers ask for it: Requested Procedure
    Priority (0040,1003) STAT or HIGH, or Study Priority ID (0032,000C) HIGH. Then come SPECT/CTs, then
    PET/CTs, then old studies that were sent again."""
    settle_s: Annotated[float, Range(0, 86_400)] = 60.0
    """A study counts as complete after so many seconds without a new image, or sooner when its headers say
    that all images are there."""
    give_up_s: Annotated[float, Range(0, 604_800)] = 3600.0
    """A study that never becomes complete is processed after so many seconds without a new image; its status
    then says why it can't be used, and nothing is deleted."""
    min_free_mb: Megabytes = 2000.0
    """With less free disk space than this (10^6 bytes), images are refused with status A700."""
    max_associations: Annotated[int, Range(1, 1000)] = 32
    """Number of associations at one time."""
    max_pdu_bytes: Annotated[int, Range(4096, 16_777_216)] = 262_144
    """Largest PDU that the node announces and accepts."""
    max_instance_mb: Annotated[float, Range(0, 100_000, above=True)] = 2000.0
    """Largest data set accepted (10^6 bytes); a larger one ends its association."""
    association_timeout_s: TimeLimit = 10.0
    """A connection that has not asked for an association after so many seconds is closed (ARTIM)."""
    idle_timeout_s: TimeLimit = 60.0
    """An association without activity is aborted after so many seconds."""
    pdu_timeout_s: TimeLimit = 30.0
    """More of a PDU that has begun has to come within so many seconds, and 1000 bytes in each second beyond
    them: a slow link has its time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.give_up_s < self.settle_s:
            raise ValueError("give_up_s must not be shorter than settle_s")
        if self.listeners and self.port != Listener.port:
            raise ValueError("port is the short form of listeners; set one of the two")
        for first, second in combinations(self.addresses, 2):
            if first.collides(second.host, second.port):
                raise ValueError(f"two listeners have the same address and port: {first} and {second}")

    @property
    def addresses(self) -> tuple[Listener, ...]:
        """Every address that is listened on."""
        listeners = self.listeners or (Listener(port=self.port),)
        return tuple(replace(one, host=one.host or self.host) for one in listeners)

    def can_be_called_by(self, peer: Destination) -> bool:
        """Whether a destination can report storage commitment on an association of its own: without TLS it
        needs a listener that has none, and from another host one that is not on loopback."""
        open_to_it = (one for one in self.addresses if peer.tls or not one.tls)
        return any(is_this_host(peer.host) or not is_this_host(one.host) for one in open_to_it)


@dataclass(frozen=True)
class Destination(Ranged):
    """A PACS that gets results: what it gets, and how the node makes sure that it keeps them."""

    name: Annotated[str, Form(r"(?s).{1,64}", "1 to 64 characters")]
    """Name of the destination in status and audit log."""
    ae_title: AeTitle
    """Its AE title."""
    host: Host
    """Its host name or address."""
    port: Port
    """Its TCP port."""
    accept: tuple[ResultName, ...] = ()
    """Kinds of results that it gets: SEG, SR, PAGE, RTSTRUCT; empty for all. A notice that an earlier result
    is withdrawn always goes along."""
    callers: tuple[AeTitle, ...] = ()
    """Only studies of which an image came from one of these calling AE titles; empty for any."""
    stations: tuple[str, ...] = ()
    """Only studies with an image of one of these stations (Station Name (0008,1010)); empty for any."""
    commitment: bool = False
    """Ask it by Storage Commitment (PS3.4 Annex J) to take charge of each result. It answers on the same
    association, or calls the node's port from its own address under its AE title."""
    verify: Literal["none", "find", "retrieve"] = "none"
    """For a PACS without commitment. ``find`` asks by C-FIND for each result that was sent; ``retrieve`` gets
    each back by C-GET and compares what it holds."""
    timeout_s: TimeLimit | None = None
    """``deliver.timeout_s`` for this destination alone; so are the following three."""
    first_retry_s: RetryWait | None = None
    """Seconds before the second attempt."""
    max_retry_s: RetryWait | None = None
    """Longest wait between two attempts, seconds."""
    max_age_days: Annotated[float, Range(0, 3650)] | None = None
    """Days after which what could not be delivered is reported as failed."""
    tls: bool = False
    """Speak TLS, and nothing else, with it; its certificate is checked against ``tls.authorities``."""
    tls_name: str = ""
    """Name that its certificate has to carry; empty for ``host``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.commitment and self.verify != "none":
            raise ValueError("commitment and verify exclude each other: set one of them")

    @property
    def wants_proof(self) -> bool:
        return self.commitment or self.verify != "none"

    def takes(self, kind: str) -> bool:
        """Whether it gets results of a kind; a notice of withdrawal is of none that can be left out."""
        return not self.accept or kind in self.accept or kind not in typing.get_args(ResultName)


@dataclass(frozen=True)
class DeliverPolicy(Ranged):
    """Where results go, and how long the node tries to deliver them."""

    destinations: tuple[Destination, ...] = ()
    """Each destination gets every result that it accepts; without any, results stay in the outbox."""
    calling_ae_title: AeTitle = "PSMA_NODE"
    """AE title of the node towards the PACS."""
    timeout_s: TimeLimit = 30.0
    """Time limit of the connection, of each answer, and of a stalled transfer, seconds."""
    first_retry_s: RetryWait = 10.0
    """Seconds before the second attempt; the wait doubles each time."""
    max_retry_s: RetryWait = 900.0
    """Longest wait between two attempts, seconds."""
    max_age_days: Annotated[float, Range(0, 3650)] = 0.0
    """Results that could not be delivered for so many days are reported as failed; 0 for never."""
    commitment_wait_s: RetryWait = 3600.0
    """The answer to a request for storage commitment may take so many seconds; then the node asks again."""
    max_proofs: Annotated[int, Range(1, 1000)] = 5
    """So many times the node sends again what a destination does not have, or asks again for an answer that
    does not come; then it reports the delivery as failed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [destination.name for destination in self.destinations]
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same name")

    def destination(self, name: str) -> Destination | None:
        """The destination of that name, if there is one."""
        return next((one for one in self.destinations if one.name == name), None)

    @property
    def longest_wait_s(self) -> float:
        """No try to deliver waits longer for its time."""
        waits = (self.towards(one).max_retry_s for one in self.destinations)
        return max(self.max_retry_s, self.commitment_wait_s, *waits)

    def towards(self, destination: Destination) -> DeliverPolicy:
        """The limits for one destination: its own where it has some."""
        limits = ("timeout_s", "first_retry_s", "max_retry_s", "max_age_days")
        own = {name: getattr(destination, name) for name in limits}
        return replace(self, **{name: value for name, value in own.items() if value is not None})

    def retry_after_s(self, failed_attempts: int) -> float:
        """Wait before the next attempt, after ``failed_attempts`` (1 or more) in a row."""
        return doubled(self.first_retry_s, failed_attempts, self.max_retry_s)
