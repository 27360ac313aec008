"""The two workflows.

::

    process:  run the chain  →  write down how it ended, plan the deliveries  →  compare the shadow models
    deliver:  send what the destination has not acknowledged  →  write down how it ended

A step that ended is not run again; one that was cut off is run again from its beginning, and the ledgers make
that harmless. What comes next is read from the ledgers by :mod:`app.node.planner`.
"""

from __future__ import annotations

from collections.abc import Callable

from app.node.delivery import ResultDelivery
from app.node.durable_engine import DeliverWork, ProcessWork, step
from app.node.shadow_work import ShadowComparing
from app.node.study_work import StudyWork


def process_workflow(
    work: StudyWork, ended: Callable[[], None], shadows: ShadowComparing | None = None
) -> ProcessWork:
    """The workflow ``process``; ``ended`` is called when the ledger may hold something new to plan.

    The shadow models are no step: their input is in memory, and is gone when the node was restarted.
    """

    def process(study_instance_uid: str, revision: int, attempt: int) -> None:
        ending = step("chain", work.run_chain, study_instance_uid, revision, attempt)
        step("record", work.record, study_instance_uid, revision, attempt, ending)
        ended()
        if shadows is not None:
            shadows.compare(study_instance_uid, revision)

    return process


def deliver_workflow(work: ResultDelivery, ended: Callable[[], None]) -> DeliverWork:
    """The workflow ``deliver``; ``ended`` as in :func:`process_workflow`."""

    def deliver(study_instance_uid: str, revision: int, destination: str, attempt: int) -> None:
        ending = step("send", work.send, study_instance_uid, revision, destination, attempt)
        step("record", work.record, study_instance_uid, revision, destination, attempt, ending)
        ended()

    return deliver
