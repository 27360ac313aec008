"""Priors from the node's own store: earlier PET results, read from disk only when they are needed.

The patient's previous results from the node's own store, for comparison; read only when needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from app.dicom.reading.loading import LoadPolicy, read_ct, read_functional
from app.dicom.reading.studies import read_study
from app.dicom.results.read_back import ResultMismatchError, labels_on_grid
from app.domain.outcome import PairOutcome, Status, StudyOutcome
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.geometry import stack_series
from app.domain.study import Patient, Series, Study, StudyKind
from app.domain.volume import Grid, LabelMap, Volume
from app.errors import UnusableStudyError
from app.imaging.earlier_results import PreviousResult, PriorCandidate
from app.node.records.inbox import Inbox
from app.node.records.outbox import readable_outcome_of
from app.node.records.results import PetResult, PetResults
from app.node.records.runs import RunKey, StudyState
from app.node.records.stores import NodeStores
from app.node.records.studies import StudySubject


class NodePriors:
    """A :class:`~app.imaging.earlier_results.PriorSource` over what this node has processed."""

    def __init__(self, results: PetResults, inbox: Inbox, load_policy: LoadPolicy) -> None:
        self._results = results
        self._inbox = inbox
        self._load_policy = load_policy

    def candidates_for(self, patient: Patient, before: datetime) -> Sequence[PriorCandidate]:
        """PET results of this patient from before ``before`` (local time), the latest first."""
        return [self._candidate(result) for result in self._results.of_patient(patient, before)]

    def _candidate(self, result: PetResult) -> PriorCandidate:
        stored = StoredPet(result, self._inbox, self._load_policy)
        return PriorCandidate(
            study_instance_uid=result.study_instance_uid,
            series_instance_uid=result.functional_series_instance_uid,
            acquired_at=result.acquired_at,
            lesion_count=result.lesion_count,
            lesions=stored.lesions,
            ct=stored.ct,
            suv=stored.suv,
            segmentation_sop_instance_uid=result.segmentation_sop_instance_uid,
        )


@dataclass(frozen=True)
class StoredPet:
    """An earlier PET/CT in the inbox with its result; each method reads what it gives.

    All raise :class:`~app.errors.UnusableStudyError` when it can't be read any more.
    """

    result: PetResult
    inbox: Inbox
    load_policy: LoadPolicy

    def lesions(self) -> LabelMap:
        """The lesions on the PET's grid."""
        grid = self._pet_grid()
        if self.result.segmentation is None:
            return LabelMap(np.zeros(grid.shape, dtype=np.uint16), grid)
        try:
            return labels_on_grid(dcmread(self.result.segmentation), grid)
        except (OSError, InvalidDicomError, ResultMismatchError) as error:
            # a mismatch: late images have changed the PET since
            raise UnusableStudyError(
                _unreadable(f"{type(error).__name__}: the SEG does not lie on the PET", self.result)
            ) from error

    def ct(self) -> Volume:
        """The PET's CT in HU."""
        return read_ct(self._series(self.result.ct_series_instance_uid))

    def suv(self) -> Volume:
        """The PET in SUVbw."""
        series = self._series(self.result.functional_series_instance_uid)
        image = read_functional(series, self.load_policy)
        if image.suv is None:
            raise UnusableStudyError(image.no_suv or _unreadable("no SUV", self.result))
        return image.suv

    def _pet_grid(self) -> Grid:
        stack = stack_series(self._series(self.result.functional_series_instance_uid))
        if isinstance(stack, Reason):
            raise UnusableStudyError(stack)
        return stack.grid

    def _series(self, series_instance_uid: str) -> Series:
        found = [item for item in self._study.series if item.series_instance_uid == series_instance_uid]
        if not found:
            raise UnusableStudyError(_unreadable("a series that is gone from the inbox", self.result))
        return found[0]

    @cached_property
    def _study(self) -> Study:
        return read_study(self.inbox.image_paths(self.result.study_instance_uid))


def _unreadable(found: str, result: PetResult) -> Reason:
    return Reason(
        RefusalCode.PRIOR_UNREADABLE,
        "",
        found,
        "the PET with its CT and its SEG as they were when it was processed",
        series_instance_uid=result.functional_series_instance_uid,
    )


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
        for subject in self._stores.studies.of_patient(patient):
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
