from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    EnhancedPETImageStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from app.errors import MisconfiguredError
from app.node.peers import Caller, ReceivePolicy
from app.node.receive.reception import Reception, ReceptionEvent
from app.node.receive.scp import StoreScp
from app.node.records.database import open_database
from app.node.records.inbox import Inbox, Stored
from app.node.records.slots import is_unused
from tests.node.receive.images import STUDY, ct_slice, encoded, write_study
from tests.node.receive.peers import Request, raw_sender, run_dcmtk
from tests.node.receive.wire import CONTEXT, in_one_pdu, store_command, wire

Listen = Callable[..., StoreScp]

PATIENCE_S = 20.0


def storescu(port: int, *paths: str | Path, calling: str = "SCANNER", called: str = "PSMA_NODE") -> int:
    options = ("-aet", calling, "-aec", called, "127.0.0.1", port, "+sd", "+r")
    return run_dcmtk("storescu", *options, *paths).returncode


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def written(inbox: Inbox) -> list[Path]:
    """Files that something has been written to."""
    return [path for path in inbox.folder.rglob("*") if path.is_file() and not is_unused(path)]


def read_to_end(connection: socket.socket) -> bytes:
    connection.settimeout(PATIENCE_S)
    data = b""
    try:
        while part := connection.recv(4096):
            data += part
    except ConnectionResetError:
        pass
    return data


def test_an_echo_is_answered(scp: StoreScp) -> None:
    assert run_dcmtk("echoscu", "-aec", "PSMA_NODE", "127.0.0.1", scp.port).returncode == 0


@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_a_study_sent_by_dcmtk_lies_complete_in_the_inbox(
    scp: StoreScp, inbox: Inbox, tmp_path: Path, program: str
) -> None:
    sent = write_study(tmp_path / "out", 12)
    sender = ("-aec", "PSMA_NODE", "127.0.0.1", scp.port)
    assert run_dcmtk(program, *sender, *sent).returncode == 0
    (study,) = inbox.studies()
    assert (study.study_instance_uid, study.instance_count, study.conflicts) == (STUDY, 12, 0)
    expected = {dcmread(path).SOPInstanceUID: dcmread(path).PixelData for path in sent}
    assert {dcmread(path).SOPInstanceUID: dcmread(path).PixelData for path in inbox.paths(STUDY)} == expected


