"""The audit log tells who sent what and who was turned away, and can't be filled by knocking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import SecondaryCaptureImageStorage
from sqlalchemy import delete, update

from app.errors import RetryLaterError
from app.node.peers import Caller, ReceivePolicy
from app.node.policy import NodePolicy
from app.node.receive.reception import OUT_OF_RESOURCES, Reception, ReceptionEvent
from app.node.receive.reception_audit import REPEAT_S, ReceptionAudit
from app.node.receive.scp import StoreScp
from app.node.records.inbox_index import InstanceRow
from app.node.records.stores import NodeStores, open_stores
from tests.node.receive.images import ct_slice, received
from tests.node.workflow.fake_node import Subject, secondary_capture

STORED = Reception(ReceptionEvent.STORED, "CT1", "10.0.0.5", "", 0, "1.2", "1.2.3")
REJECTED = Reception(ReceptionEvent.ASSOCIATION_REJECTED, "EVIL", "10.0.0.9", "not from here")
REFUSED = Reception(ReceptionEvent.REFUSED, "CT1", "10.0.0.5", "the disk is full", 0xA700)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path))
    yield opened
    opened.close()


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit" / "audit.jsonl").read_text().splitlines()]


def test_first_image_of_a_study_from_each_sender_is_written_down(stores: NodeStores, tmp_path: Path) -> None:
    observe = ReceptionAudit(stores.audit)
    for number in range(5):
        observe(replace(STORED, sop_instance_uid=f"1.2.{number}"))
    observe(replace(STORED, calling_ae="PACS"))
    observe(replace(STORED, event=ReceptionEvent.CONFLICT))
    written = [(entry["event"], entry["study"], entry["facts"]["calling_ae"]) for entry in entries(tmp_path)]
    assert written == [
        ("study arrives", "1.2", "CT1"),
        ("study arrives", "1.2", "PACS"),
        ("instance arrived with another content", "1.2", "CT1"),
    ]


def test_an_association_that_fails_is_written_down_with_its_titles(
    stores: NodeStores, tmp_path: Path
) -> None:
    failed = ReceptionEvent.ASSOCIATION_FAILED
    ends = {"called_ae": "NODE", "listener": "port 2762 (TLS)"}
    ReceptionAudit(stores.audit)(Reception(failed, "CT1", "10.0.0.5", "it was aborted", **ends))
    (entry,) = entries(tmp_path)
    facts = ends | {"calling_ae": "CT1", "address": "10.0.0.5", "reason": "it was aborted"}
    assert (entry["event"], entry["facts"]) == ("association failed", facts)


def test_what_is_here_already_tells_who_sends_it_when_nothing_did_before(
    stores: NodeStores, tmp_path: Path
) -> None:
    """As after a stop between an image and its entry: a study of one image would have none for good."""
    observe = ReceptionAudit(stores.audit)
    for _ in range(2):
        observe(replace(STORED, event=ReceptionEvent.DUPLICATE))
    (entry,) = entries(tmp_path)
    assert (entry["event"], entry["study"], entry["facts"]["calling_ae"]) == ("study arrives", "1.2", "CT1")


def test_a_conflict_that_could_not_be_written_is_when_its_sender_tries_again_or_later(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept, so the next try is a duplicate."""
    observe = ReceptionAudit(stores.audit)
    observe(STORED)
    for number in (3, 4):
        with monkeypatch.context() as patch:
            patch.setattr(stores.audit, "append", Mock(side_effect=OSError("no space")))
            with pytest.raises(RetryLaterError):
                observe(replace(STORED, event=ReceptionEvent.CONFLICT, sop_instance_uid=f"1.2.{number}"))
            with pytest.raises(RetryLaterError):
                observe(replace(STORED, event=ReceptionEvent.DUPLICATE, sop_instance_uid=f"1.2.{number}"))
        if number == 3:
            observe(replace(STORED, event=ReceptionEvent.DUPLICATE, sop_instance_uid="1.2.3"))
        else:
            observe.flush()
    observe.flush()
    found = [(entry["event"], entry["facts"].get("sop_instance")) for entry in entries(tmp_path)]
    assert found == [
        ("study arrives", None),
        ("instance arrived with another content", "1.2.3"),
        ("instance arrived with another content", "1.2.4"),
    ]


def test_a_conflict_that_a_start_makes_known_is_written_once(stores: NodeStores, tmp_path: Path) -> None:
    """The node was cut off before the second content was indexed."""
    for value in (0, 500):
        stores.inbox.store(received(ct_slice(1, value=value)))
    last = stores.inbox.conflicting()[-1]
    with stores.inbox._engine.begin() as connection:
        connection.execute(delete(InstanceRow).where(InstanceRow.path == last.path))
        connection.execute(update(InstanceRow).values(conflict=False))
    for _ in range(2):
        scp = StoreScp(ReceivePolicy(port=0), stores.inbox, ReceptionAudit(stores.audit))
        scp.start()
        scp.stop(drain_s=0)
    (entry,) = entries(tmp_path)
    assert entry["event"] == "instance arrived with another content"
    assert entry["facts"]["sop_instance"] == last.sop_instance_uid
    assert entry["facts"]["calling_ae"] == last.calling_ae
    assert "found at a start" in entry["facts"]["reason"]


