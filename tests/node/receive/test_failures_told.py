"""Every association that fails is one line with address, titles and a plain reason."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from pydicom.uid import PositronEmissionTomographyImageStorage

from app.node.peers import Caller
from app.node.receive.association_guard import CLOSED
from app.node.receive.listener import MADE_ROOM, MAX_STRANGER_CONNECTIONS, TOO_MANY_STRANGERS, GuardedServer
from app.node.receive.reception import Reception, ReceptionEvent
from app.node.receive.scp import StoreScp
from app.node.records.inbox import Inbox
from tests.node.receive.images import ct_slice, encoded
from tests.node.receive.wire import (
    A_ABORT,
    A_RELEASE_RQ,
    COMMAND,
    CONTEXT,
    LAST,
    PATIENCE_S,
    association_request,
    fragment,
    in_one_pdu,
    pdu,
    store_command,
    wire,
)

Listen = Callable[..., StoreScp]
REJECTED, FAILED = ReceptionEvent.ASSOCIATION_REJECTED, ReceptionEvent.ASSOCIATION_FAILED
CALLING = slice(26, 42)
CALLED = slice(10, 26)


def told(receptions: list[Reception], count: int = 1) -> list[Reception]:
    deadline = time.monotonic() + PATIENCE_S
    while len(receptions) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)  # for a second line, which must not come
    assert len(receptions) == count
    return receptions


def request(**titles: bytes) -> bytes:
    """An association request with other titles, or another application context."""
    content = bytearray(association_request())
    for name, title in titles.items():
        if name == "context":
            content = bytearray(bytes(content).replace(b"1.2.840.10008.3.1.1.1", title))
        else:
            content[CALLING if name == "calling" else CALLED] = title
    return bytes(content)


def exchange(port: int, content: bytes) -> bytes:
    """What is answered until the node ends the connection."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(content)
        answer = b""
        try:
            while part := connection.recv(4096):
                answer += part
        except ConnectionResetError:
            pass
        return answer


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", "this is HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), "begins TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no DICOM"),
        (b"\x04\x00\x00\x00\x00\x06abcdef", "a PDU of type 4 came before any association request"),
        (b"\x01\x00\x00\x00\x00\x04abcd", "damaged"),
        (b"\x01\x00\xff\xff\xff\xf0", "4294967280 bytes was announced"),
        (association_request()[:6] + b"\0\2" + association_request()[8:], "protocol version 1"),
    ],
)
def test_what_is_no_association_request_is_one_line_in_plain_words(
    listen: Listen, receptions: list[Reception], content: bytes, words: str
) -> None:
    exchange(listen(association_timeout_s=0.5).port, content)
    (reception,) = told(receptions)
    assert (reception.event, reception.address) == (REJECTED, "127.0.0.1")
    assert words in reception.detail


@pytest.mark.parametrize(
    ("changes", "reason", "titles", "words"),
    [
        ({"calling": b"SCANNER" + bytes(9)}, 3, ("SCANNER", "PSMA_NODE"), "padded with NUL"),
        ({"called": b"PSMA_NODE" + bytes(7)}, 7, ("SCANNER", "PSMA_NODE"), "padded with NUL"),
        ({"calling": b" " * 16}, 3, ("", "PSMA_NODE"), "the calling AE title is blank"),
        ({"called": b" " * 16}, 7, ("SCANNER", ""), "the called AE title is blank"),
        ({"calling": b"SCANNER\n".ljust(16)}, 3, ("SCANNER?", "PSMA_NODE"), "character"),
        ({"calling": "CAFÉ".encode("latin-1").ljust(16)}, 3, ("CAF?", "PSMA_NODE"), "character"),
        ({"context": b"1.2.840.10008.3.1.1.9"}, 2, ("SCANNER", "PSMA_NODE"), "application context"),
    ],
)
def test_a_request_that_ps38_does_not_allow_is_rejected_with_its_reason(
    scp: StoreScp,
    receptions: list[Reception],
    changes: dict[str, bytes],
    reason: int,
    titles: tuple[str, str],
    words: str,
) -> None:
    answer = exchange(scp.port, request(**changes))
    assert (answer[0], answer[7:10]) == (3, bytes((1, 1, reason)))
    (reception,) = told(receptions)
    assert (reception.event, (reception.calling_ae, reception.called_ae)) == (REJECTED, titles)
    assert reception.listener == f"port {scp.port}"
    assert words in reception.detail


