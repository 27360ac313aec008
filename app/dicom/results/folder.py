"""The folder in which a study's results are put, whole, before they leave.

Notices of withdrawal go there too, for earlier results that a new revision does not replace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import Result
from app.dicom.results.withdrawal import write_withdrawal
from app.dicom.results.writer import Written
from app.domain.analysis import Provenance
from app.domain.outcome import (
    EarlierRevisions,
    PairOutcome,
    ResultFile,
    StandingResult,
    Status,
    StudyOutcome,
    Withdrawal,
)
from app.domain.refusal import Rejection
from app.domain.selection.pair import SeriesVerdict
from app.errors import RetryLaterError
from app.files.durable import write_durably
from app.files.outcome import remove_results, write_outcome


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
            outcome = StudyOutcome(study_instance_uid, status, tuple(reasons), pairs, tuple(verdicts))
            write_outcome(outcome, self._folder)
        except OSError as error:
            raise RetryLaterError(
                f"cannot write results to {self._folder}: {error.strerror}; free space or check permissions"
            ) from error
        self.written = tuple(written)
        self._outcome = outcome


def store_files(results: Sequence[Result], folder: Path) -> tuple[ResultFile, ...]:
    """Write DICOM objects into ``folder``, for good. Raises OSError."""
    for result in results:
        write_durably(folder / result.file_name, result.content)
    return tuple(
        ResultFile(
            kind=result.kind.value,
            path=result.file_name,
            sop_class_uid=str(result.dataset.SOPClassUID),
            sop_instance_uid=str(result.dataset.SOPInstanceUID),
            series_instance_uid=str(result.dataset.SeriesInstanceUID),
        )
        for result in results
    )


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
    )


@dataclass(frozen=True)
class WithdrawalWriter:
    """Writes the notices of one revision into its folder."""

    folder: Path
    policy: WritePolicy
    provenance: Provenance

    def withdraw_unreplaced(self, outcome: StudyOutcome, earlier: EarlierRevisions) -> StudyOutcome:
        """The outcome with a notice for every standing result on a series that it gives no result on.

        Notices and outcome are in the folder then.

        Raises:
            RetryLaterError: the disk does not take them, or no longer gives the report to be withdrawn.
        """
        replaced = {pair.functional_series_instance_uid for pair in outcome.pairs}
        open_results = [
            result
            for result in earlier.standing
            if result.report.functional_series_instance_uid not in replaced
        ]
        if not open_results:
            return outcome
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            notices = tuple(self._withdraw(result, outcome) for result in open_results)
            withdrawn = replace(outcome, withdrawals=notices)
            write_outcome(withdrawn, self.folder)
        except OSError as error:
            raise RetryLaterError(f"an earlier result can't be withdrawn: {error.strerror}") from error
        return withdrawn

    def _withdraw(self, result: StandingResult, outcome: StudyOutcome) -> Withdrawal:
        series = result.report.functional_series_instance_uid
        reason = reason_for(series, outcome)
        notice = write_withdrawal(result, reason, self.policy, self.provenance)
        return Withdrawal(series, result.report.revision, reason, store_files(notice, self.folder))


def reason_for(functional_series_instance_uid: str, outcome: StudyOutcome) -> str:
    """Why the study gives no result on a series: what was said of it, else of the study."""
    of_series = [r for r in outcome.reasons if r.series_instance_uid == functional_series_instance_uid]
    verdicts = [
        verdict.reason
        for verdict in outcome.verdicts
        if verdict.reason and verdict.series_instance_uid == functional_series_instance_uid
    ]
    found = of_series or verdicts or list(outcome.reasons)
    return "; ".join(dict.fromkeys(map(str, found))) or "the series is no longer part of the study's result"
