"""What was found in a patient before: the record of a result, the store that it comes from, and the order of
candidates for M4's prior and for the comparison with the previous study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from app.domain.decision import ModelUsed
from app.domain.findings.comparability import ScanFacts
from app.domain.findings.findings import Findings
from app.domain.selection.pair import Selection
from app.domain.study import Patient, StudyKind
from app.domain.volume import LabelMap, Volume

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class EarlierReport:
    """What an earlier result reported: tracer, model and findings as they were then.

    ``sop_instance_uid`` is that of the SR.
    """

    sop_instance_uid: str
    tracer: str
    model: ModelUsed
    findings: Findings


@dataclass(frozen=True, eq=False)
class EarlierResult:
    """One earlier result on one functional series. Pixels are read only when they are needed.

    Attributes:
        study_instance_uid, series_instance_uid: of the functional image.
        acquired_at: when that was made, in the clinic's local time.
        lesion_count: 0 is a result too.
        segmentation_sop_instance_uid: the SEG with the lesions; empty when there is none.
        report: ``None`` unless it can be read and is the last word of its study: one to compare with.
        may_be_prior: the store is certain whose the image is and when it was acquired.
        facts: gives what a comparison hangs on, as the images say it now: old records don't have it.
        labels: gives the lesions on the grid of the functional image, numbered as in the findings.
        ct: gives the CT in HU, in the same frame of reference.
        suv: gives the functional image in SUVbw.

    ``facts``, ``labels``, ``ct`` and ``suv`` may raise :class:`app.errors.UnusableStudyError`.
    """

    study_instance_uid: str
    series_instance_uid: str
    acquired_at: datetime
    kind: StudyKind
    lesion_count: int
    segmentation_sop_instance_uid: str
    report: EarlierReport | None
    may_be_prior: bool
    facts: Callable[[], ScanFacts]
    labels: Callable[[], LabelMap]
    ct: Callable[[], Volume]
    suv: Callable[[], Volume]


class EarlierResults(Protocol):
    """The node's store, or the results of the same run."""

    def for_patient(self, patient: Patient, before: datetime) -> Sequence[EarlierResult]:
        """Results of this patient (same identifier and issuer) from before ``before``, in any order."""
        ...


def results_of(source: EarlierResults, patient: Patient, before: datetime) -> Sequence[EarlierResult] | str:
    """The patient's earlier results, or why nobody can tell whose they would be."""
    if patient.unidentified:
        return f"{patient.unidentified}, so no other study is known to be this patient's"
    return source.for_patient(patient, before)


def prior_candidates(found: Iterable[EarlierResult], scanned_at: datetime) -> Sequence[EarlierResult]:
    """PET results that may be the prior of a SPECT made at ``scanned_at``, the latest first."""
    pets = (result for result in found if result.kind is StudyKind.PET_CT and result.may_be_prior)
    return _latest_first(pets, scanned_at, timedelta.resolution)


def comparison_candidates(
    found: Iterable[EarlierResult], selection: Selection, scanned_at: datetime, min_days: float
) -> Sequence[EarlierResult]:
    """Results of other studies that one made at ``scanned_at`` may be compared with, the latest first."""
    own = selection.study.study_instance_uid
    others = (
        result
        for result in found
        if result.report is not None and result.kind is selection.kind and result.study_instance_uid != own
    )
    return _latest_first(others, scanned_at, max(timedelta(days=min_days), timedelta.resolution))


def examinations(
    latest_first: Sequence[EarlierResult], min_days: float
) -> Iterator[tuple[EarlierResult, ...]]:
    """Results that belong to one examination or cycle, together; the latest examination first.

    Early and late images, parts of the body and reconstructions are series, or studies, of one examination.
    """
    rest = list(latest_first)
    while rest:
        begin = rest[0].acquired_at - max(timedelta(days=min_days), ONE_DAY)
        yield tuple(result for result in rest if result.acquired_at > begin)
        rest = [result for result in rest if result.acquired_at <= begin]


def named(result: EarlierResult) -> str:
    """For reports: kind, day and series."""
    return f"{result.kind} of {result.acquired_at.date()} (series {result.series_instance_uid})"


def _latest_first(
    results: Iterable[EarlierResult], scanned_at: datetime, min_age: timedelta
) -> Sequence[EarlierResult]:
    """Of several at one instant, the one with the last Series Instance UID."""
    old_enough = [result for result in results if scanned_at - result.acquired_at >= min_age]
    return sorted(
        old_enough, key=lambda result: (result.acquired_at, result.series_instance_uid), reverse=True
    )
