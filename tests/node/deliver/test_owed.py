"""Answers owed to senders: one that is off holds up no other, nor the end of the node."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.errors import RetryLaterError
from app.node.deliver.owed import GIVEN_UP_AFTER, OwedAnswers
from app.node.peers import Caller, DeliverPolicy, Destination, ReceivePolicy
from app.node.policy import NodePolicy
from app.node.records.commitment_messages import CommitmentRequest, Reference
from app.node.records.database import utc_now
from app.node.records.stores import NodeStores, open_stores

RECEIVE = ReceivePolicy(allowed_callers=(Caller("*", ("10.0.0.0/8",), commitment_port=104),))


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: datetime = utc_now() + timedelta(seconds=1)
        monkeypatch.setattr("app.node.deliver.owed.utc_now", lambda: self.now)


def owe(stores: NodeStores, title: str, address: str, number: int) -> None:
    request = CommitmentRequest(f"1.2.{number}", (Reference("1.2", "1.2.3"),))
    stores.commitments.owe(title, address, request, utc_now(), by_tls=False)


class Senders:
    """What goes out to whom; 10.0.0.1 is off."""

    def __init__(self) -> None:
        self.tries: list[str] = []

    def report(self, request: CommitmentRequest, _failed: object, peer: Destination, _policy: object) -> None:
        self.tries.append(f"{request.transaction_uid} {peer.host}")
        if peer.host == "10.0.0.1":
            raise RetryLaterError("it is off")


def test_a_sender_that_is_off_is_tried_once_a_round_however_much_it_is_owed(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, senders = Clock(monkeypatch), Senders()
    for number in range(4):
        owe(stores, "OFF", "10.0.0.1", number)
    owe(stores, "ON", "10.0.0.2", 9)
    answers = OwedAnswers(stores, RECEIVE, DeliverPolicy(first_retry_s=10.0), senders.report)
    answers.tell()
    assert senders.tries == ["1.2.0 10.0.0.1", "1.2.9 10.0.0.2"]
    clock.now += timedelta(seconds=9)
    answers.tell()
    assert len(senders.tries) == 2
    clock.now += timedelta(seconds=1)
    answers.tell()
    assert senders.tries[2:] == ["1.2.0 10.0.0.1"]
    assert [one.tries for one in stores.commitments.owed()] == [2, 0, 0, 0]
    clock.now += GIVEN_UP_AFTER
    for _ in range(4):
        answers.tell()
        clock.now += timedelta(seconds=3600)
    assert stores.commitments.owed() == ()


def test_new_settings_end_the_rest_of_a_sender(stores: NodeStores, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    senders = Senders()
    for number in range(2):
        owe(stores, "OFF", "10.0.0.1", number)
    answers = OwedAnswers(stores, RECEIVE, DeliverPolicy(), senders.report)
    answers.tell()
    answers.follow(RECEIVE, DeliverPolicy())
    answers.tell()
    assert senders.tries == ["1.2.0 10.0.0.1", "1.2.1 10.0.0.1"]


def test_a_node_that_stops_begins_no_further_answer(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    senders = Senders()
    for number in range(2):
        owe(stores, "ON", f"10.0.1.{number}", number)
    OwedAnswers(stores, RECEIVE, DeliverPolicy(), senders.report, lambda: bool(senders.tries)).tell()
    assert len(senders.tries) == 1
    assert len(stores.commitments.owed()) == 1


def test_what_its_own_association_may_still_answer_is_not_sent_elsewhere(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    senders = Senders()
    for number in range(2):
        owe(stores, "ON", "10.0.0.2", number)
    OwedAnswers(
        stores,
        RECEIVE,
        DeliverPolicy(),
        senders.report,
        is_answered_there=lambda owed: owed.transaction_uid == "1.2.0",
    ).tell()
    assert senders.tries == ["1.2.1 10.0.0.2"]


def test_a_clock_that_was_ahead_leaves_no_sender_without_its_answer(stores: NodeStores) -> None:
    senders = Senders()
    request = CommitmentRequest("1.2.0", (Reference("1.2", "1.2.3"),))
    a_year_ahead = utc_now() + timedelta(days=365)
    stores.commitments.owe("ON", "10.0.0.2", request, a_year_ahead, by_tls=False)
    OwedAnswers(stores, RECEIVE, DeliverPolicy(), senders.report).tell()
    assert senders.tries == ["1.2.0 10.0.0.2"]


def test_a_clock_that_is_set_back_makes_no_sender_wait_longer(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, senders, steady_s = Clock(monkeypatch), Senders(), [100.0]
    monkeypatch.setattr("app.node.deliver.owed.time", SimpleNamespace(monotonic=lambda: steady_s[0]))
    owe(stores, "OFF", "10.0.0.1", 1)
    answers = OwedAnswers(stores, RECEIVE, DeliverPolicy(first_retry_s=10.0), senders.report)
    answers.tell()
    clock.now -= timedelta(minutes=30)
    for passed_s in (9.0, 1.0):
        assert len(senders.tries) == 1
        steady_s[0] += passed_s
        answers.tell()
    assert len(senders.tries) == 2
