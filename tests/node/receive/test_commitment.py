"""Storage commitment on associations that others open: a scanner asks, a destination answers."""

from __future__ import annotations

import errno
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification

from app.errors import RetryLaterError
from app.node.deliver import commitment as asking
from app.node.deliver.delivery import ResultDelivery
from app.node.deliver.owed import OwedAnswers
from app.node.deliver.scu import send
from app.node.peers import Caller, DeliverPolicy, Destination, Listener, ReceivePolicy, TlsPolicy
from app.node.policy import NodePolicy
from app.node.receive.commitment import CommitmentDesk
from app.node.receive.scp import StoreScp
from app.node.records.commitment_messages import event_data
from app.node.records.commitments import kept_here
from app.node.records.database import utc_now
from app.node.records.states import DeliveryKey, DeliveryState
from app.node.records.stores import NodeStores, open_stores
from app.node.tls import client_context
from tests.node.certificates import Authority
from tests.node.deliver.conftest import RUN, UIDS, plan
from tests.node.deliver.stub_pacs import StubPacs, call_back, listening
from tests.node.receive.images import STUDY, write_study

KEY = DeliveryKey(RUN, "pacs")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


NOWHERE = DeliverPolicy()
EMPTY = event_data("1.2.3", (), {})


@contextmanager
def node(
    stores: NodeStores,
    deliver: DeliverPolicy = NOWHERE,
    woken: threading.Event | None = None,
    tls: TlsPolicy = TlsPolicy(),  # noqa: B008  it is frozen
    **receive: Any,
) -> Iterator[StoreScp]:
    """A receiver with its desk."""
    port = {} if "listeners" in receive else {"port": 0}
    policy = ReceivePolicy(min_free_mb=1.0, **port, **receive)
    desk = CommitmentDesk(stores, deliver, (woken or threading.Event()).set)
    scp = StoreScp(policy, stores.inbox, lambda _: None, tls, desk)
    scp.start()
    try:
        yield scp
    finally:
        scp.stop()


