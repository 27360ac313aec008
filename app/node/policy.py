"""Sections ``tls``, ``receive``, ``deliver`` and ``node`` of app.yaml."""

from __future__ import annotations

import re
import socket
import typing
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal

from app.domain.ranges import Form, Range, Ranged

ResultName = Literal["SEG", "SR", "PAGE", "RTSTRUCT"]
"""As :class:`app.dicom.uids.ResultKind`."""

AE_TITLE = Form(
    r"(?! )[ -\[\]-~]{1,16}(?<! )",
    "an AE title: 1 to 16 characters of ASCII, no backslash, no space before or after (PS3.5 6.2)",
)
AeTitle = Annotated[str, AE_TITLE]
Host = Annotated[str, Form(r"[^\s/:@]+|[0-9a-fA-F:.]+(%\w+)?", "a host name or an IP address, without port")]
Port = Annotated[int, Range(1, 65535)]
OwnPort = Annotated[int, Range(0, 65535)]
"""0 takes a free one, or none."""
TimeLimit = Annotated[float, Range(0.1, 3600)]
RetryWait = Annotated[float, Range(0, 604_800, above=True)]
Megabytes = Annotated[float, Range(0, 1_000_000_000)]


def _doubled(first_s: float, tries: int, longest_s: float) -> float:
    """The wait that doubles with each try after the first, up to the longest."""
    return min(first_s * 2.0 ** min(max(tries, 1) - 1, 30), longest_s)


@dataclass(frozen=True)
class AuditCollector(Ranged):
    """A syslog collector that gets the audit log as DICOM audit messages (PS3.15 A.5 to A.7)."""

    host: Host
    """Its host name or address; with TLS its certificate must be for this name."""
    port: Port = 6514
    """Its port; 514 is usual for UDP."""
    transport: Literal["tls", "tcp", "udp"] = "tls"
    """``tls`` checks its certificate against ``tls.authorities``, and shows the node's. ``tcp`` and ``udp``
    can be read by others on the network, and UDP loses messages unseen."""


