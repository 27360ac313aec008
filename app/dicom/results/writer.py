"""One analysis as DICOM: SEG, SR, page and RTSTRUCT, read back and compared before they may leave.

:class:`ResultFolder` is where a study's results are put, whole, before they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.dicom.results.context import open_context
from app.dicom.results.page.page import draw_page, write_page
from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import (
    Result,
    check_page,
    check_report,
    check_segmentation,
    check_structure_set,
    encoded,
    store_files,
)
from app.dicom.results.report.sr import write_report
from app.dicom.results.rtstruct import write_structure_set
from app.dicom.results.seg import write_segmentation
from app.dicom.uids import ResultKind
from app.domain.analysis import Provenance, Quantified
from app.domain.decision import Decision
from app.domain.outcome import PairOutcome, ResultFile, Status, StudyOutcome
from app.domain.refusal import Rejection
from app.domain.selection.pair import SeriesVerdict, verdicts_after_loading
from app.errors import RetryLaterError
from app.files.outcome import remove_results, write_outcome


@dataclass(frozen=True, eq=False)
class Written:
    """An analysis and its DICOM objects: SEG (when there is a lesion), SR, page, RTSTRUCT.

    Attributes:
        decisions: all that the SR tells, those of the analysis among them.
    """

    quantified: Quantified
    results: tuple[Result, ...]
    decisions: tuple[Decision, ...] = ()


def write_results(quantified: Quantified, policy: WritePolicy, provenance: Provenance) -> Written:
    """SEG, SR, page and, where the site wants it, RTSTRUCT of one analysis; the same input, the same bytes.

    No lesion gives no SEG and no RTSTRUCT, and an SR and a page that say so.

    Raises:
        UnusableStudyError: the source bears no date.
        ResultMismatchError: what was written is not what was meant; nothing may be sent.
        OSError: the source's header can't be read any more.
    """
    context = open_context(quantified, policy, provenance)
    results: list[Result] = []
    segmentation = write_segmentation(context)
    if segmentation is not None:
        seg = encoded(ResultKind.SEG, segmentation, context.source)
        check_segmentation(seg.dataset, context)
        results.append(seg)
    report = encoded(ResultKind.SR, write_report(context, segmentation), context.source)
    check_report(report.dataset, segmentation, context)
    results.append(report)
    rgb = draw_page(context)
    page = encoded(ResultKind.PAGE, write_page(context, rgb), context.source)
    check_page(page.dataset, rgb, context)
    results.append(page)
    if policy.rtstruct and (structures := write_structure_set(context)) is not None:
        contours = encoded(ResultKind.RTSTRUCT, structures, context.source)
        check_structure_set(contours.dataset, context)
        results.append(contours)
    return Written(quantified, tuple(results), context.decisions)


class ResultFolder:
    """Stores the results of one run of the chain; ``outcome.json`` is written last.

    A folder that holds results of an earlier run of the same study is emptied of them first, so that old and
    new never lie side by side.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._outcome: StudyOutcome | None = None
        self.written: tuple[Written, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the chain came to its end; Holoscan returns normally even when it did not."""
        return self._outcome is not None

    @property
    def outcome(self) -> StudyOutcome:
        """How the study ended.

        Raises:
            RuntimeError: the chain has not finished.
        """
        if self._outcome is None:
            raise RuntimeError("the chain has not finished")
        return self._outcome

    def deliver(
        self, study_instance_uid: str, items: Sequence[Written | Rejection], verdicts: Sequence[SeriesVerdict]
    ) -> None:
        """Write every file, then the outcome.

        Raises:
            RetryLaterError: the disk does not take them.
        """
        written = [item for item in items if isinstance(item, Written)]
        reasons = [reason for item in items if isinstance(item, Rejection) for reason in item.reasons]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_results(self._folder)
            pairs = tuple(_pair_outcome(item, store_files(item.results, self._folder)) for item in written)
            status = Status.DONE if pairs else Status.REJECTED
            used = [item.quantified.segmented.aligned.loaded.selection for item in written]
            settled = verdicts_after_loading(verdicts, used, reasons)
            outcome = StudyOutcome(study_instance_uid, status, tuple(reasons), pairs, settled)
            write_outcome(outcome, self._folder)
        except OSError as error:
            raise RetryLaterError(
                f"cannot write results to {self._folder}: {error.strerror}; free space or check permissions"
            ) from error
        self.written = tuple(written)
        self._outcome = outcome


def _pair_outcome(written: Written, files: tuple[ResultFile, ...]) -> PairOutcome:
    quantified = written.quantified
    aligned = quantified.segmented.aligned
    selection = aligned.loaded.selection
    return PairOutcome(
        kind=selection.kind,
        functional_series_instance_uid=selection.functional.series_instance_uid,
        ct_series_instance_uid=selection.ct.series_instance_uid,
        tracer=selection.tracer.key,
        model=quantified.segmented.model,
        prior_used=quantified.segmented.prior_used,
        no_prior=aligned.no_prior,
        findings=quantified.findings,
        decisions=written.decisions,
        files=files,
        parts=tuple(part.series_instance_uid for part in aligned.loaded.joined),
    )
