"""Processing one revision of a study: run the chain, keep its results, write down how it ended."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from app.domain.decision import Decision
from app.domain.outcome import RunContext, Status, StudyOutcome
from app.errors import (
    MisconfiguredError,
    RetryLaterError,
    StartOverError,
    UnusableStudyError,
    describe_exception,
)
from app.node.peers import Destination
from app.node.policy import NodePolicy
from app.node.process.earlier_revisions import earlier_revisions, unreadable_results
from app.node.process.priors import PriorWait, Wait, note_late_priors
from app.node.process.processors import Judge, ProcessorPool
from app.node.process.routing import routed
from app.node.records.audit import AuditEvent
from app.node.records.database import iso_or_empty, utc_now
from app.node.records.inbox_index import StudyContent
from app.node.records.results import pet_subjects
from app.node.records.runs import Run, RunTransition
from app.node.records.settlement import settle_run
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores

MOST_INTERRUPTIONS = 5
"""Hosts crash, and that is no fault of the study; one that needs more memory than there is ends the node each
time it is tried."""

CUT_OFF = (
    "were cut off: each time the node was killed, or its host failed, while it processed this study, or how "
    "it ended could not be written down. Is there memory enough (the kernel's log names what it kills), and "
    "may disk, audit folder and database be written (the node's log says)? Then psma-node retry"
)

_log = logging.getLogger(__name__)


class AttemptKind(StrEnum):
    """How an attempt to process a study ended."""

    DONE = "done"
    REJECTED = "rejected"
    POSTPONED = "postponed"
    FAILED = "failed"
    MISCONFIGURED = "misconfigured"
    EXHAUSTED = "exhausted"
    """Not tried: too many tries in a row took the node down with them, or it was killed."""
    SUPERSEDED = "superseded"
    """Not tried: images arrived since, so this revision's content can't be processed alone any more."""
    HELD = "held"
    """Not tried: an earlier PET/CT of the same patient comes first, or headers do not refuse it after all."""
    OUT_OF_DATE = "out of date"
    """Not tried: another try has taken this one's place."""


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt ended, and why, as the durable engine keeps it."""

    kind: AttemptKind
    reason: str = ""


_KIND_OF = {
    Status.REJECTED: AttemptKind.REJECTED,
    Status.RETRY: AttemptKind.POSTPONED,
    Status.FAILED: AttemptKind.FAILED,
}


class _NeedsWorkerError(Exception):
    """Headers do not refuse the study after all; what was begun in its folder is dropped."""


class StudyWork:
    """The steps of the workflow ``process``."""

    def __init__(
        self,
        stores: NodeStores,
        policy: NodePolicy,
        processors: ProcessorPool,
        destinations: Sequence[Destination],
        start_over: Callable[[], None],
        judge: Judge | None = None,
    ) -> None:
        """``start_over`` is called when this process can't compute any more; it must return at once.

        ``judge`` takes what headers refuse; without one the chain does.
        """
        self._judge = judge
        self._start_over = start_over
        self._stores = stores
        self._policy = policy
        self._processors = processors
        self.destinations = tuple(destinations)
        self._prior_wait = PriorWait(stores.studies, stores.runs, policy.prior_wait_s)

    def run_chain(self, key: RunKey, attempt: int) -> AttemptResult:
        """Step 1: run the chain; its results are in the outbox, for good, when this returns."""
        run = self._stores.runs.claim(key, attempt, self._policy.executor)
        if run is None:
            return AttemptResult(AttemptKind.OUT_OF_DATE)
        _log.info("processing", extra=key.facts | {"attempt": attempt})
        if run.interruptions >= MOST_INTERRUPTIONS:
            return AttemptResult(AttemptKind.EXHAUSTED, f"{run.interruptions} tries in a row {CUT_OFF}")
        try:
            # one look: what is read is what was digested, whatever a person chooses meanwhile
            content = self._stores.inbox.content(key.study_instance_uid)
            others = self._stores.studies.of_same_patient(key.study_instance_uid)
            other_cts = self._stores.inbox.other_cts(others)
        except (RetryLaterError, OSError) as error:
            # it indexes what has just come in, of whatever study, before it reads: no fault of this one
            reason = getattr(error, "strerror", None) or str(error)
            return AttemptResult(AttemptKind.POSTPONED, f"the inbox can't be read: {reason}")
        return self._run(run, content, other_cts)

    def _run(self, run: Run, content: StudyContent, other_cts: tuple[Path, ...]) -> AttemptResult:
        if content.digest != run.content_digest:
            return AttemptResult(AttemptKind.SUPERSEDED, "more images arrived before it was processed")
        # what headers refuse is not read from end to end, unless a result could be withdrawn for it
        by_headers = run.by_headers and run.key.revision == 1
        damaged, paths = content.absent() if by_headers else content.damaged(), content.paths
        if damaged:
            # not rejected: that would withdraw what an earlier revision found with them
            advice = "send the whole study again, then psma-node retry"
            found = f"{damaged} of {len(paths)} images are gone from the inbox, or damaged in it; {advice}"
            return AttemptResult(AttemptKind.MISCONFIGURED, found)
        # looked at again: the PET may have come while this study waited for its turn; none changes what
        # headers say, and the planner would begin a judged study again at once
        wait = Wait() if self._judge_of(run) else self._prior_wait.check(run, utc_now())
        if wait.hold:
            return AttemptResult(AttemptKind.HELD, wait.reason)
        if wait.reason:
            _log.warning("goes on without its prior", extra=run.key.facts | {"reason": wait.reason})
        waited = (Decision.warning("receive", wait.reason),) if wait.reason else ()
        context = RunContext(run.changed_at, waited, other_cts)
        result = self._guarded(run, paths, context)
        words = (wait.reason, unreadable_results(self._stores, run.key), result.reason)
        return replace(result, reason="; ".join(filter(None, words)))

    def record(self, key: RunKey, attempt: int, tried: AttemptResult) -> str:
        """Step 2: write down how the attempt ended; with results, plan their delivery."""
        if tried.kind is AttemptKind.OUT_OF_DATE:
            return "out of date"
        try:
            gave_results = tried.kind in (AttemptKind.DONE, AttemptKind.REJECTED)
            has_something_to_send = gave_results and self._keep_results(key)
        except MisconfiguredError as error:
            # written by another version between the two steps, or damaged: the next try writes it anew
            tried, has_something_to_send = AttemptResult(AttemptKind.FAILED, str(error)), False
        except RetryLaterError as error:
            tried, has_something_to_send = AttemptResult(AttemptKind.POSTPONED, str(error)), False
        except Exception as error:  # noqa: BLE001  uncounted, the chain would run again without end
            words = self._describe(key, attempt, error)
            tried, has_something_to_send = AttemptResult(AttemptKind.FAILED, words), False
        transition = self._transition(self._stores.runs.get(key), tried, has_something_to_send)
        if tried.kind is not AttemptKind.HELD:
            self._audit(key, tried, transition)
        self._stores.runs.end(key, attempt, transition)
        if transition.state is StudyState.DELIVERING:
            settle_run(self._stores, key)  # its deliveries may have ended before, in this try or a former one
        facts = {"state": str(transition.state), "reason": transition.reason}
        _log.info("processed", extra=key.facts | facts | {"next_try": iso_or_empty(transition.next_try_at)})
        return str(transition.state)

    def _guarded(self, run: Run, paths: Sequence[Path], context: RunContext) -> AttemptResult:
        try:
            return self._process(run, paths, context)
        except StartOverError as error:
            _log.error("this process has to start over", extra=run.key.facts | {"reason": str(error)})
            self._start_over()
            return AttemptResult(AttemptKind.POSTPONED, str(error))
        except RetryLaterError as error:
            return AttemptResult(AttemptKind.POSTPONED, str(error))
        except UnusableStudyError as error:
            return AttemptResult(AttemptKind.REJECTED, str(error))
        except MisconfiguredError as error:
            return AttemptResult(AttemptKind.MISCONFIGURED, str(error))
        except Exception as error:  # noqa: BLE001  the study loop: a study's fault must not end the worker
            return AttemptResult(AttemptKind.FAILED, self._describe(run.key, run.attempt, error))

    def _judge_of(self, run: Run) -> Judge | None:
        return self._judge if run.by_headers else None

    @contextmanager
    def _processor(self, run: Run) -> Iterator[Judge]:
        judge = self._judge_of(run)
        if judge is not None:
            yield judge
            return
        with self._processors.borrow(lambda stage: self._stores.runs.note_stage(run.key, stage)) as processor:
            yield processor.process

    def _process(self, run: Run, paths: Sequence[Path], context: RunContext) -> AttemptResult:
        try:
            outcome = self._outcome(run, paths, context)
        except _NeedsWorkerError:
            self._stores.runs.note_needs_worker(run.key)
            return AttemptResult(AttemptKind.HELD)
        if outcome.status is Status.DONE:
            return AttemptResult(AttemptKind.DONE, "; ".join(str(reason) for reason in outcome.reasons))
        return AttemptResult(_KIND_OF[outcome.status], _reason(outcome))

    def _outcome(self, run: Run, paths: Sequence[Path], context: RunContext) -> StudyOutcome:
        key = run.key
        with self._processor(run) as process, self._stores.outbox.fill(key) as folder:
            earlier = earlier_revisions(self._stores, key)
            outcome = process(paths, folder, key.revision, earlier, context)
            if outcome is None:
                raise _NeedsWorkerError
            subjects = pet_subjects(paths, outcome)
        self._stores.results.register(key, outcome, subjects)
        return outcome

    def _keep_results(self, key: RunKey) -> bool:
        """Withdraw what no longer holds, plan the delivery; returns whether there is anything to deliver.

        A rejected study has something to say when it withdraws the result of an earlier revision.
        """
        outcome = self._stores.outbox.outcome_of(key)
        if outcome is None:
            return False
        self._stores.results.register_old(key, outcome)
        withdrawn = [notice.functional_series_instance_uid for notice in outcome.withdrawals]
        self._stores.results.withdraw(key, withdrawn)
        note_late_priors(self._stores, key)
        routes = routed(self._stores, key, outcome.files, self.destinations)
        for name, files in routes.items():
            self._stores.deliveries.plan(key, files, [name])
        return bool(routes)

    def _transition(self, run: Run, tried: AttemptResult, has_something_to_send: bool) -> RunTransition:
        if has_something_to_send:
            return RunTransition(StudyState.DELIVERING, tried.reason)
        if tried.kind is AttemptKind.DONE:
            return RunTransition(StudyState.DONE, tried.reason)
        if tried.kind in (AttemptKind.REJECTED, AttemptKind.SUPERSEDED):
            return RunTransition(StudyState(tried.kind), tried.reason)
        if tried.kind in (AttemptKind.HELD, AttemptKind.POSTPONED):
            held = tried.kind is AttemptKind.HELD  # the planner holds it back and lets it go
            wait_s = 0.0 if held else self._policy.retry_after_s(run.postponements + 1)
            return RunTransition(StudyState.QUEUED, tried.reason, utc_now() + timedelta(seconds=wait_s))
        faults = run.faults + 1
        if tried.kind is AttemptKind.FAILED and faults < self._policy.max_attempts:
            wait_s = self._policy.retry_after_s(faults)
            next_try_at = utc_now() + timedelta(seconds=wait_s)
            return RunTransition(StudyState.FAILED, tried.reason, next_try_at, at_fault=True)
        return RunTransition(StudyState.FAILED, tried.reason, at_fault=True)

    def _audit(self, key: RunKey, tried: AttemptResult, transition: RunTransition) -> None:
        facts: dict[str, object] = {"revision": key.revision, "reason": tried.reason}
        if tried.kind in (AttemptKind.DONE, AttemptKind.REJECTED):
            outcome = self._stores.outbox.outcome_of(key)
            facts |= {} if outcome is None else _results_in_words(outcome)
            event = AuditEvent.PROCESSED if tried.kind is AttemptKind.DONE else AuditEvent.REJECTED
        else:
            event = AuditEvent.FAILED
            facts |= {"ending": str(tried.kind), "next_try": iso_or_empty(transition.next_try_at)}
        self._stores.audit.append(event, key.study_instance_uid, facts)

    def _describe(self, key: RunKey, attempt: int, error: Exception) -> str:
        """Type and place of a fault of ours. Its message may quote a header, so the whole traceback goes to a
        file in the data folder that only the node's user can read."""
        description = describe_exception(error)
        _log.error("the chain failed", exc_info=error, extra=key.facts | {"attempt": attempt})
        name = f"{key.study_instance_uid}-r{key.revision}-{attempt}.txt"
        path = self._policy.failures_dir / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        except OSError as full:  # how the try ended must be written down all the same
            return f"{description}; no details: failures/ can't be written to ({full.strerror})"
        return f"{description}; details in failures/{name}"


def _reason(outcome: StudyOutcome) -> str:
    words = [outcome.message, *(str(reason) for reason in outcome.reasons)]
    return "; ".join(filter(None, words)) or f"the chain says {outcome.status} and gives no reason"


def _results_in_words(outcome: StudyOutcome) -> dict[str, object]:
    """Model, prior and files of each pair, and what is withdrawn, for the audit log."""
    return {
        "withdrawn": [
            {
                "functional_series": notice.functional_series_instance_uid,
                "result_of_revision": notice.revision,
                "reason": notice.reason,
                "files": {file.kind: file.sop_instance_uid for file in notice.files},
            }
            for notice in outcome.withdrawals
        ],
        "results": [
            {
                "kind": str(pair.kind),
                "functional_series": pair.functional_series_instance_uid,
                "ct_series": pair.ct_series_instance_uid,
                "model": pair.model.model_id,
                "model_version": pair.model.version,
                "weights_sha256": pair.model.weights_sha256,
                "prior_used": pair.prior_used,
                "no_prior": [str(reason) for reason in pair.no_prior],
                "lesions": pair.findings.burden.lesion_count,
                "files": {file.kind: file.sop_instance_uid for file in pair.files},
            }
            for pair in outcome.pairs
        ],
    }
