"""An earlier result of the patient for comparison, and where such results come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.domain.decision import ModelUsed
from app.domain.findings.findings import Findings
from app.domain.study import Patient, StudyKind
from app.domain.volume import LabelMap, Volume


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
