"""The patient's previous results from the node's own store, for comparison; read only when needed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from app.dicom.reading.loading import LoadPolicy
from app.domain.outcome import PairOutcome, Status, StudyOutcome
from app.domain.study import Patient, StudyKind
from app.imaging.earlier_results import PreviousResult
from app.node.pet_results import PetResult
from app.node.priors import StoredPet
from app.node.run_ledger import RunKey, StudyState
from app.node.run_outcomes import readable_outcome_of
from app.node.stores import NodeStores
from app.node.study_subjects import StudySubject

ENDED = (StudyState.DELIVERING, StudyState.DONE, StudyState.REJECTED)
"""States of a revision that has said what it has to say."""


class NodePreviousResults:
    """A :class:`~app.imaging.earlier_results.PreviousResultSource` over what this node has processed."""

    def __init__(self, stores: NodeStores, load_policy: LoadPolicy) -> None:
        self._stores = stores
        self._load_policy = load_policy

    def results_for(self, patient: Patient, kind: StudyKind, before: datetime) -> Sequence[PreviousResult]:
        """The last word of each of the patient's studies of that kind from before ``before`` (local time)."""
        found = []
        for subject in self._stores.subjects.of_patient(patient):
            acquired_at = _acquired_at(subject, kind)
            if acquired_at is None or acquired_at >= before.replace(tzinfo=None):
                continue
            key, outcome = self._last_word(subject.study_instance_uid)
            if key is not None and outcome is not None:
                pairs = (pair for pair in outcome.pairs if pair.kind is kind)
                found += [self._result(key, pair, acquired_at) for pair in pairs]
        return found

    def _last_word(self, study_instance_uid: str) -> tuple[RunKey, StudyOutcome] | tuple[None, None]:
        """What the latest revision that ended gave; nothing when it withdrew what earlier ones had said."""
        ended = [run for run in self._stores.runs.of_study(study_instance_uid) if run.state in ENDED]
        latest = max(ended, key=lambda run: run.key.revision, default=None)
        if latest is None:
            return None, None
        outcome = readable_outcome_of(self._stores.outbox, latest.key)
        if outcome is None or outcome.status is not Status.DONE:
            return None, None
        return latest.key, outcome

    def _result(self, key: RunKey, pair: PairOutcome, acquired_at: datetime) -> PreviousResult:
        folder = self._stores.outbox.folder_of(key)
        files = {file.kind: file for file in pair.files}
        seg, report = files.get("SEG"), files["SR"]
        stored = StoredPet(
            PetResult(
                study_instance_uid=key.study_instance_uid,
                functional_series_instance_uid=pair.functional_series_instance_uid,
                ct_series_instance_uid=pair.ct_series_instance_uid,
                acquired_at=acquired_at,
                lesion_count=pair.findings.burden.lesion_count,
                segmentation=folder / seg.path if seg else None,
                segmentation_sop_instance_uid=seg.sop_instance_uid if seg else "",
            ),
            self._stores.inbox,
            self._load_policy,
        )
        return PreviousResult(
            study_instance_uid=key.study_instance_uid,
            series_instance_uid=pair.functional_series_instance_uid,
            acquired_at=acquired_at,
            kind=pair.kind,
            tracer=pair.tracer,
            model=pair.model,
            findings=pair.findings,
            result_sop_instance_uid=report.sop_instance_uid,
            labels=stored.lesions,
            ct=stored.ct,
        )


def _acquired_at(subject: StudySubject, kind: StudyKind) -> datetime | None:
    return subject.pet_acquired_at if kind is StudyKind.PET_CT else subject.spect_acquired_at
