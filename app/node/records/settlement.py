"""When a run is done: once none of its deliveries has another try, whoever notices first."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select

from app.domain.outcome import Status
from app.errors import MisconfiguredError
from app.node.records.database import fetch, utc_now
from app.node.records.deliveries import Delivery
from app.node.records.runs import Run
from app.node.records.states import TO_BE_TRIED, DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores

PLANNED_WITHIN = timedelta(minutes=1)
"""Who asks for results to be sent again turns the run to ``delivering`` first, then plans the deliveries."""

_log = logging.getLogger(__name__)


def settle_run(stores: NodeStores, run: RunKey) -> None:
    """``done`` once every destination has everything, ``failed`` once one of them never will.

    Both ask for it, the delivery that has ended and the run that has come to ``delivering``, each after it
    has written that: so the later one of them sees the other.
    """
    every = stores.deliveries.of_run(run)
    if any(delivery.state in TO_BE_TRIED for delivery in every):
        return
    failed = [delivery.reason for delivery in every if delivery.state is DeliveryState.FAILED]
    state, reason = _delivered_state(stores, run)
    if failed:
        state, reason = StudyState.FAILED, "; ".join(failed)
    if stores.runs.finish_delivery(run, state, reason):
        _log.info("deliveries ended", extra=run.facts | {"state": str(state)})


def settle_left(stores: NodeStores) -> None:
    """Settle what has been ``delivering`` for a while with nothing to deliver: whoever should have settled it
    was cut off."""
    of_run = (Delivery.study_instance_uid == Run.study_instance_uid, Delivery.revision == Run.revision)
    has_open = select(Delivery.revision).where(*of_run, Delivery.state.in_(TO_BE_TRIED)).exists()
    left = (Run.state == StudyState.DELIVERING, _is_not_new(utc_now()), ~has_open)
    for run in fetch(stores.engine, select(Run).where(*left)):
        settle_run(stores, run.key)


def _is_not_new(now: datetime) -> ColumnElement[bool]:
    """A change that is still to come was written by a clock that was ahead."""
    return (Run.changed_at < now - PLANNED_WITHIN) | (Run.changed_at > now + PLANNED_WITHIN)


def _delivered_state(stores: NodeStores, run: RunKey) -> tuple[StudyState, str]:
    """A study that only withdrew an earlier result stays rejected, with its reason."""
    try:
        outcome = stores.outbox.outcome_of(run)
    except MisconfiguredError as error:  # everything has arrived; only the words are lost
        _log.error("earlier result unreadable", extra=run.facts | {"reason": str(error)})
        return StudyState.DONE, str(error)
    if outcome is not None and outcome.status is Status.REJECTED:
        return StudyState.REJECTED, stores.runs.get(run).reason
    return StudyState.DONE, ""