class Scanner:
    """Sends, asks, and takes answers on the association of the request or on its own port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: list[tuple[int, Dataset]] = []
        self.answered = threading.Event()

    def take(self, event: evt.Event) -> tuple[int, None]:
        self.answers.append((event.event_type, event.event_information))
        self.answered.set()
        return 0x0000, None

    def ask(self, references: list[tuple[str, str]], waits: bool = True, **wrong: Any) -> int:
        """The status of N-ACTION."""
        request = Dataset()
        request.TransactionUID = generate_uid()
        request.ReferencedSOPSequence = [reference(*one) for one in references]
        association = AE("SCANNER").associate(
            "127.0.0.1",
            self.port,
            contexts=[build_context(StorageCommitmentPushModel), build_context(Verification)],
            ae_title="PSMA_NODE",
            tls_args=wrong.get("tls"),
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.take)],
        )
        instance = wrong.get("instance", StorageCommitmentPushModelInstance)
        data = wrong.get("data", request)
        status, _ = association.send_n_action(
            data, wrong.get("action", 1), StorageCommitmentPushModel, instance
        )
        if waits:
            assert self.answered.wait(20)
        assert association.send_c_echo().Status == 0
        association.release()
        return int(status.Status)


def reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def sent(scp: StoreScp, folder: Path, count: int = 3) -> list[tuple[str, str]]:
    """Images that the node has acknowledged."""
    destination = Destination("node", "PSMA_NODE", "127.0.0.1", scp.port)
    answers = send(write_study(folder, count), destination, "SCANNER")
    return [(CTImageStorage, answer.sop_instance_uid) for answer in answers]


def reasons(information: Dataset) -> dict[str, int]:
    return {
        item.ReferencedSOPInstanceUID: item.FailureReason for item in information.get("FailedSOPSequence", ())
    }


def test_what_was_acknowledged_is_committed_on_the_same_association(
    stores: NodeStores, tmp_path: Path
) -> None:
    with node(stores) as scp:
        images = sent(scp, tmp_path / "out")
        scanner = Scanner(scp.port)
        assert scanner.ask(images) == 0
        wait_until_settled(stores)
    ((event, information),) = scanner.answers
    assert event == 1
    assert [item.ReferencedSOPInstanceUID for item in information.ReferencedSOPSequence] == [
        uid for _, uid in images
    ]
    lines = [json.loads(line) for line in stores.audit.path.read_text().splitlines()]
    (given,) = [line for line in lines if line["event"] == "storage commitment given"]
    assert given["facts"]["kept"] == 3


def wait_until_settled(stores: NodeStores) -> None:
    done = threading.Event()
    for _ in range(200):
        if not stores.commitments.owed():
            return
        done.wait(0.05)
    pytest.fail("the sender's acknowledgement was not written down")


def test_an_answer_that_can_not_be_written_down_ends_no_association_and_is_given_again(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()

    def silent(*_: object) -> None:
        told.set()
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("app.node.receive.commitment.record_told", silent)
    with node(stores) as scp:
        images = sent(scp, tmp_path / "out")
        scanner = Scanner(scp.port)
        assert scanner.ask(images) == 0, "it goes on, up to the release"
        assert told.wait(20)
    (owed,) = stores.commitments.owed()
    assert [one.sop_instance_uid for one in owed.references] == [uid for _, uid in images]


def test_only_what_is_here_of_that_class_and_whole_is_committed(stores: NodeStores, tmp_path: Path) -> None:
    with node(stores) as scp:
        images = sent(scp, tmp_path / "out")
        stores.inbox.settle()
        spoilt = next(path for path in stores.inbox.paths(STUDY) if images[2][1] in path.name)
        content = bytearray(spoilt.read_bytes())
        content[-1] ^= 1
        spoilt.write_bytes(content)
        scanner = Scanner(scp.port)
        scanner.ask([images[0], (MRImageStorage, images[1][1]), images[2], (CTImageStorage, "1.2.3")])
    ((event, information),) = scanner.answers
    assert event == 2
    assert [item.ReferencedSOPInstanceUID for item in information.ReferencedSOPSequence] == [images[0][1]]
    assert reasons(information) == {images[1][1]: 0x0119, images[2][1]: 0x0110, "1.2.3": 0x0112}


@pytest.mark.parametrize(
    ("wrong", "status"), [({"action": 2}, 0x0123), ({"instance": "1.2.3"}, 0x0112), ({"data": EMPTY}, 0x0115)]
)
def test_a_request_that_can_not_be_understood_is_refused(
    stores: NodeStores, wrong: dict[str, Any], status: int
) -> None:
    with node(stores) as scp:
        assert Scanner(scp.port).ask([(CTImageStorage, "1.2.3")], waits=False, **wrong) == status
    assert stores.commitments.owed() == ()


def test_a_sender_that_left_is_told_on_its_own_port_after_a_restart_and_after_it_was_away(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the node is cut off before it answers
    monkeypatch.setattr(CommitmentDesk, "_answer", lambda *_: None)
    with node(stores) as scp:
        images = sent(scp, tmp_path / "out")
        scanner = Scanner(scp.port)
        scanner.ask(images, waits=False)
    (owed,) = stores.commitments.owed()
    now = owed.next_try_at
    monkeypatch.setattr("app.node.deliver.owed.utc_now", lambda: now)
    server, port = listen_for(scanner)
    receive = ReceivePolicy(allowed_callers=(Caller("SCANNER", commitment_port=port),))
    server.shutdown()
    OwedAnswers(stores, receive, DeliverPolicy(timeout_s=3.0)).tell()
    (waiting,) = stores.commitments.owed()
    assert (waiting.tries, waiting.next_try_at) == (1, now + timedelta(seconds=10))
    now = waiting.next_try_at
    server, port = listen_for(scanner)
    OwedAnswers(
        stores, replace(receive, allowed_callers=(Caller("SCANNER", commitment_port=port),)), DeliverPolicy()
    ).tell()
    server.shutdown()
    assert stores.commitments.owed() == ()
    ((event, information),) = scanner.answers
    assert (event, len(information.ReferencedSOPSequence)) == (1, 3)


def listen_for(scanner: Scanner) -> tuple[Any, int]:
    context = build_context(StorageCommitmentPushModel)
    context.scu_role = context.scp_role = True
    server = AE("SCANNER").start_server(
        ("127.0.0.1", 0),
        block=False,
        contexts=[context],
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, scanner.take)],
    )
    return server, server.server_address[1]


@pytest.mark.parametrize("by_tls", [False, True])
def test_a_sender_that_asked_by_tls_is_answered_by_tls_alone(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_tls: bool
) -> None:
    site = Authority(tmp_path / "site")
    scanner = site.certify("scanner", san="DNS:scanner.clinic")
    monkeypatch.setattr(CommitmentDesk, "_answer", lambda *_: None)
    with node(stores, listeners=(Listener(port=0, tls=by_tls),), tls=site.certify("node")) as scp:
        tls = (client_context(scanner), "127.0.0.1") if by_tls else None
        Scanner(scp.port).ask([(CTImageStorage, "1.2.3")], waits=False, tls=tls)
    peers: list[Destination] = []
    hours = itertools.count(1)
    monkeypatch.setattr("app.node.deliver.owed.utc_now", lambda: utc_now() + timedelta(hours=next(hours)))
    caller = Caller("SCANNER", commitment_port=2762, commitment_tls_name="scanner.clinic")
    receive, archive = ReceivePolicy(allowed_callers=(caller,)), Destination("pacs", "SCANNER", "h", 104)
    deliver = DeliverPolicy((archive, replace(archive, name="secure", port=2762, tls=True)))

    def report(_request: object, _failed: object, peer: Destination, _policy: object) -> None:
        peers.append(peer)
        raise RetryLaterError("it is off")

    OwedAnswers(stores, receive, deliver, report).tell()
    OwedAnswers(stores, ReceivePolicy(), deliver, report).tell()
    told = [(peer.host, peer.port, peer.tls, peer.tls_name) for peer in peers]
    assert told == [("127.0.0.1", 2762, by_tls, "scanner.clinic"), ("h", 2762 if by_tls else 104, by_tls, "")]
    OwedAnswers(stores, ReceivePolicy(), DeliverPolicy((archive,)), report).tell()
    assert len(peers) == (2 if by_tls else 3), "never in plain to who asked by TLS"


def test_a_sender_without_a_port_is_given_up(stores: NodeStores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CommitmentDesk, "_answer", lambda *_: None)
    with node(stores) as scp:
        Scanner(scp.port).ask([(CTImageStorage, "1.2.3")], waits=False)
    monkeypatch.setattr("app.node.deliver.owed.utc_now", lambda: utc_now() + timedelta(minutes=1))
    OwedAnswers(stores, ReceivePolicy(), DeliverPolicy()).tell()
    assert stores.commitments.owed() == ()


def delivered(stores: NodeStores, policy: DeliverPolicy) -> DeliveryState:
    work, attempt = ResultDelivery(stores, policy), stores.deliveries.get(KEY).attempt
    work.record(KEY, attempt, work.send(KEY, attempt))
    return stores.deliveries.get(KEY).state


def test_a_destination_answers_on_an_association_of_its_own(stores: NodeStores) -> None:
    plan(stores, "pacs")
    with listening(StubPacs()) as pacs:
        policy = DeliverPolicy((Destination("pacs", "PACS", "localhost", pacs.port, commitment=True),))
        # nobody but the destination may call: it sends nothing, it only answers
        with node(stores, policy, allowed_callers=(Caller("SCANNER"),)) as scp:
            pacs.calls_back = scp.port
            assert delivered(stores, policy) is DeliveryState.DONE
    assert pacs.answers == [0]


def test_an_answer_that_comes_later_wakes_the_delivery(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LINGER_S", 0.1)
    plan(stores, "pacs")
    woken = threading.Event()
    with listening(StubPacs(is_silent=True)) as pacs:
        policy = DeliverPolicy((Destination("pacs", "PACS", "127.0.0.1", pacs.port, commitment=True),))
        with node(stores, policy, woken) as scp:
            assert delivered(stores, policy) is DeliveryState.SENT
            before = stores.deliveries.get(KEY)
            pacs.calls_back = scp.port
            pacs.answer(None, pacs.requests[0])
    after = stores.deliveries.get(KEY)
    assert woken.is_set()
    assert (after.attempt, after.next_try_at) == (before.attempt + 1, None)
    assert delivered(stores, policy) is DeliveryState.DONE


@pytest.mark.parametrize("impostor", ["SCANNER", "OTHER"])
def test_an_answer_is_taken_from_the_destination_alone(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch, impostor: str
) -> None:
    monkeypatch.setattr(asking, "LINGER_S", 0.1)
    plan(stores, "pacs")
    with listening(StubPacs(is_silent=True)) as pacs:
        policy = DeliverPolicy((Destination("pacs", "PACS", "127.0.0.1", pacs.port, commitment=True),))
        with node(stores, policy, allowed_callers=(Caller("SCANNER"),)) as scp:
            delivered(stores, policy)
            forged = pacs.requests[0]
            status = call_back(scp.port, impostor, (forged, 1, StorageCommitmentPushModel))
    assert status == (0x0124 if impostor == "SCANNER" else None)
    assert [item.committed_at for item in stores.deliveries.instances(KEY)] == [None] * len(UIDS)


def test_a_destination_that_is_no_caller_may_answer_and_not_send(stores: NodeStores, tmp_path: Path) -> None:
    policy = DeliverPolicy((Destination("pacs", "PACS", "127.0.0.1", 104, commitment=True),))
    with node(stores, policy, allowed_callers=(Caller("SCANNER"),)) as scp:
        itself = Destination("node", "PSMA_NODE", "127.0.0.1", scp.port)
        assert [one.ok for one in send(write_study(tmp_path / "out", 1), itself, "PACS")] == [False]
        assert [one.ok for one in send(write_study(tmp_path / "out", 1), itself, "SCANNER")] == [True]


def test_an_answer_that_takes_its_time_is_given_once_on_its_own_association(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the grace: every file is read, of a large study or on a slow disk."""
    go_on, looked = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> dict[str, int]:
        looked.set()
        assert go_on.wait(20)
        return kept_here(*arguments)

    monkeypatch.setattr("app.node.receive.commitment.kept_here", slowly)
    elsewhere: list[object] = []
    with node(stores) as scp:
        images = sent(scp, tmp_path / "out")
        scanner = Scanner(scp.port)
        assert scp._desk is not None
        owed = OwedAnswers(
            stores,
            ReceivePolicy(allowed_callers=(Caller("SCANNER", commitment_port=104),)),
            DeliverPolicy(),
            lambda *arguments: elsewhere.append(arguments),
            is_answered_there=scp._desk.may_answer,
        )
        asking_thread = threading.Thread(target=scanner.ask, args=(images,))
        asking_thread.start()
        assert looked.wait(20)
        with monkeypatch.context() as patch:
            patch.setattr("app.node.deliver.owed.utc_now", lambda: utc_now() + timedelta(minutes=1))
            owed.tell()
            go_on.set()
            asking_thread.join()
            wait_until_settled(stores)
            owed.tell()
    assert (len(scanner.answers), elsewhere) == (1, [])


