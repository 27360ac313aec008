"""The durable engine (DBOS): runs what the planner starts, at least once, over crashes and restarts.

The two workflows::

    process:  run the chain  →  write down how it ended, plan the deliveries  →  compare the shadow models
    deliver:  send what the destination has not acknowledged  →  write down how it ended

Each attempt is a workflow of its own, with an identifier made from study, revision and number, so starting it
twice runs it once, whatever node does. What waits stands in the ledgers alone. A step that ended is not run
again; one that was cut off is run again from its beginning, and the ledgers make that harmless. They also say
what comes next (docs/decisions/0010-ledgers-beside-the-engine.md).
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from dbos import DBOS, DBOSConfig, SetWorkflowID
from dbos import error as dbos_error
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from app.node.deliver.delivery import ResultDelivery, SendResult
from app.node.policy import NodePolicy
from app.node.process.shadows import WaitingShadows
from app.node.process.work import AttemptKind, AttemptResult, StudyWork
from app.node.records.commitments import CommitmentLedger
from app.node.records.database import database_url, utc_now
from app.node.records.database_fault import ANEW, database_fault
from app.node.records.deliveries import Delivery
from app.node.records.runs import Run
from app.node.records.states import DeliveryKey, RunKey

APPLICATION_NAME = "psma-node"

WORKFLOW_VERSION = "1"
"""Changes only when this code can't continue stored workflows: another value strands jobs in flight."""

PROCESSING = "processing"

DELIVERING = "delivering"
"""Queues of the engine, in which other versions of the node may have left work; this one starts its own."""

JUDGING = "judging"
"""Processing without a worker: what headers alone refuse."""

IDLE_S = 30.0
"""Far longer than the engine takes at a start to begin what it has recovered."""

FORGET_AT_ONCE = 200
"""Workflows removed in one transaction: others want to write too."""

ENDED_WORKFLOWS = frozenset({"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"})
"""DBOS states after which nothing more happens to a workflow."""

ProcessWork = Callable[[str, int, int], None]
"""study_instance_uid, revision, attempt"""

DeliverWork = Callable[[str, int, str, int], None]
"""study_instance_uid, revision, destination, attempt"""

_log = logging.getLogger(__name__)


class DurableEngine:
    """One per process: DBOS keeps its registry globally."""

    def __init__(self, policy: NodePolicy, ended: Callable[[], None]) -> None:
        """``ended`` is called when the ledgers may hold something new to start."""
        self._policy = policy
        self._ended = ended
        self._under_way: dict[str, str] = {}
        self._idle: dict[str, float] = {}
        self._process: ProcessWork
        self._deliver: DeliverWork

    def launch(self, process: ProcessWork, deliver: DeliverWork, workers: int) -> None:
        """Connect, take up what this executor left unfinished, and begin to work on ``workers`` at a time.

        Raises:
            RetryLaterError: the database does not answer.
            MisconfiguredError: its file is no database.
        """
        try:
            self._launch(process, deliver, workers)
        except (dbos_error.DBOSException, SQLAlchemyError, sqlite3.Error) as error:
            url = database_url(self._policy.engine_database_url)
            raise database_fault(url, error, ANEW).error from error

    def _launch(self, process: ProcessWork, deliver: DeliverWork, workers: int) -> None:
        url = database_url(self._policy.engine_database_url)
        _use_write_ahead_log(url)
        config: DBOSConfig = {
            "name": APPLICATION_NAME,
            "system_database_url": url.render_as_string(hide_password=False),
            "executor_id": self._policy.executor,
            "application_version": WORKFLOW_VERSION,
            "log_level": "WARNING",
            "use_listen_notify": False,
        }
        DBOS(config=config)
        self._process = DBOS.workflow(name="process")(self._counted(PROCESSING, process))
        self._deliver = DBOS.workflow(name="deliver")(self._counted(DELIVERING, deliver))
        DBOS.launch()
        DBOS.register_queue(
            PROCESSING,
            worker_concurrency=workers,
            polling_interval_sec=self._policy.poll_s,
            on_conflict="always_update",
        )
        DBOS.register_queue(
            DELIVERING,
            partition_worker_concurrency=1,
            polling_interval_sec=self._policy.poll_s,
            on_conflict="always_update",
        )

    def start_run(self, run: Run, line: str) -> bool:
        """Begin the run's current try in a thread; ``False`` when the engine knows this try already."""
        key = run.key
        arguments = (key.study_instance_uid, key.revision, run.attempt)
        return self._start(run_workflow_id(run), line, self._process, *arguments)

    def start_delivery(self, delivery: Delivery) -> bool:
        """Begin the delivery's current try, as :meth:`start_run` does."""
        key = delivery.key
        run = key.run
        arguments = (run.study_instance_uid, run.revision, key.destination, delivery.attempt)
        line = delivery_line(key.destination)
        return self._start(delivery_workflow_id(delivery), line, self._deliver, *arguments)

    def _start(self, workflow_id: str, line: str, work: Callable[..., None], *arguments: object) -> bool:
        self._under_way[workflow_id] = line
        try:
            with SetWorkflowID(workflow_id, workflow_id_reuse_policy="reject"):
                DBOS.start_workflow(work, *arguments)
        except dbos_error.DBOSWorkflowIDInUseError:
            # another node has it, or a queue, since a process was killed; or it was lost (replace_lost)
            self._under_way.pop(workflow_id, None)
            return False
        except BaseException:
            self._under_way.pop(workflow_id, None)
            raise
        return True

    def under_way(self, line: str) -> int:
        """How much of a line this process works on."""
        return list(self._under_way.values()).count(line)

    def _counted(self, queue: str, work: Callable[..., None]) -> Callable[..., None]:
        """The same work; what a start of the node took up again, or another node left, is counted too."""

        def counted(*arguments: object) -> None:
            workflow_id = str(DBOS.workflow_id)
            line = PROCESSING if queue == PROCESSING else delivery_line(str(arguments[2]))
            self._under_way.setdefault(workflow_id, line)
            try:
                work(*arguments)
            finally:
                self._under_way.pop(workflow_id, None)
                self._ended()

        return counted

    def ended_among(self, workflow_ids: Iterable[str]) -> frozenset[str]:
        """Those workflows that have ended, in whatever way, with those whose end could not be written down:
        this process was to do them, and has not for :data:`IDLE_S`, since its disk was full, say."""
        wanted = list(workflow_ids)
        if not wanted:
            return frozenset()
        found = DBOS.list_workflows(workflow_ids=wanted, load_input=False, load_output=False)
        now_s, mine = time.monotonic(), self._policy.executor
        self._idle = {
            status.workflow_id: self._idle.get(status.workflow_id, now_s)
            for status in found
            if status.status == "PENDING"
            and status.executor_id == mine
            and status.workflow_id not in self._under_way
        }
        dropped = {workflow_id for workflow_id, since_s in self._idle.items() if now_s - since_s > IDLE_S}
        for workflow_id in dropped:
            DBOS.cancel_workflow(workflow_id)
        ended = (status.workflow_id for status in found if status.status in ENDED_WORKFLOWS)
        return frozenset({*ended, *dropped})

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
                status=sorted(ENDED_WORKFLOWS),
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


