"""SPECT/CTs that were analysed without the PET/CT of the same patient, because it came, or ended, later.

Their results stand: nobody takes them back unasked. But who looks at the study, or at the audit log, is told,
and ``psma-node retry --again`` analyses it anew, with the prior.
"""

from __future__ import annotations

import logging

from app.domain.outcome import PairOutcome
from app.domain.refusal import RefusalCode
from app.domain.study import StudyKind
from app.node.records.audit import AuditEvent
from app.node.records.outbox import readable_outcome_of
from app.node.records.runs import Run, RunKey, StudyState
from app.node.records.stores import NodeStores

_ANALYSED = (StudyState.DELIVERING, StudyState.DONE)
ADVICE = "psma-node retry --again analyses it with this prior"

_log = logging.getLogger(__name__)


def late_prior(stores: NodeStores, run: Run) -> str:
    """The study whose PET result was missing when ``run``, a SPECT, was analysed; empty when none was."""
    return _missed(stores, run.key) if run.state in _ANALYSED else ""


def tell_late_priors(stores: NodeStores, ended: RunKey) -> None:
    """Write to the audit log, once, which SPECT/CTs were analysed without a PET result that is known now.

    Both may end at the same time, each in its own worker, so whichever does looks for both: for SPECT/CTs
    without the PET that has just been registered, and for a PET registered while the SPECT was analysed.

    Args:
        ended: the run whose results are in the outbox and registered; its state may still be RUNNING.
    """
    for study in (ended.study_instance_uid, *stores.studies.later_spects(ended.study_instance_uid)):
        revisions = stores.runs.of_study(study)
        # a running one with results in the outbox is about to end
        if revisions and revisions[-1].state in (*_ANALYSED, StudyState.RUNNING):
            _tell(stores, revisions[-1].key)


def _tell(stores: NodeStores, spect: RunKey) -> None:
    pet = _missed(stores, spect)
    if not pet or stores.late_priors.is_told(spect, pet):
        return
    study, facts = spect.study_instance_uid, {"revision": spect.revision, "pet_study": pet}
    # first the line, then the mark: a crash between them tells it twice, the other way round never
    stores.audit.append(AuditEvent.PRIOR_CAME_LATE, study, facts | {"advice": ADVICE})
    _log.warning("analysed without its prior, which came later", extra={"study": study} | facts)
    stores.late_priors.note_told(spect, pet)


def _missed(stores: NodeStores, spect: RunKey) -> str:
    """The latest earlier PET that has a result, when this run's own results were made without any."""
    earlier = stores.studies.earlier_pets(spect.study_instance_uid)
    registered = stores.pet_results.of_studies(earlier) if earlier else frozenset()
    if not registered or not _found_no_prior(stores, spect):
        return ""
    return next(study for study in earlier if study in registered)


def _found_no_prior(stores: NodeStores, run: RunKey) -> bool:
    outcome = readable_outcome_of(stores.outbox, run)
    return outcome is not None and any(_is_without(pair) for pair in outcome.pairs)


def _is_without(pair: PairOutcome) -> bool:
    """No earlier PET was known: one that was known and does not fit is another matter."""
    codes = {reason.code for reason in pair.no_prior}
    return pair.kind is StudyKind.SPECT_CT and codes == {RefusalCode.NO_PRIOR}