def test_success_means_that_the_files_alone_hold_the_instance(
    listen: Listen, tmp_path: Path, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash right after the answer leaves them: the index does not follow, and is lost besides."""
    monkeypatch.setattr("app.node.records.inbox.FOLLOW_S", 10 * PATIENCE_S)
    scp = listen()
    images = [ct_slice(number) for number in range(5)]
    with raw_sender(scp.port) as sender:
        for image in images:
            assert sender.store(Request(encoded(image), image.SOPInstanceUID)).Status == 0
        left = shutil.copytree(inbox.folder, tmp_path / "left")
    engine = open_database(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    found = Inbox(left, engine)
    found.recover()
    paths = found.paths(STUDY)
    found.stop_following()
    engine.dispose()
    assert {dcmread(path).SOPInstanceUID: dcmread(path).PixelData for path in paths} == {
        image.SOPInstanceUID: image.PixelData for image in images
    }


def test_order_files_and_associations_make_no_difference(
    listen: Listen, inbox: Inbox, tmp_path: Path
) -> None:
    scp = listen()
    sent = write_study(tmp_path / "out", 10)
    digests = []
    for batches in ([sent], [sent[::-1]], [sent[5:], sent[:5]], [sent[i : i + 1] for i in range(0, 10, 3)]):
        for batch in batches:
            assert storescu(scp.port, *batch) == 0
        digests.append(inbox.content_digest(STUDY))
        assert len(inbox.paths(STUDY)) == 10
    assert len(set(digests)) == 1


def test_a_duplicate_and_a_conflict_are_success_for_the_sender(
    scp: StoreScp, inbox: Inbox, receptions: list[Reception]
) -> None:
    uid = ct_slice(1).SOPInstanceUID
    with raw_sender(scp.port) as sender:
        for value in (0, 0, 500):
            assert sender.store(Request(encoded(ct_slice(1, value=value)), uid)).Status == 0
    kinds = [reception.event for reception in receptions]
    assert kinds == [ReceptionEvent.STORED, ReceptionEvent.DUPLICATE, ReceptionEvent.CONFLICT]
    assert inbox.studies()[0].conflicts == 1


def test_another_syntax_is_a_duplicate_over_the_network_and_heals_what_was_damaged(
    scp: StoreScp, inbox: Inbox, receptions: list[Reception]
) -> None:
    """First as the scanner sends it, then as the PACS forwards it, then again with the kept file emptied."""
    syntaxes = (JPEGLSLossless, ImplicitVRLittleEndian)
    image, compressed = ct_slice(1), ct_slice(1)
    values = np.frombuffer(image.PixelData, np.uint16).reshape(16, 16)
    compressed.PixelData = encapsulate([bytes(imagecodecs.jpegls_encode(values))])
    compressed["PixelData"].is_undefined_length = True
    with raw_sender(scp.port, "SCANNER", (str(CTImageStorage),), tuple(map(str, syntaxes))) as sender:
        for each, syntax in zip((compressed, image, image), (*syntaxes, syntaxes[1]), strict=True):
            request = Request(encoded(each, syntax), image.SOPInstanceUID, str(CTImageStorage), str(syntax))
            assert sender.store(request).Status == 0
            if len(receptions) == 2:
                inbox.paths(STUDY)[0].write_bytes(b"")
    kinds = [reception.event for reception in receptions]
    assert kinds == [ReceptionEvent.STORED, ReceptionEvent.DUPLICATE, ReceptionEvent.STORED]
    (path,) = inbox.paths(STUDY)
    assert (dcmread(path).pixel_array == values).all()
    assert inbox.studies()[0].conflicts == 0


@pytest.mark.parametrize(
    ("caller", "calling", "called", "expected"),
    [
        (Caller("SCANNER"), "STRANGER", "PSMA_NODE", "Calling AE Title Not Recognized"),
        (Caller("SCANNER", ("192.0.2.0/24",)), "SCANNER", "PSMA_NODE", "Calling AE Title Not Recognized"),
        (Caller("*", ("192.0.2.7",)), "SCANNER", "PSMA_NODE", "Calling AE Title Not Recognized"),
        (Caller("SCANNER"), "SCANNER", "OTHER_NODE", "Called AE Title Not Recognized"),
    ],
)
def test_a_caller_the_site_does_not_know_is_rejected_with_the_reason(
    listen: Listen, receptions: list[Reception], caller: Caller, calling: str, called: str, expected: str
) -> None:
    scp = listen(allowed_callers=(caller,))
    echo = run_dcmtk("echoscu", "-v", "-aet", calling, "-aec", called, "127.0.0.1", scp.port)
    assert echo.returncode != 0
    assert expected in echo.stdout + echo.stderr
    (reception,) = receptions
    assert reception.event is ReceptionEvent.ASSOCIATION_REJECTED
    assert (reception.calling_ae, reception.address) == (calling, "127.0.0.1")


def test_an_observer_that_fails_does_not_let_a_stranger_in(inbox: Inbox) -> None:
    def fail(_: Reception) -> None:
        raise RuntimeError("the audit log can't be written")

    scp = StoreScp(ReceivePolicy(port=0, allowed_callers=(Caller("SCANNER"),)), inbox, fail)
    scp.start()
    try:
        assert run_dcmtk("echoscu", "-aet", "STRANGER", "127.0.0.1", scp.port).returncode != 0
    finally:
        scp.stop(drain_s=0)


def test_more_associations_than_allowed_are_asked_to_come_later(listen: Listen) -> None:
    scp = listen(max_associations=1)
    with raw_sender(scp.port):
        entity = AE("SCANNER")
        entity.acse_timeout = PATIENCE_S
        contexts = [build_context(Verification)]
        second = entity.associate("127.0.0.1", scp.port, contexts=contexts, ae_title="PSMA_NODE")
        assert second.is_rejected
        answer = second.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)


def test_those_who_ask_at_one_instant_are_counted_too(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, begins = StoreScp._judge, threading.Barrier(6)

    def slowly(*arguments: Any) -> Any:
        found = judge(*arguments)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(StoreScp, "_judge", slowly)
    scp = listen(max_associations=2)
    opened: list[Any] = []

    def ask() -> None:
        entity = AE("SCANNER")
        entity.acse_timeout = PATIENCE_S
        begins.wait(PATIENCE_S)
        contexts = [build_context(Verification)]
        opened.append(entity.associate("127.0.0.1", scp.port, contexts=contexts, ae_title="PSMA_NODE"))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.is_rejected for one in opened) == [False, False, True, True, True, True]
    for one in opened:
        if one.is_established:
            one.release()


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, on both sides
@pytest.mark.parametrize("uid", ["../../../../tmp/evil", "/etc/passwd", "1.2..3", "1.2.03", "con"])
def test_an_unsafe_sop_instance_uid_is_refused_in_words_and_never_becomes_a_name(
    scp: StoreScp, inbox: Inbox, receptions: list[Reception], uid: str
) -> None:
    with raw_sender(scp.port) as sender:
        answer = sender.store(Request(encoded(ct_slice(1)), uid))
        assert answer.Status == 0xC000
        assert "AffectedSOPInstanceUID" in answer.ErrorComment
        good = ct_slice(2)
        assert sender.store(Request(encoded(good), good.SOPInstanceUID)).Status == 0
    assert [reception.event for reception in receptions] == [ReceptionEvent.REFUSED, ReceptionEvent.STORED]
    assert uid not in repr(receptions)
    assert len(written(inbox)) == 1


def test_an_unsafe_study_uid_inside_the_data_set_is_refused(scp: StoreScp, inbox: Inbox) -> None:
    image = ct_slice(1)
    data = encoded(image).replace(STUDY.encode(), b"../" * (len(STUDY) // 3) + b"." * (len(STUDY) % 3))
    uid = "1.2.3"
    padded = image.SOPInstanceUID.encode() + b"\0" * (len(image.SOPInstanceUID) % 2)
    assert padded not in data
    with raw_sender(scp.port) as sender:
        answer = sender.store(Request(data, uid))
    assert answer.Status in (0xC000, 0xA900)
    assert inbox.studies() == ()


def test_a_data_set_of_another_instance_than_the_command_says_is_refused(scp: StoreScp, inbox: Inbox) -> None:
    with raw_sender(scp.port) as sender:
        assert sender.store(Request(encoded(ct_slice(1)), "1.2.3")).Status == 0xA900
    assert inbox.studies() == ()


def test_too_little_free_space_is_answered_a700(
    listen: Listen, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    scp = listen(min_free_mb=100.0)
    monkeypatch.setattr(Inbox, "free_mb", lambda _: 99.0)
    image = ct_slice(1)
    with raw_sender(scp.port) as sender:
        answer = sender.store(Request(encoded(image), image.SOPInstanceUID))
        assert answer.Status == 0xA700
        assert "100 MB" in answer.ErrorComment
        monkeypatch.setattr(Inbox, "free_mb", lambda _: 101.0)
        assert sender.store(Request(encoded(image), image.SOPInstanceUID)).Status == 0


def test_a_disk_that_is_full_while_writing_is_answered_a700_and_leaves_no_file(
    scp: StoreScp, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    image = ct_slice(1)
    with raw_sender(scp.port) as sender:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", full)
            assert sender.store(Request(encoded(image), image.SOPInstanceUID)).Status == 0xA700
        assert written(inbox) == []
        assert sender.store(Request(encoded(image), image.SOPInstanceUID)).Status == 0


def test_all_kinds_of_instance_and_compression_are_taken_as_they_come(scp: StoreScp, inbox: Inbox) -> None:
    classes = (
        CTImageStorage,
        PositronEmissionTomographyImageStorage,
        NuclearMedicineImageStorage,
        EnhancedPETImageStorage,
        SecondaryCaptureImageStorage,
        SegmentationStorage,
        RTStructureSetStorage,
        EncapsulatedPDFStorage,
    )
    syntaxes = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless)
    number = 0
    with raw_sender(scp.port, "SCANNER", tuple(map(str, classes)), tuple(map(str, syntaxes))) as sender:
        for sop_class in classes:
            for syntax in syntaxes:
                number += 1
                image = ct_slice(number)
                image.SOPClassUID = sop_class
                data = encoded(image)  # the header is explicit VR in all of them
                request = Request(data, image.SOPInstanceUID, str(sop_class), str(syntax))
                assert sender.store(request).Status == 0
                (path,) = (one for one in inbox.paths(STUDY) if f"{image.SOPInstanceUID}_" in one.name)
                assert path.read_bytes().endswith(data)
    assert len(inbox.paths(STUDY)) == len(classes) * len(syntaxes)


def test_a_silent_connection_is_closed_when_its_time_is_up(listen: Listen) -> None:
    scp = listen(association_timeout_s=0.2)
    with socket.create_connection(("127.0.0.1", scp.port)) as connection:
        assert read_to_end(connection) == b""


def test_silent_connections_do_not_lock_others_out(listen: Listen, tmp_path: Path) -> None:
    scp = listen(max_associations=2, association_timeout_s=120.0)
    silent = [socket.create_connection(("127.0.0.1", scp.port)) for _ in range(40)]
    try:
        assert storescu(scp.port, *write_study(tmp_path / "out", 2)) == 0
    finally:
        for connection in silent:
            connection.close()


def test_half_a_pdu_does_not_hold_its_association(listen: Listen) -> None:
    scp = listen(pdu_timeout_s=0.3, association_timeout_s=120.0)
    with socket.create_connection(("127.0.0.1", scp.port)) as connection:
        connection.sendall(struct.pack(">BBL", 1, 0, 200) + b"half")
        assert read_to_end(connection) == b""


@pytest.mark.parametrize("pdu_type", [1, 4])
def test_a_pdu_of_four_gigabytes_is_not_waited_for(listen: Listen, pdu_type: int) -> None:
    scp = listen(pdu_timeout_s=120.0, association_timeout_s=120.0)
    with socket.create_connection(("127.0.0.1", scp.port)) as connection:
        connection.sendall(struct.pack(">BBL", pdu_type, 0, 0xFFFFFFF0))
        assert read_to_end(connection) == b""


def test_a_pdu_longer_than_announced_ends_the_association(listen: Listen) -> None:
    scp = listen(max_pdu_bytes=16_384)
    with raw_sender(scp.port) as sender:
        connection = sender.association.dul.socket.socket
        connection.sendall(struct.pack(">BBL", 4, 0, 100_000))
        wait_until(lambda: not sender.association.is_established)


def test_a_data_set_beyond_the_limit_ends_the_association_and_is_not_kept(
    listen: Listen, inbox: Inbox
) -> None:
    scp = listen(max_instance_mb=0.1, max_pdu_bytes=16_384)
    image = ct_slice(1, size=512)
    with raw_sender(scp.port) as sender:
        assert sender.store(Request(encoded(image), image.SOPInstanceUID)) is None
    assert inbox.studies() == ()


def test_an_idle_association_is_ended(listen: Listen) -> None:
    scp = listen(idle_timeout_s=0.3)
    with raw_sender(scp.port) as sender:
        wait_until(lambda: not sender.association.is_established)


def test_random_bytes_do_not_stop_the_listener(scp: StoreScp, tmp_path: Path) -> None:
    for noise in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x01\x00\x00\x00\x00\x04abcd",
        b"\x07" * 10,
        os.urandom(500),
        b"\x04",
    ):
        with socket.create_connection(("127.0.0.1", scp.port)) as connection:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            read_to_end(connection)
    assert storescu(scp.port, *write_study(tmp_path / "out", 2)) == 0


def test_stopping_lets_a_transfer_end(listen: Listen, inbox: Inbox) -> None:
    scp = listen()
    with raw_sender(scp.port) as sender:
        stopper = threading.Thread(target=scp.stop, args=(PATIENCE_S,))
        stopper.start()
        for number in range(3):
            image = ct_slice(number)
            assert sender.store(Request(encoded(image), image.SOPInstanceUID)).Status == 0
    stopper.join()
    assert len(inbox.paths(STUDY)) == 3
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", scp.port))


def test_stopping_does_not_wait_for_ever_for_an_open_association(listen: Listen) -> None:
    scp = listen()
    with raw_sender(scp.port) as sender:
        scp.stop(drain_s=0.1)
        wait_until(lambda: not sender.association.is_established)


def test_stopping_does_not_wait_for_a_disk_that_keeps_images_waiting(
    listen: Listen, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many associations there are: all of them are cut off together."""
    scp = listen(max_associations=4)
    waiting, answers = threading.Semaphore(0), threading.Event()
    keep = inbox.keep

    def keep_late(*instance: Any) -> Stored:
        waiting.release()
        assert answers.wait(PATIENCE_S)
        return keep(*instance)

    monkeypatch.setattr(inbox, "keep", keep_late)
    monkeypatch.setattr("app.node.receive.listener.ABORT_S", 0.1)
    with ExitStack() as peers:
        for number in range(4):
            peer, image = peers.enter_context(wire(scp.port)), ct_slice(number)
            peer.send(in_one_pdu(CONTEXT, store_command(image), encoded(image)))
            assert waiting.acquire(timeout=PATIENCE_S)
        stopper = threading.Thread(target=scp.stop, args=(0.0,), daemon=True)
        stopper.start()
        stopper.join(PATIENCE_S / 2)
        stopped_before = not stopper.is_alive()
        answers.set()
    assert stopped_before


def test_stopping_ends_well_when_the_disk_does_not_take_what_waits(
    listen: Listen, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    scp = listen()
    with monkeypatch.context() as patch:
        patch.setattr(inbox, "stop_following", read_only)
        scp.stop(drain_s=0)
    assert "not indexed, which the next start does" in caplog.text
    inbox.stop_following()


def test_a_port_that_is_taken_is_the_sites_to_mend(scp: StoreScp, inbox: Inbox) -> None:
    being_written = inbox.folder / "slots" / "by-the-other-node.part"
    being_written.write_bytes(b"half")
    with pytest.raises(MisconfiguredError, match=r"receive\.host"):
        StoreScp(ReceivePolicy(port=scp.port), inbox, print).start()
    assert being_written.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_that_has_ended_by_a_fault_is_said_to_listen_no_more(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    scp = listen()
    assert scp.listens

    def broken(*_: object) -> None:
        raise RuntimeError("a fault of this program")

    monkeypatch.setattr(scp._servers[0], "_turn", broken)
    wait_until(lambda: not scp.listens)


def test_without_descriptors_the_listener_waits_and_then_takes_what_has_waited(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    scp = listen()
    server = scp._servers[0]
    take, lacks, waits = server.get_request, [errno.EMFILE, errno.ENFILE], list[float]()

    def take_or_fail() -> Any:
        if lacks:
            raise OSError(lacks.pop(), "too many open files")
        return take()

    monkeypatch.setattr(server, "get_request", take_or_fail)
    monkeypatch.setattr(server._ending, "wait", waits.append)
    assert run_dcmtk("echoscu", "-aec", "PSMA_NODE", "127.0.0.1", scp.port).returncode == 0
    assert waits == [1.0, 1.0]
