"""How processing a study ends, what its earlier revisions said, and what its shadow models found.

:class:`StudyOutcome` is what outcome.json and ``psma-node status`` tell. A result can't be taken back from a
PACS, so whatever a new revision says names what it replaces; where it gives no result at all, a notice
withdraws the earlier one. A shadow model sees the same input as the model that serves, and nothing it finds
is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from app.domain.analysis import SupersededReport
from app.domain.decision import Decision, ModelUsed
from app.domain.findings.findings import Findings
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.pair import SeriesVerdict
from app.domain.study import StudyKind


class Status(StrEnum):
    """The four ends of a study."""

    DONE = "done"
    REJECTED = "rejected"
    RETRY = "retry"
    FAILED = "failed"


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
    """What one functional series with its CT gave.

    Attributes:
        parts: the functional series that were joined, that one among them; empty for a single one.
    """

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
    parts: tuple[str, ...] = ()


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
    def awaits_choice(self) -> bool:
        """Whether images have two contents: until a person has chosen one, an earlier result stands that none
        of these pairs replaces."""
        found = (*self.reasons, *(verdict.reason for verdict in self.verdicts))
        return RefusalCode.CONFLICTING_DUPLICATE in {reason.code for reason in found if reason is not None}

    @property
    def leaves_open(self) -> bool:
        """Whether it says nothing but that a person has to choose: what earlier revisions found stands."""
        return self.awaits_choice and not self.pairs

    @property
    def files(self) -> tuple[ResultFile, ...]:
        """All that is to be sent: results and notices of withdrawal."""
        items: tuple[PairOutcome | Withdrawal, ...] = (*self.pairs, *self.withdrawals)
        return tuple(file for item in items for file in item.files)


@dataclass(frozen=True)
class StandingResult:
    """A result of an earlier revision that nothing has replaced or withdrawn yet; its SR is on disk."""

    report: SupersededReport
    report_file: Path


@dataclass(frozen=True)
class EarlierRevisions:
    """What is known of a study's earlier revisions.

    Attributes:
        last_words: the latest report on each functional series, be it a result or a notice of withdrawal.
        standing: results that must be replaced or withdrawn.
    """

    last_words: tuple[SupersededReport, ...] = ()
    standing: tuple[StandingResult, ...] = ()


@dataclass(frozen=True)
class RunContext:
    """What the node knows of a run, apart from its images.

    Attributes:
        begun_at: when this try began, with its zone.
        decisions: what the node decided before the chain began.
        other_cts: an image of each CT series in the patient's other studies, named where the study lacks one.
    """

    begun_at: datetime | None = None
    decisions: tuple[Decision, ...] = ()
    other_cts: tuple[Path, ...] = ()


OnStage = Callable[[str], None]
"""Called with a stage's name when it begins, so that a person sees where a study is."""


@dataclass(frozen=True)
class MaskSummary:
    """What a mask amounts to."""

    lesion_count: int
    volume_ml: float


@dataclass(frozen=True)
class ShadowComparison:
    """One shadow model on one pair. Never sent; for the physicist who compares models over weeks.

    Attributes:
        shadow_id: as the site's policy names it.
        shadow: the exact model; ``None`` when it could not be loaded.
        prior_used: whether the shadow was shown the prior (M4 only).
        found: what the shadow found; ``None`` when it did not run to its end.
        dice: of both masks; ``None`` when both are empty, or the shadow did not run.
        seconds: the shadow took, loading included.
        problem: why there is no result; empty when there is one.
    """

    functional_series_instance_uid: str
    kind: StudyKind
    serving: ModelUsed
    serving_found: MaskSummary
    shadow_id: str
    shadow: ModelUsed | None = None
    prior_used: bool = False
    found: MaskSummary | None = None
    dice: float | None = None
    seconds: float = 0.0
    problem: str = ""


ShadowWork = Callable[[], Sequence[ShadowComparison]]
"""Runs the shadow models on a study that has been served; never fails."""