def test_refusals_alike_are_counted_and_others_written(stores: NodeStores, tmp_path: Path) -> None:
    now = [0.0]
    observe = ReceptionAudit(stores.audit, clock=lambda: now[0])
    for number in range(50):
        observe(replace(REJECTED, calling_ae=f"EVIL{number}"))
    observe(REFUSED)
    now[0] = REPEAT_S
    observe(REJECTED)
    found = entries(tmp_path)
    assert [entry["event"] for entry in found] == ["caller refused", "instance refused", "caller refused"]
    assert found[1]["facts"]["dicom_status"] == "A700"
    assert found[2]["facts"]["alike_since_the_last_entry"] == 49
    assert stores.audit.verify().intact


def test_counted_refusals_are_written_when_their_minute_is_over_or_the_node_stops(
    stores: NodeStores, tmp_path: Path
) -> None:
    now = [0.0]
    observe = ReceptionAudit(stores.audit, clock=lambda: now[0])
    for number in range(5):
        observe(replace(REJECTED, calling_ae=f"EVIL{number}"))
    observe.flush()
    assert len(entries(tmp_path)) == 1
    now[0] = REPEAT_S
    observe.flush()
    observe.flush()
    found = entries(tmp_path)
    assert [entry["facts"]["calling_ae"] for entry in found] == ["EVIL0", "EVIL4"]
    assert found[1]["facts"]["alike_since_the_last_entry"] == 3
    observe(REJECTED)
    observe.flush(everything=True)
    assert len(entries(tmp_path)) == 3


def test_refusals_that_could_not_be_written_stay_counted(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = ReceptionAudit(stores.audit)
    observe(REJECTED)
    observe(REJECTED)

    def full(*_: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(stores.audit, "append", full)
        with pytest.raises(RetryLaterError):
            observe.flush(everything=True)
    observe.flush(everything=True)
    assert len(entries(tmp_path)) == 2


def test_counted_refusals_of_an_address_that_is_forgotten_are_written(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.node.receive.reception_audit.MAX_REMEMBERED", 1)
    observe = ReceptionAudit(stores.audit)
    observe(REJECTED)
    observe(REJECTED)
    observe(replace(REJECTED, address="10.0.0.10"))
    assert [entry["facts"]["address"] for entry in entries(tmp_path)] == ["10.0.0.9", "10.0.0.9", "10.0.0.10"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom, of what is meant to be bad
def test_real_senders_are_written_down_without_any_patient(stores: NodeStores, tmp_path: Path) -> None:
    policy = ReceivePolicy(port=0, allowed_callers=(Caller("SCANNER"),), min_free_mb=1.0)
    scp = StoreScp(policy, stores.inbox, ReceptionAudit(stores.audit))
    scp.start()
    good = secondary_capture(tmp_path / "a.dcm", "1.2.3", "1.2.3.4", Subject("ZYXWVUT^QUINTUS"))
    bad = secondary_capture(tmp_path / "b.dcm", "1.2.03", "1.2.3.5", Subject("ZYXWVUT^QUINTUS"))
    try:
        for caller in ("SCANNER", "STRANGER"):
            entity = AE(ae_title=caller)
            entity.add_requested_context(SecondaryCaptureImageStorage)
            association = entity.associate("127.0.0.1", scp.port, ae_title="PSMA_NODE")
            if association.is_established:
                assert [association.send_c_store(path).Status for path in (good, bad)] == [0, 0xC000]
                association.release()
    finally:
        scp.stop()
    found = entries(tmp_path)
    assert [entry["event"] for entry in found] == ["study arrives", "instance refused", "caller refused"]
    assert found[2]["facts"]["calling_ae"] == "STRANGER"
    assert "ZYXWVUT" not in json.dumps(found)


def test_what_can_not_be_written_down_is_no_success(stores: NodeStores, tmp_path: Path) -> None:
    def observe(reception: Reception) -> None:
        raise RetryLaterError("the audit log can't be written to")

    policy = ReceivePolicy(port=0, min_free_mb=1.0)
    scp = StoreScp(policy, stores.inbox, observe)
    scp.start()
    path = secondary_capture(tmp_path / "a.dcm", "1.2.3", "1.2.3.4")
    try:
        entity = AE(ae_title="SCANNER")
        entity.add_requested_context(SecondaryCaptureImageStorage)
        association = entity.associate("127.0.0.1", scp.port, ae_title="PSMA_NODE")
        answer = association.send_c_store(path)
        association.release()
    finally:
        scp.stop()
    assert answer.Status == OUT_OF_RESOURCES
    assert "audit log" in answer.ErrorComment
