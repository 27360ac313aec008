"""What has had its time goes, the oldest first, and nothing that is needed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from app.cli.main import app
from app.domain.study import Patient
from app.errors import MisconfiguredError
from app.node.policy import NodePolicy, RetentionPolicy
from app.node.records.commitment_messages import CommitmentRequest, Reference
from app.node.records.commitments import kept_here, record_told
from app.node.records.database import utc_now
from app.node.records.deliveries import DeliveryTransition
from app.node.records.inbox import Stored
from app.node.records.inbox_index import InstanceRow
from app.node.records.results import RegisteredResult
from app.node.records.runs import RunTransition
from app.node.records.states import DeliveryKey, DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from app.node.upkeep import removal
from app.node.upkeep.removal import RemovalRequest, finish_removals, remove_study
from app.node.upkeep.retention import expired, remove_expired
from tests.node.receive import images
from tests.node.upkeep.conftest import at_rest, ended, whole
from tests.node.workflow.test_ledgers import FILES

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"

STATES = {
    "1.1": StudyState.DONE,
    "1.2": StudyState.REJECTED,
    "1.3": StudyState.FAILED,
    "1.4": StudyState.DELIVERING,
    "1.5": StudyState.RUNNING,
    "1.6": StudyState.DONE,  # with a PET result
    "1.7": StudyState.DONE,  # of which more is coming
    "1.8": StudyState.DONE,  # whose results went nowhere
}


DRY_RUN = [
    "goes  1.1  1000 MB  done for more than 30 days",
    "stays  1.2  1000 MB  rejected; node.retention.rejected_days sets no time",
    "stays  1.3  1000 MB  failed; node.retention.failed_days sets no time",
    "stays  1.4  1000 MB  it is delivering",
    "stays  1.5  1000 MB  it is running",
    "stays  1.6  1000 MB  its PET result may be the prior of a later SPECT/CT",
    "stays  1.7  1000 MB  more of it is coming",
    "stays  1.8  1000 MB  its results went nowhere: they are in the data folder alone",
    "1 of 8 studies with 8000 MB would go, 1000 MB",
]


@pytest.fixture
def stores(policy: NodePolicy) -> NodeStores:
    """Studies of each kind, 1 GB each, that came on one day after another, a hundred days ago."""
    stores = open_stores(policy)
    for number, (study, state) in enumerate(STATES.items()):
        ended(stores, policy, study, state)
        if state is StudyState.DONE and study != "1.8":
            run = RunKey(study, 1)
            stores.deliveries.plan(run, FILES, ["pacs"])
            key = DeliveryKey(run, "pacs")
            stores.deliveries.end(key, 1, DeliveryTransition(DeliveryState.DONE))
        came = {"received_at": utc_now() - timedelta(days=100 - number), "bytes": 10**9}
        with stores.engine.begin() as connection:
            row = InstanceRow.study_instance_uid == study
            connection.execute(update(InstanceRow).where(row).values(**came))
    pet = RegisteredResult(
        study_instance_uid="1.6", functional_series_instance_uid="1.6.2", revision=1, patient_id="A",
        issuer="", ct_series_instance_uid="1.6.3", acquired_at=datetime(2026, 3, 4), lesion_count=0,
        segmentation_sop_instance_uid="", segmentation_path="",
    )  # fmt: skip
    with Session(stores.engine) as session, session.begin():
        session.add(pet)
    stores.studies.observe("1.7", StudyState.WAITING, "a CT")
    return stores


def found(stores: NodeStores, policy: NodePolicy, **retention: float) -> list[str]:
    kept = NodePolicy(data_dir=policy.data_dir, retention=RetentionPolicy(**retention))
    return [one.study_instance_uid for one in expired(stores, kept, utc_now())]


def test_each_state_has_its_time_and_what_is_needed_stays(stores: NodeStores, policy: NodePolicy) -> None:
    assert found(stores, policy) == []
    assert found(stores, policy, done_days=30) == ["1.1"]
    assert found(stores, policy, rejected_days=30) == ["1.2"]
    assert found(stores, policy, failed_days=30) == ["1.3"]
    assert found(stores, policy, done_days=30, rejected_days=30, failed_days=30) == ["1.1", "1.2", "1.3"]
    assert found(stores, policy, done_days=101) == []
    with stores.engine.begin() as connection:
        row = update(InstanceRow).where(InstanceRow.study_instance_uid == "1.2")
        connection.execute(row.values(conflict=True, sop_class_uid=CT_IMAGE))
    assert found(stores, policy, rejected_days=30) == [], "a person has to choose between its contents"


def test_beyond_the_quota_the_oldest_go_and_no_more_than_needed(
    stores: NodeStores, policy: NodePolicy, caplog: pytest.LogCaptureFixture
) -> None:
    assert found(stores, policy, max_gb=8) == []
    assert found(stores, policy, max_gb=7.5) == ["1.1"]
    assert found(stores, policy, max_gb=6.5) == ["1.1", "1.2"]
    assert not caplog.records
    assert found(stores, policy, max_gb=1) == ["1.1", "1.2"], "a failed study is nobody's to lose"
    assert "stays larger" in caplog.text


def test_what_goes_is_in_the_audit_log_and_a_dry_run_removes_nothing(
    stores: NodeStores, policy: NodePolicy
) -> None:
    words = ["--set", f"node.data_dir={policy.data_dir}", "--set", "node.retention={done_days: 30}"]
    listed = CliRunner().invoke(app, ["remove", "--dry-run", *words]).stdout
    assert listed.splitlines() == DRY_RUN
    assert stores.inbox.study("1.1") is not None
    kept = NodePolicy(data_dir=policy.data_dir, retention=RetentionPolicy(done_days=30))
    assert [one.study_instance_uid for one in remove_expired(stores, kept)] == ["1.1"]
    assert not (policy.inbox_dir / "studies" / "1.1").exists()
    assert not (policy.inbox_dir / "removed" / "1.1").exists()
    assert (stores.outbox.folder_of(RunKey("1.1", 1)) / "seg.dcm").is_file()
    [line] = stores.audit.path.read_text().splitlines()
    facts = json.loads(line)["facts"]
    assert (facts["asked_by"], facts["reason"]) == ("node.retention", "done for more than 30 days")
    assert facts["kept"] == "results and rows"
    assert remove_expired(stores, kept) == ()


def test_a_study_that_is_sent_again_after_its_time_is_known(stores: NodeStores, policy: NodePolicy) -> None:
    sent = at_rest(stores, policy)
    content = stores.inbox.content("1.2.3").digest
    run, _ = stores.runs.open("1.2.3", content)
    stores.runs.claim(run.key, 1, "x")
    stores.runs.end(run.key, 1, RunTransition(StudyState.REJECTED))
    request = RemovalRequest("1.2.3", "node.retention", images_alone=True)
    remove_study(stores, policy, request)
    finish_removals(stores, policy)
    assert stores.inbox.content("1.2.3").absent() == len(sent)
    for image in sent:
        assert stores.inbox.store(image) is Stored.DUPLICATE
    assert whole(stores) == len(sent)
    assert stores.runs.open("1.2.3", stores.inbox.content("1.2.3").digest)[1] is False
    late = images.received(images.ct_slice(9, "1.2.3"))
    assert stores.inbox.store(late) is Stored.NEW
    new, created = stores.runs.open("1.2.3", stores.inbox.content("1.2.3").digest)
    assert (new.revision, created) == (2, True), "beside revision 1, whose results it supersedes"


def test_what_a_sender_may_have_deleted_is_not_removed(stores: NodeStores, policy: NodePolicy) -> None:
    sent = at_rest(stores, policy)
    run, _ = stores.runs.open("1.2.3", "d" * 64)
    stores.runs.claim(run.key, 1, "x")
    stores.runs.end(run.key, 1, RunTransition(StudyState.REJECTED))
    stores.studies.observe("1.2.3", StudyState.QUEUED)
    retention = {"rejected_days": 0.05}
    assert "1.2.3" in found(stores, policy, **retention)
    asked = tuple(Reference(one.command.sop_class_uid, one.command.sop_instance_uid) for one in sent)
    absent = Reference(asked[0].sop_class_uid, "1.2.3.99")
    request = CommitmentRequest("1.9", (*asked, absent))
    owed = stores.commitments.owe("CT1", "10.0.0.1", request, utc_now(), by_tls=False)
    assert "1.2.3" not in found(stores, policy, **retention), "its answer may be on its way"
    record_told(stores.commitments, stores.audit, owed, kept_here(stores.inbox, owed.references))
    assert stores.commitments.owed() == ()
    assert "1.2.3" not in found(stores, policy, **retention)
    with pytest.raises(MisconfiguredError, match=r"storage commitment.*--force and --reason"):
        remove_study(stores, policy, RemovalRequest("1.2.3", "berta"))
    assert whole(stores) == len(sent)
    remove_study(stores, policy, RemovalRequest("1.2.3", "berta", "sent by mistake", force=True))
    assert stores.commitments.promised() == frozenset()


def test_a_commitment_that_is_asked_for_meanwhile_is_kept(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    [image] = at_rest(stores, policy, count=1)
    asked = Reference(image.command.sop_class_uid, image.command.sop_instance_uid)
    look = removal._refuse_newcomers

    def meanwhile(*arguments: Any) -> None:
        look(*arguments)
        monkeypatch.setattr(stores.commitments, "promised", lambda: frozenset({"1.2.3"}))

    monkeypatch.setattr(removal, "_refuse_newcomers", meanwhile)
    with pytest.raises(MisconfiguredError, match="storage commitment"):
        remove_study(stores, policy, RemovalRequest("1.2.3", "node.retention", images_alone=True))
    assert whole(stores) == 1
    assert asked.sop_instance_uid not in kept_here(stores.inbox, [asked])


def test_the_last_study_of_each_kind_of_a_patient_stays(stores: NodeStores, policy: NodePolicy) -> None:
    anna = Patient("ID-ANNA")
    for uid, day in (("1.1", 1), ("1.9", 9)):
        stores.studies.identify(StudySubject(uid, anna, None, datetime(2026, 3, day)))
    assert "1.1" not in found(stores, policy, done_days=30)
    ended(stores, policy, "1.9", StudyState.DONE)
    assert found(stores, policy, done_days=30) == ["1.1"], "the next is compared with 1.9"


def test_a_folder_that_can_not_be_moved_keeps_no_other(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = removal._move

    def denied(source: Path, target: Path) -> None:
        if source.name == "1.1":
            raise PermissionError(13, "Permission denied", str(source))
        move(source, target)

    monkeypatch.setattr(removal, "_move", denied)
    kept = NodePolicy(data_dir=policy.data_dir, retention=RetentionPolicy(done_days=30, rejected_days=30))
    assert [one.study_instance_uid for one in remove_expired(stores, kept)] == ["1.2"]
    assert (policy.inbox_dir / "studies" / "1.1" / "image.dcm").is_file()
    assert [one.study_instance_uid for one in expired(stores, kept, utc_now())] == ["1.1"]


def test_a_dry_run_is_never_silent_and_says_what_is_missing_to_the_quota(
    stores: NodeStores, policy: NodePolicy
) -> None:
    def last_line(retention: str) -> str:
        words = ["--set", f"node.data_dir={policy.data_dir}", "--set", f"node.retention={retention}"]
        return CliRunner().invoke(app, ["remove", "--dry-run", *words]).stdout.splitlines()[-1]

    assert last_line("{}") == "node.retention sets no time and no quota: nothing ever goes by itself"
    assert last_line("{done_days: 200}") == "0 of 8 studies with 8000 MB would go, 0 MB"
    assert last_line("{max_gb: 7.5}") == "1 of 8 studies with 8000 MB would go, 1000 MB"
    assert last_line("{max_gb: 1}") == (
        "2 of 8 studies with 8000 MB would go, 2000 MB; 5000 MB more than node.retention.max_gb stay"
    )
