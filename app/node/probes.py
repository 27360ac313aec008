"""``/healthz`` and ``/readyz``: does the process live, and can it take a study now?

Liveness asks for little, since who asks will kill the process: the loops move. A database, a disk or a PACS
that is away is no reason to start anew; it is one not to be sent studies, and readiness says so.
"""

from __future__ import annotations

from collections.abc import Callable

from app.node.life_signs import LifeSigns
from app.node.node_policy import NodePolicy
from app.node.probe_server import ProbeServer
from app.node.readiness import Conditions, Readiness

LIVENESS_PATH = "/healthz"
READINESS_PATH = "/readyz"


class Probes:
    """What the node tells of itself, over HTTP where ``node.probe_port`` is set."""

    def __init__(self, policy: NodePolicy, conditions: Conditions) -> None:
        self._signs = LifeSigns(policy.hung_after_s)
        self._readiness = Readiness(conditions)
        answers = {LIVENESS_PATH: self._signs.hanging, READINESS_PATH: self._readiness.reasons}
        self._server = ProbeServer(policy.probe_host, policy.probe_port, answers)
        self._wanted = policy.probe_port > 0

    def start(self) -> None:
        """Answer: alive, not ready yet.

        Raises:
            MisconfiguredError: the address can't be listened on.
        """
        if self._wanted:
            self._server.start()

    def look(self) -> None:
        """Look at database and disk, where anybody may ask."""
        if self._wanted:
            self._readiness.look()

    def sign_of(self, loop: str) -> Callable[[], None]:
        """What a loop calls whenever it moves."""
        return lambda: self._signs.moved(loop)

    def started(self) -> None:
        """Models loaded, loops running: ready, when the rest is well."""
        self._readiness.started()

    def drain(self) -> None:
        """Not ready any more, and alive until :meth:`stop`, however long what is under way takes."""
        self._readiness.drain()
        self._signs.rest()

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.stop()
