"""``psma-node retry --to`` sends results that are there already to one destination, a new one as a rule."""

from __future__ import annotations

from dataclasses import replace

from app.errors import MisconfiguredError
from app.node.peers import DeliverPolicy, Destination
from app.node.process.routing import routed
from app.node.records.audit import AuditEvent
from app.node.records.runs import Run
from app.node.records.states import WITH_RESULTS, DeliveryKey, StudyState
from app.node.records.stores import NodeStores

_FORWARDED = (*WITH_RESULTS, StudyState.FAILED)
"""States of a revision that may have results to send; one of those that failed may have none."""


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
        runs = [run for run in stores.runs.latest() if run.study_instance_uid == study_instance_uid]
        destination = replace(destination, callers=(), stations=())
    else:
        runs = [run for run in stores.runs.latest() if not _went_to(stores, run, name)]
        runs.sort(key=lambda run: run.created_at)
    lines = tuple(run.study_instance_uid for run in runs if _planned(stores, run, destination, asked_by))
    if study_instance_uid and not lines:
        raise MisconfiguredError(f"the study has no results that {name} accepts; look at psma-node status")
    return tuple(f"{uid}: its results are sent to {name}" for uid in lines)


def _went_to(stores: NodeStores, run: Run, name: str) -> bool:
    return any(delivery.destination == name for delivery in stores.deliveries.of_run(run.key))


def _planned(stores: NodeStores, run: Run, destination: Destination, asked_by: str) -> bool:
    outcome = stores.outbox.readable_outcome_of(run.key) if run.state in _FORWARDED else None
    if outcome is None or not outcome.files:
        return False
    files = routed(stores, run.key, outcome.files, [destination]).get(destination.name)
    if not files:
        return False
    # the run goes back to delivering first: a delivery that ends in between must find it there
    stores.runs.resume_delivery(run.key)
    if _went_to(stores, run, destination.name):
        stores.deliveries.resend(stores.deliveries.get(DeliveryKey(run.key, destination.name)))
    else:
        stores.deliveries.plan(run.key, files, [destination.name])
    plan = f"its results are sent to {destination.name}"
    facts = {"revision": run.key.revision, "plan": plan, "asked_by": asked_by}
    stores.audit.append(AuditEvent.RETRY_ASKED, run.study_instance_uid, facts)
    return True