def delivery_line(destination: str) -> str:
    """The line of the deliveries to one destination."""
    return f"to {destination}"


def run_workflow_id(run: Run) -> str:
    content = run.content_digest[:16]
    return f"process-{run.key.study_instance_uid}-{content}-{run.attempt}"


def delivery_workflow_id(delivery: Delivery) -> str:
    run = delivery.key.run
    destination = hashlib.sha256(delivery.key.destination.encode()).hexdigest()[:16]
    return f"deliver-{run.study_instance_uid}-r{run.revision}-{destination}-{delivery.attempt}"


def step(name: str, work: Callable[..., str], *arguments: object) -> str:
    """Run ``work`` as a step of the present workflow; once it has ended, its answer is kept instead."""
    return DBOS.run_step({"name": name}, work, *arguments)


def _use_write_ahead_log(url: URL) -> None:
    """The mode stays with the file: readers then go on during a write, and a commit costs one sync."""
    if url.get_backend_name() == "sqlite" and url.database:
        with closing(sqlite3.connect(url.database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def process_workflow(
    work: StudyWork, ended: Callable[[], None], shadows: WaitingShadows | None = None
) -> ProcessWork:
    """The workflow ``process``; ``ended`` is called when there may be something to deliver.

    The shadow models are no step: their input is in memory, and is gone after a restart of the node.
    """

    def process(study_instance_uid: str, revision: int, attempt: int) -> None:
        key = RunKey(study_instance_uid, revision)
        kept = json.loads(step("chain", lambda: _packed(work.run_chain(key, attempt))))
        step("record", work.record, key, attempt, AttemptResult(AttemptKind(kept["kind"]), kept["reason"]))
        ended()
        if shadows is not None:
            shadows.compare(key)

    return process


def deliver_workflow(work: ResultDelivery) -> DeliverWork:
    """The workflow ``deliver``."""

    def deliver(study_instance_uid: str, revision: int, destination: str, attempt: int) -> None:
        key = DeliveryKey(RunKey(study_instance_uid, revision), destination)
        kept = json.loads(step("send", lambda: _packed(work.send(key, attempt))))
        step("record", work.record, key, attempt, SendResult(**kept))

    return deliver


def _packed(result: AttemptResult | SendResult) -> str:
    """What the engine keeps of a step: text, not a pickled object, so that a later version can read it."""
    return json.dumps(asdict(result))


def tidy(policy: NodePolicy, engine: DurableEngine, commitments: CommitmentLedger) -> None:
    """Remove ended workflows, their requests for commitment and tracebacks that are older than
    ``node.keep_days``; nothing when that is 0.

    Images, results, the other ledgers and the audit log are never removed here.
    """
    if not policy.keep_days:
        return
    before = utc_now() - timedelta(days=policy.keep_days)
    workflows, requests = engine.forget_ended(before), commitments.forget_ended(before)
    # tracebacks may quote headers, so they don't stay for ever either
    old = [
        path
        for path in policy.failures_dir.glob("*.txt")
        if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before
    ]
    for path in old:
        path.unlink(missing_ok=True)
    if workflows or requests or old:
        facts = {"workflows": workflows, "requests": requests, "files": len(old)}
        _log.info("removed what has had its time", extra=facts)
