"""A PACS that routes whole studies back: the node's own results, and other people's, make no new revision."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    EnhancedMRImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from sqlalchemy import update

from app.dicom.results.policy import RESULT_CLASSES
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.screening import IMAGE_CLASSES, ImageRole, screen
from app.domain.selection.selection import SelectionResult
from app.domain.study import Patient, Series, Study
from app.node.peers import ReceivePolicy
from app.node.policy import NodePolicy
from app.node.receive.watcher import Watcher
from app.node.records.database import utc_now
from app.node.records.inbox_index import InstanceRow
from app.node.records.instances import StoreCommand, identify
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.watch.status import StudyStatus, study_statuses
from tests.node.receive.images import data_set_of
from tests.node.workflow.fake_node import KINDS, derived_uid, examine, pet_image, secondary_capture
from tests.node.workflow.peers import FakePacs, NodeProcess, wait_until

NewNode = Callable[..., NodeProcess]

STUDY = "1.2.3"
OTHERS = (
    SegmentationStorage,
    BasicTextSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)
"""What other people's programs add to a study."""


def results_of(node: NodeProcess, study: str, revision: int = 1) -> list[Path]:
    """The files of a revision's results, as the PACS has them."""
    stores = node.stores()
    folder = stores.outbox.folder_of(RunKey(study, revision))
    stores.close()
    return sorted(folder.glob("*.dcm"))


def changed(path: Path, folder: Path) -> Path:
    """The same instance as a PACS hands it on that changes what it was given."""
    dataset = dcmread(path)
    dataset.AccessionNumber = "OF-THE-PACS"
    dataset.save_as(folder / f"changed-{path.name}")
    return folder / f"changed-{path.name}"


def of_class(sop_class_uid: str, folder: Path, study: str) -> Path:
    """An object of somebody else's."""
    uid = derived_uid(study, sop_class_uid)
    path = secondary_capture(folder / f"{uid}.dcm", study, uid)
    dataset = dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class_uid
    dataset.SeriesInstanceUID = f"{uid}.1"
    dataset.save_as(path)
    return path


def look_again(node: NodeProcess, number: int) -> None:
    """Until the node has looked at all that came before: a study sent after it is done.

    The watcher looks at studies in the order in which they began to arrive.
    """
    node.wait_for(node.send_study(number), "done")


def test_results_routed_back_make_no_new_revision(pacs: FakePacs, new_node: NewNode, tmp_path: Path) -> None:
    node = new_node(pacs).start()
    study = node.send_study(1)
    node.wait_for(study, "done")
    results = results_of(node, study)
    assert len(results) == len(KINDS)

    node.send(results, "PACS")
    look_again(node, 2)
    node.send([changed(path, tmp_path) for path in results], "PACS")
    node.send([of_class(uid, tmp_path, study) for uid in OTHERS], "PACS")
    look_again(node, 3)

    status = node.status(study)
    assert (status.state, status.revision) == ("done", 1)
    assert status.instance_count == 1 + 2 * len(KINDS) + len(OTHERS), "all is kept"
    assert [call for call in node.calls() if call.startswith(f"{study} ")] == [f"{study} 1 1"]
    assert set(pacs.received.values()) == {1}


def test_after_a_start_results_routed_back_before_make_no_revision(pacs: FakePacs, new_node: NewNode) -> None:
    node = new_node(pacs).start()
    study = node.send_study(1)
    node.wait_for(study, "done")
    node.send(results_of(node, study), "PACS")
    node.kill()
    node.start()
    look_again(node, 2)
    assert (node.status(study).state, node.status(study).revision) == ("done", 1)


def test_a_late_image_among_routed_results_is_analysed_without_them(
    pacs: FakePacs, new_node: NewNode
) -> None:
    node = new_node(pacs).start()
    study = node.send_study(1)
    node.wait_for(study, "done")
    node.send(results_of(node, study), "PACS")
    node.send_study(1, instance=2)
    wait_until(lambda: node.status(study).revision == 2, "revision 2 is opened")
    node.wait_for(study, "done")
    assert node.calls() == [f"{study} 1 1", f"{study} 2 2"]


def test_a_study_without_an_image_says_so_and_is_processed_once_it_has_one(
    pacs: FakePacs, new_node: NewNode, tmp_path: Path
) -> None:
    node = new_node(pacs, receive={"settle_s": 0.5, "give_up_s": 0.5}).start()
    study = "1.2.826.0.1.1"
    node.send([of_class(uid, tmp_path, study) for uid in (BasicTextSRStorage, SegmentationStorage)], "PACS")
    look_again(node, 2)
    status = node.status(study)
    assert (status.state, status.revision) == ("waiting", 0)
    assert status.reason == "no image has come yet"
    assert status.beside == "1 Basic Text SR Storage, 1 Segmentation Storage"
    assert not any(call.startswith(f"{study} ") for call in node.calls())
    node.send_study(1)
    node.wait_for(study, "done")
    assert f"{study} 1 1" in node.calls()


def test_nothing_that_the_node_sends_can_change_a_result() -> None:
    made = {uid for classes in RESULT_CLASSES.values() for uid in classes}
    assert not made & set(IMAGE_CLASSES)


