from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from app.errors import RetryLaterError
from app.node.deliver.scu import echo, send
from app.node.peers import Caller, DeliverPolicy, Destination
from app.node.receive.scp import StoreScp
from app.node.records.inbox import Inbox
from tests.node.receive.images import STUDY, ct_slice, encoded, write_study
from tests.node.receive.peers import dcmtk, free_port

Answer = Callable[[evt.Event], int | Dataset]


def at(port: int, ae_title: str = "PSMA_NODE") -> Destination:
    return Destination("archive", ae_title, "127.0.0.1", port)


@contextmanager
def archive(answer: Answer, syntax: str = ExplicitVRLittleEndian) -> Iterator[Destination]:
    """A peer that answers C-STORE as the test says."""
    entity = AE("ARCHIVE")
    contexts = [build_context(Verification), build_context(CTImageStorage, syntax)]
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, contexts=contexts, evt_handlers=[(evt.EVT_C_STORE, answer)]
    )
    try:
        yield at(server.server_address[1], "ARCHIVE")
    finally:
        server.shutdown()


@contextmanager
def listener(behave: Callable[[socket.socket], None]) -> Iterator[Destination]:
    """A TCP listener that speaks no DICOM."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield at(server.getsockname()[1])
        thread.join()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_study(tmp_path / "out", 3)


def test_what_is_sent_arrives_pixel_for_pixel_and_each_is_acknowledged(
    scp: StoreScp, inbox: Inbox, files: list[Path]
) -> None:
    deliveries = send(files, at(scp.port), "SENDER")
    assert [delivery.sop_instance_uid for delivery in deliveries] == [
        dcmread(p).SOPInstanceUID for p in files
    ]
    assert all(delivery.ok and delivery.status == 0 for delivery in deliveries)
    sent = {dcmread(path).SOPInstanceUID: dcmread(path) for path in files}
    arrived = {dcmread(path).SOPInstanceUID: dcmread(path) for path in inbox.paths(STUDY)}
    assert arrived == sent


def test_sending_again_is_harmless(scp: StoreScp, inbox: Inbox, files: list[Path]) -> None:
    for _ in range(2):
        assert all(delivery.ok for delivery in send(files, at(scp.port), "SENDER"))
    assert inbox.studies()[0].instance_count == 3
    assert inbox.studies()[0].conflicts == 0


def test_dcmtk_storescp_gets_the_files(files: list[Path], tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "pacs"
    folder.mkdir()
    command = [dcmtk("storescp"), "-od", str(folder), str(port)]
    with subprocess.Popen(command, env={"TCP_NODELAY": "1"}) as peer:
        try:
            wait_for_port(port)
            assert all(delivery.ok for delivery in send(files, at(port), "SENDER"))
        finally:
            peer.terminate()
    assert len(list(folder.iterdir())) == 3


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_peer_with_another_uncompressed_encoding_gets_the_same_values(files: list[Path]) -> None:
    got: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        image = event.dataset
        image.file_meta = event.file_meta
        got.append(image)
        return 0

    with archive(keep, ImplicitVRLittleEndian) as destination:
        assert all(delivery.ok for delivery in send(files, destination, "SENDER"))
    assert [image.file_meta.TransferSyntaxUID for image in got] == [ImplicitVRLittleEndian] * 3
    assert [image.PixelData for image in got] == [dcmread(path).PixelData for path in files]


@pytest.mark.parametrize(
    ("status", "ok", "words"),
    [
        (0x0000, True, ""),
        (0xB000, True, "Warning: Coercion of Data Elements"),
        (0xA900, False, "Failure: Data Set Does Not Match SOP Class"),
        (0xC123, False, "Failure: Cannot Understand"),
        (0xDEAD, False, "not a status of the Standard"),
    ],
)
def test_what_the_peer_says_to_each_instance_is_reported(
    files: list[Path], status: int, ok: bool, words: str
) -> None:
    def answer(_: evt.Event) -> Dataset:
        response = Dataset()
        response.Status = status
        if status:
            response.ErrorComment = "ZYXWVUT^QUINTUS is unknown here"
        return response

    with archive(answer) as destination:
        deliveries = send(files, destination, "SENDER")
    assert [(delivery.status, delivery.ok) for delivery in deliveries] == [(status, ok)] * 3
    assert [delivery.comment for delivery in deliveries] == [words] * 3


def test_the_text_of_a_peer_without_resources_is_not_passed_on(files: list[Path]) -> None:
    response = Dataset()
    response.Status, response.ErrorComment = 0xA700, "no room for ZYXWVUT^QUINTUS"
    with archive(lambda _: response) as destination, pytest.raises(RetryLaterError) as raised:
        send(files, destination, "SENDER")
    assert str(raised.value).endswith("status A700, Failure: Refused: Out of Resources")


@pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0110])
def test_a_peer_without_resources_is_tried_again_later(files: list[Path], status: int) -> None:
    with archive(lambda _: status) as destination, pytest.raises(RetryLaterError, match=f"{status:04X}"):
        send(files, destination, "SENDER")


def test_a_class_the_peer_does_not_take_is_reported_and_the_others_are_sent(
    files: list[Path], tmp_path: Path
) -> None:
    segmentation = ct_slice(77)
    segmentation.SOPClassUID = SegmentationStorage
    encoded(segmentation)
    dcmwrite(tmp_path / "seg.dcm", segmentation, enforce_file_format=True)
    with archive(lambda _: 0) as destination:
        deliveries = send([tmp_path / "seg.dcm", *files], destination, "SENDER")
        alone = send([tmp_path / "seg.dcm"], destination, "SENDER")
    assert [delivery.ok for delivery in deliveries] == [False, True, True, True]
    assert (alone[0].status, alone[0].ok) == (0x0122, False)


def test_a_peer_that_is_not_there_is_tried_again_later(files: list[Path]) -> None:
    with pytest.raises(RetryLaterError, match="can't be reached: Connection refused"):
        send(files, at(free_port()), "SENDER")


def test_a_peer_whose_name_is_unknown_is_tried_again_later(files: list[Path]) -> None:
    nowhere = Destination("archive", "ARCHIVE", "nowhere.invalid", 104)
    with pytest.raises(RetryLaterError, match="can't be reached"):
        send(files, nowhere, "SENDER", timeout_s=5)


def test_a_peer_that_rejects_us_is_tried_again_later_with_its_reason(
    listen: Callable[..., StoreScp], files: list[Path]
) -> None:
    scp = listen(allowed_callers=(Caller("SCANNER"),))
    with pytest.raises(RetryLaterError, match=r"(?i)calling AE title not recogni"):
        send(files, at(scp.port), "SENDER")


def test_a_peer_that_accepts_and_says_nothing_is_left_in_time(files: list[Path]) -> None:
    with listener(read_until_closed) as destination:
        start = time.monotonic()
        with pytest.raises(RetryLaterError):
            send(files, destination, "SENDER", timeout_s=0.5)
        assert time.monotonic() - start < 20


def read_until_closed(connection: socket.socket) -> None:
    connection.settimeout(20)
    try:
        while connection.recv(4096):
            pass
    except OSError:
        pass


def test_a_peer_that_hangs_while_storing_is_left_in_time(files: list[Path]) -> None:
    release = threading.Event()

    def hang(_: evt.Event) -> int:
        release.wait(20)
        return 0

    with archive(hang) as destination, pytest.raises(RetryLaterError, match="did not answer"):
        try:
            send(files, destination, "SENDER", timeout_s=0.5)
        finally:
            release.set()


def test_a_peer_that_aborts_while_storing_is_tried_again_later(files: list[Path]) -> None:
    def abort(event: evt.Event) -> int:
        event.assoc.abort()
        return 0

    with archive(abort) as destination, pytest.raises(RetryLaterError):
        send(files, destination, "SENDER", timeout_s=10)


def test_the_reactor_never_takes_an_answer(tmp_path: Path, scp: StoreScp) -> None:
    many = write_study(tmp_path / "many", 150)
    assert all(delivery.ok for delivery in send(many, at(scp.port), "SENDER", timeout_s=10))


def test_nothing_to_send_asks_for_no_association() -> None:
    assert send([], at(free_port()), "SENDER") == ()


def test_an_echo_tells_whether_the_destination_is_there(scp: StoreScp) -> None:
    there = echo(at(scp.port), "SENDER")
    assert (there.destination, there.ok) == ("archive", True)
    gone = echo(at(free_port()), "SENDER")
    assert not gone.ok
    assert "can't be reached" in gone.detail


def test_an_echo_tells_why_it_was_rejected(scp: StoreScp) -> None:
    result = echo(at(scp.port, "OTHER_TITLE"), "SENDER")
    assert not result.ok
    assert "called ae title not recogni" in result.detail.lower()


def test_the_wait_between_attempts_doubles_up_to_its_limit() -> None:
    policy = DeliverPolicy(first_retry_s=10, max_retry_s=60)
    assert [policy.retry_after_s(failed) for failed in (1, 2, 3, 4, 5, 10_000)] == [10, 20, 40, 60, 60, 60]


@pytest.mark.parametrize("ae_title", ["", " ", "SEVENTEEN_LETTERS"])
def test_an_ae_title_that_dicom_does_not_allow_is_refused_in_the_settings(ae_title: str) -> None:
    with pytest.raises(ValueError, match="AE title"):
        Destination("archive", ae_title, "127.0.0.1", 104)


def test_two_destinations_need_two_names() -> None:
    with pytest.raises(ValueError, match="same name"):
        DeliverPolicy(destinations=(at(104), at(105)))
