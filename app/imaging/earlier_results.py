"""An earlier PET result of the patient, and where such results come from.

An earlier result of the patient for comparison, and where such results come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.domain.analysis import Quantified
from app.domain.decision import ModelUsed
from app.domain.findings.findings import Findings
from app.domain.study import Patient, StudyKind
from app.domain.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class PriorCandidate:
    """One earlier PET result. Pixels are read only when they are needed.

    Attributes:
        study_instance_uid, series_instance_uid: of the PET.
        acquired_at: when the PET was made; ``None`` when unknown, and then it can't be used.
        lesion_count: how many lesions the result has.
        lesions: gives the lesions on the PET's grid.
        ct: gives the PET's CT in HU, in the same frame of reference.
        suv: gives the PET itself in SUVbw, to compare its uptake with the SPECT's.
        segmentation_sop_instance_uid: the SEG with the lesions; empty when there is none.

    ``lesions``, ``ct`` and ``suv`` may raise :class:`app.errors.UnusableStudyError`.
    """

    study_instance_uid: str
    series_instance_uid: str
    acquired_at: datetime | None
    lesion_count: int
    lesions: Callable[[], LabelMap]
    ct: Callable[[], Volume]
    suv: Callable[[], Volume]
    segmentation_sop_instance_uid: str = ""

    @classmethod
    def from_result(cls, quantified: Quantified, segmentation_sop_instance_uid: str = "") -> PriorCandidate:
        """The result of a PET/CT that was analysed just now; its volumes stay in memory."""
        labels = quantified.segmented.labels
        loaded = quantified.segmented.aligned.loaded
        selection = loaded.selection
        return cls(
            study_instance_uid=selection.study.study_instance_uid,
            series_instance_uid=selection.functional.series_instance_uid,
            acquired_at=selection.functional.when or selection.study.study_datetime,
            lesion_count=labels.count,
            lesions=lambda: labels,
            ct=lambda: loaded.ct,
            suv=lambda: loaded.suv,
            segmentation_sop_instance_uid=segmentation_sop_instance_uid,
        )


class PriorSource(Protocol):
    """The node's store, or the results of the same run."""

    def candidates_for(self, patient: Patient, before: datetime) -> Sequence[PriorCandidate]:
        """PET results of this patient (same identifier and issuer) from before ``before``, in any order."""
        ...


@dataclass(frozen=True, eq=False)
class PreviousResult:
    """One earlier result. Pixels are read only when they are needed.

    Attributes:
        study_instance_uid, series_instance_uid: of the functional image.
        acquired_at: local time of the clinic.
        kind, tracer, model, findings: as they were then.
        result_sop_instance_uid: the SR with these numbers, or another object that names this very result.
        labels: gives its lesions on their own grid; numbers are those of ``findings``.
        ct: gives its CT in HU.

    ``labels`` and ``ct`` may raise :class:`app.errors.UnusableStudyError`.
    """

    study_instance_uid: str
    series_instance_uid: str
    acquired_at: datetime
    kind: StudyKind
    tracer: str
    model: ModelUsed
    findings: Findings
    result_sop_instance_uid: str
    labels: Callable[[], LabelMap]
    ct: Callable[[], Volume]


class PreviousResultSource(Protocol):
    """The node's store, or the results of the same run."""

    def results_for(self, patient: Patient, kind: StudyKind, before: datetime) -> Sequence[PreviousResult]:
        """Results of this patient (same identifier and issuer) of that kind from before ``before``."""
        ...


class NoPreviousResults:
    """A source that has none."""

    def results_for(self, patient: Patient, kind: StudyKind, before: datetime) -> Sequence[PreviousResult]:
        """Nothing."""
        return ()
