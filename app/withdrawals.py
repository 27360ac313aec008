"""Earlier results that a new revision does not replace are withdrawn, with the reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from app.dicom.withdrawal_writer import write_withdrawal
from app.dicom.write_policy import WritePolicy
from app.domain.analysis import Provenance
from app.domain.outcome import EarlierResults, StandingResult, StudyOutcome, Withdrawal
from app.errors import RetryLaterError
from app.outcome_file import write_outcome
from app.result_folder import store_files


@dataclass(frozen=True)
class WithdrawalDesk:
    """Where notices are put, how they are written, and by which revision."""

    folder: Path
    policy: WritePolicy
    provenance: Provenance


def withdraw_unreplaced(
    outcome: StudyOutcome, earlier: EarlierResults, desk: WithdrawalDesk
) -> StudyOutcome:
    """The outcome with a notice for every standing result on a series that it gives no result on.

    Notices and outcome are in the desk's folder then.

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
        desk.folder.mkdir(parents=True, exist_ok=True)
        notices = tuple(_withdraw(result, outcome, desk) for result in open_results)
        withdrawn = replace(outcome, withdrawals=notices)
        write_outcome(withdrawn, desk.folder)
    except OSError as error:
        raise RetryLaterError(f"an earlier result can't be withdrawn: {error.strerror}") from error
    return withdrawn


def _withdraw(result: StandingResult, outcome: StudyOutcome, desk: WithdrawalDesk) -> Withdrawal:
    series = result.report.functional_series_instance_uid
    reason = reason_for(series, outcome)
    notice = write_withdrawal(result, reason, desk.policy, desk.provenance)
    return Withdrawal(series, result.report.revision, reason, store_files(notice, desk.folder))


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
