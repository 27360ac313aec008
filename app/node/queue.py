"""The durable engine (DBOS): runs what the ledgers plan, at least once, over crashes and restarts.

The two workflows::

    process:  run the chain  →  write down how it ended, plan the deliveries  →  compare the shadow models
    deliver:  send what the destination has not acknowledged  →  write down how it ended

Each attempt is a workflow of its own, with an identifier made from study, revision and number, so planning it
twice starts it once. An attempt that has to wait is stored with its delay; it holds no thread and no place in
the queue. A step that ended is not run again; one that was cut off is run again from its beginning, and the
ledgers make that harmless. They also say what comes next (docs/decisions/0010-ledgers-beside-the-engine.md).
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

from dbos import DBOS, DBOSConfig
from dbos import error as dbos_error
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from app.errors import RetryLaterError
from app.node.deliver.delivery import ResultDelivery, SendResult
from app.node.policy import NodePolicy
from app.node.process.priors import PriorWait
from app.node.process.shadows import WaitingShadows
from app.node.process.work import AttemptKind, AttemptResult, StudyWork
from app.node.records.database import database_url, utc_now
from app.node.records.deliveries import Delivery, DeliveryLedger
from app.node.records.runs import Run, RunLedger
from app.node.records.states import DeliveryKey, RunKey, StudyState
from app.node.records.stores import Heartbeats

APPLICATION_NAME = "psma-node"

WORKFLOW_VERSION = "1"
"""Changes only when this code can't continue stored workflows: another value strands jobs in flight."""

PROCESSING = "processing"

DELIVERING = "delivering"

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

    def __init__(self, policy: NodePolicy) -> None:
        self._policy = policy

    def launch(self, process: ProcessWork, deliver: DeliverWork, workers: int) -> None:
        """Connect, take up what this executor left unfinished, and begin to work on ``workers`` at a time.

        Raises:
            RetryLaterError: the database does not answer.
        """
        try:
            self._launch(process, deliver, workers)
        except (dbos_error.DBOSException, SQLAlchemyError, sqlite3.Error) as error:
            raise RetryLaterError(f"the engine's database does not answer: {type(error).__name__}") from error

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
        DBOS.workflow(name="process")(process)
        DBOS.workflow(name="deliver")(deliver)
        DBOS.launch()
        DBOS.register_queue(
            PROCESSING,
            worker_concurrency=workers,
            polling_interval_sec=self._policy.poll_s,
            on_conflict="always_update",
        )
        # one at a time to each destination, so a PACS that hangs holds up no other
        DBOS.register_queue(
            DELIVERING,
            partition_worker_concurrency=1,
            polling_interval_sec=self._policy.poll_s,
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
        """Those workflows that have ended, in whatever way."""
        wanted = list(workflow_ids)
        if not wanted:
            return frozenset()
        found = DBOS.list_workflows(workflow_ids=wanted, load_input=False, load_output=False)
        return frozenset(status.workflow_id for status in found if status.status in ENDED_WORKFLOWS)

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


def _delay_s(next_try_at: datetime | None) -> float:
    return 0.0 if next_try_at is None else max(0.0, (next_try_at - utc_now()).total_seconds())


def _use_write_ahead_log(url: URL) -> None:
    """The mode stays with the file: readers then go on during a write, and a commit costs one sync."""
    if url.get_backend_name() == "sqlite" and url.database:
        connection = sqlite3.connect(url.database)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()


@dataclass
class Planner:
    """Reads the ledgers again and again; several processes may do so at the same time."""

    runs: RunLedger
    deliveries: DeliveryLedger
    engine: DurableEngine
    heartbeats: Heartbeats
    prior_wait: PriorWait
    _planned: set[str] = field(default_factory=set, init=False)

    def plan(self) -> None:
        """Store the current try of everything unfinished that this process has not stored yet."""
        wanted = set()
        for run in self.runs.unfinished():
            planned = run_workflow_id(run) in self._planned
            if not planned and self._waits(run):
                continue
            wanted.add(run_workflow_id(run))
            if not planned:
                self.engine.plan_run(run)
        for delivery in self.deliveries.pending():
            wanted.add(delivery_workflow_id(delivery))
            if delivery_workflow_id(delivery) not in self._planned:
                self.engine.plan_delivery(delivery)
        self._planned = wanted

    def _waits(self, run: Run) -> bool:
        if run.state is StudyState.RUNNING:
            return False
        wait = self.prior_wait.check(run, utc_now())
        if wait.hold:
            self.runs.note_reason(run, wait.reason)
        return wait.hold

    def replace_lost(self) -> None:
        """Plan again what ended in the engine without a word in the ledger (the database failed it)."""
        runs = {run_workflow_id(run): run for run in self.runs.unfinished()}
        deliveries = {delivery_workflow_id(item): item for item in self.deliveries.pending()}
        for workflow_id in self.engine.ended_among([*runs, *deliveries]):
            # each replacement asks for the try seen above, so one that moved on meanwhile is left alone
            if workflow_id in runs:
                run = runs[workflow_id]
                replaced = self.runs.replace_lost_attempt(run)
                facts: dict[str, object] = {"study": run.key.study_instance_uid, "attempt": run.attempt}
            else:
                delivery = deliveries[workflow_id]
                replaced = self.deliveries.replace_lost_attempt(delivery)
                study = delivery.key.run.study_instance_uid
                facts = {"study": study, "destination": delivery.key.destination}
            if replaced:
                _log.warning("a try was lost and is planned again", extra=facts)

    def take_over_dead(self) -> None:
        """Take over what executors that fell silent left unfinished."""
        for executor_id in self.heartbeats.claim_dead():
            count = self.engine.take_over(executor_id)
            self.heartbeats.forget(executor_id)
            if count:
                _log.warning("took over unfinished work", extra={"executor": executor_id, "instances": count})


def process_workflow(
    work: StudyWork, ended: Callable[[], None], shadows: WaitingShadows | None = None
) -> ProcessWork:
    """The workflow ``process``; ``ended`` is called when the ledger may hold something new to plan.

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


def deliver_workflow(work: ResultDelivery, ended: Callable[[], None]) -> DeliverWork:
    """The workflow ``deliver``; ``ended`` as in :func:`process_workflow`."""

    def deliver(study_instance_uid: str, revision: int, destination: str, attempt: int) -> None:
        key = DeliveryKey(RunKey(study_instance_uid, revision), destination)
        kept = json.loads(step("send", lambda: _packed(work.send(key, attempt))))
        step("record", work.record, key, attempt, SendResult(**kept))
        ended()

    return deliver


def _packed(result: AttemptResult | SendResult) -> str:
    """What the engine keeps of a step: text, not a pickled object, so that a later version can read it."""
    return json.dumps(asdict(result))


def tidy(policy: NodePolicy, engine: DurableEngine) -> None:
    """Remove ended workflows and tracebacks that are older than ``node.keep_days``; nothing when that is 0.

    Images, results, ledgers and the audit log are never removed here.
    """
    if not policy.keep_days:
        return
    before = utc_now() - timedelta(days=policy.keep_days)
    workflows = engine.forget_ended(before)
    # tracebacks may quote headers, so they don't stay for ever either
    old = [
        path
        for path in policy.failures_dir.glob("*.txt")
        if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before
    ]
    for path in old:
        path.unlink(missing_ok=True)
    if workflows or old:
        _log.info("removed what has had its time", extra={"workflows": workflows, "files": len(old)})
