"""Trying again at a person's wish: what failed, what was rejected, what waits for its next try."""

from __future__ import annotations

from app.errors import MisconfiguredError
from app.node.audit import AuditEvent
from app.node.delivery_ledger import Delivery, DeliveryState
from app.node.run_ledger import Run, StudyState
from app.node.stores import NodeStores

_REPEATABLE = (StudyState.FAILED, StudyState.REJECTED, StudyState.QUEUED)


def retry_study(stores: NodeStores, study_instance_uid: str) -> str:
    """Plan another try of the study's latest revision: its delivery when it has results, else its processing.

    The ledger is changed; a node that runs sees it at its next look, one that is stopped at its next start.

    Returns:
        What will be done, in words.

    Raises:
        MisconfiguredError: no such study, or nothing of it can be tried again.
    """
    revisions = stores.runs.of_study(study_instance_uid)
    if not revisions:
        raise MisconfiguredError(
            f"found no revision of study {study_instance_uid}; psma-node status lists the studies"
        )
    run = revisions[-1]
    open_deliveries = [
        item
        for item in stores.deliveries.of_run(run.key)
        if item.state in (DeliveryState.PENDING, DeliveryState.FAILED)
    ]
    done = _redeliver(stores, run, open_deliveries) if open_deliveries else _reprocess(stores, run)
    stores.audit.append(
        AuditEvent.RETRY_ASKED, study_instance_uid, {"revision": run.key.revision, "plan": done}
    )
    return done


def _redeliver(stores: NodeStores, run: Run, open_deliveries: list[Delivery]) -> str:
    # the run goes back to delivering first: a delivery that ends in between must find it there
    stores.runs.resume_delivery(run.key)
    for delivery in open_deliveries:
        stores.deliveries.retry(delivery)
    names = ", ".join(delivery.key.destination for delivery in open_deliveries)
    return f"revision {run.key.revision} is delivered again to {names}"


def _reprocess(stores: NodeStores, run: Run) -> str:
    if run.state not in _REPEATABLE:
        raise MisconfiguredError(
            f"the study is {run.state}; only one that failed, was rejected or waits can be tried again"
        )
    if not stores.runs.requeue(run):
        raise MisconfiguredError("the study has moved on meanwhile; look at psma-node status again")
    return f"revision {run.key.revision} is processed again"
