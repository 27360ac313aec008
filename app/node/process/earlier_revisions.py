"""What a PACS has of earlier revisions of a study.

A result of which no destination has taken anything is neither replaced nor withdrawn: it is not sent any more
(:mod:`app.node.deliver.delivery`), and no later report names it.
"""

from __future__ import annotations

from app.dicom.uids import NoticeKind, ResultKind
from app.domain.analysis import SupersededReport
from app.domain.outcome import EarlierRevisions, ResultFile, StandingResult, StudyOutcome
from app.errors import MisconfiguredError, RetryLaterError
from app.node.records.states import DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores


def earlier_revisions(stores: NodeStores, run: RunKey) -> EarlierRevisions:
    """The last word of earlier revisions on each series, and the results that nothing has withdrawn.

    Raises:
        RetryLaterError: an earlier revision is being processed or sent, so what a PACS will have of it is not
            known yet. While this one is running, none is sent.
    """
    last_words: dict[str, SupersededReport] = {}
    standing: dict[str, StandingResult] = {}
    for earlier in stores.runs.of_study(run.study_instance_uid):
        if earlier.key.revision >= run.revision:
            continue
        if earlier.state is StudyState.RUNNING:
            raise RetryLaterError(f"revision {earlier.key.revision} of the study is still being processed")
        outcome = stores.outbox.readable_outcome_of(earlier.key)
        taken = _taken(stores, earlier.key, outcome) if outcome else frozenset()
        if outcome is None or not taken:
            continue
        for result in _results(stores, earlier.key, outcome):
            series = result.report.functional_series_instance_uid
            standing[series] = result
            if result.report.sop_instance_uid in taken:
                last_words[series] = result.report
        for notice in _notices(earlier.key, outcome):
            if notice.sop_instance_uid in taken:
                last_words[notice.functional_series_instance_uid] = notice
                standing.pop(notice.functional_series_instance_uid, None)
    last_words |= _own_notices(stores, run)
    return EarlierRevisions(tuple(last_words.values()), tuple(standing.values()))


def unreadable_results(stores: NodeStores, run: RunKey) -> str:
    """What :func:`earlier_revisions` has left out, in words for those who look at the study; or nothing."""
    unreadable = [
        str(earlier.key.revision)
        for earlier in stores.runs.of_study(run.study_instance_uid)
        if earlier.key.revision < run.revision and not _is_readable(stores, earlier.key)
    ]
    if not unreadable:
        return ""
    return (
        f"earlier result unreadable (revision {', '.join(unreadable)}): "
        "what it sent is neither replaced nor withdrawn"
    )


def _is_readable(stores: NodeStores, run: RunKey) -> bool:
    try:
        stores.outbox.outcome_of(run)
    except MisconfiguredError:
        return False
    return True


def _own_notices(stores: NodeStores, run: RunKey) -> dict[str, SupersededReport]:
    """A person had this revision tried again after it had withdrawn results: a result replaces the notice."""
    outcome = stores.outbox.readable_outcome_of(run) if stores.deliveries.of_run(run) else None
    if outcome is None:
        return {}
    return {notice.functional_series_instance_uid: notice for notice in _notices(run, outcome)}


def _taken(stores: NodeStores, run: RunKey, outcome: StudyOutcome) -> frozenset[str]:
    """SOP Instance UIDs that a destination has acknowledged; all, where results stay in the data folder."""
    deliveries = stores.deliveries.of_run(run)
    if not deliveries:
        return frozenset(file.sop_instance_uid for file in outcome.files)
    if any(item.state is DeliveryState.PENDING and item.next_try_at is None for item in deliveries):
        raise RetryLaterError(f"revision {run.revision} of the study is being sent at the moment")
    planned = [item for delivery in deliveries for item in stores.deliveries.instances(delivery.key)]
    return frozenset(item.sop_instance_uid for item in planned if item.acknowledged_at is not None)


def _results(stores: NodeStores, run: RunKey, outcome: StudyOutcome) -> list[StandingResult]:
    folder = stores.outbox.folder_of(run)
    return [
        StandingResult(_report(run, file, pair.functional_series_instance_uid, False), folder / file.path)
        for pair in outcome.pairs
        for file in pair.files
        if file.kind == ResultKind.SR
    ]


def _notices(run: RunKey, outcome: StudyOutcome) -> list[SupersededReport]:
    return [
        _report(run, file, notice.functional_series_instance_uid, True)
        for notice in outcome.withdrawals
        for file in notice.files
        if file.kind == NoticeKind.SR
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
