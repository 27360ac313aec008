"""``psma-node retry`` has a study tried again, sent again or elsewhere, or analysed anew.

It works on the database, so the node may be running or stopped: one that runs sees the change at its next
look, one that is stopped at its next start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from app.errors import MisconfiguredError
from app.node.peers import DeliverPolicy, Destination
from app.node.process.routing import routed
from app.node.records.audit import AuditEvent
from app.node.records.deliveries import Delivery
from app.node.records.runs import Run
from app.node.records.states import (
    TO_BE_TRIED,
    WITH_RESULTS,
    Arrival,
    DeliveryKey,
    DeliveryState,
    Rank,
    StudyState,
)
from app.node.records.stores import NodeStores

_REPEATABLE = (StudyState.FAILED, StudyState.REJECTED, StudyState.QUEUED)

_FORWARDED = (*WITH_RESULTS, StudyState.FAILED)
"""States of a revision that may have results to send; one that failed may have none, and one that is tried
again by itself sends its own."""

_DONE_ADVICE = "; psma-node retry --resend sends its results again, --again analyses it anew"


def retry_study(stores: NodeStores, study_instance_uid: str, asked_by: str = "") -> str:
    """Plan another try of the study's latest revision: its delivery when it has results, else its processing.

    A study that waits for more images is taken as it is, as its next revision.

    Args:
        stores: of a node that runs or is stopped.
        study_instance_uid: of the study.
        asked_by: who asked for it, for the audit log.

    Returns what will be done, in words, as :func:`resend_study` and :func:`analyse_again` do.

    Raises:
        MisconfiguredError: no such study, or nothing of it can be tried again.
    """
    taken = _take_as_it_is(stores, study_instance_uid)
    if taken is not None:
        words = "it is taken as it is, as revision"
        done = f"{words} {taken.key.revision}; images that come later make another one"
        _note(stores, taken, done, asked_by)
        return done
    run = _latest(stores, study_instance_uid)
    open_deliveries = [
        item
        for item in stores.deliveries.of_run(run.key)
        if item.state in (*TO_BE_TRIED, DeliveryState.FAILED)
    ]
    # one that is tried again by itself sends results of its own
    redeliver = open_deliveries and run.next_try_at is None
    done = _redeliver(stores, run, open_deliveries) if redeliver else _reprocess(stores, run)
    _note(stores, run, done, asked_by)
    return done


def retry_failed(stores: NodeStores, asked_by: str = "") -> tuple[str, ...]:
    """Plan another try of every study that failed; returns a line for each, be it why it is not tried."""
    lines = []
    for uid in [run.study_instance_uid for run in stores.runs.given_up()]:
        try:
            lines.append(f"{uid}: {retry_study(stores, uid, asked_by)}")
        except MisconfiguredError as error:  # it must not keep the others
            lines.append(f"{uid}: not tried: {error}")
    return tuple(lines)


def resend_study(stores: NodeStores, study_instance_uid: str, asked_by: str = "") -> str:
    """Send the results of a study that is done again, to every destination that has had them.

    Harmless to a PACS that still has them: they keep their UIDs.

    Raises:
        MisconfiguredError: no such study, it is not done, or its results went nowhere.
    """
    run = _latest(stores, study_instance_uid)
    delivered = stores.deliveries.of_run(run.key)
    # delivering: a sending again that was cut short before its first delivery was planned
    if run.state not in WITH_RESULTS or any(item.state in TO_BE_TRIED for item in delivered):
        raise MisconfiguredError(f"the study is {run.state}; only one that is done can be sent again")
    if not delivered:
        raise MisconfiguredError("the results were sent nowhere; they are in the data folder")
    outcome = stores.outbox.outcome_of(run.key)
    there = None if outcome is None else [file.sop_instance_uid for file in outcome.files]
    with _delivering(stores, run):  # were it cut short here, the same can be asked again
        for delivery in delivered:
            stores.deliveries.resend(delivery, there)
    names = ", ".join(delivery.key.destination for delivery in delivered)
    done = f"every result of revision {run.key.revision} is sent again to {names}"
    _note(stores, run, done, asked_by)
    return done


def forward(
    stores: NodeStores, policy: DeliverPolicy, name: str, study_instance_uid: str = "", asked_by: str = ""
) -> tuple[str, ...]:
    """Plan the delivery of a study's results to a destination; without a study, of all that it never got.

    A study that is named goes there whatever came from where; it is sent once more where it went before.

    Returns what will be done, one line a study.

    Raises:
        MisconfiguredError: no such destination, or the study that is named has nothing for it.
    """
    destination = policy.destination(name)
    if destination is None:
        names = ", ".join(one.name for one in policy.destinations) or "none"
        raise MisconfiguredError(f"{name} is not in deliver.destinations; found {names}")
    if study_instance_uid:
        runs = [*stores.runs.of_study(study_instance_uid)[-1:]]
        destination = replace(destination, callers=(), stations=())
    else:
        runs = [run for run in stores.runs.latest() if not _went_to(stores, run, name)]
        runs.sort(key=lambda run: run.created_at)
    lines = tuple(run.study_instance_uid for run in runs if _planned(stores, run, destination, asked_by))
    if study_instance_uid and not lines:
        raise MisconfiguredError(f"the study has no results that {name} accepts; look at psma-node status")
    return tuple(f"{uid}: its results are sent to {name}" for uid in lines)


def analyse_again(stores: NodeStores, study_instance_uid: str, asked_by: str = "") -> str:
    """Analyse a study that is done anew, as a new revision whose results replace the former ones.

    For what has changed around its images: a PET for the prior that came late, another model or setting.

    Raises:
        MisconfiguredError: no such study, it is not done, or its images are gone.
    """
    run = _latest(stores, study_instance_uid)
    if run.state is not StudyState.DONE:
        raise MisconfiguredError(f"the study is {run.state}; only one that is done can be analysed again")
    _refuse_absent(stores, run)
    reopened = stores.runs.reopen(run)
    if reopened is None:
        raise MisconfiguredError("the study has moved on meanwhile; look at psma-node status again")
    new, old = reopened.key.revision, run.key.revision
    done = f"it is analysed again as revision {new}, whose results replace those of revision {old}"
    _note(stores, reopened, done, asked_by)
    return done


def _latest(stores: NodeStores, study_instance_uid: str) -> Run:
    revisions = stores.runs.of_study(study_instance_uid)
    if not revisions and stores.inbox.study(study_instance_uid) is not None:
        raise MisconfiguredError("images of the study are still coming; it is processed when it is complete")
    if not revisions:
        raise MisconfiguredError(
            f"found no revision of study {study_instance_uid}; psma-node status lists the studies"
        )
    return revisions[-1]


def _take_as_it_is(stores: NodeStores, uid: str) -> Run | None:
    """A revision of what has come of a study that waits for more; ``None`` when it does not wait.

    Its headers are judged first; where they do not refuse it, it goes to a worker like a study sent again.
    """
    row, study = stores.studies.get(uid), stores.inbox.study(uid)
    if row is None or study is None or row.state is not StudyState.WAITING:
        return None
    if not study.image_count:
        raise MisconfiguredError("no image of the study has come yet: there is nothing to analyse")
    content = stores.inbox.content(uid)
    arrival = Arrival(content.rows[0].calling_ae, Rank.REPLAY, by_headers=True)
    run, created = stores.runs.open(uid, content.digest, arrival)
    if not created:
        return None
    stores.studies.observe(uid, StudyState.QUEUED)
    facts: dict[str, object] = {"revision": run.key.revision, "instances": study.image_count}
    facts |= {"content_digest": run.content_digest, "given_up_waiting": True}
    stores.audit.append(AuditEvent.STUDY_RECEIVED, uid, facts)
    return run


def _note(stores: NodeStores, run: Run, plan: str, asked_by: str) -> None:
    facts = {"revision": run.key.revision, "plan": plan, "asked_by": asked_by}
    stores.audit.append(AuditEvent.RETRY_ASKED, run.key.study_instance_uid, facts)


@contextmanager
def _delivering(stores: NodeStores, run: Run) -> Iterator[None]:
    """Deliveries are opened within.

    One that ends in between must find the run delivering, and one that was open before and ends in between
    settles it: the run goes back to delivering before and after.
    """
    stores.runs.resume_delivery(run.key)
    yield
    stores.runs.resume_delivery(run.key)


def _redeliver(stores: NodeStores, run: Run, open_deliveries: list[Delivery]) -> str:
    with _delivering(stores, run):
        for delivery in open_deliveries:
            stores.deliveries.retry(delivery)
    names = ", ".join(delivery.key.destination for delivery in open_deliveries)
    return f"revision {run.key.revision} is delivered again to {names}"


def _reprocess(stores: NodeStores, run: Run) -> str:
    if run.state not in _REPEATABLE:
        raise MisconfiguredError(
            f"the study is {run.state}; only one that failed, was rejected or waits can be tried again"
            f"{_DONE_ADVICE if run.state is StudyState.DONE else ''}"
        )
    _refuse_absent(stores, run)
    if not stores.runs.requeue(run):
        raise MisconfiguredError("the study has moved on meanwhile; look at psma-node status again")
    return f"revision {run.key.revision} is processed again"


def _went_to(stores: NodeStores, run: Run, name: str) -> bool:
    return any(delivery.destination == name for delivery in stores.deliveries.of_run(run.key))


def _planned(stores: NodeStores, run: Run, destination: Destination, asked_by: str) -> bool:
    may_have_any = run.state in _FORWARDED and run.next_try_at is None
    outcome = stores.outbox.readable_outcome_of(run.key) if may_have_any else None
    if outcome is None or not outcome.files:
        return False
    files = routed(stores, run.key, outcome.files, [destination]).get(destination.name)
    if not files:
        return False
    with _delivering(stores, run):
        if _went_to(stores, run, destination.name):
            delivery = stores.deliveries.get(DeliveryKey(run.key, destination.name))
            stores.deliveries.resend(delivery, [file.sop_instance_uid for file in files])
        else:
            stores.deliveries.plan(run.key, files, [destination.name])
    _note(stores, run, f"its results are sent to {destination.name}", asked_by)
    return True


def _refuse_absent(stores: NodeStores, run: Run) -> None:
    """A try without all images would fail, and take the place of what there is."""
    content = stores.inbox.content(run.study_instance_uid)
    absent = content.absent()
    if absent:
        raise MisconfiguredError(
            f"{absent} of {len(content.rows)} images of the study are not in the inbox any more "
            "(node.retention removes what has had its time): send the whole study again, then ask once more"
        )
