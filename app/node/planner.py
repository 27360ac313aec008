"""From the ledgers to the durable engine: whatever is unfinished has a try stored, and exactly one."""

from __future__ import annotations

import logging

from app.node.database import utc_now
from app.node.delivery_ledger import DeliveryLedger
from app.node.durable_engine import DurableEngine, delivery_workflow_id, run_workflow_id
from app.node.heartbeats import Heartbeats
from app.node.prior_wait import PriorWait
from app.node.run_ledger import Run, RunLedger, StudyState

_log = logging.getLogger(__name__)


class Planner:
    """Reads the ledgers again and again; safe beside planners of other processes."""

    def __init__(
        self,
        runs: RunLedger,
        deliveries: DeliveryLedger,
        engine: DurableEngine,
        heartbeats: Heartbeats,
        prior_wait: PriorWait,
    ) -> None:
        self._runs = runs
        self._deliveries = deliveries
        self._engine = engine
        self._heartbeats = heartbeats
        self._prior_wait = prior_wait
        self._planned: set[str] = set()

    def plan(self) -> None:
        """Store the current try of everything unfinished that this process has not stored yet."""
        wanted = set()
        for run in self._runs.unfinished():
            planned = run_workflow_id(run) in self._planned
            if not planned and self._waits(run):
                continue
            wanted.add(run_workflow_id(run))
            if not planned:
                self._engine.plan_run(run)
        for delivery in self._deliveries.pending():
            wanted.add(delivery_workflow_id(delivery))
            if delivery_workflow_id(delivery) not in self._planned:
                self._engine.plan_delivery(delivery)
        self._planned = wanted

    def _waits(self, run: Run) -> bool:
        if run.state is StudyState.RUNNING:
            return False
        wait = self._prior_wait.check(run, utc_now())
        if wait.hold:
            self._runs.note_reason(run, wait.reason)
        return wait.hold

    def replace_lost(self) -> None:
        """Plan again what ended in the engine without a word in the ledger (the database failed it)."""
        runs = {run_workflow_id(run): run for run in self._runs.unfinished()}
        deliveries = {delivery_workflow_id(item): item for item in self._deliveries.pending()}
        for workflow_id in self._engine.ended_among([*runs, *deliveries]):
            # each replacement asks for the try seen above, so one that moved on meanwhile is left alone
            if workflow_id in runs:
                run = runs[workflow_id]
                replaced = self._runs.replace_lost_attempt(run)
                facts: dict[str, object] = {"study": run.key.study_instance_uid, "attempt": run.attempt}
            else:
                delivery = deliveries[workflow_id]
                replaced = self._deliveries.replace_lost_attempt(delivery)
                study = delivery.key.run.study_instance_uid
                facts = {"study": study, "destination": delivery.key.destination}
            if replaced:
                _log.warning("a try was lost and is planned again", extra=facts)

    def take_over_dead(self) -> None:
        """Take over what executors that fell silent left unfinished."""
        for executor_id in self._heartbeats.claim_dead():
            count = self._engine.take_over(executor_id)
            self._heartbeats.forget(executor_id)
            if count:
                _log.warning("took over unfinished work", extra={"executor": executor_id, "instances": count})
