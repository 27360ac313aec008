"""Starts what the ledgers say is due, as soon as there is room for it, in the order of whose turn it is.

A round is cheap, and comes whenever something has ended or arrived; without that, every ``node.poll_s``.
Each line has its own room: the workers, the judge of headers, one delivery at a time to each destination, so
a PACS that hangs holds up no other. Several processes may plan at the same time: the engine starts each try
once.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.node.policy import NodePolicy
from app.node.process.priors import PriorWait
from app.node.process.turns import REMEMBERED, in_turn
from app.node.queue import (
    JUDGING,
    PROCESSING,
    DurableEngine,
    delivery_line,
    delivery_workflow_id,
    run_workflow_id,
)
from app.node.records.database import utc_now
from app.node.records.deliveries import Delivery, DeliveryLedger
from app.node.records.runs import Run, RunLedger
from app.node.records.states import StudyState
from app.node.records.stores import Heartbeats

JUDGED_AT_ONCE = 1
"""Studies that headers refuse: each takes milliseconds, and the workers want the processor."""

JUDGED_IN_A_ROUND = 20
"""Looked at in one round: there may be thousands, and the next round comes when one has ended."""

_log = logging.getLogger(__name__)


@dataclass
class Planner:
    """Reads the ledgers again and again; several processes may do so at the same time."""

    runs: RunLedger
    deliveries: DeliveryLedger
    engine: DurableEngine
    heartbeats: Heartbeats
    prior_wait: PriorWait
    workers: int
    policy: NodePolicy
    _begun: set[str] = field(default_factory=set, init=False)
    """Tries that the engine knows, of those that are due."""

    def plan(self) -> float | None:
        """Start what is due and has room; returns the seconds until more is, ``None`` while nothing waits."""
        now = utc_now()
        known: set[str] = set()
        later = [*self._plan_deliveries(now, known), *self._plan_runs(now, known)]
        self._begun &= known
        return min(((at - now).total_seconds() for at in later), default=None)

    def _plan_deliveries(self, now: datetime, known: set[str]) -> Iterator[datetime]:
        for delivery in self.deliveries.pending():
            workflow_id = delivery_workflow_id(delivery)
            known.add(workflow_id)
            if delivery.next_try_at is not None and delivery.next_try_at > now:
                yield delivery.next_try_at
            elif workflow_id not in self._begun and not self._delivers_to(delivery):
                self.engine.start_delivery(delivery)
                self._begun.add(workflow_id)

    def _delivers_to(self, delivery: Delivery) -> bool:
        return self.engine.under_way(delivery_line(delivery.key.destination)) > 0

    def _plan_runs(self, now: datetime, known: set[str]) -> Iterator[datetime]:
        due = []
        for run in self.runs.for_workers():
            known.add(run_workflow_id(run))
            if run.next_try_at is not None and run.next_try_at > now:
                yield run.next_try_at
            elif run_workflow_id(run) not in self._begun:
                due.append(run)
        self._give_to_workers(due, now)
        for run in self.runs.for_judge(now, JUDGED_IN_A_ROUND):
            known.add(run_workflow_id(run))
            if self.engine.under_way(JUDGING) < JUDGED_AT_ONCE:
                self._start(run, JUDGING)

    def _give_to_workers(self, due: Sequence[Run], now: datetime) -> None:
        """What was cut off goes first: its worker is free since."""
        if not due or self.engine.under_way(PROCESSING) >= self.workers:
            return
        cut_off = [run for run in due if run.state is StudyState.RUNNING]
        waiting = {run.study_instance_uid: run for run in due if run.state is not StudyState.RUNNING}
        started = [run.turn for run in self.runs.last_started(REMEMBERED)]
        turns = in_turn([run.turn for run in waiting.values()], started, now)
        in_order = (waiting[turn.key.study_instance_uid] for turn in turns)
        for run in itertools.chain(cut_off, self._in_place(in_order, waiting, now)):
            if self.engine.under_way(PROCESSING) >= self.workers:
                return
            self._start(run, PROCESSING)

    def _in_place(self, in_order: Iterator[Run], waiting: dict[str, Run], now: datetime) -> Iterator[Run]:
        """Each run that waits for no prior; in the place of one that does, the prior, if it waits here."""
        for run in in_order:
            wait = self.prior_wait.check(run, now)
            if not wait.hold:
                yield run
                continue
            self.runs.note_reason(run, wait.reason)
            if wait.study in waiting:
                yield waiting[wait.study]

    def _start(self, run: Run, line: str) -> None:
        if run_workflow_id(run) not in self._begun:
            self.engine.start_run(run, line)
            self._begun.add(run_workflow_id(run))

    def replace_lost(self) -> None:
        """Plan again what ended in the engine without a word in the ledger (the database failed it)."""
        runs = {run_workflow_id(run): run for run in self.runs.unfinished()}
        deliveries = {delivery_workflow_id(item): item for item in self.deliveries.pending()}
        begun = self._begun & {*runs, *deliveries}
        for workflow_id in self.engine.ended_among(begun):
            # each replacement asks for the try seen above, so one that moved on meanwhile is left alone
            if workflow_id in runs:
                run = runs[workflow_id]
                replaced = self._replace_lost_run(run)
                facts: dict[str, object] = {"study": run.key.study_instance_uid, "attempt": run.attempt}
            else:
                delivery = deliveries[workflow_id]
                replaced = self.deliveries.replace_lost_attempt(delivery)
                study = delivery.key.run.study_instance_uid
                facts = {"study": study, "destination": delivery.key.destination}
            if replaced:
                _log.warning("a try was lost and is planned again", extra=facts)

    def _replace_lost_run(self, run: Run) -> bool:
        """One that was under way waits, longer each time: its next try computes everything again."""
        if run.state is not StudyState.RUNNING:
            return self.runs.replace_lost_attempt(run, run.next_try_at)
        wait = timedelta(seconds=self.policy.retry_after_s(run.interruptions + 1))
        return self.runs.replace_lost_attempt(run, utc_now() + wait)

    def take_over_dead(self) -> None:
        """Take over what executors that fell silent left unfinished."""
        for executor_id in self.heartbeats.claim_dead():
            count = self.engine.take_over(executor_id)
            self.heartbeats.forget(executor_id)
            if count:
                _log.warning("took over unfinished work", extra={"executor": executor_id, "instances": count})
