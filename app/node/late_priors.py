"""SPECT/CTs that were analysed without the PET/CT of the same patient, because it came, or ended, later.

Their results stand: nobody takes them back unasked. But who looks at the study, or at the audit log, is told,
and ``psma-node retry --again`` analyses it anew, with the prior.
"""

from __future__ import annotations

import logging

from app.domain.outcome import PairOutcome
from app.domain.refusal import RefusalCode
from app.domain.study import StudyKind
from app.node.audit import AuditEvent
from app.node.run_ledger import Run, RunKey, StudyState
from app.node.run_outcomes import readable_outcome_of
from app.node.stores import NodeStores

_ANALYSED = (StudyState.DELIVERING, StudyState.DONE)
ADVICE = "psma-node retry --again analyses it with this prior"

_log = logging.getLogger(__name__)


def late_prior(stores: NodeStores, run: Run) -> str:
    """The study whose PET result was missing when ``run``, a SPECT, was analysed; empty when none was."""
    if run.state not in _ANALYSED:
        return ""
    earlier = stores.subjects.earlier_pets(run.key.study_instance_uid)
    registered = stores.pet_results.of_studies(earlier) if earlier else frozenset()
    if not registered or not _found_no_prior(stores, run.key):
        return ""
    return next(study for study in earlier if study in registered)


def tell_late_priors(stores: NodeStores, pet: RunKey) -> None:
    """Write down which SPECT/CTs were analysed without the PET result that has just been registered."""
    for study in stores.subjects.later_spects(pet.study_instance_uid):
        revisions = stores.runs.of_study(study)
        if not revisions or late_prior(stores, revisions[-1]) != pet.study_instance_uid:
            continue
        facts = {"revision": revisions[-1].key.revision, "pet_study": pet.study_instance_uid}
        stores.audit.append(AuditEvent.PRIOR_CAME_LATE, study, facts | {"advice": ADVICE})
        _log.warning("analysed without its prior, which came later", extra={"study": study} | facts)


def _found_no_prior(stores: NodeStores, run: RunKey) -> bool:
    outcome = readable_outcome_of(stores.outbox, run)
    return outcome is not None and any(_is_without(pair) for pair in outcome.pairs)


def _is_without(pair: PairOutcome) -> bool:
    """No earlier PET was known: one that was known and does not fit is another matter."""
    codes = {reason.code for reason in pair.no_prior}
    return pair.kind is StudyKind.SPECT_CT and codes == {RefusalCode.NO_PRIOR}
