"""What is kept for a while only: the engine's finished workflows, and tracebacks of failed studies.

Images, results, ledgers and the audit log are never removed here.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from app.node.database import utc_now
from app.node.durable_engine import DurableEngine
from app.node.node_policy import NodePolicy

_log = logging.getLogger(__name__)


class Housekeeping:
    """Removes what is older than ``node.keep_days``."""

    def __init__(self, policy: NodePolicy, engine: DurableEngine) -> None:
        self._policy = policy
        self._engine = engine

    def tidy(self) -> None:
        """Remove what has had its time; nothing when the limit is 0."""
        if not self._policy.keep_days:
            return
        before = utc_now() - timedelta(days=self._policy.keep_days)
        workflows, files = self._engine.forget_ended(before), self._remove_failures(before)
        if workflows or files:
            facts = {"workflows": workflows, "files": files}
            _log.info("removed what has had its time", extra=facts)

    def _remove_failures(self, before: datetime) -> int:
        """Tracebacks may quote headers, so they don't stay for ever either."""
        old = [
            path
            for path in self._policy.failures_dir.glob("*.txt")
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before
        ]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)
