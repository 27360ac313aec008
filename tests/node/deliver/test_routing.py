"""What goes where, and what a new destination gets of what is there already."""

from __future__ import annotations

import typing
import zlib
from dataclasses import replace

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from app.dicom.uids import NoticeKind, ResultKind
from app.domain.outcome import ResultFile
from app.errors import MisconfiguredError
from app.node.peers import DeliverPolicy, Destination, ResultName
from app.node.process.routing import routed
from app.node.records.instances import StoreCommand, identify
from app.node.records.states import DeliveryKey, StudyState
from app.node.records.stores import NodeStores
from app.node.upkeep.retry import forward
from tests.node.deliver.conftest import RUN, UIDS, plan
from tests.node.receive.images import STUDY as IMAGES
from tests.node.receive.images import ct_slice, encoded, received

PACS = Destination("pacs", "PACS", "127.0.0.1", 104)
FILES = [ResultFile(str(kind), f"{kind}.dcm", "1.2", f"1.2.{n}", "1.3")
         for n, kind in enumerate((*ResultKind, *NoticeKind))]  # fmt: skip


def kinds(destination: Destination) -> set[str]:
    return {file.kind for file in FILES if destination.takes(file.kind)}


def test_the_kinds_that_a_destination_may_accept_are_those_that_there_are() -> None:
    assert set(typing.get_args(ResultName)) == {str(kind) for kind in ResultKind}


def test_a_destination_gets_the_kinds_that_it_accepts_and_every_withdrawal() -> None:
    notices = {str(kind) for kind in NoticeKind}
    assert kinds(PACS) == {file.kind for file in FILES}
    assert kinds(replace(PACS, accept=("SEG",))) == {"SEG"} | notices
    assert kinds(replace(PACS, accept=("SR", "PAGE"))) == {"SR", "PAGE"} | notices


def test_a_study_goes_where_its_sender_and_its_station_say(stores: NodeStores) -> None:
    image = ct_slice(1)
    image.StationName = "CT_ROOM_2"
    stores.inbox.store(received(image))
    stores.inbox.settle()
    (sender,) = stores.inbox.senders(IMAGES)
    run = replace(RUN, study_instance_uid=IMAGES)
    places = (
        replace(PACS, name="any"),
        replace(PACS, name="of its sender", callers=("OTHER", sender)),
        replace(PACS, name="of another sender", callers=("OTHER",)),
        replace(PACS, name="of its station", stations=("CT_ROOM_2",)),
        replace(PACS, name="of another station", stations=("CT_ROOM_1",)),
        replace(PACS, name="of both", callers=(sender,), stations=("CT_ROOM_1",)),
        replace(PACS, name="of nothing", accept=("RTSTRUCT",)),
    )
    seg = [file for file in FILES if file.kind == "SEG"]
    assert list(routed(stores, run, seg, places)) == ["any", "of its sender", "of its station"]


def test_an_image_that_can_not_be_read_names_no_station_and_stops_no_result(
    stores: NodeStores, caplog: pytest.LogCaptureFixture
) -> None:
    """A deflated one that was cut off: its beginning is in order, so it was received."""
    image = ct_slice(1)
    image.StationName = "CT_ROOM_2"
    packer = zlib.compressobj(wbits=-15)
    deflated = packer.compress(encoded(image)) + packer.flush()
    command = StoreCommand(image.SOPInstanceUID, image.SOPClassUID, DeflatedExplicitVRLittleEndian, "CT1")
    stores.inbox.store(identify(command, deflated[:-8]))
    stores.inbox.settle()
    run = replace(RUN, study_instance_uid=IMAGES)
    places = (replace(PACS, name="any"), replace(PACS, name="of its station", stations=("CT_ROOM_2",)))
    assert list(routed(stores, run, FILES, places)) == ["any"]
    assert [record.getMessage() for record in caplog.records] == [
        "the station of an unreadable image is not known"
    ]


def test_a_new_destination_gets_old_results_when_asked_and_none_twice(stores: NodeStores) -> None:
    plan(stores, "pacs")
    stores.runs.finish_delivery(RUN, StudyState.DONE)
    policy = DeliverPolicy((PACS, replace(PACS, name="archive", accept=("SR",))))
    assert forward(stores, policy, "archive") == (
        f"{RUN.study_instance_uid}: its results are sent to archive",
    )
    key = DeliveryKey(RUN, "archive")
    assert [item.sop_instance_uid for item in stores.deliveries.instances(key)] == [UIDS["SR"]]
    assert stores.runs.get(RUN).state is StudyState.DELIVERING
    assert forward(stores, policy, "archive") == ()
    stores.deliveries.acknowledge(key, UIDS["SR"], 0)
    assert len(forward(stores, policy, "archive", RUN.study_instance_uid)) == 1
    assert [item.is_open for item in stores.deliveries.instances(key)] == [True]


def test_what_can_not_be_forwarded_is_said(stores: NodeStores) -> None:
    plan(stores, "pacs")
    with pytest.raises(MisconfiguredError, match=r"nowhere is not in .*; found pacs"):
        forward(stores, DeliverPolicy((PACS,)), "nowhere")
    with pytest.raises(MisconfiguredError, match="no results that pacs accepts"):
        forward(stores, DeliverPolicy((PACS,)), "pacs", "1.2.3")