@pytest.mark.parametrize("sop_class_uid", OTHERS)
def test_what_is_no_image_of_a_patient_does_not_count(sop_class_uid: str) -> None:
    verdict = screen(Series("1.2", "CT", (), sop_class_uid=sop_class_uid))
    assert isinstance(verdict, Reason)
    assert verdict.code in (RefusalCode.NOT_AN_IMAGE, RefusalCode.NOT_PRIMARY, RefusalCode.OTHER_MODALITY)
    assert sop_class_uid not in IMAGE_CLASSES


@pytest.mark.parametrize("sop_class_uid", [CTImageStorage, EnhancedMRImageStorage])
def test_what_is_read_or_refused_by_name_counts(sop_class_uid: str) -> None:
    verdict = screen(Series("1.2", "CT", (), sop_class_uid=sop_class_uid))
    assert verdict is ImageRole.CT or "Enhanced MR" in str(verdict)
    assert sop_class_uid in IMAGE_CLASSES


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


def look(stores: NodeStores, calm_s: float = 0.0) -> StudyStatus:
    """A node that has just started looks once; what it then says of the only study."""
    Watcher(stores, ReceivePolicy(settle_s=0.0, give_up_s=0.0), examine, calm_s).look()
    (status,) = study_statuses(stores)
    return status


def keep(stores: NodeStores, path: Path) -> None:
    """As the SCP does with what is sent to it."""
    dataset = dcmread(path)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    command = StoreCommand(str(dataset.SOPInstanceUID), str(dataset.SOPClassUID), syntax, "PACS")
    stores.inbox.store(identify(command, data_set_of(path.read_bytes())))


def make_old(stores: NodeStores) -> None:
    """What has come so far came an hour ago."""
    stores.inbox.settle()
    with stores.engine.begin() as connection:
        connection.execute(update(InstanceRow).values(received_at=utc_now() - timedelta(hours=1)))


def test_a_processed_study_does_not_begin_to_arrive_again_with_a_result(
    stores: NodeStores, tmp_path: Path
) -> None:
    keep(stores, pet_image(tmp_path / "a.dcm", STUDY, f"{STUDY}.4"))
    make_old(stores)
    watcher = Watcher(stores, ReceivePolicy(settle_s=0.0), examine, calm_s=600.0)
    watcher.look()
    assert study_statuses(stores)[0].state == "queued"
    keep(stores, of_class(SegmentationStorage, tmp_path, STUDY))
    watcher.look()
    # while it is said to arrive, a SPECT/CT of the same patient waits for it
    known = stores.studies.get(STUDY)
    assert known is not None
    assert (known.state, known.reason) == (StudyState.QUEUED, "")


def test_results_that_trickle_in_do_not_keep_a_study_from_being_complete(
    stores: NodeStores, tmp_path: Path
) -> None:
    keep(stores, pet_image(tmp_path / "a.dcm", STUDY, f"{STUDY}.4"))
    make_old(stores)
    keep(stores, of_class(SegmentationStorage, tmp_path, STUDY))
    Watcher(stores, ReceivePolicy(settle_s=600.0), examine, calm_s=600.0).look()
    assert study_statuses(stores)[0].state == "queued"


@pytest.mark.parametrize("calm_s", [0.0, 600.0], ids=["whole", "arriving"])
def test_the_watcher_reads_the_headers_of_images_alone(
    stores: NodeStores, tmp_path: Path, calm_s: float
) -> None:
    keep(stores, of_class(SegmentationStorage, tmp_path, STUDY))
    keep(stores, pet_image(tmp_path / "a.dcm", STUDY, "2.9.1"))
    assert stores.inbox.image_paths(STUDY) == stores.inbox.paths(STUDY)[1:]
    read: list[Path] = []

    def noted(paths: Sequence[Path]) -> tuple[Study, SelectionResult]:
        read.extend(paths)
        return examine(paths)

    Watcher(stores, ReceivePolicy(settle_s=0.0), noted, calm_s).look()
    assert tuple(read) == stores.inbox.image_paths(STUDY)


def test_a_study_without_an_image_is_no_earlier_pet(stores: NodeStores, tmp_path: Path) -> None:
    keep(stores, of_class(SegmentationStorage, tmp_path, STUDY))
    assert look(stores).state == "waiting"
    assert stores.studies.of_patient(Patient("ID-TEST^PATIENT")) == ()
    assert stores.runs.of_study(STUDY) == ()


def test_another_content_of_an_image_is_another_content_of_the_study(
    stores: NodeStores, tmp_path: Path
) -> None:
    image = pet_image(tmp_path / "a.dcm", STUDY, f"{STUDY}.4")
    keep(stores, image)
    look(stores)
    keep(stores, changed(image, tmp_path))
    assert look(stores).revision == 2


def test_what_else_is_in_a_study_is_in_the_audit_log(stores: NodeStores, tmp_path: Path) -> None:
    keep(stores, of_class(SegmentationStorage, tmp_path, STUDY))
    keep(stores, pet_image(tmp_path / "a.dcm", STUDY, f"{STUDY}.4"))
    look(stores)
    lines = (tmp_path / "data" / "audit" / "audit.jsonl").read_text().splitlines()
    (facts,) = (entry["facts"] for entry in map(json.loads, lines) if entry["event"] == "study received")
    assert (facts["instances"], facts["beside"]) == (1, "1 Segmentation Storage")