@dataclass(frozen=True)
class NotifyPolicy(Ranged):
    """Who is told, once, of each study that failed or is stuck, of a destination that takes nothing, a disk
    that fills up, a certificate that ends; studies are named by UID, patients never."""

    url: Annotated[str, Form(r"(https?://\S+)?", "an address that begins with http:// or https://")] = ""
    """Webhook that gets JSON (node, text, faults); empty for none."""
    smtp_host: Annotated[str, Form(r"[^\s/:@]*", "a host name or address, without port")] = ""
    """Mail server; empty for no mail."""
    smtp_port: Port = 25
    """Its port."""
    smtp_tls: bool = False
    """Whether mail goes by STARTTLS, the server's certificate checked."""
    mail_from: Annotated[str, Form(r"([^\s@,]+@[^\s@,]+)?", "a mail address")] = ""
    """Sender of the mail."""
    mail_to: tuple[Annotated[str, Form(r"[^\s@,]+@[^\s@,]+", "a mail address")], ...] = ()
    """Receivers of the mail."""
    stuck_after_s: Annotated[float, Range(60, 604_800)] = 7200.0
    """A study that is queued or running, or a delivery that fails, for so many seconds is stuck."""
    free_mb: Megabytes = 20_000.0
    """With less free disk space than this (10^6 bytes), the disk fills up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smtp_host and not (self.mail_from and self.mail_to):
            raise ValueError("smtp_host needs mail_from and mail_to")

    @property
    def receivers(self) -> tuple[str, ...]:
        """``webhook``, ``mail``, as far as they are set."""
        return ("webhook",) * bool(self.url) + ("mail",) * bool(self.smtp_host)


@dataclass(frozen=True)
class RetentionPolicy(Ranged):
    """How long studies stay, counted from their last image; 0 for ever. A study with a PET result, which a
    later SPECT/CT may need, and one whose results no destination or not every one has got, always stay."""

    done_days: Annotated[float, Range(0, 36_500)] = 0.0
    """Days that a study stays whose results were delivered."""
    rejected_days: Annotated[float, Range(0, 36_500)] = 0.0
    """Days that a study stays which was rejected."""
    failed_days: Annotated[float, Range(0, 36_500)] = 0.0
    """Days that a study stays which failed, and is not tried again."""
    max_gb: Annotated[float, Range(0, 1_000_000)] = 0.0
    """Images may take so much (10^9 bytes); beyond it the oldest studies go, no failed one. 0: no limit."""

    @property
    def is_set(self) -> bool:
        """Whether anything is ever removed."""
        return any((self.done_days, self.rejected_days, self.failed_days, self.max_gb))

    def days_of(self, state: str) -> float:
        """How long a study in this state stays; 0 for ever."""
        days = {"done": self.done_days, "rejected": self.rejected_days, "failed": self.failed_days}
        return days.get(state, 0.0)


@dataclass(frozen=True)
class NodePolicy(Ranged):
    """Where the node keeps its data, and how long it waits for what."""

    data_dir: Path = Path("data")
    """Folder of the inbox, the results, the database and the audit log. It belongs to one receiving node."""
    database_url: str = ""
    """``postgresql://user:password@host:port/database`` for several hosts; empty for SQLite in ``data_dir``.
    Keep the password out of app.yaml: PSMA_NODE__NODE__DATABASE_URL__FILE names a file that holds the URL."""
    executor_id: Annotated[
        str, Form(r"[A-Za-z0-9_.-]{0,64}", "letters, digits, '.', '-' or '_', at most 64")
    ] = ""
    """Name of this node among those that share the database; it stays the same over restarts. Empty for the
    name of the host."""
    workers: Annotated[int, Range(0, 64)] = 0
    """Number of studies processed at one time, each with its own models in memory. 0 for one worker on each
    GPU, or one where there is none. Workers beyond the number of GPUs share the GPUs in turn."""
    poll_s: Annotated[float, Range(0.01, 3600)] = 2.0
    """Seconds between two looks for new images, and at the queue."""
    heartbeat_s: Annotated[float, Range(0.01, 3600)] = 10.0
    """Seconds between two signs of life of the node."""
    dead_after_s: Annotated[float, Range(0.02, 86_400)] = 60.0
    """When a node has been silent for so many seconds, another node takes its work over."""
    drain_s: Annotated[float, Range(0, 3600)] = 120.0
    """Seconds that the study under way may take to finish after SIGTERM; afterwards it begins again at the
    next start."""
    max_attempts: Annotated[int, Range(1, 100)] = 3
    """A study that fails is tried so many times before a person has to ask for another try. A try that was
    cut off (the node was killed, or its host failed) is no failed one; after five of those in a row it is."""
    first_retry_s: Annotated[float, Range(0, 86_400)] = 30.0
    """Seconds before a study is tried again; the wait doubles each time."""
    max_retry_s: Annotated[float, Range(0, 604_800)] = 3600.0
    """Longest wait between two tries, seconds."""
    prior_wait_s: Annotated[float, Range(0, 604_800)] = 3600.0
    """Seconds that a complete SPECT/CT waits for an earlier PET/CT of the same patient that is being received
    or processed, before it goes on without; 0 to never wait."""
    keep_days: Annotated[float, Range(0, 36_500)] = 90.0
    """After so many days, finished entries of the durable engine and tracebacks of failed studies are
    removed; 0 to keep them. Images, results and the audit log always stay."""
    min_free_mb: Megabytes = 2000.0
    """``check`` and ``serve`` refuse a data folder with less free space than this (10^6 bytes)."""
    log_file: str = ""
    """File that gets the JSON lines of the log as well as stderr; empty for stderr alone."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    probe_host: Host = "127.0.0.1"
    """Address that answers ``/healthz``, ``/readyz`` and ``/metrics`` (Prometheus) over HTTP; 0.0.0.0 in a
    container."""
    probe_port: OwnPort = 0
    """TCP port of these probes, 8080 in a container; 0 for none."""
    audit_collector: AuditCollector | None = None
    """Where the audit log is sent to as well; for example ``{host: audit.example}``."""
    retention: RetentionPolicy = RetentionPolicy()
    """What is removed by itself, and when; nothing by default."""
    notify: NotifyPolicy = NotifyPolicy()
    """Webhook and mail for what needs a person."""
    hung_after_s: Annotated[float, Range(0.02, 86_400)] = 300.0
    """``/healthz`` fails when a loop of the node has not moved for so many seconds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dead_after_s < 2 * self.heartbeat_s:
            raise ValueError("dead_after_s must be at least twice heartbeat_s, or a slow disk kills a node")
        if self.hung_after_s <= 2 * max(self.poll_s, self.heartbeat_s):
            raise ValueError("hung_after_s must be more than twice poll_s and heartbeat_s")

    @property
    def executor(self) -> str:
        """The executor's name, the host's when none is set."""
        return self.executor_id or re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64] or "node"

    @property
    def inbox_dir(self) -> Path:
        return self.data_dir / "inbox"

    @property
    def results_dir(self) -> Path:
        """Results, kept as the store of earlier PET results too."""
        return self.data_dir / "results"

    @property
    def failures_dir(self) -> Path:
        """Full tracebacks of failed studies: they may quote headers, so they stay with the images."""
        return self.data_dir / "failures"

    @property
    def audit_dir(self) -> Path:
        return self.data_dir / "audit"

    @property
    def lock_file(self) -> Path:
        """Held by the process that runs as this executor."""
        return self.data_dir / f"{self.executor}.lock"

    @property
    def database_file(self) -> Path:
        """Database of the index, the ledgers and the priors, where no URL is set."""
        return self.data_dir.absolute() / "node.sqlite"

    @property
    def node_database_url(self) -> str:
        """Database of the index, the ledgers and the priors."""
        return self.database_url or f"sqlite:///{self.database_file}"

    @property
    def engine_database_url(self) -> str:
        """Database of the durable engine: a file of its own with SQLite, which has one writer a file."""
        if not self.database_url:
            return f"sqlite:///{self.data_dir.absolute() / 'workflows.sqlite'}"
        if self.database_url.startswith("sqlite"):
            return f"{self.database_url}.workflows"
        return self.database_url

    def retry_after_s(self, tries: int) -> float:
        """Wait after ``tries`` (1 or more) in a row."""
        return _doubled(self.first_retry_s, tries, self.max_retry_s)


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
    """``check`` warns when a certificate ends within so many days."""


@dataclass(frozen=True)
class Listener(Ranged):
    """An address that the node listens on."""

    host: Host = "127.0.0.1"
    """Address; 0.0.0.0 to be reached from other hosts."""
    port: OwnPort = 11112
    """TCP port; 0 takes a free one. 2762 is registered for DICOM over TLS."""
    tls: bool = False
    """Speak TLS, and nothing else, on this port."""
    client_certificate: bool = True
    """With TLS: refuse senders that show no certificate of the site's CA."""

    def __str__(self) -> str:
        return f"{self.host} port {self.port}{' (TLS)' if self.tls else ''}"