def test_a_name_server_that_is_silent_holds_up_no_start(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers, looked, find = threading.Event(), threading.Event(), socket.getaddrinfo

    def silent(host: str, *arguments: Any, flags: int = 0, **others: Any) -> Any:
        if host == "archive.clinic" and not flags:
            looked.set()
            assert answers.wait(20)
            host = "192.0.2.7"
        return find(host, *arguments, flags=flags, **others)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    named = Destination("named", "PACS", "archive.clinic", 104, commitment=True)
    numbered = replace(named, name="numbered", host="192.0.2.8")
    desk = CommitmentDesk(stores, DeliverPolicy((named, numbered)), lambda: None)
    assert looked.wait(20)
    assert (desk.knows_address("192.0.2.8"), desk.knows_address("192.0.2.7")) == (True, False)
    answers.set()
    desk.look_up()
    assert desk.knows_address("192.0.2.7")
    desk.follow(DeliverPolicy((named,)))
    assert (desk.knows_address("192.0.2.8"), desk.knows_address("192.0.2.7")) == (False, True)
    assert caplog.records == []


def test_a_host_that_is_not_known_is_one_line_until_it_is(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("no such host")

    desk = CommitmentDesk(stores, DeliverPolicy(), lambda: None)
    desk._destinations = (Destination("named", "PACS", "archive.clinic", 104, commitment=True),)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for _ in range(3):
        desk.look_up()
    assert [record.message for record in caplog.records] == ["a destination's host is not known now"]
