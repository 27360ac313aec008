"""The ``node`` section of app.yaml."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
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
