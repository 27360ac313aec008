"""Starts what the ledgers say is due, as soon as there is room for it, in the order of whose turn it is.

A round is cheap, and comes whenever something has ended or arrived; without that, every ``node.poll_s``.
Each line has its own room: the workers, the judge of headers, one delivery at a time to each destination, so
a PACS that hangs holds up no other. Several processes may plan at the same time: the engine starts each try
once.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.node.peers import DeliverPolicy
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
from app.node.records.clock import waits_until
from app.node.records.database import utc_now
from app.node.records.deliveries import Delivery, DeliveryLedger
from app.node.records.runs import Run, RunLedger
from app.node.records.states import DeliveryKey, RunKey, StudyState
from app.node.records.stores import Heartbeats

JUDGED_AT_ONCE = 1
"""Studies that headers refuse: each takes milliseconds, and the workers want the processor."""

JUDGED_IN_A_ROUND = 20
"""Looked at in one round: there may be thousands, and the next round comes when one has ended."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Begun:
    """A try that the engine knows, and the line that it was begun in."""

    line: str
    key: RunKey | DeliveryKey


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
    deliver: DeliverPolicy = field(default_factory=DeliverPolicy)
    _begun: dict[str, _Begun] = field(default_factory=dict, init=False)
    """Tries that the engine knows, of those that are due."""

    def plan(self) -> float | None:
        """Start what is due and has room; returns the seconds until more is, ``None`` while nothing waits."""
        now = utc_now()
        known: set[str] = set()
        later = [*self._plan_deliveries(now, known), *self._plan_runs(now, known)]
        self._begun = {name: one for name, one in self._begun.items() if name in known}
        return min(((at - now).total_seconds() for at in later), default=None)

    def _plan_deliveries(self, now: datetime, known: set[str]) -> Iterator[datetime]:
        longest_s = self.deliver.longest_wait_s
        for delivery in self.deliveries.pending():
            workflow_id = delivery_workflow_id(delivery)
            known.add(workflow_id)
            later = waits_until(delivery.next_try_at, now, longest_s)
            if later is not None:
                yield later
            elif workflow_id not in self._begun and not self._delivers_to(delivery):
                self.engine.start_delivery(delivery)
                self._begun[workflow_id] = _Begun(delivery_line(delivery.key.destination), delivery.key)

    def _delivers_to(self, delivery: Delivery) -> bool:
        return self.engine.under_way(delivery_line(delivery.key.destination)) > 0

    def _plan_runs(self, now: datetime, known: set[str]) -> Iterator[datetime]:
        """What waits is read where there is room for one: thousands may wait behind a study under way."""
        if self.engine.under_way(PROCESSING) < self.workers:
            yield from self._plan_work(now, known)
        else:
            known.update(self._begun_in(PROCESSING))
        if self.engine.under_way(JUDGING) < JUDGED_AT_ONCE:
            self._plan_judging(now, known)
        else:
            known.update(self._begun_in(JUDGING))

    def _begun_in(self, line: str) -> Iterator[str]:
        return (name for name, one in self._begun.items() if one.line == line)

    def _plan_judging(self, now: datetime, known: set[str]) -> None:
        for run in self.runs.for_judge(now, self.policy.max_retry_s, JUDGED_IN_A_ROUND):
            known.add(run_workflow_id(run))
            if self.engine.under_way(JUDGING) < JUDGED_AT_ONCE:
                self._start(run, JUDGING)

    def _plan_work(self, now: datetime, known: set[str]) -> Iterator[datetime]:
        due = []
        for run in self.runs.for_workers():
            known.add(run_workflow_id(run))
            later = waits_until(run.next_try_at, now, self.policy.max_retry_s)
            if later is not None:
                yield later
            elif run_workflow_id(run) not in self._begun:
                due.append(run)
        if due:
            self._give_to_workers(due, now)

    def _give_to_workers(self, due: list[Run], now: datetime) -> None:
        """What was cut off goes first: its worker is free since."""
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
            self._begun[run_workflow_id(run)] = _Begun(line, run.key)

    def replace_lost(self) -> None:
        """Plan again what ended in the engine without a word in the ledger (the database failed it)."""
        begun = dict(self._begun)
        for workflow_id in self.engine.ended_among(begun):
            key = begun[workflow_id].key
            # read once it has ended: what it has written itself is there
            replaced = (
                self._replace_run(workflow_id, key)
                if isinstance(key, RunKey)
                else self._replace_delivery(workflow_id, key)
            )
            if replaced:
                _log.warning("a try was lost and is planned again", extra=key.facts)

    def _replace_run(self, workflow_id: str, key: RunKey) -> bool:
        runs = self.runs.of_study(key.study_instance_uid)
        lost = (run for run in runs if run_workflow_id(run) == workflow_id and _has_a_try(run))
        return any(self._replace_lost_run(run) for run in lost)

    def _replace_delivery(self, workflow_id: str, key: DeliveryKey) -> bool:
        lost = (one for one in self.deliveries.of_run(key.run) if delivery_workflow_id(one) == workflow_id)
        return any(self.deliveries.replace_lost_attempt(one) for one in lost)

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


def _has_a_try(run: Run) -> bool:
    return run.state in (StudyState.QUEUED, StudyState.RUNNING) or run.next_try_at is not None
