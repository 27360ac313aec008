"""What a PACS answers wrongly is no answer: nothing counts as delivered, and nothing as refused for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import RetryLaterError
from app.node.deliver.scu import send
from tests.node.deliver.raw_pacs import C_ECHO_RSP, EXPLICIT, IMPLICIT, Reply, accept, raw_pacs
from tests.node.receive.images import write_study

BOTH = accept((1, 0, EXPLICIT), (3, 0, IMPLICIT))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_study(tmp_path, 1)


def test_a_pacs_of_bytes_that_answers_rightly_has_the_instance(files: list[Path]) -> None:
    with raw_pacs(BOTH, Reply()) as pacs:
        assert [answer.ok for answer in send(files, pacs, "PSMA_NODE", 5.0)] == [True]


def test_a_class_that_is_rejected_in_so_many_words_is_refused_for_good(files: list[Path]) -> None:
    with raw_pacs(accept((1, 3, EXPLICIT), (3, 4, IMPLICIT))) as pacs:
        assert [(one.ok, one.status) for one in send(files, pacs, "PSMA_NODE", 5.0)] == [(False, 0x0122)]


@pytest.mark.parametrize(
    "garbled",
    [
        accept(),
        accept((77, 0, EXPLICIT)),
        accept((1, 2, EXPLICIT), (3, 2, IMPLICIT)),
        accept((1, 3, EXPLICIT)),
        accept((1, 0, b"1.2.840.10008.1.2.4.50"), (3, 3, IMPLICIT)),
        BOTH[:40],
        BOTH[:6] + b"\xff" * (len(BOTH) - 6),
        BOTH[:80] + bytes(len(BOTH) - 80),
        b"HTTP/1.0 400 Bad Request\r\n\r\n",
    ],
)
def test_a_garbled_acceptance_is_a_passing_fault(files: list[Path], garbled: bytes) -> None:
    with raw_pacs(garbled) as pacs, pytest.raises(RetryLaterError):
        send(files, pacs, "PSMA_NODE", 2.0)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(message_id=4711),
        Reply(sop_instance_uid="1.2.3.4"),
        Reply(field=C_ECHO_RSP),
        Reply(message_id=0, field=C_ECHO_RSP),
    ],
)
def test_an_answer_to_another_message_acknowledges_nothing(files: list[Path], reply: Reply) -> None:
    with raw_pacs(BOTH, reply) as pacs, pytest.raises(RetryLaterError):
        send(files, pacs, "PSMA_NODE", 2.0)


def test_an_answer_that_comes_twice_does_not_acknowledge_the_next_instance(tmp_path: Path) -> None:
    files = write_study(tmp_path, 2)
    with (
        raw_pacs(BOTH, Reply(), Reply(message_id=1)) as pacs,
        pytest.raises(RetryLaterError, match="another"),
    ):
        send(files, pacs, "PSMA_NODE", 2.0)
