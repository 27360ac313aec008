"""``node.retention``: studies that have had their time are removed, the oldest first; nothing that is needed.

Needed is what has a PET result, the prior of a later SPECT/CT; what a destination has not got; what is not at
rest. A quota that these fill alone is not kept, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from app.errors import MisconfiguredError
from app.node.policy import NodePolicy
from app.node.records.database import fetch, utc_now
from app.node.records.deliveries import Delivery
from app.node.records.inbox_index import InstanceRow
from app.node.records.overview import InboxStudy
from app.node.records.runs import Run
from app.node.records.states import TO_BE_TRIED, DeliveryState, StudyState
from app.node.records.stores import NodeStores
from app.node.watch.removal import RemovalRequest, remove_study

_AT_REST = (StudyState.REJECTED, StudyState.FAILED)

ASKED_BY = "node.retention"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expired:
    """A study that has had its time, and why."""

    study_instance_uid: str
    reason: str


def expired(stores: NodeStores, policy: NodePolicy, now: datetime) -> tuple[Expired, ...]:
    """What is to be removed at ``now`` (aware), the study that came first first."""
    retention = policy.retention
    if not retention.is_set:
        return ()
    sizes = _sizes(stores)
    excess = sum(sizes.values()) - retention.max_gb * 1e9 if retention.max_gb else 0.0
    found = []
    for study, run in _removable(stores):
        uid, days = study.study_instance_uid, retention.days_of(run.state)
        if days and now - study.last_received_at > timedelta(days=days):
            found.append(Expired(uid, f"{run.state} for more than {days:g} days"))
        elif excess > 0 and run.state is not StudyState.FAILED:
            found.append(Expired(uid, f"images take more than {retention.max_gb:g} GB"))
        else:
            continue
        excess -= sizes.get(uid, 0)
    if excess > 0:
        facts = {"reason": "the rest is needed: priors, open deliveries, failed studies", "bytes": excess}
        _log.warning("the inbox stays larger than node.retention.max_gb", extra=facts)
    return tuple(found)


def remove_expired(stores: NodeStores, policy: NodePolicy) -> tuple[Expired, ...]:
    """Remove them, each with its line in the audit log; returns those that are gone."""
    gone = []
    for one in expired(stores, policy, utc_now()):
        request = RemovalRequest(one.study_instance_uid, ASKED_BY, one.reason)
        try:
            remove_study(stores, policy, request)
        except MisconfiguredError as error:  # it has begun to move meanwhile
            _log.info("not removed", extra={"study": one.study_instance_uid, "reason": str(error)})
            continue
        gone.append(one)
    return tuple(gone)


def _removable(stores: NodeStores) -> Iterator[tuple[InboxStudy, Run]]:
    """Studies at rest that nothing needs, the one that came first first."""
    known, latest = stores.studies.all(), {run.study_instance_uid: run for run in stores.runs.latest()}
    undelivered = _with_delivery(stores, *TO_BE_TRIED, DeliveryState.FAILED)
    delivered = _with_delivery(stores, DeliveryState.DONE)
    studies = sorted(stores.inbox.studies(), key=lambda study: study.first_received_at)
    priors = stores.results.of_studies([study.study_instance_uid for study in studies])
    for study in studies:
        uid = study.study_instance_uid
        run, row = latest.get(uid), known.get(uid)
        if run is None or row is None or row.state is not StudyState.QUEUED:  # more of it is coming
            continue
        # results that went nowhere are in the data folder alone
        is_at_rest = run.state in _AT_REST or (run.state is StudyState.DONE and uid in delivered)
        if is_at_rest and run.next_try_at is None and uid not in undelivered and uid not in priors:
            yield study, run


def _with_delivery(stores: NodeStores, *states: DeliveryState) -> set[str]:
    """Studies with a delivery in one of these states."""
    query = select(Delivery.study_instance_uid).where(Delivery.state.in_(states)).distinct()
    return set(fetch(stores.engine, query))


def _sizes(stores: NodeStores) -> dict[str, int]:
    uid = InstanceRow.study_instance_uid
    with stores.engine.connect() as connection:
        rows = connection.execute(select(uid, func.sum(InstanceRow.bytes)).group_by(uid))
        return {study: int(size) for study, size in rows}
