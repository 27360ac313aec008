"""A report names as its predecessor only what a PACS has; what nobody has is neither named nor sent late."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from app.errors import RetryLaterError
from app.node.deliver.delivery import ResultDelivery
from app.node.deliver.scu import StoreResponse
from app.node.peers import DeliverPolicy, Destination
from app.node.policy import NodePolicy
from app.node.process.earlier_revisions import earlier_revisions
from app.node.process.work import AttemptKind
from app.node.records.deliveries import Delivery
from app.node.records.states import DeliveryKey, DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from tests.node.workflow.test_revisions import PACS, STUDY, give, record, result, two_contents

SECOND = RunKey(STUDY, 2)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path))
    yield opened
    opened.close()


class Pacs:
    """Takes so many instances, then can't be reached."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.taken: list[str] = []

    def send(
        self, paths: Sequence[Path], destination: Destination, title: str, limit_s: float
    ) -> tuple[StoreResponse, ...]:
        if len(self.taken) == self.takes:
            raise RetryLaterError("it is down")
        self.taken.append(paths[0].name)
        return (StoreResponse("1.2", 0, True),)


def tried(stores: NodeStores, run: RunKey, pacs: Pacs) -> Delivery:
    """One try to deliver a revision."""
    policy = DeliverPolicy(destinations=(Destination(PACS, "PACS", "localhost", 104),))
    delivery = ResultDelivery(stores, policy, pacs.send)
    key = DeliveryKey(run, PACS)
    attempt = stores.deliveries.get(key).attempt
    delivery.record(key, attempt, delivery.send(key, attempt))
    return stores.deliveries.get(key)


def processed(stores: NodeStores, tmp_path: Path, revision: int) -> RunKey:
    """A revision with results, planned for the PACS."""
    key = give(stores, revision, result(revision), StudyState.RUNNING)
    record(stores, tmp_path, key, AttemptKind.DONE)
    return key


def test_result_that_reached_no_destination_is_not_named_and_not_sent_late(
    stores: NodeStores, tmp_path: Path
) -> None:
    pacs = Pacs(takes=0)
    first = processed(stores, tmp_path, 1)
    assert tried(stores, first, pacs).state is DeliveryState.PENDING
    assert earlier_revisions(stores, SECOND).last_words == ()
    assert earlier_revisions(stores, SECOND).standing == ()
    second = processed(stores, tmp_path, 2)
    pacs.takes = 99
    assert tried(stores, second, pacs).state is DeliveryState.DONE
    assert tried(stores, first, pacs).state is DeliveryState.SUPERSEDED
    assert pacs.taken == ["SR.2.dcm", "PAGE.2.dcm", "SEG.2.dcm"], "the report first"


def test_result_of_which_a_pacs_has_a_part_is_named_by_its_report(stores: NodeStores, tmp_path: Path) -> None:
    tried(stores, processed(stores, tmp_path, 1), Pacs(takes=1))
    [word] = earlier_revisions(stores, SECOND).last_words
    assert word.sop_instance_uid == result(1).pairs[0].files[1].sop_instance_uid


def test_result_being_sent_makes_the_next_revision_wait(stores: NodeStores, tmp_path: Path) -> None:
    first = processed(stores, tmp_path, 1)
    stores.deliveries.begin(DeliveryKey(first, PACS), 1)
    with pytest.raises(RetryLaterError, match="revision 1 of the study is being sent"):
        earlier_revisions(stores, SECOND)


def test_result_is_not_sent_while_the_next_revision_is_processed(stores: NodeStores, tmp_path: Path) -> None:
    first = processed(stores, tmp_path, 1)
    give(stores, 2, None, StudyState.RUNNING)
    pacs = Pacs(takes=99)
    delivery = tried(stores, first, pacs)
    assert delivery.state is DeliveryState.PENDING
    assert delivery.reason == "revision 2, being processed, may take its place"
    assert pacs.taken == []


def test_unsent_result_is_dropped_when_the_later_content_is_rejected(
    stores: NodeStores, tmp_path: Path
) -> None:
    first = processed(stores, tmp_path, 1)
    give(stores, 2, None, StudyState.REJECTED)
    assert tried(stores, first, Pacs(takes=99)).state is DeliveryState.SUPERSEDED


def test_unsent_result_is_sent_although_two_contents_came_after_it(
    stores: NodeStores, tmp_path: Path
) -> None:
    """A version before queued the conflict, where this one waits for a person's choice."""
    first = processed(stores, tmp_path, 1)
    second = give(stores, 2, two_contents(), StudyState.RUNNING)
    assert record(stores, tmp_path, second, AttemptKind.REJECTED) == StudyState.REJECTED
    assert tried(stores, first, Pacs(takes=99)).state is DeliveryState.DONE