def half_a_command(port: int) -> None:
    with wire(port) as peer:
        peer.send(pdu(fragment(CONTEXT, COMMAND, b"half")))


def half_a_pdu(port: int) -> None:
    with wire(port) as peer:
        peer.send(pdu(fragment(CONTEXT, COMMAND | LAST, b"x" * 50))[:30])


def an_abort(port: int) -> None:
    with wire(port) as peer:
        peer.send(A_ABORT)
        peer.read(1)


def an_end(port: int) -> None:
    with wire(port):
        pass


def a_wrong_fragment(port: int) -> None:
    with wire(port) as peer:
        peer.send(pdu(struct.pack(">LBB", 5000, CONTEXT, LAST)))
        peer.read(1)


def another_context(port: int) -> None:
    with wire(port) as peer:
        peer.send(in_one_pdu(99, store_command(ct_slice(1)), encoded(ct_slice(1))))
        peer.read(1)


def silence(port: int) -> None:
    with wire(port) as peer:
        peer.read(1)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (half_a_command, CLOSED),
        (half_a_pdu, CLOSED),
        (an_end, CLOSED),
        (an_abort, "the sender aborted the association"),
        (a_wrong_fragment, "a fragment is longer than its PDU"),
        (another_context, "a request in a presentation context that was not accepted"),
        (silence, "nothing came for 0.5 s"),
    ],
)
def test_an_association_that_ends_without_a_release_is_one_line(
    listen: Listen, receptions: list[Reception], way: Callable[[int], None], words: str
) -> None:
    way(listen(idle_timeout_s=0.5).port)
    (reception,) = told(receptions)
    assert (reception.event, reception.detail) == (FAILED, words)
    assert (reception.calling_ae, reception.called_ae, reception.address) == (
        "SCANNER",
        "PSMA_NODE",
        "127.0.0.1",
    )


def test_what_goes_well_and_a_port_check_are_no_line(scp: StoreScp, receptions: list[Reception]) -> None:
    with socket.create_connection(("127.0.0.1", scp.port)):
        pass
    with wire(scp.port) as peer:
        peer.release()
    told(receptions, 0)


def test_silence_is_one_line_when_its_time_is_up(listen: Listen, receptions: list[Reception]) -> None:
    scp = listen(association_timeout_s=0.2)
    with socket.create_connection(("127.0.0.1", scp.port), PATIENCE_S) as connection:
        assert connection.recv(1) == b""
    (reception,) = told(receptions)
    assert (reception.event, reception.detail) == (REJECTED, "no association request came for 0.2 s")


def test_what_is_open_when_the_node_stops_is_one_line(listen: Listen, receptions: list[Reception]) -> None:
    scp = listen()
    with wire(scp.port):
        scp.stop(drain_s=0)
        (reception,) = told(receptions)
    assert (reception.event, reception.detail) == (FAILED, "the node was stopped")


