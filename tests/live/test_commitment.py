"""Storage commitment with a live Orthanc, in both roles."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage

from app.demo.pacs import Orthanc
from app.demo.processes import free_port
from app.node.deliver.owed import OwedAnswers
from app.node.deliver.scu import send
from app.node.peers import Caller, DeliverPolicy, Destination, ReceivePolicy
from app.node.policy import NodePolicy
from app.node.receive.commitment import CommitmentDesk
from app.node.receive.scp import StoreScp
from app.node.records.states import DeliveryKey, DeliveryState
from app.node.records.stores import NodeStores, open_stores
from tests.node.deliver.conftest import RUN, plan
from tests.node.deliver.test_proof import tried
from tests.node.receive.images import write_study

KEY = DeliveryKey(RUN, "pacs")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[tuple[Orthanc, int]]:
    """Orthanc, and the port where it calls the node."""
    port = free_port()
    archive = Orthanc(tmp_path / "orthanc", "ORTHANC", free_port(), {"PSMA_NODE": port})
    archive.start()
    yield archive, port
    archive.stop()


@pytest.mark.parametrize("proof", [{"commitment": True}, {"verify": "find"}, {"verify": "retrieve"}])
def test_orthanc_keeps_what_it_was_sent_and_says_so(
    stores: NodeStores, orthanc: tuple[Orthanc, int], proof: dict[str, Any]
) -> None:
    archive, port = orthanc
    plan(stores, "pacs")
    policy = DeliverPolicy((Destination("pacs", "ORTHANC", "127.0.0.1", archive.port, **proof),))
    desk = CommitmentDesk(stores, policy, threading.Event().set)
    receive = ReceivePolicy(port=port, min_free_mb=1.0, allowed_callers=(Caller("SCANNER"),))
    scp = StoreScp(receive, stores.inbox, lambda _: None, desk=desk)
    scp.start()
    try:
        delivery = tried(stores, policy, KEY)
    finally:
        scp.stop()
    assert (delivery.state, delivery.reason) == (DeliveryState.DONE, "")
    assert all(item.committed_at is not None for item in stores.deliveries.instances(KEY))


def test_orthanc_asks_whether_what_it_sent_is_safe(
    stores: NodeStores, orthanc: tuple[Orthanc, int], tmp_path: Path
) -> None:
    archive, port = orthanc
    receive = ReceivePolicy(port=port, min_free_mb=1.0)
    desk = CommitmentDesk(stores, DeliverPolicy(), threading.Event().set)
    scp = StoreScp(receive, stores.inbox, lambda _: None, desk=desk)
    scp.start()
    try:
        itself = Destination("node", "PSMA_NODE", "127.0.0.1", port)
        uids = [one.sop_instance_uid for one in send(write_study(tmp_path / "out", 2), itself, "SCANNER")]
        asked = [(CTImageStorage, uids[0]), (MRImageStorage, uids[1]), (CTImageStorage, "1.2.3")]
        items = [{"SOPClassUID": a, "SOPInstanceUID": b} for a, b in asked]
        begun = ask(archive, "/modalities/PSMA_NODE/storage-commitment", {"DicomInstances": items})
        answer = wait_for(archive, begun["Path"], stores, receive)
    finally:
        scp.stop()
    assert answer["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in answer["Success"]] == [uids[0]]
    assert {one["SOPInstanceUID"]: one["FailureReason"] for one in answer["Failures"]} == {
        uids[1]: 0x0119,
        "1.2.3": 0x0112,
    }


def wait_for(archive: Orthanc, path: str, stores: NodeStores, receive: ReceivePolicy) -> Any:
    """Orthanc ends its association: it is told on one of the node's, at its own port."""
    back = replace(receive, allowed_callers=(Caller("*", commitment_port=archive.port),))
    owed = OwedAnswers(stores, back, DeliverPolicy())
    deadline = time.monotonic() + 60
    while True:
        owed.tell()
        answer = ask(archive, path)
        if answer["Status"] != "Pending":
            return answer
        assert time.monotonic() < deadline, "no answer came"
        time.sleep(0.5)


def ask(archive: Orthanc, path: str, data: Any = None) -> Any:
    url = f"http://127.0.0.1:{archive.http_port}{path}"
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as answer:
        return json.loads(answer.read())
