"""The ``node`` section of app.yaml.

The ``receive`` section of app.yaml.

The ``deliver`` section of app.yaml.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

_EXECUTOR_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class NodePolicy:
    """Where the node keeps things, and how patiently it works.

    Attributes:
        data_dir: folder of inbox, results, database, audit log; belongs to one receiving node.
        database_url: ``postgresql://user:password@host:port/database`` for several hosts; empty for SQLite in
            ``data_dir``. Its password is better kept out of app.yaml: PSMA_NODE__NODE__DATABASE_URL__FILE
            names a file that holds the URL.
        executor_id: name of this node among those that share the database; stays the same over restarts.
            Empty for the host's name.
        workers: studies processed at one time, each with models of its own in memory; 0 for one a GPU, or one
            without. More than there are GPUs share them in turn.
        poll_s: how often new images are looked for, and the queue.
        heartbeat_s: how often the node says that it lives.
        dead_after_s: work of a node that has been silent for so long is taken over by another.
        drain_s: at SIGTERM, how long the study under way may take to finish; afterwards it is begun again at
            the next start.
        max_attempts: tries of a study that fail or crash before a person has to ask for another.
        first_retry_s: wait before a study is tried again; doubles each time.
        max_retry_s: longest wait between tries.
        prior_wait_s: how long a complete SPECT/CT waits for an earlier PET/CT of the same patient that is
            being received or processed, before it goes on without; 0 to never wait.
        keep_days: finished entries of the durable engine and tracebacks of failed studies are removed after
            so long; 0 to keep them. Images, results and the audit log always stay.
        min_free_mb: ``check`` and the start refuse a data folder with less free room (10^6 bytes).
        log_file: JSON lines go there too, beside stderr; empty for stderr alone.
        log_level: DEBUG, INFO, WARNING or ERROR.
        probe_host: where ``/healthz`` and ``/readyz`` are answered over HTTP; 0.0.0.0 in a container.
        probe_port: TCP port for them, 8080 in a container; 0 for none.
        hung_after_s: ``/healthz`` fails when a loop of the node has not moved for so long.
    """

    data_dir: Path = Path("data")
    database_url: str = ""
    executor_id: str = ""
    workers: int = 0
    poll_s: float = 2.0
    heartbeat_s: float = 10.0
    dead_after_s: float = 60.0
    drain_s: float = 120.0
    max_attempts: int = 3
    first_retry_s: float = 30.0
    max_retry_s: float = 3600.0
    prior_wait_s: float = 3600.0
    keep_days: float = 90.0
    min_free_mb: float = 2000.0
    log_file: str = ""
    log_level: str = "INFO"
    probe_host: str = "127.0.0.1"
    probe_port: int = 0
    hung_after_s: float = 300.0

    def __post_init__(self) -> None:
        if self.executor_id and not _EXECUTOR_ID.fullmatch(self.executor_id):
            raise ValueError("executor_id has 1 to 64 letters, digits, '.', '-' or '_'")
        if self.keep_days < 0:
            raise ValueError(f"keep_days must be 0 or more, found {self.keep_days:g}")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, found {self.workers}")
        if self.dead_after_s < 2 * self.heartbeat_s:
            raise ValueError("dead_after_s must be at least twice heartbeat_s, or a slow disk kills a node")
        if not 0 <= self.probe_port <= 65535:
            raise ValueError(f"probe_port is a TCP port, or 0 for none, found {self.probe_port}")
        if self.hung_after_s <= 2 * max(self.poll_s, self.heartbeat_s):
            raise ValueError("hung_after_s must be more than twice poll_s and heartbeat_s")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"log_level must be DEBUG, INFO, WARNING or ERROR, found {self.log_level}")

    @property
    def executor(self) -> str:
        """The executor's name, the host's when none is set."""
        return self.executor_id or re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64] or "node"

    @property
    def inbox_dir(self) -> Path:
        """Received instances."""
        return self.data_dir / "inbox"

    @property
    def results_dir(self) -> Path:
        """Results, kept as the store of earlier PET results too."""
        return self.data_dir / "results"

    @property
    def failures_dir(self) -> Path:
        """Full tracebacks of failed studies: they may quote headers, so they stay beside the images."""
        return self.data_dir / "failures"

    @property
    def audit_dir(self) -> Path:
        """The audit log."""
        return self.data_dir / "audit"

    @property
    def lock_file(self) -> Path:
        """Held by the process that runs as this executor."""
        return self.data_dir / f"{self.executor}.lock"

    @property
    def node_database_url(self) -> str:
        """Database of the index, the ledgers and the priors."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'node.sqlite'}"

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
        return min(self.first_retry_s * 2.0 ** min(max(tries, 1) - 1, 30), self.max_retry_s)


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