def test_five_hundred_idle_connections_hold_no_thread_and_the_oldest_give_way(
    listen: Listen, receptions: list[Reception]
) -> None:
    """The next one that asks is served, and those that said nothing last are still there."""
    scp = listen(max_associations=32, association_timeout_s=300.0)
    before = threading.active_count()
    idle = [socket.create_connection(("127.0.0.1", scp.port), PATIENCE_S) for _ in range(500)]
    try:
        with wire(scp.port) as peer:
            assert threading.active_count() <= before + 2
            image = ct_slice(1)
            peer.send(in_one_pdu(CONTEXT, store_command(image), encoded(image)))
            assert peer.answer().Status == 0
            peer.release()
        for connection in (idle[0], idle[499 - 4 * 32 - 1]):
            assert connection.recv(1) == b""
        idle[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            idle[-1].recv(1)
    finally:
        for connection in idle:
            connection.close()
    assert {one.detail for one in receptions if one.event is REJECTED} == {MADE_ROOM}


def test_strangers_have_a_few_connections_at_most(listen: Listen, receptions: list[Reception]) -> None:
    scp = listen(allowed_callers=(Caller("SCANNER", ("192.0.2.1",)),))
    strangers = [
        socket.create_connection(("127.0.0.1", scp.port), PATIENCE_S)
        for _ in range(MAX_STRANGER_CONNECTIONS + 1)
    ]
    try:
        assert strangers[-1].recv(1) == b""
        assert [reception.detail for reception in told(receptions)] == [TOO_MANY_STRANGERS]
        strangers[0].sendall(association_request())
        assert strangers[0].recv(1) == b"\3"
    finally:
        for connection in strangers:
            connection.close()


def test_a_connection_that_can_not_be_served_does_not_end_the_listener(
    scp: StoreScp, receptions: list[Reception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no thread can be started")

    with monkeypatch.context() as patch:
        patch.setattr(GuardedServer, "finish_request", fail)
        assert exchange(scp.port, association_request()) == b""
        assert "could not serve it" in told(receptions)[0].detail
    with wire(scp.port) as peer:
        peer.release()


def test_a_caller_has_no_more_associations_than_its_limit(
    listen: Listen, receptions: list[Reception]
) -> None:
    scp = listen(allowed_callers=(Caller("SCANNER", max_associations=1), Caller("PACS")))
    with wire(scp.port) as first:
        answer = exchange(scp.port, request())
        assert (answer[0], answer[7:10]) == (3, bytes((2, 3, 2)))
        (reception,) = told(receptions)
        assert "1 associations of this caller" in reception.detail
        with socket.create_connection(("127.0.0.1", scp.port), PATIENCE_S) as other:
            other.sendall(request(calling=b"PACS".ljust(16)))
            assert other.recv(1) == b"\2"
            other.sendall(A_RELEASE_RQ)
            while other.recv(4096):
                pass
        first.release()
    with wire(scp.port) as again:
        again.release()


@pytest.mark.parametrize("missing", [("AffectedSOPClassUID",), ("AffectedSOPInstanceUID",)])
def test_a_store_without_a_uid_in_its_command_is_answered(
    scp: StoreScp, inbox: Inbox, missing: tuple[str, ...]
) -> None:
    image = ct_slice(1)
    from io import BytesIO

    from pydicom.dataset import Dataset
    from pynetdicom.dsutils import decode, encode

    command: Dataset = decode(BytesIO(store_command(image)), True, True)
    for keyword in missing:
        delattr(command, keyword)
    with wire(scp.port) as peer:
        peer.send(in_one_pdu(CONTEXT, encode(command, True, True) or b"", encoded(image)))
        answer = peer.answer()
        assert (answer.Status, answer.MessageIDBeingRespondedTo) == (0xC000, 7)
        assert f"{missing[0]} is not a valid UID" in answer.ErrorComment
        peer.release()
    assert inbox.studies() == ()


def test_an_instance_in_a_context_of_another_class_is_refused(
    scp: StoreScp, inbox: Inbox, receptions: list[Reception]
) -> None:
    image = ct_slice(1)
    image.SOPClassUID = PositronEmissionTomographyImageStorage
    with wire(scp.port) as peer:
        peer.send(in_one_pdu(CONTEXT, store_command(image), encoded(image)))
        answer = peer.answer()
        assert (answer.Status, answer.ErrorComment) == (
            0xA900,
            "AffectedSOPClassUID is not the class of its presentation context",
        )
        peer.release()
    assert inbox.studies() == ()
    assert [reception.event for reception in receptions] == [ReceptionEvent.REFUSED]


def test_a_slow_link_has_its_time_as_long_as_something_comes(listen: Listen, inbox: Inbox) -> None:
    """The whole takes longer than pdu_timeout_s; no pause does."""
    scp = listen(pdu_timeout_s=0.4)
    image = ct_slice(1)
    message = in_one_pdu(CONTEXT, store_command(image), encoded(image))
    with wire(scp.port) as peer:
        for at in range(0, len(message), 150):
            peer.send(message[at : at + 150])
            time.sleep(0.1)
        assert peer.answer().Status == 0
        peer.release()


def test_single_bytes_do_not_hold_an_association(
    listen: Listen, receptions: list[Reception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.node.receive.association_guard.SLOWEST_BYTES_PER_S", 1e6)
    scp = listen(pdu_timeout_s=0.4)
    with wire(scp.port) as peer, pytest.raises(OSError):
        for byte in in_one_pdu(CONTEXT, store_command(ct_slice(1)), encoded(ct_slice(1))):
            peer.send(bytes((byte,)))
            time.sleep(0.05)
    (reception,) = told(receptions)
    assert "did not go on" in reception.detail