@dataclass(frozen=True)
class Caller(Ranged):
    """A sender that may open associations."""

    ae_title: AeTitle
    """Calling AE title, exactly; ``*`` for any title from these addresses."""
    addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    """IP addresses or networks (``10.1.2.0/24``) that it calls from."""
    max_associations: Annotated[int, Range(0, 1000)] = 0
    """Associations that it may have open at one time; 0 for as many as the node allows."""
    commitment_port: OwnPort = 0
    """TCP port at the address that it calls from, where it takes answers to its requests for storage
    commitment; 0 when it waits for them on the association of its request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for address in self.addresses:
            ip_network(address)

    def allows(self, ae_title: str, address: str) -> bool:
        return self.ae_title in ("*", ae_title) and self.allows_address(address)

    def allows_address(self, address: str) -> bool:
        found = ip_address(address)
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in ip_network(network) for network in self.addresses)


@dataclass(frozen=True)
class ReceivePolicy(Ranged):
    """Who may send studies to the node, and when a study is complete."""

    ae_title: AeTitle = "PSMA_NODE"
    """AE title of the node; associations that call another title are rejected."""
    host: Host = Listener.host
    """Address to listen on; 0.0.0.0 to be reached from other hosts."""
    port: OwnPort = Listener.port
    """TCP port; 0 takes a free one."""
    listeners: tuple[Listener, ...] = ()
    """Several addresses, or TLS: they take the place of ``host`` and ``port``, which are the short form for
    one address without TLS. For example ``[{host: 127.0.0.1}, {host: 0.0.0.0, port: 2762, tls: true}]``."""
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
        if self.listeners and (self.host, self.port) != (Listener.host, Listener.port):
            raise ValueError("host and port are the short form of listeners; set one of the two")

    @property
    def addresses(self) -> tuple[Listener, ...]:
        """Every address that is listened on."""
        return self.listeners or (Listener(self.host, self.port),)


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

    def towards(self, destination: Destination) -> DeliverPolicy:
        """The limits for one destination: its own where it has some."""
        limits = ("timeout_s", "first_retry_s", "max_retry_s", "max_age_days")
        own = {name: getattr(destination, name) for name in limits}
        return replace(self, **{name: value for name, value in own.items() if value is not None})

    def retry_after_s(self, failed_attempts: int) -> float:
        """Wait before the next attempt, after ``failed_attempts`` (1 or more) in a row."""
        return _doubled(self.first_retry_s, failed_attempts, self.max_retry_s)
