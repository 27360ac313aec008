"""A SPECT/CT does not overtake the PET/CT of the same patient that the node has, but has not processed yet.

Processed first, it would be segmented without a prior although the prior is minutes away: a wrong choice of
model that looks right.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.node.policy import NodePolicy
from app.node.records.runs import Run, RunLedger, StudyState
from app.node.records.stores import NodeStores
from app.node.records.studies import StudyLedger

_UNDER_WAY = {StudyState.QUEUED: "is queued", StudyState.RUNNING: "is running"}


@dataclass(frozen=True)
class Wait:
    """Whether a run has to wait now, and for what, in words; both are empty when there is nothing.

    ``reason`` without ``hold``: there was something, but the wait has lasted long enough.
    """

    hold: bool = False
    reason: str = ""


class PriorWait:
    """Looks for what a run should wait for; ``limit_s`` counts from when its study was complete."""

    def __init__(self, studies: StudyLedger, runs: RunLedger, limit_s: float) -> None:
        self._studies = studies
        self._runs = runs
        self._limit_s = limit_s

    def check(self, run: Run, now: datetime) -> Wait:
        """Whether ``run`` waits at ``now`` (aware)."""
        for study in self._studies.earlier_pets(run.key.study_instance_uid):
            progress = self._progress(study)
            if not progress:
                continue
            which = f"the PET/CT of the same patient, study {study}, which {progress}"
            if now - run.created_at < timedelta(seconds=self._limit_s):
                return Wait(hold=True, reason=f"waits for {which}")
            return Wait(reason=f"did not wait longer than {self._limit_s:.0f} s for {which}")
        return Wait()

    def _progress(self, study_instance_uid: str) -> str:
        """What a study is about, in words; nothing when it has come to its end, whichever."""
        known = self._studies.get(study_instance_uid)
        if known is None or known.is_arriving:
            waits = known is not None and known.state is StudyState.WAITING
            return "is not complete yet" if waits else "is being received"
        revisions = self._runs.of_study(study_instance_uid)
        if not revisions:
            return ""
        latest = revisions[-1]
        if latest.state is StudyState.FAILED and latest.next_try_at is not None:
            return "failed and is tried again"
        return _UNDER_WAY.get(latest.state, "")


def prior_wait(stores: NodeStores, policy: NodePolicy) -> PriorWait:
    """The wait over a node's own stores."""
    return PriorWait(stores.studies, stores.runs, policy.prior_wait_s)
