"""A PACS that is away for three days, on a simulated clock; limits of its own for each destination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest

from app.errors import RetryLaterError
from app.node.deliver.delivery import ResultDelivery
from app.node.deliver.proof import DeliveryProof
from app.node.deliver.scu import StoreResponse
from app.node.peers import DeliverPolicy, Destination
from app.node.records.commitment_messages import CommitmentEvent
from app.node.records.states import TO_BE_TRIED, DeliveryKey, DeliveryState, StudyState
from app.node.records.stores import NodeStores
from tests.node.deliver.conftest import RUN, UIDS, Clock, plan

DOWN = timedelta(hours=72)
AWAY = Destination("away", "AWAY", "10.0.0.1", 104)
THERE = Destination("there", "THERE", "10.0.0.2", 104)


class Hospital:
    """``there`` is up; ``away`` is not for 72 hours, and loses an instance when it is back."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._back_at = clock.now + DOWN
        self.tries: Counter[str] = Counter()
        self.received: Counter[tuple[str, str]] = Counter()
        self.lost = {UIDS["SR"]}

    def _reach(self, destination: Destination) -> None:
        self.tries[destination.name] += 1
        if destination.name == "away" and self._clock.now < self._back_at:
            raise RetryLaterError("away can't be reached")

    def send(
        self, paths: Sequence[Path], destination: Destination, _title: str, _limit_s: float
    ) -> tuple[StoreResponse, ...]:
        self._reach(destination)
        uid = str(pydicom.dcmread(paths[0], specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        self.received[destination.name, uid] += 1
        return (StoreResponse(uid, 0, True),)

    def ask(
        self, request: Any, destination: Destination, _policy: Any, on_answer: Any, _answered: Any
    ) -> None:
        self._reach(destination)
        asked = {one.sop_instance_uid for one in request.references}
        failed = dict.fromkeys(asked & self.lost, 0x0112)
        self.lost -= asked
        on_answer(CommitmentEvent(request.transaction_uid, frozenset(asked - failed.keys()), failed))


def run_until_settled(stores: NodeStores, policy: DeliverPolicy, hospital: Hospital, clock: Clock) -> None:
    """As the engine: each delivery is tried when its time comes."""
    work = ResultDelivery(stores, policy, hospital.send, DeliveryProof(stores, hospital.ask))
    while waiting := [one for one in stores.deliveries.of_run(RUN) if one.state in TO_BE_TRIED]:
        first = min(waiting, key=lambda one: one.next_try_at or clock.now)
        clock.now = max(clock.now, first.next_try_at or clock.now)
        work.record(first.key, first.attempt, work.send(first.key, first.attempt))


@pytest.mark.parametrize("commitment", [False, True])
def test_a_pacs_that_is_away_for_three_days_gets_everything_and_holds_up_no_other(
    stores: NodeStores, clock: Clock, commitment: bool
) -> None:
    begin, hospital = clock.now, Hospital(clock)
    plan(stores, "away", "there")
    policy = DeliverPolicy((replace(AWAY, commitment=commitment), THERE))
    run_until_settled(stores, policy, hospital, clock)
    assert stores.runs.get(RUN).state is StudyState.DONE
    extra = 1 if commitment else 0  # the one that it lost came twice
    assert hospital.received == {
        **{("there", uid): 1 for uid in UIDS.values()},
        **{("away", uid): 1 + extra * (uid == UIDS["SR"]) for uid in UIDS.values()},
    }
    assert DOWN <= clock.now - begin <= DOWN + timedelta(seconds=2 * policy.max_retry_s)
    # the wait doubles from 10 s to 15 minutes, and stays there
    assert hospital.tries["away"] - hospital.tries["there"] < DOWN.total_seconds() / policy.max_retry_s + 12


def test_a_destination_has_limits_of_its_own(stores: NodeStores, clock: Clock) -> None:
    begin, hospital = clock.now, Hospital(clock)
    plan(stores, "away", "there")
    hasty = replace(AWAY, first_retry_s=60.0, max_retry_s=60.0, max_age_days=0.5, timeout_s=7.0)
    policy = DeliverPolicy((hasty, THERE))
    assert policy.towards(hasty).timeout_s == 7.0
    assert policy.towards(THERE) == policy
    run_until_settled(stores, policy, hospital, clock)
    away, there = (stores.deliveries.get(DeliveryKey(RUN, name)) for name in ("away", "there"))
    assert (away.state, there.state) == (DeliveryState.FAILED, DeliveryState.DONE)
    assert away.reason.endswith("given up after 0.5 days")
    assert hospital.tries["away"] == 721
    assert clock.now - begin == timedelta(seconds=720 * 60)
    assert stores.runs.get(RUN).state is StudyState.FAILED
