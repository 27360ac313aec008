"""How processing a study ended: what outcome.json, ``psma-node status`` and exit codes say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.domain.analysis import Decision, ModelUsed, SeriesVerdict
from app.domain.findings import Findings
from app.domain.refusal import Reason
from app.domain.study import StudyKind


class Status(StrEnum):
    """The four ends of a study."""

    DONE = "done"
    REJECTED = "rejected"
    RETRY = "retry"
    FAILED = "failed"

    @property
    def exit_code(self) -> int:
        """Exit code of ``psma-node process`` (0 done, 3 rejected, 4 try later, 1 failed)."""
        return {Status.DONE: 0, Status.REJECTED: 3, Status.RETRY: 4, Status.FAILED: 1}[self]


@dataclass(frozen=True)
class ResultFile:
    """One DICOM object written: ``kind`` is a :class:`app.dicom.uids.ResultKind`; ``path`` is relative to the
    output folder."""

    kind: str
    path: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True)
class PairOutcome:
    """What one functional series with its CT gave."""

    kind: StudyKind
    functional_series_instance_uid: str
    ct_series_instance_uid: str
    tracer: str
    model: ModelUsed
    prior_used: bool
    no_prior: tuple[Reason, ...]
    findings: Findings
    decisions: tuple[Decision, ...]
    files: tuple[ResultFile, ...]


@dataclass(frozen=True)
class Withdrawal:
    """The notice that an earlier revision's result on a series no longer holds, and no other replaces it.

    Attributes:
        functional_series_instance_uid: the series the withdrawn result is about.
        revision: whose result is withdrawn.
        reason: in words; never a patient's name or identifier.
        files: SR and page of the notice.
    """

    functional_series_instance_uid: str
    revision: int
    reason: str
    files: tuple[ResultFile, ...]


@dataclass(frozen=True)
class StudyOutcome:
    """Everything about one study."""

    study_instance_uid: str
    status: Status
    reasons: tuple[Reason, ...] = ()
    pairs: tuple[PairOutcome, ...] = ()
    verdicts: tuple[SeriesVerdict, ...] = ()
    message: str = ""
    withdrawals: tuple[Withdrawal, ...] = ()

    @property
    def files(self) -> tuple[ResultFile, ...]:
        """All that is to be sent: results and notices of withdrawal."""
        items: tuple[PairOutcome | Withdrawal, ...] = (*self.pairs, *self.withdrawals)
        return tuple(file for item in items for file in item.files)
