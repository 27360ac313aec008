"""A Postgres of the tests' own: a new cluster in a temporary folder, on loopback, stopped by its own pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.node.workflow.peers import PATIENCE_S, free_port

SUPERUSER = "admin"
OWNER = "node"
"""What the node connects as: the owner of its database, and nothing more."""


def server_programs() -> Path | None:
    """Folder of ``initdb`` and ``postgres``; Debian keeps them off the PATH, one folder a version."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: float(path.parts[-3])).parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Cluster:
    """One server. Nothing is synced to disk: it lives as long as the test."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="psma-node-postgres-"))
        self._server: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def url(self, database: str, scheme: str = "postgresql", user: str = OWNER) -> str:
        """Where a database of this cluster is."""
        return f"{scheme}://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> Cluster:
        """Make the cluster, start its server, wait until it answers."""
        self._folder.chmod(0o700)
        if os.geteuid() == 0:
            shutil.chown(self._folder, **_unprivileged())
        data = str(self._folder / "data")
        initdb = ["initdb", "-D", data, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run([self._programs / initdb[0], *initdb[1:]], check=True, **self._how())
        self.start_server()
        self._execute(f"CREATE ROLE {OWNER} LOGIN")
        return self

    def start_server(self) -> None:
        """Start the server, wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        flags = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        command = [self._programs / "postgres", "-D", self._folder / "data", *flags]
        self._server = subprocess.Popen(command, **self._how())
        self._wait()

    def stop_server(self) -> None:
        """Fast shutdown: it ends its connections."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(PATIENCE_S)
            self._server = None

    def create(self, database: str) -> None:
        """A new empty database."""
        self._execute(f'CREATE DATABASE "{database}" OWNER {OWNER}')

    def stop(self) -> None:
        """End this server alone; nothing of it remains."""
        self.stop_server()
        shutil.rmtree(self._folder)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres", user=SUPERUSER), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _how(self) -> dict[str, Any]:
        """The server refuses to run as root."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": self._folder}
        if os.geteuid() != 0:
            return quiet
        return quiet | _unprivileged() | {"extra_groups": []}

    def _wait(self) -> None:
        assert self._server is not None
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self._server.poll() is None, "the Postgres server ended"
            try:
                psycopg.connect(self.url("postgres", user=SUPERUSER), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "the Postgres server does not answer"
                time.sleep(0.05)
            else:
                return


def _unprivileged() -> dict[str, str]:
    return {"user": "nobody", "group": "nogroup"}
