"""The durable engine (DBOS): runs what the ledgers plan, at least once, over crashes and restarts.

Every try is a workflow of its own, with an identifier made from study, revision and number, so planning it
twice starts it once. A try that has to wait is stored with its delay and holds no thread and no place in
the queue. Take-over between hosts is ours (:mod:`app.node.heartbeats`); DBOS sells its own.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from dbos import DBOS, DBOSConfig
from dbos import error as dbos_error
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from app.errors import RetryLaterError
from app.node.database import database_url, utc_now
from app.node.delivery_ledger import Delivery
from app.node.run_ledger import Run

APPLICATION_NAME = "psma-node"
WORKFLOW_VERSION = "1"
"""Changes only when this code can't continue stored workflows: another value strands jobs in flight."""

PROCESSING = "processing"
DELIVERING = "delivering"

FORGET_AT_ONCE = 200
"""Workflows removed in one transaction: others want to write too."""

ENDED = frozenset({"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"})
"""DBOS states after which nothing more happens to a workflow."""

ProcessWork = Callable[[str, int, int], None]
"""study_instance_uid, revision, attempt"""

DeliverWork = Callable[[str, int, str, int], None]
"""study_instance_uid, revision, destination, attempt"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSetup:
    """How one executor takes part.

    Attributes:
        database_url: of the engine's own tables.
        executor_id: stable over restarts.
        workers: studies processed at one time by this executor.
        poll_s: how often the queues are looked at.
    """

    database_url: str
    executor_id: str
    workers: int
    poll_s: float


class DurableEngine:
    """One per process: DBOS keeps its registry globally."""

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup

    def launch(self, process: ProcessWork, deliver: DeliverWork) -> None:
        """Connect, take up what this executor left unfinished, and begin to work.

        Raises:
            RetryLaterError: the database does not answer.
        """
        try:
            self._launch(process, deliver)
        except (dbos_error.DBOSException, SQLAlchemyError, sqlite3.Error) as error:
            raise RetryLaterError(f"the engine's database does not answer: {type(error).__name__}") from error

    def _launch(self, process: ProcessWork, deliver: DeliverWork) -> None:
        url = database_url(self._setup.database_url)
        _use_write_ahead_log(url)
        config: DBOSConfig = {
            "name": APPLICATION_NAME,
            "system_database_url": url.render_as_string(hide_password=False),
            "executor_id": self._setup.executor_id,
            "application_version": WORKFLOW_VERSION,
            "log_level": "WARNING",
            "use_listen_notify": False,
        }
        DBOS(config=config)
        DBOS.workflow(name="process")(process)
        DBOS.workflow(name="deliver")(deliver)
        DBOS.launch()
        DBOS.register_queue(
            PROCESSING,
            worker_concurrency=self._setup.workers,
            polling_interval_sec=self._setup.poll_s,
            on_conflict="always_update",
        )
        # one at a time to each destination, so a PACS that hangs holds up no other
        DBOS.register_queue(
            DELIVERING,
            partition_worker_concurrency=1,
            polling_interval_sec=self._setup.poll_s,
            on_conflict="always_update",
        )

    def plan_run(self, run: Run) -> None:
        """Make sure that the run's current try is stored; it starts when its time comes."""
        key = run.key
        DBOS.enqueue_workflow_with_options(
            {
                "workflow_name": "process",
                "queue_name": PROCESSING,
                "workflow_id": run_workflow_id(run),
                "delay_seconds": _delay_s(run.next_try_at),
            },
            key.study_instance_uid,
            key.revision,
            run.attempt,
        )

    def plan_delivery(self, delivery: Delivery) -> None:
        """Make sure that the delivery's current try is stored; it starts when its time comes."""
        key = delivery.key
        DBOS.enqueue_workflow_with_options(
            {
                "workflow_name": "deliver",
                "queue_name": DELIVERING,
                "queue_partition_key": key.destination,
                "workflow_id": delivery_workflow_id(delivery),
                "delay_seconds": _delay_s(delivery.next_try_at),
            },
            key.run.study_instance_uid,
            key.run.revision,
            key.destination,
            delivery.attempt,
        )

    def ended_among(self, workflow_ids: Iterable[str]) -> frozenset[str]:
        """Those workflows that have come to an end, whichever."""
        wanted = list(workflow_ids)
        if not wanted:
            return frozenset()
        found = DBOS.list_workflows(workflow_ids=wanted, load_input=False, load_output=False)
        return frozenset(status.workflow_id for status in found if status.status in ENDED)

    def take_over(self, executor_id: str) -> int:
        """Put a dead executor's unfinished work back into its queues; returns how much there was."""
        left = DBOS.list_workflows(
            status="PENDING", executor_id=executor_id, load_input=False, load_output=False
        )
        for status in left:
            DBOS.resume_workflow(status.workflow_id, queue_name=status.queue_name)
        return len(left)

    def forget_ended(self, before: datetime) -> int:
        """Remove workflows that ended before ``before`` (aware); the ledgers hold what they did.

        A run or delivery is planned under the identifier of its current try, which has not ended, or is about
        to be found lost; so none that is removed here can begin anew.
        """
        count = 0
        while True:
            found = DBOS.list_workflows(
                status=sorted(ENDED),
                completed_before=before.isoformat(),
                limit=FORGET_AT_ONCE,
                load_input=False,
                load_output=False,
            )
            if not found:
                return count
            DBOS.delete_workflows([status.workflow_id for status in found])
            count += len(found)

    def stop(self, drain_s: float) -> None:
        """Start nothing more, give what is under way ``drain_s`` to end, disconnect."""
        DBOS.destroy(workflow_completion_timeout_sec=round(drain_s))


def run_workflow_id(run: Run) -> str:
    """Identifier of the run's current try."""
    content = run.content_digest[:16]
    return f"process-{run.key.study_instance_uid}-{content}-{run.attempt}"


def delivery_workflow_id(delivery: Delivery) -> str:
    """Identifier of the delivery's current try."""
    run = delivery.key.run
    destination = hashlib.sha256(delivery.key.destination.encode()).hexdigest()[:16]
    return f"deliver-{run.study_instance_uid}-r{run.revision}-{destination}-{delivery.attempt}"


def step(name: str, work: Callable[..., str], *arguments: object) -> str:
    """Run ``work`` as a step of the present workflow: once it has ended, its answer is kept and it is not run
    again."""
    return DBOS.run_step({"name": name}, work, *arguments)


def _delay_s(next_try_at: datetime | None) -> float:
    return 0.0 if next_try_at is None else max(0.0, (next_try_at - utc_now()).total_seconds())


def _use_write_ahead_log(url: URL) -> None:
    """The mode stays with the file: readers then go on beside a writer, and a commit costs one sync."""
    if url.get_backend_name() == "sqlite" and url.database:
        connection = sqlite3.connect(url.database)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
