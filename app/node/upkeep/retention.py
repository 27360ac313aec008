"""``node.retention``: images of studies that have had their time go, the oldest first; none that is needed.

Needed is what has a PET result, the prior of a later SPECT/CT, or is the last of its kind of its patient,
with which the next is compared; what a destination has not got; of what a sender has a storage commitment;
what is not at rest. A quota that these fill alone is not kept, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.domain.study import is_placeholder
from app.errors import MisconfiguredError, RetryLaterError, describe_exception
from app.node.policy import NodePolicy
from app.node.records.database import fetch, utc_now
from app.node.records.deliveries import Delivery
from app.node.records.inbox_index import IS_HERE, InstanceRow
from app.node.records.overview import InboxStudy
from app.node.records.runs import Run
from app.node.records.states import TO_BE_TRIED, DeliveryState, StudyState
from app.node.records.stores import NodeStores
from app.node.records.studies import StudyRow
from app.node.upkeep.removal import RemovalRequest, remove_study

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
        if study.study_instance_uid not in sizes:  # its images went before
            continue
        uid, days = study.study_instance_uid, retention.days_of(run.state)
        if days and now - study.last_received_at > timedelta(days=days):
            found.append(Expired(uid, f"{run.state} for more than {days:g} days"))
        elif excess > 0 and run.state is not StudyState.FAILED:
            found.append(Expired(uid, f"images take more than {retention.max_gb:g} GB"))
        else:
            continue
        excess -= sizes.get(uid, 0)
    if excess > 0:
        needed = "the rest is needed: priors, open deliveries, commitments, failed studies"
        facts = {"reason": needed, "bytes": excess}
        _log.warning("the inbox stays larger than node.retention.max_gb", extra=facts)
    return tuple(found)


def remove_expired(stores: NodeStores, policy: NodePolicy) -> tuple[Expired, ...]:
    """Remove their images, each with its line in the audit log; returns those that are gone."""
    gone = []
    for one in expired(stores, policy, utc_now()):
        uid = one.study_instance_uid
        request = RemovalRequest(uid, ASKED_BY, one.reason, images_alone=True)
        try:
            remove_study(stores, policy, request)
        except MisconfiguredError as error:  # it has begun to move meanwhile
            _log.info("not removed", extra={"study": uid, "reason": str(error)})
            continue
        except (OSError, SQLAlchemyError, RetryLaterError) as error:  # it must not keep the others
            path = getattr(error, "filename", None)
            facts = {"study": uid, "path": path, "reason": describe_exception(error)}
            _log.error("node.retention could not remove a study", extra=facts)
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
    needed = {*priors, *undelivered, *stores.commitments.promised(), *_last_of_kind(known, latest)}
    for study in studies:
        uid = study.study_instance_uid
        run, row = latest.get(uid), known.get(uid)
        if run is None or row is None or row.state is not StudyState.QUEUED:  # more of it is coming
            continue
        # results that went nowhere are in the data folder alone
        is_at_rest = run.state in _AT_REST or (run.state is StudyState.DONE and uid in delivered)
        # a person still has to choose between contents, with the files at hand
        is_at_rest = is_at_rest and run.next_try_at is None and not study.image_conflicts
        if is_at_rest and uid not in needed:
            yield study, run


def _last_of_kind(known: Mapping[str, StudyRow], latest: Mapping[str, Run]) -> Iterator[str]:
    """The last PET and the last SPECT with a result of each patient."""
    last: dict[tuple[object, ...], tuple[datetime, str]] = {}
    for uid, row in known.items():
        run = latest.get(uid)
        if run is None or run.state is not StudyState.DONE or is_placeholder(row.patient_id or ""):
            continue
        for kind, acquired_at in enumerate((row.pet_acquired_at, row.spect_acquired_at)):
            key = (row.patient_id, row.issuer, kind)
            if acquired_at is not None:
                last[key] = max((acquired_at, uid), last.get(key, (acquired_at, uid)))
    return (uid for _, uid in last.values())


def _with_delivery(stores: NodeStores, *states: DeliveryState) -> set[str]:
    """Studies with a delivery in one of these states."""
    query = select(Delivery.study_instance_uid).where(Delivery.state.in_(states)).distinct()
    return set(fetch(stores.engine, query))


def _sizes(stores: NodeStores) -> dict[str, int]:
    uid = InstanceRow.study_instance_uid
    with stores.engine.connect() as connection:
        rows = connection.execute(select(uid, func.sum(InstanceRow.bytes)).where(IS_HERE).group_by(uid))
        return {study: int(size) for study, size in rows}
