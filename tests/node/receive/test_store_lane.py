"""C-STORE requests in every form that PS3.8 allows, and in some that it doesn't, byte for byte."""

from __future__ import annotations

import queue
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from types import SimpleNamespace

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import Verification
from sqlalchemy import Engine, delete

from app.node.receive import association_guard, store_lane
from app.node.receive.association_guard import MAX_COMMAND_SET_BYTES, GuardedSocket, Limits
from app.node.receive.reception import Reception, ReceptionEvent
from app.node.receive.scp import StoreScp
from app.node.receive.store_lane import StoreRequest
from app.node.records.inbox import Inbox, Recovery
from app.node.records.inbox_index import InstanceRow
from app.node.records.instances import IMPLEMENTATION_CLASS_UID, StoreCommand
from tests.node.receive.images import STUDY, ct_slice, encoded
from tests.node.receive.wire import (
    A_ABORT,
    A_RELEASE_RQ,
    COMMAND,
    CONTEXT,
    LAST,
    PATIENCE_S,
    fragment,
    in_one_pdu,
    pdu,
    store_command,
    wire,
)


def command_in_pieces(context: int, command: bytes, data: bytes) -> bytes:
    pieces = [pdu(fragment(context, COMMAND, command[at : at + 9])) for at in range(0, len(command), 9)]
    return b"".join(
        (*pieces, pdu(fragment(context, COMMAND | LAST, b"")), pdu(fragment(context, LAST, data)))
    )


def data_in_pieces(context: int, command: bytes, data: bytes) -> bytes:
    """Several fragments a PDU, the last of them empty."""
    pieces = [fragment(context, 0, data[at : at + 50]) for at in range(0, len(data), 50)]
    groups = [pdu(*pieces[at : at + 3]) for at in range(0, len(pieces), 3)]
    return b"".join(
        (pdu(fragment(context, COMMAND | LAST, command)), *groups, pdu(fragment(context, LAST, b"")))
    )


def first_data_with_command(context: int, command: bytes, data: bytes) -> bytes:
    first = pdu(fragment(context, COMMAND | LAST, command), fragment(context, 0, data[:100]))
    return first + pdu(fragment(context, LAST, data[100:]))


@pytest.mark.parametrize("form", [in_one_pdu, command_in_pieces, data_in_pieces, first_data_with_command])
@pytest.mark.parametrize("dripping", [False, True])
def test_every_way_to_cut_a_request_stores_the_same_bytes(
    scp: StoreScp, inbox: Inbox, form: Callable[[int, bytes, bytes], bytes], dripping: bool
) -> None:
    image = ct_slice(1)
    data = encoded(image)
    with wire(scp.port) as peer:
        message = form(CONTEXT, store_command(image), data)
        for at in range(0, len(message), 37 if dripping else len(message)):
            peer.send(message[at : at + (37 if dripping else len(message))])
        answer = peer.answer()
        assert answer is not None
        assert (answer.Status, answer.MessageIDBeingRespondedTo) == (0, 7)
        assert answer.AffectedSOPInstanceUID == image.SOPInstanceUID
        peer.release()
    (path,) = inbox.paths(STUDY)
    assert path.read_bytes().endswith(data)


def test_requests_that_do_not_wait_are_answered_in_their_order_with_an_echo_among_them(
    scp: StoreScp, inbox: Inbox
) -> None:
    echo = Dataset()
    echo.AffectedSOPClassUID = Verification
    echo.CommandField, echo.MessageID, echo.CommandDataSetType = 0x0030, 99, 0x0101
    content = encode(echo, True, True) or b""
    with wire(scp.port) as peer:
        stores = [
            in_one_pdu(CONTEXT, store_command(ct_slice(number), number), encoded(ct_slice(number)))
            for number in (1, 2, 3)
        ]
        peer.send(stores[0], stores[1], pdu(fragment(1, COMMAND | LAST, content)))
        ids = [peer.answer().MessageIDBeingRespondedTo for _ in range(3)]
        assert ids == [1, 2, 99]
        peer.send(stores[2], A_RELEASE_RQ)
        assert peer.answer().MessageIDBeingRespondedTo == 3
        assert peer.read(10)[0] == 6
    assert len(inbox.paths(STUDY)) == 3


