"""What earlier revisions of a study left in the outbox, and so perhaps in a PACS."""

from __future__ import annotations

from app.domain.analysis import SupersededReport
from app.domain.outcome import ResultFile, StudyOutcome
from app.domain.revision import EarlierResults, StandingResult
from app.errors import RetryLaterError
from app.node.run_ledger import RunKey, StudyState
from app.node.stores import NodeStores
from app.outcome_file import read_outcome


def earlier_results(stores: NodeStores, run: RunKey) -> EarlierResults:
    """The last word of earlier revisions on each series, and the results that nothing has withdrawn.

    Raises:
        RetryLaterError: an earlier revision is being processed: what it will say is not known yet.
    """
    last_words: dict[str, SupersededReport] = {}
    standing: dict[str, StandingResult] = {}
    for earlier in stores.runs.of_study(run.study_instance_uid):
        if earlier.key.revision >= run.revision:
            continue
        if earlier.state is StudyState.RUNNING:
            raise RetryLaterError(f"revision {earlier.key.revision} of the study is still being processed")
        outcome = _outcome(stores, earlier.key)
        if outcome is None:
            continue
        for result in _results(stores, earlier.key, outcome):
            series = result.report.functional_series_instance_uid
            last_words[series], standing[series] = result.report, result
        for notice in _notices(earlier.key, outcome):
            last_words[notice.functional_series_instance_uid] = notice
            standing.pop(notice.functional_series_instance_uid, None)
    last_words |= _own_notices(stores, run)
    return EarlierResults(tuple(last_words.values()), tuple(standing.values()))


def _own_notices(stores: NodeStores, run: RunKey) -> dict[str, SupersededReport]:
    """A person had this revision tried again after it had withdrawn results: a result replaces the notice."""
    outcome = _outcome(stores, run) if stores.deliveries.of_run(run) else None
    if outcome is None:
        return {}
    return {notice.functional_series_instance_uid: notice for notice in _notices(run, outcome)}


def _outcome(stores: NodeStores, run: RunKey) -> StudyOutcome | None:
    try:
        return read_outcome(stores.outbox.folder_of(run))
    except FileNotFoundError:
        return None  # rejected, failed or superseded: it has sent nothing


def _results(stores: NodeStores, run: RunKey, outcome: StudyOutcome) -> list[StandingResult]:
    folder = stores.outbox.folder_of(run)
    return [
        StandingResult(_report(run, file, pair.functional_series_instance_uid, False), folder / file.path)
        for pair in outcome.pairs
        for file in pair.files
        if file.kind == "SR"
    ]


def _notices(run: RunKey, outcome: StudyOutcome) -> list[SupersededReport]:
    return [
        _report(run, file, notice.functional_series_instance_uid, True)
        for notice in outcome.withdrawals
        for file in notice.files
        if file.kind == "WITHDRAWAL"
    ]


def _report(run: RunKey, file: ResultFile, series: str, is_withdrawal: bool) -> SupersededReport:
    return SupersededReport(
        study_instance_uid=run.study_instance_uid,
        series_instance_uid=file.series_instance_uid,
        sop_class_uid=file.sop_class_uid,
        sop_instance_uid=file.sop_instance_uid,
        revision=run.revision,
        functional_series_instance_uid=series,
        is_withdrawal=is_withdrawal,
    )
