"""Section ``node`` of app.yaml."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from app.domain.ranges import Form, Range, Ranged
from app.node.peers import Host, Megabytes, OwnPort, Port, doubled


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
    """Mail goes by STARTTLS or not at all; the server's certificate is checked against the system's CAs and
    ``tls.authorities``, and against ``smtp_host``."""
    smtp_user: str = ""
    """User that the mail server wants; needs ``smtp_tls``. Empty to send without log-in."""
    smtp_password: str = field(default="", repr=False)
    """Its password. Keep it out of app.yaml: PSMA_NODE__NODE__NOTIFY__SMTP_PASSWORD__FILE names a file that
    holds it."""
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
        if bool(self.smtp_user) != bool(self.smtp_password) or (self.smtp_user and not self.smtp_tls):
            raise ValueError("smtp_user, smtp_password, smtp_tls go together: no password goes in the clear")
        if not (self.smtp_user + self.smtp_password).isascii():
            raise ValueError("smtp_user and smtp_password: expected ASCII, as SMTP's log-in does (RFC 4954)")

    @property
    def receivers(self) -> tuple[str, ...]:
        """``webhook``, ``mail``, as far as they are set."""
        return ("webhook",) * bool(self.url) + ("mail",) * bool(self.smtp_host)


@dataclass(frozen=True)
class RetentionPolicy(Ranged):
    """How long images stay, counted from the last of their study; 0 for ever. Results stay, so that the same
    images sent again are known. The images of a study with a PET result, of the last one of its kind of a
    patient, of one of which a sender has a storage commitment, and of one whose results no destination or not
    every one has got, always stay."""

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
    """After so many days, finished entries of the durable engine, what was asked about finished deliveries by
    storage commitment, and tracebacks of failed studies are removed; 0 to keep them. Images are up to
    ``retention``; results and the audit log always stay."""
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
    """How long received images are kept (``inbox``); for ever by default."""
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
        return self.database_url or _sqlite_url(self.database_file)

    @property
    def engine_database_file(self) -> Path:
        """Database of the durable engine, where no URL is set: with SQLite a file has one writer."""
        return self.data_dir.absolute() / "workflows.sqlite"

    @property
    def engine_database_url(self) -> str:
        """Database of the durable engine."""
        if not self.database_url:
            return _sqlite_url(self.engine_database_file)
        if self.database_url.startswith("sqlite"):
            place, mark, options = self.database_url.partition("?")
            return f"{place}.workflows{mark}{options}"
        return self.database_url

    def retry_after_s(self, tries: int) -> float:
        """Wait after ``tries`` (1 or more) in a row."""
        return doubled(self.first_retry_s, tries, self.max_retry_s)


def _sqlite_url(file: Path) -> str:
    """Of a file whose path may hold what means something in a URL, such as ``?`` and ``%``."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(file)).render_as_string()