def test_no_answer_stands_in_the_middle_of_a_report(
    scp: StoreScp, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report of several PDUs, put up to be sent one by one while images come."""
    send_pdu, images = DULServiceProvider.send_pdu, [ct_slice(number) for number in range(1, 4)]
    slow = threading.Event()

    def send_slowly(self: DULServiceProvider, primitive: object) -> None:
        send_pdu(self, primitive)
        if threading.current_thread().name == "report":
            slow.set()
            time.sleep(0.1)

    monkeypatch.setattr(DULServiceProvider, "send_pdu", send_slowly)
    with wire(scp.port, max_pdu_bytes=128) as peer:
        (association,) = scp._associations()
        report = N_EVENT_REPORT()
        report.AffectedSOPClassUID = report.AffectedSOPInstanceUID = "1.2.3"
        report.EventTypeID, report.EventInformation = 1, BytesIO(bytes(600))
        arguments = (report, 1, lambda: None)
        reporting = threading.Thread(target=association.dimse.report, args=arguments, name="report")
        reporting.start()
        assert slow.wait(PATIENCE_S)
        for number, image in enumerate(images):
            peer.send(in_one_pdu(CONTEXT, store_command(image, number + 1), encoded(image)))
        parts = [peer.whole(COMMAND), peer.whole(0), *(peer.whole(COMMAND) for _ in images)]
        reporting.join()
        peer.release()
    assert [found and found[0] for found in parts] == [1, 1, *[CONTEXT] * 3]
    assert parts[1] == (1, bytes(600))
    assert len(inbox.paths(STUDY)) == 3


def broken_off(context: int, command: bytes, data: bytes) -> bytes:
    return in_one_pdu(context, command, data)[:-20]


def other_context(context: int, command: bytes, data: bytes) -> bytes:
    return pdu(fragment(context, COMMAND | LAST, command), fragment(context + 2, LAST, data))


def another_command(context: int, command: bytes, data: bytes) -> bytes:
    return pdu(fragment(context, COMMAND | LAST, command), fragment(context, 0, data[:9])) + pdu(
        fragment(context, COMMAND | LAST, command)
    )


def something_behind(context: int, command: bytes, data: bytes) -> bytes:
    last = fragment(context, LAST, data)
    return pdu(fragment(context, COMMAND | LAST, command), last, last)


def fragment_beyond_its_pdu(context: int, command: bytes, data: bytes) -> bytes:
    return pdu(fragment(context, COMMAND | LAST, command), struct.pack(">LBB", 5000, context, LAST) + data)


def fragment_without_header(context: int, command: bytes, data: bytes) -> bytes:
    return pdu(fragment(context, COMMAND | LAST, command), b"\0\0\0")


def data_without_command(context: int, command: bytes, data: bytes) -> bytes:
    return pdu(fragment(context, LAST, data))


def endless_command(context: int, command: bytes, data: bytes) -> bytes:
    return pdu(fragment(context, COMMAND, bytes(MAX_COMMAND_SET_BYTES + 1))) * 2


def aborted(context: int, command: bytes, data: bytes) -> bytes:
    return pdu(fragment(context, COMMAND | LAST, command), fragment(context, 0, data[:100])) + A_ABORT


@pytest.mark.parametrize(
    "form",
    [
        broken_off,
        other_context,
        another_command,
        something_behind,
        fragment_beyond_its_pdu,
        fragment_without_header,
        data_without_command,
        endless_command,
        aborted,
    ],
)
def test_what_ps38_does_not_allow_ends_the_association_and_keeps_nothing(
    scp: StoreScp, inbox: Inbox, form: Callable[[int, bytes, bytes], bytes]
) -> None:
    image = ct_slice(1)
    with wire(scp.port) as peer:
        peer.send(form(CONTEXT, store_command(image), encoded(image)))
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.answer() is None
    assert inbox.studies() == ()
    with wire(scp.port) as peer:
        peer.send(in_one_pdu(CONTEXT, store_command(image), encoded(image)))
        assert peer.answer().Status == 0


def test_a_message_that_stops_in_the_middle_does_not_hold_its_association(
    listen: Callable[..., StoreScp], inbox: Inbox
) -> None:
    scp = listen(idle_timeout_s=0.3)
    image = ct_slice(1)
    with wire(scp.port) as peer:
        peer.send(pdu(fragment(CONTEXT, COMMAND | LAST, store_command(image))))
        assert peer.answer() is None
    assert inbox.studies() == ()


def test_stopping_does_not_wait_for_the_rest_of_a_message(scp: StoreScp, inbox: Inbox) -> None:
    image = ct_slice(1)
    with wire(scp.port) as peer:
        peer.send(pdu(fragment(CONTEXT, COMMAND | LAST, store_command(image))))
        stopper = threading.Thread(target=scp.stop, args=(0.1,))
        stopper.start()
        assert peer.answer() is None
    stopper.join(PATIENCE_S)
    assert not stopper.is_alive()
    assert inbox.studies() == ()


def test_half_a_pdu_of_a_data_set_does_not_hold_its_association(
    listen: Callable[..., StoreScp], inbox: Inbox
) -> None:
    scp = listen(pdu_timeout_s=0.3)
    image = ct_slice(1)
    with wire(scp.port) as peer:
        peer.send(in_one_pdu(CONTEXT, store_command(image), encoded(image))[:-20])
        assert peer.answer() is None
    assert inbox.studies() == ()


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_pdu_may_pause_inside_its_header(scp: StoreScp, inbox: Inbox, cut: int) -> None:
    """Its first bytes come with the request before it, the rest long after the lane's pause."""
    first, second = (
        in_one_pdu(CONTEXT, store_command(ct_slice(number), number), encoded(ct_slice(number)))
        for number in (1, 2)
    )
    with wire(scp.port) as peer:
        peer.send(first + second[:cut])
        assert peer.answer().Status == 0
        time.sleep(4 * store_lane.PAUSE_S)
        peer.send(second[cut:])
        assert peer.answer().Status == 0
        peer.release()
    assert len(inbox.paths(STUDY)) == 2


def test_waiting_in_vain_is_no_fault_of_the_peer_however_the_threads_are_switched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pause ends between two readings of the clock; what is sent afterwards has its whole time again."""
    instants = iter((0.0, 0.04, 0.06, 0.08))
    monkeypatch.setattr(association_guard, "time", SimpleNamespace(monotonic=lambda: next(instants)))
    association = SimpleNamespace(dul=SimpleNamespace(event_queue=queue.Queue()))
    limits = Limits(1000, 30.0, 1, lambda _: True)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as ours,
    ):
        reader = GuardedSocket(association, ours, limits)
        assert reader.next_pdu(0.05) is None
        assert not reader.is_hung_up
        assert ours.gettimeout() == 30.0


@pytest.mark.parametrize("limit", range(1, 7))
def test_a_peer_that_takes_no_answer_is_aborted_before_anything_is_kept(
    scp: StoreScp, inbox: Inbox, limit: int
) -> None:
    """A fragment's header alone has six bytes."""
    image = ct_slice(1)
    with wire(scp.port, max_pdu_bytes=limit) as peer:
        peer.send(in_one_pdu(CONTEXT, store_command(image), encoded(image)))
        assert peer.read(1)[0] == A_ABORT[0]
    assert inbox.studies() == ()


def test_a_request_without_uids_is_refused_in_words(scp: StoreScp, receptions: list[Reception]) -> None:
    image = ct_slice(1)
    with wire(scp.port) as peer:
        command = store_command(image, AffectedSOPInstanceUID="")
        peer.send(in_one_pdu(CONTEXT, command, encoded(image)))
        answer = peer.answer()
        assert (answer.Status, answer.ErrorComment) == (
            0xC000,
            "AffectedSOPInstanceUID is not a valid UID: empty",
        )
        peer.release()
    assert [reception.event for reception in receptions] == [ReceptionEvent.REFUSED]


def test_a_request_without_a_data_set_is_refused_in_words(scp: StoreScp, inbox: Inbox) -> None:
    image = ct_slice(1)
    with wire(scp.port) as peer:
        command = store_command(image, CommandDataSetType=0x0101)
        peer.send(pdu(fragment(CONTEXT, COMMAND | LAST, command)))
        assert peer.answer().Status == 0xC000
        peer.release()
    assert inbox.studies() == ()


@pytest.mark.parametrize("comment", ["", "odd", "even", "x" * 100])
@pytest.mark.parametrize("limit", [0, 40, 16_384])
def test_the_answer_is_the_one_that_pynetdicom_would_give(comment: str, limit: int) -> None:
    image = ct_slice(1)
    sop_class = str(CTImageStorage).encode() + b"\0"
    uid = image.SOPInstanceUID.encode()
    request = StoreRequest(3, 7, sop_class, uid + b"\0" * (len(uid) % 2))
    ours = store_lane._pdus(3, store_lane._answer(request, 0xA700, comment), limit)

    answer = C_STORE()
    answer.MessageIDBeingRespondedTo = 7
    answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    answer.Status = 0xA700
    if comment:
        answer.ErrorComment = comment[:64]
    message = C_STORE_RSP()
    message.primitive_to_message(answer)
    message.context_id = 3
    theirs = b"".join(P_DATA_TF(part).encode() for part in message.encode_msg(3, limit))
    assert ours == theirs


def test_the_file_meta_information_is_the_one_that_pydicom_would_write() -> None:
    for uid, calling in (("1.2.3", "SCANNER"), ("1.2.34", "PACS"), ("1.2.3", "")):
        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\0\1"
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = UID(uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
        meta.ImplementationVersionName = "PSMA_NODE"
        meta.SourceApplicationEntityTitle = calling
        buffer = BytesIO()
        write_file_meta_info(buffer, meta)
        command = StoreCommand(uid, str(CTImageStorage), str(ExplicitVRLittleEndian), calling)
        assert command.file_meta() == b"DICM" + buffer.getvalue()


def test_four_associations_at_once_store_all_that_they_send(scp: StoreScp, inbox: Inbox) -> None:
    def send(first: int) -> None:
        with wire(scp.port) as peer:
            for number in range(first, first + 10):
                image = ct_slice(number, size=256)
                peer.send(data_in_pieces(CONTEXT, store_command(image, number), encoded(image)))
                assert peer.answer().Status == 0

    threads = [threading.Thread(target=send, args=(10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inbox.paths(STUDY)) == 40
    assert inbox.content(STUDY).damaged() == 0


def test_no_data_set_is_held_whole_in_memory(scp: StoreScp, inbox: Inbox, engine: Engine) -> None:
    """Neither when it comes, nor when it is found after a kill, nor when it is looked at again."""
    image, count = ct_slice(1), 400
    image.PixelData = b""
    start = encoded(image)[:-8]
    piece = bytes(131_000)
    pixels = struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OW", count * len(piece))
    tracemalloc.start()
    with wire(scp.port) as peer:
        peer.send(pdu(fragment(CONTEXT, COMMAND | LAST, store_command(image))))
        peer.send(pdu(fragment(CONTEXT, 0, start + pixels)))
        for _ in range(count - 1):
            peer.send(pdu(fragment(CONTEXT, 0, piece)))
        peer.send(pdu(fragment(CONTEXT, LAST, piece)))
        assert peer.answer().Status == 0
        peer.release()
    inbox.settle()
    with engine.begin() as connection:
        connection.execute(delete(InstanceRow))
    after_restart = Inbox(inbox.folder, engine)
    scp.stop()
    assert after_restart.recover() == Recovery(indexed=1)
    assert after_restart.content(STUDY).damaged() == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (row,) = after_restart.content(STUDY).rows
    assert row.bytes > count * len(piece) > 50e6
    assert peak < 25e6  # 17 MB of it for the hashes of what was seen
