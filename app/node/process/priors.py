"""The PET/CT that comes before a SPECT/CT of the same patient: waited for, or noted when it came too late.

A SPECT/CT does not overtake a PET/CT that the node has, but has not processed yet. Processed first, it would
be segmented without a prior although the prior is minutes away: a wrong choice of model that looks right.

Where the PET/CT came, or ended, after the SPECT/CT was analysed, the result stands until a person acts.
Status and audit log say so; ``psma-node retry --again`` analyses the SPECT/CT with the prior.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from app.domain.refusal import RefusalCode
from app.domain.study import StudyKind
from app.node.records.states import WITH_RESULTS, RunKey, StudyState

if TYPE_CHECKING:
    from app.domain.outcome import PairOutcome
    from app.node.records.outbox import Outbox
    from app.node.records.runs import Run, RunLedger
    from app.node.records.stores import NodeStores
    from app.node.records.studies import StudyLedger

ADVICE = "psma-node retry --again analyses it with this prior"

_UNDER_WAY = {StudyState.QUEUED: "is queued", StudyState.RUNNING: "is running"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wait:
    """Whether a run has to wait now, and for what, in words; both are empty when there is nothing.

    ``reason`` without ``hold``: there was something, but the wait has lasted long enough.
    """

    hold: bool = False
    reason: str = ""
    study: str = ""
    """What is waited for: it has the place in the queue of what waits."""


@dataclass(frozen=True)
class PriorWait:
    """Looks for what a run should wait for; ``limit_s`` counts from when it was queued."""

    studies: StudyLedger
    runs: RunLedger
    limit_s: float

    def check(self, run: Run, now: datetime) -> Wait:
        """Whether ``run`` waits at ``now`` (aware)."""
        for study in self.studies.earlier_pets(run.key.study_instance_uid):
            progress = self._progress(study)
            if not progress:
                continue
            which = f"the PET/CT of the same patient, study {study}, which {progress}"
            if now - run.queued_at < timedelta(seconds=self.limit_s):
                return Wait(hold=True, reason=f"waits for {which}", study=study)
            return Wait(reason=f"did not wait longer than {self.limit_s:.0f} s for {which}")
        return Wait()

    def _progress(self, study_instance_uid: str) -> str:
        """What happens to a study now, in words; empty once it has ended."""
        known = self.studies.get(study_instance_uid)
        if known is None or known.is_arriving:
            waits = known is not None and known.state is StudyState.WAITING
            return "is not complete yet" if waits else "is being received"
        revisions = self.runs.of_study(study_instance_uid)
        if not revisions:
            return ""
        latest = revisions[-1]
        if latest.state is StudyState.FAILED and latest.next_try_at is not None:
            return "failed and is tried again"
        return _UNDER_WAY.get(latest.state, "")


def note_late_priors(stores: NodeStores, ended: RunKey) -> None:
    """Write to the audit log, once, which SPECT/CTs were analysed without a PET result that is known now.

    Both may end at the same time, each in its own worker, so each looks both for SPECT/CTs without the PET
    that has just been registered, and for a PET registered while the SPECT was analysed. The results of
    ``ended`` are in the outbox and registered; its state may still be RUNNING.
    """
    for study in (ended.study_instance_uid, *stores.studies.later_spects(ended.study_instance_uid)):
        revisions = stores.runs.of_study(study)
        # a running one with results in the outbox is about to end
        if revisions and revisions[-1].state in (*WITH_RESULTS, StudyState.RUNNING):
            _note(stores, revisions[-1].key)


def _note(stores: NodeStores, spect: RunKey) -> None:
    from app.node.records.audit import AuditEvent

    pet = _missed(stores, spect)
    if not pet or stores.late_priors.is_noted(spect, pet):
        return
    study, facts = spect.study_instance_uid, {"revision": spect.revision, "pet_study": pet}
    # first the line, then the mark: a crash in between writes the line twice, the other way round never
    stores.audit.append(AuditEvent.PRIOR_CAME_LATE, study, facts | {"advice": ADVICE})
    _log.warning("analysed without its prior, which came later", extra={"study": study} | facts)
    stores.late_priors.note(spect, pet)


def _missed(stores: NodeStores, spect: RunKey) -> str:
    """The latest earlier PET that has a result, when this run's own results were made without any."""
    earlier = stores.studies.earlier_pets(spect.study_instance_uid)
    registered = stores.results.of_studies(earlier) if earlier else frozenset()
    if not registered or not found_no_prior(stores.outbox, spect):
        return ""
    return next(study for study in earlier if study in registered)


def found_no_prior(outbox: Outbox, run: RunKey) -> bool:
    """Whether a SPECT of this revision was analysed when no earlier PET was known."""
    outcome = outbox.readable_outcome_of(run)
    return outcome is not None and any(_is_without(pair) for pair in outcome.pairs)


def _is_without(pair: PairOutcome) -> bool:
    """No earlier PET was known: one that was known and does not fit is another matter."""
    codes = {reason.code for reason in pair.no_prior}
    return pair.kind is StudyKind.SPECT_CT and codes == {RefusalCode.NO_PRIOR}
