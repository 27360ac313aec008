"""What has had its time goes, the oldest first, and nothing that is needed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from app.cli.main import app
from app.node.policy import NodePolicy, RetentionPolicy
from app.node.records.database import utc_now
from app.node.records.deliveries import DeliveryTransition
from app.node.records.inbox_index import InstanceRow
from app.node.records.results import RegisteredResult
from app.node.records.states import DeliveryKey, DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.watch.retention import expired, remove_expired
from tests.node.watch.test_removal import ended
from tests.node.workflow.test_ledgers import FILES

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


@pytest.fixture
def policy(tmp_path: Path) -> NodePolicy:
    return NodePolicy(data_dir=tmp_path / "data")


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
    assert listed == "1.1  done for more than 30 days\n"
    assert stores.inbox.study("1.1") is not None
    kept = NodePolicy(data_dir=policy.data_dir, retention=RetentionPolicy(done_days=30))
    assert [one.study_instance_uid for one in remove_expired(stores, kept)] == ["1.1"]
    assert stores.inbox.study("1.1") is None
    [line] = stores.audit.path.read_text().splitlines()
    facts = json.loads(line)["facts"]
    assert (facts["asked_by"], facts["reason"]) == ("node.retention", "done for more than 30 days")
    assert remove_expired(stores, kept) == ()
