"""Sent is not committed: what a PACS acknowledged and lost is found out, and sent again."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom.association import Association

from app.errors import RetryLaterError
from app.node.deliver import commitment
from app.node.deliver.delivery import ResultDelivery
from app.node.peers import DeliverPolicy, Destination
from app.node.records.commitment_messages import CommitmentEvent, CommitmentRequest, Reference
from app.node.records.commitments import record_answer
from app.node.records.deliveries import Delivery
from app.node.records.states import DeliveryKey, DeliveryState, StudyState
from app.node.records.stores import NodeStores
from tests.node.deliver.conftest import RUN, UIDS, Clock, plan
from tests.node.deliver.stub_pacs import StubPacs, listening
from tests.node.workflow.peers import wait_until

KEY = DeliveryKey(RUN, "pacs")
PROOFS = ({"commitment": True}, {"verify": "find"}, {"verify": "retrieve"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "LINGER_S", 5.0)
    monkeypatch.setattr(commitment, "LOOK_S", 0.05)


@pytest.fixture
def silent(stores: NodeStores, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubPacs]:
    """A PACS that answers to no request for its commitment; results are planned for it."""
    monkeypatch.setattr(commitment, "LINGER_S", 0.1)
    plan(stores, "pacs")
    with listening(StubPacs(is_silent=True)) as pacs:
        yield pacs


def policy(pacs: StubPacs, **settings: Any) -> DeliverPolicy:
    destination = Destination("pacs", "PACS", "127.0.0.1", pacs.port, timeout_s=5.0, **settings)
    return DeliverPolicy((destination,), first_retry_s=1.0)


def tried(stores: NodeStores, limits: DeliverPolicy, key: DeliveryKey = KEY) -> Delivery:
    """One try, as the engine makes it."""
    work, attempt = ResultDelivery(stores, limits), stores.deliveries.get(key).attempt
    work.record(key, attempt, work.send(key, attempt))
    return stores.deliveries.get(key)


def committed(stores: NodeStores) -> set[str]:
    return {item.kind for item in stores.deliveries.instances(KEY) if item.committed_at is not None}


def audited(stores: NodeStores) -> Counter[str]:
    lines = stores.audit.path.read_text().splitlines()
    return Counter(json.loads(line)["event"] for line in lines)


@pytest.mark.parametrize("proof", PROOFS)
def test_what_the_pacs_keeps_is_committed_in_one_try(stores: NodeStores, proof: dict[str, Any]) -> None:
    plan(stores, "pacs")
    with listening(StubPacs()) as pacs:
        delivery = tried(stores, policy(pacs, **proof))
    assert (delivery.state, delivery.proofs) == (DeliveryState.DONE, 0)
    assert committed(stores) == set(UIDS)
    assert pacs.received == dict.fromkeys(UIDS.values(), 1)
    assert stores.runs.get(RUN).state is StudyState.DONE
    assert audited(stores) >= Counter({"result delivered": 3, "result committed": 3})
    assert [answer.Status for answer in pacs.answers] == [0] * len(pacs.requests)


def test_what_was_asked_about_a_finished_delivery_is_forgotten_when_it_has_had_its_time(
    stores: NodeStores, clock: Clock
) -> None:
    plan(stores, "pacs", "other")
    open_one, asked_at = DeliveryKey(RUN, "other"), clock.now
    with listening(StubPacs()) as pacs:
        limits = policy(pacs, commitment=True)
        assert tried(stores, limits).state is DeliveryState.DONE
        stores.commitments.ask(open_one, CommitmentRequest("1.2.3", (Reference("1.2", UIDS["SEG"]),)))
        assert stores.commitments.forget_ended(asked_at) == 0
        assert stores.commitments.forget_ended(asked_at + timedelta(seconds=1)) == len(UIDS)
        assert stores.commitments.asked(KEY) == ()
        assert len(stores.commitments.asked(open_one)) == 1
        stores.deliveries.resend(stores.deliveries.get(KEY))
        assert tried(stores, limits).state is DeliveryState.DONE
    assert committed(stores) == set(UIDS)
    assert pacs.received == dict.fromkeys(UIDS.values(), 2)


@pytest.mark.parametrize("proof", PROOFS)
def test_one_object_that_the_pacs_loses_is_found_out_and_sent_again(
    stores: NodeStores, proof: dict[str, Any]
) -> None:
    plan(stores, "pacs")
    with listening(StubPacs(loses=Counter({UIDS["SR"]: 1}))) as pacs:
        limits = policy(pacs, **proof)
        first = tried(stores, limits)
        assert (first.state, first.proofs) == (DeliveryState.PENDING, 1)
        assert "SR" in first.reason
        assert committed(stores) == {"SEG", "PAGE"}
        assert stores.runs.get(RUN).state is StudyState.DELIVERING
        assert tried(stores, limits).state is DeliveryState.DONE
    assert pacs.received == {UIDS["SEG"]: 1, UIDS["PAGE"]: 1, UIDS["SR"]: 2}
    assert set(pacs.kept) == set(UIDS.values())
    assert committed(stores) == set(UIDS)


def test_an_object_that_comes_back_with_other_pixels_is_sent_again(stores: NodeStores) -> None:
    plan(stores, "pacs")
    with listening(StubPacs(spoils=Counter({UIDS["SEG"]: 1}))) as pacs:
        limits = policy(pacs, verify="retrieve")
        assert "SEG: what C-GET gives back differs in PixelData" in tried(stores, limits).reason
        assert tried(stores, limits).state is DeliveryState.DONE


@pytest.mark.parametrize("proof", PROOFS)
def test_a_pacs_that_never_keeps_it_is_told_to_a_person(stores: NodeStores, proof: dict[str, Any]) -> None:
    plan(stores, "pacs")
    with listening(StubPacs(loses=Counter({UIDS["SR"]: 99}))) as pacs:
        limits = replace(policy(pacs, **proof), max_proofs=3)
        states = [tried(stores, limits).state for _ in range(3)]
    assert states == [DeliveryState.PENDING, DeliveryState.PENDING, DeliveryState.FAILED]
    assert pacs.received[UIDS["SR"]] == 3
    run = stores.runs.get(RUN)
    assert run.state is StudyState.FAILED
    assert "given up after 3 rounds" in run.reason
    assert audited(stores)["delivery failed"] == 1


@pytest.mark.parametrize("proof", PROOFS)
def test_a_pacs_without_the_service_has_got_everything_and_another_proof_ends_the_delivery(
    stores: NodeStores, proof: dict[str, Any]
) -> None:
    """What is there is not told as failed; once the settings ask for what the PACS has, it is done."""
    plan(stores, "pacs")
    with listening(StubPacs(classes=())) as pacs:
        delivery = tried(stores, policy(pacs, **proof))
        assert (delivery.state, delivery.proofs) == (DeliveryState.SENT, 0)
        assert delivery.next_try_at is not None
        words = "everything was sent and acknowledged, and can't be proven: pacs does not accept"
        assert delivery.reason.startswith(words)
        assert re.search(r"; set (verify|commitment): .* for it, or no proof$", delivery.reason)
        assert stores.runs.get(RUN).state is StudyState.DELIVERING
        assert tried(stores, policy(pacs)).state is DeliveryState.DONE
    assert stores.runs.get(RUN).state is StudyState.DONE
    assert pacs.received == dict.fromkeys(UIDS.values(), 1)


def test_no_answer_is_waited_for_and_asked_for_again(
    stores: NodeStores, clock: Clock, silent: StubPacs
) -> None:
    limits = replace(policy(silent, commitment=True), commitment_wait_s=1000.0, max_proofs=3)
    waiting = tried(stores, limits)
    assert (waiting.state, waiting.proofs, waiting.failures) == (DeliveryState.SENT, 0, 0)
    assert waiting.next_try_at == clock.now + timedelta(seconds=1000)
    clock.now += timedelta(seconds=10)
    tried(stores, limits)  # woken too early: nothing is asked twice
    assert len(silent.requests) == 1
    states = []
    for _ in range(3):
        clock.now += timedelta(seconds=1001)
        states.append(tried(stores, limits).state)
    assert states == [DeliveryState.SENT, DeliveryState.SENT, DeliveryState.FAILED]
    assert len(silent.requests) == 3
    assert stores.runs.get(RUN).reason == (
        "pacs: no answer to the requests for storage commitment; given up after 3 rounds"
    )
    assert silent.received == dict.fromkeys(UIDS.values(), 1)


def test_a_clock_that_is_set_back_asks_once_more_and_waits_no_longer_than_it_may(
    stores: NodeStores, clock: Clock, silent: StubPacs
) -> None:
    limits = replace(policy(silent, commitment=True), commitment_wait_s=1000.0, max_proofs=3)
    tried(stores, limits)
    clock.now -= timedelta(hours=2)
    for _ in range(3):
        waiting = tried(stores, limits)
        assert (waiting.state, waiting.proofs) == (DeliveryState.SENT, 0)
        assert waiting.next_try_at == clock.now + timedelta(seconds=1000)
        assert len(silent.requests) == 2
    clock.now += timedelta(seconds=1001)
    assert tried(stores, limits).proofs == 1
    assert len(silent.requests) == 3


def test_a_late_answer_to_an_earlier_request_counts(
    stores: NodeStores, clock: Clock, silent: StubPacs
) -> None:
    limits = policy(silent, commitment=True)
    tried(stores, limits)
    clock.now += timedelta(hours=2)
    tried(stores, limits)
    first, second = (str(request.TransactionUID) for request in silent.requests)
    assert first != second
    event = CommitmentEvent(first, frozenset(UIDS.values()), {})
    assert record_answer(stores.commitments, stores.audit, event, {"pacs"}) == {KEY}
    assert stores.deliveries.hasten(KEY)
    assert tried(stores, limits).state is DeliveryState.DONE


def test_an_answer_to_what_was_sent_before_says_nothing_about_what_is_sent_again(
    stores: NodeStores, silent: StubPacs
) -> None:
    limits = policy(silent, commitment=True)
    tried(stores, limits)
    transaction = str(silent.requests[0].TransactionUID)
    lost = CommitmentEvent(transaction, frozenset(), {UIDS["SR"]: 0x0112})
    record_answer(stores.commitments, stores.audit, lost, {"pacs"})
    assert tried(stores, limits).state is DeliveryState.PENDING
    assert tried(stores, limits).state is DeliveryState.SENT
    assert silent.received[UIDS["SR"]] == 2
    late = CommitmentEvent(transaction, frozenset(UIDS.values()), {})
    record_answer(stores.commitments, stores.audit, late, {"pacs"})
    assert committed(stores) == {"SEG", "PAGE"}


def test_an_answer_for_another_destination_or_of_an_unknown_transaction_is_not_taken(
    stores: NodeStores, silent: StubPacs
) -> None:
    tried(stores, policy(silent, commitment=True))
    transaction = str(silent.requests[0].TransactionUID)
    for uid, names in ((transaction, {"other"}), ("1.2.3", {"pacs"})):
        event = CommitmentEvent(uid, frozenset(UIDS.values()), {})
        assert record_answer(stores.commitments, stores.audit, event, names) == frozenset()
    assert committed(stores) == set()


def test_a_request_that_did_not_arrive_is_made_again_after_a_wait(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(stores, "pacs")
    with listening(StubPacs()) as pacs:
        limits = policy(pacs, commitment=True)
        with monkeypatch.context() as down:
            down.setattr("app.node.deliver.commitment.open_association", _unreachable)
            delivery = tried(stores, limits)
        assert (delivery.state, delivery.failures, delivery.proofs) == (DeliveryState.SENT, 1, 0)
        assert delivery.next_try_at is not None
        assert stores.commitments.asked(KEY) == ()
        assert tried(stores, limits).state is DeliveryState.DONE


def _unreachable(*_arguments: Any) -> Any:
    raise RetryLaterError("pacs can't be reached")


def test_an_answer_is_acknowledged_before_its_association_is_released() -> None:
    """However long it takes to write it down, and whoever knows of it earlier."""
    known: list[CommitmentEvent] = []

    def slowly(event: CommitmentEvent) -> None:
        known.append(event)
        time.sleep(0.5)

    with listening(StubPacs(kept={uid: Dataset() for uid in UIDS.values()})) as pacs:
        limits = policy(pacs, commitment=True)
        request = CommitmentRequest("1.2.3", (Reference("1.2", UIDS["SEG"]),))
        begun = time.monotonic()
        commitment.ask(request, limits.destinations[0], limits, slowly, lambda: bool(known))
        lasted = time.monotonic() - begun
        wait_until(lambda: bool(pacs.answers), "the PACS has its acknowledgement")
    assert [event.transaction_uid for event in known] == ["1.2.3"]
    assert [answer.Status for answer in pacs.answers] == [0x0000]
    assert lasted < limits.destinations[0].timeout_s


def test_an_answer_whose_thread_ends_amid_the_release_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pynetdicom then takes its paused reactor for a running one, and waits for it."""
    known: list[CommitmentEvent] = []
    serve = Association._serve_request

    def ends_late(association: Association, message: object, context_id: int) -> None:
        serve(association, message, context_id)
        time.sleep(0.3)
        association._is_paused = False  # as it does itself at its end

    def release(association: Association) -> None:
        association._reactor_checkpoint.clear()
        time.sleep(0.5)  # long enough for the thread's end
        assert association._is_paused, "it would wait for ever"
        association.abort()

    monkeypatch.setattr(Association, "_serve_request", ends_late)
    monkeypatch.setattr(Association, "release", release)
    with listening(StubPacs(kept={uid: Dataset() for uid in UIDS.values()})) as pacs:
        limits = policy(pacs, commitment=True)
        request = CommitmentRequest("1.2.3", (Reference("1.2", UIDS["SEG"]),))
        commitment.ask(request, limits.destinations[0], limits, known.append, lambda: bool(known))
    assert len(known) == 1
