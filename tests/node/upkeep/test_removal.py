"""What goes with a study that is removed, what stays, and what is not removed."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, inspect, select

from app.domain.study import Patient
from app.errors import MisconfiguredError, RetryLaterError
from app.node.policy import NodePolicy
from app.node.records.database import Base
from app.node.records.inbox import Stored
from app.node.records.inbox_index import InstanceRow
from app.node.records.pending import PendingInstances
from app.node.records.results import RegisteredResult
from app.node.records.runs import RunTransition
from app.node.records.states import DeliveryKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from app.node.upkeep import removal
from app.node.upkeep.removal import RemovalRequest, finish_removals, remove_study
from app.node.watch.status import study_statuses
from tests.node.receive import images
from tests.node.upkeep.conftest import at_rest, ended, received, whole

DAY = datetime(2026, 3, 4, 9, 30)
ASKED = {"asked_by": "berta"}


@pytest.fixture
def stores(policy: NodePolicy) -> NodeStores:
    return open_stores(policy)


def rows_of(stores: NodeStores, study: str) -> dict[str, int]:
    """How many rows name the study, by table."""
    names = [name for name in Base.metadata.tables if "study_instance_uid" in Base.metadata.tables[name].c]
    assert set(names) <= set(inspect(stores.engine).get_table_names())
    with stores.engine.connect() as connection:
        counts = {
            name: connection.scalar(
                select(func.count()).where(Base.metadata.tables[name].c.study_instance_uid == study)
            )
            for name in names
        }
    return {name: count for name, count in counts.items() if count}


def test_images_results_and_rows_go_and_another_study_stays(stores: NodeStores, policy: NodePolicy) -> None:
    ended(stores, policy, "1.2", StudyState.DONE)
    other = ended(stores, policy, "1.20", StudyState.DONE)
    kept = rows_of(stores, "1.20")
    policy.failures_dir.mkdir()
    (policy.failures_dir / "1.2-r1-1.txt").write_text("a traceback")
    (policy.failures_dir / "1.20-r1-1.txt").write_text("a traceback")
    words = remove_study(stores, policy, RemovalRequest("1.2", reason="sent by mistake", **ASKED))
    assert words == "study 1.2 is removed: 1 instances, 1 revisions"
    assert rows_of(stores, "1.2") == {"runs": 1}, "its numbers alone, from which to count on"
    assert not list(policy.data_dir.rglob("*1.2/*"))
    assert [path.name for path in policy.failures_dir.iterdir()] == ["1.20-r1-1.txt"]
    assert rows_of(stores, "1.20") == kept
    assert (stores.outbox.folder_of(other) / "seg.dcm").is_file()
    assert [study.study_instance_uid for study in study_statuses(stores)] == ["1.20"]
    line = json.loads(stores.audit.path.read_text())
    facts = {"asked_by": "berta", "reason": "sent by mistake", "instances": 1, "revisions": ["1 done"]}
    assert (line["event"], line["study"]) == ("study removed", "1.2")
    assert line["facts"] == facts | {"prior_of": []}
    with pytest.raises(MisconfiguredError, match=r"found no study 1\.2"):
        remove_study(stores, policy, RemovalRequest("1.2", **ASKED))


def test_a_study_that_comes_again_counts_on_so_that_no_number_is_used_twice(
    stores: NodeStores, policy: NodePolicy
) -> None:
    key = ended(stores, policy, "1.2", StudyState.DONE)
    assert stores.runs.requeue(stores.runs.get(key))
    stores.runs.claim(key, 2, "x")
    stores.runs.end(key, 2, RunTransition(StudyState.DONE))
    remove_study(stores, policy, RemovalRequest("1.2", **ASKED))
    received(stores, policy, "1.2")
    [status] = study_statuses(stores)
    assert status.reason.endswith("(revision 1 is removed)")
    run, created = stores.runs.open("1.2", "d" * 64)
    assert (created, run.revision, run.attempt, run.state) == (True, 2, 3, StudyState.QUEUED)


@pytest.mark.parametrize(
    ("state", "words"),
    [(StudyState.RUNNING, "is being processed"), (StudyState.DELIVERING, "revision 1 is delivering")],
)
def test_what_is_not_at_rest_stays(
    stores: NodeStores, policy: NodePolicy, state: StudyState, words: str
) -> None:
    ended(stores, policy, "1.2", state)
    before = rows_of(stores, "1.2")
    with pytest.raises(MisconfiguredError, match=words):
        remove_study(stores, policy, RemovalRequest("1.2", **ASKED))
    with pytest.raises(MisconfiguredError):
        remove_study(stores, policy, RemovalRequest("1.2", force=True, **ASKED))
    assert rows_of(stores, "1.2") == before
    assert not stores.audit.path.exists()


def test_an_open_delivery_goes_with_a_reason_alone(stores: NodeStores, policy: NodePolicy) -> None:
    key = ended(stores, policy, "1.2", StudyState.DELIVERING)
    remove_study(stores, policy, RemovalRequest("1.2", reason="wrong patient", force=True, **ASKED))
    assert rows_of(stores, "1.2") == {"runs": 1}
    assert not stores.deliveries.begin(DeliveryKey(key, "pacs"), 1), "its try is out of date"
    assert stores.deliveries.pending() == ()


def test_images_that_have_just_come_are_waited_for(stores: NodeStores, policy: NodePolicy) -> None:
    ended(stores, policy, "1.2", StudyState.DONE)
    with pytest.raises(MisconfiguredError, match="within the last 7200 s"):
        remove_study(stores, policy, RemovalRequest("1.2", quiet_s=7200, **ASKED))


def test_later_spects_that_lose_their_prior_are_named(stores: NodeStores, policy: NodePolicy) -> None:
    ended(stores, policy, "1.2", StudyState.DONE)
    anna = Patient("ID-ANNA")
    stores.studies.identify(StudySubject("1.2", anna, DAY))
    stores.studies.identify(StudySubject("1.3", anna, None, DAY + timedelta(days=9)))
    pet = RegisteredResult(
        study_instance_uid="1.2", functional_series_instance_uid="1.2.2", revision=1, patient_id="ID-ANNA",
        issuer="", ct_series_instance_uid="1.2.3", acquired_at=DAY, lesion_count=0,
        segmentation_sop_instance_uid="", segmentation_path="",
    )  # fmt: skip
    with removal.Session(stores.engine) as session, session.begin():
        session.add(pet)
    words = remove_study(stores, policy, RemovalRequest("1.2", **ASKED))
    assert words.endswith("have this prior no more when they are analysed again: 1.3")
    assert json.loads(stores.audit.path.read_text())["facts"]["prior_of"] == ["1.3"]


def test_a_removal_that_fails_changes_nothing(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(stores, policy, "1.2", StudyState.DONE)
    before = rows_of(stores, "1.2")

    def full(_session: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(removal.Session, "commit", full)
    with pytest.raises(OSError, match="the disk is full"):
        remove_study(stores, policy, RemovalRequest("1.2", **ASKED))
    assert rows_of(stores, "1.2") == before
    assert (policy.inbox_dir / "studies" / "1.2" / "image.dcm").is_file()


@pytest.mark.parametrize("committed", [False, True])
def test_a_removal_that_was_cut_off_is_taken_back_or_ended(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    key = ended(stores, policy, "1.2", StudyState.DONE)
    image = policy.inbox_dir / "studies" / "1.2" / "image.dcm"
    aside = policy.inbox_dir / "removed" / "1.2"

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    if committed:
        monkeypatch.setattr(removal, "_empty", killed)
        with pytest.raises(KilledError):
            remove_study(stores, policy, RemovalRequest("1.2", **ASKED))
        monkeypatch.undo()
    else:
        aside.parent.mkdir()
        image.parent.rename(aside)
    finish_removals(stores, policy)
    assert (aside / "image.dcm").is_file(), "a command may be at work: it is left alone for a while"
    monkeypatch.setattr(removal, "SETTLED_S", -1.0)
    finish_removals(stores, policy)
    assert not aside.exists()
    assert image.is_file() is not committed
    assert stores.outbox.folder_of(key).exists() is not committed
    found = select(InstanceRow.path).where(InstanceRow.study_instance_uid == "1.2")
    assert bool(removal.fetch(stores.engine, found)) is not committed


def test_images_and_results_can_be_read_by_the_node_s_user_alone(policy: NodePolicy) -> None:
    for folder in (policy.inbox_dir, policy.results_dir):
        folder.mkdir(parents=True)
        folder.chmod(0o755)  # as versions before left them
    before = os.umask(0)
    try:
        stores = open_stores(policy)
        stores.inbox.store(images.received(images.ct_slice(1)))
        stores.inbox.settle()
        policy.engine_database_file.chmod(0o644)
        (policy.data_dir / "workflows.sqlite-wal").touch(mode=0o644)
        open_stores(policy).close()
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in policy.inbox_dir.rglob("*.dcm")}
    databases = {path.name: path.stat().st_mode & 0o777 for path in policy.data_dir.glob("*.sqlite*")}
    folders = [policy.inbox_dir, policy.results_dir, *(policy.inbox_dir / "studies").iterdir()]
    assert modes == {0o600}
    assert databases.keys() >= {"node.sqlite", "node.sqlite-wal", "workflows.sqlite", "workflows.sqlite-wal"}
    assert set(databases.values()) == {0o600}
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_a_study_of_which_an_image_came_again_is_waited_for(stores: NodeStores, policy: NodePolicy) -> None:
    kept = at_rest(stores, policy)
    assert stores.inbox.store(kept[0]) is Stored.DUPLICATE
    with pytest.raises(MisconfiguredError, match="within the last 60 s"):
        remove_study(stores, policy, RemovalRequest("1.2.3", **ASKED))
    assert whole(stores) == 3


@pytest.mark.parametrize("step", ["_delete_rows", "_refuse_newcomers"])
@pytest.mark.parametrize("number", [0, 3])
def test_what_is_acknowledged_during_a_removal_is_kept(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    """Image 0 comes again, image 3 for the first time; both before and after the folder has stepped aside."""
    at_rest(stores, policy)
    came = images.received(images.ct_slice(number, "1.2.3"))
    work, receiving = getattr(removal, step), open_stores(policy).inbox

    def meanwhile(*arguments: object) -> object:
        if step == "_delete_rows":
            receiving.store(came)
            with pytest.MonkeyPatch.context() as patch:  # named; its row has to wait
                patch.setattr(receiving._pending, "index", _raise_silent)
                with pytest.raises(RetryLaterError) if number else nullcontext():
                    receiving.settle()
        else:
            folder = policy.inbox_dir / "studies" / "1.2.3"
            folder.mkdir()
            aside = policy.inbox_dir / "removed" / "1.2.3"
            if number == 0:  # as the inbox does with an image whose file is gone
                name = next(path.name for path in aside.iterdir())
                (folder / name).write_bytes((aside / name).read_bytes())
            else:
                receiving.store(came)
                receiving._pending.name(list(receiving._pending._waiting.values()))
        return work(*arguments)

    monkeypatch.setattr(removal, step, meanwhile)
    with pytest.raises(MisconfiguredError, match="have come meanwhile"):
        remove_study(stores, policy, RemovalRequest("1.2.3", **ASKED))
    receiving.settle()
    assert whole(stores) == (3 if number == 0 else 4)
    events = [json.loads(line)["event"] for line in stores.audit.path.read_text().splitlines()]
    assert events == ["study removed", "study not removed"]


def _raise_silent(*_: object) -> None:
    raise RetryLaterError("the index does not answer")


def test_an_image_is_tried_again_when_its_folder_steps_aside(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_rest(stores, policy)
    folder, aside = policy.inbox_dir / "studies" / "1.2.3", policy.inbox_dir / "removed" / "1.2.3"
    stores.inbox.store(images.received(images.ct_slice(3, "1.2.3")))
    aside.parent.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(PendingInstances, "_make_study_folder", lambda *_: folder.rename(aside))
        stores.inbox.settle()
    aside.rename(folder)
    assert whole(stores) == 4


def test_a_removal_that_was_cut_off_keeps_what_came_again(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are there; one image has come again: the others go back beside it."""
    kept = at_rest(stores, policy)
    folder, aside = policy.inbox_dir / "studies" / "1.2.3", policy.inbox_dir / "removed" / "1.2.3"
    aside.parent.mkdir()
    folder.rename(aside)
    assert stores.inbox.store(kept[0]) is Stored.DUPLICATE
    monkeypatch.setattr(removal, "SETTLED_S", -1.0)
    finish_removals(stores, policy)
    assert whole(stores) == 3
    assert not aside.exists()


def test_what_comes_after_a_removal_that_was_cut_off_is_new(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = at_rest(stores, policy)
    monkeypatch.setattr(removal, "_empty", _raise_disk)
    remove_study(stores, policy, RemovalRequest("1.2.3", **ASKED))
    monkeypatch.undo()
    assert stores.inbox.store(kept[1]) is Stored.NEW
    stores.inbox.settle()
    monkeypatch.setattr(removal, "SETTLED_S", -1.0)
    finish_removals(stores, policy)
    assert whole(stores) == 1
    assert not (policy.inbox_dir / "removed" / "1.2.3").exists()


def _raise_disk(*_: object) -> None:
    raise OSError(5, "the disk does not answer")
