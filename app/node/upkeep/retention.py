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

_AT_REST = (StudyState.REJECTED, StudyState.FAILED, StudyState.DONE)

ASKED_BY = "node.retention"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """A study with images: whether they go, why, and how many bytes they take."""

    study_instance_uid: str
    goes: bool
    reason: str
    size: int


def expired(stores: NodeStores, policy: NodePolicy, now: datetime) -> tuple[Judged, ...]:
    """What is to be removed at ``now`` (aware), the study that came first first."""
    if not policy.retention.is_set:
        return ()
    judged = judge_all(stores, policy, now)
    excess = beyond_quota(judged, policy)
    if excess > 0:
        needed = "the rest is needed: priors, open deliveries, commitments, failed studies"
        facts = {"reason": needed, "bytes": excess}
        _log.warning("the inbox stays larger than node.retention.max_gb", extra=facts)
    return tuple(one for one in judged if one.goes)


def judge_all(stores: NodeStores, policy: NodePolicy, now: datetime) -> tuple[Judged, ...]:
    """Every study with images, the one that came first first: whether they go at ``now`` (aware), and why."""
    retention, sizes = policy.retention, _sizes(stores)
    excess = sum(sizes.values()) - retention.max_gb * 1e9 if retention.max_gb else 0.0
    judged = []
    for study, run, need in _with_needs(stores):
        uid = study.study_instance_uid
        size = sizes.get(uid)
        if size is None:  # its images went before
            continue
        goes, reason = False, need
        if run is not None and not need:
            goes, reason = _term(policy, run.state, now - study.last_received_at, excess)
        excess -= size if goes else 0
        judged.append(Judged(uid, goes, reason, size))
    return tuple(judged)


def beyond_quota(judged: tuple[Judged, ...], policy: NodePolicy) -> float:
    """How many bytes more than ``max_gb`` stay; 0 or less when the quota is kept, or there is none."""
    quota = policy.retention.max_gb * 1e9
    return sum(one.size for one in judged if not one.goes) - quota if quota else 0.0


def _term(policy: NodePolicy, state: StudyState, age: timedelta, excess: float) -> tuple[bool, str]:
    """Whether a study that nothing needs goes, and why."""
    retention = policy.retention
    days = retention.days_of(state)
    if days and age > timedelta(days=days):
        return True, f"{state} for more than {days:g} days"
    if excess > 0 and state is not StudyState.FAILED:
        return True, f"images take more than {retention.max_gb:g} GB"
    if days:
        return False, f"{state} for {age.total_seconds() / 86_400:.0f} of {days:g} days"
    return False, f"{state}; node.retention.{state}_days sets no time"


def remove_expired(stores: NodeStores, policy: NodePolicy) -> tuple[Judged, ...]:
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


def _with_needs(stores: NodeStores) -> Iterator[tuple[InboxStudy, Run | None, str]]:
    """Each study with its last run and why its images are needed, the one that came first first.

    The reason is empty for one at rest that nothing needs.
    """
    known, latest = stores.studies.all(), {run.study_instance_uid: run for run in stores.runs.latest()}
    undelivered = _with_delivery(stores, *TO_BE_TRIED, DeliveryState.FAILED)
    delivered = _with_delivery(stores, DeliveryState.DONE)
    studies = sorted(stores.inbox.studies(), key=lambda study: study.first_received_at)
    priors = frozenset(stores.results.of_studies([study.study_instance_uid for study in studies]))
    promised, last = stores.commitments.promised(), frozenset(_last_of_kind(known, latest))
    needs = (
        (priors, "its PET result may be the prior of a later SPECT/CT"),
        (undelivered, "a destination has not got its results"),
        (promised, "a sender has its storage commitment, or asks for it"),
        (last, "the last of its kind of its patient, with which the next is compared"),
    )
    for study in studies:
        uid = study.study_instance_uid
        run = latest.get(uid)
        unrest = _unrest(study, run, known.get(uid), uid in delivered)
        yield study, run, unrest or next((words for uids, words in needs if uid in uids), "")


def _unrest(study: InboxStudy, run: Run | None, row: StudyRow | None, is_delivered: bool) -> str:
    """Why a study is not at rest; empty when it is."""
    if run is None or row is None or row.state is not StudyState.QUEUED:
        return "more of it is coming"
    if run.state not in _AT_REST or run.next_try_at is not None:
        return f"it is {run.state}"
    if run.state is StudyState.DONE and not is_delivered:
        return "its results went nowhere: they are in the data folder alone"
    if study.image_conflicts:
        return "a person still has to choose between its contents, with the files at hand"
    return ""


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
