"""A data folder with studies that can be removed."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.node.policy import NodePolicy
from app.node.records.database import utc_now
from app.node.records.inbox_index import InstanceRow
from app.node.records.instances import ReceivedInstance
from app.node.records.runs import RunTransition
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores
from tests.node.receive import images
from tests.node.workflow.test_ledgers import FILES


@pytest.fixture
def policy(tmp_path: Path) -> NodePolicy:
    return NodePolicy(data_dir=tmp_path / "data")


def received(stores: NodeStores, policy: NodePolicy, study: str) -> Path:
    """One image in the inbox, which came some time ago; returns its file."""
    path = policy.inbox_dir / "studies" / study / "image.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"an image")
    hour_ago = (utc_now() - timedelta(hours=1)).timestamp()
    os.utime(path.parent, (hour_ago, hour_ago))
    row = InstanceRow(
        sop_instance_uid=f"{study}.1", sha256="0" * 64, study_instance_uid=study, series_instance_uid="1",
        sop_class_uid="1", path=f"studies/{study}/image.dcm", bytes=8,
        received_at=utc_now() - timedelta(hours=1), calling_ae="X",
    )  # fmt: skip
    with Session(stores.engine) as session, session.begin():
        session.add(row)
    return path


def ended(stores: NodeStores, policy: NodePolicy, study: str, state: StudyState) -> RunKey:
    """A study with results in the outbox, planned for a PACS where it is being delivered."""
    received(stores, policy, study)
    run, _ = stores.runs.open(study, "d" * 64)
    stores.runs.claim(run.key, 1, "x")
    if state is not StudyState.RUNNING:
        stores.runs.end(run.key, 1, RunTransition(state))
    stores.studies.observe(study, StudyState.QUEUED)
    with stores.outbox.fill(run.key) as folder:
        (folder / "seg.dcm").write_bytes(b"a result")
    if state is StudyState.DELIVERING:
        stores.deliveries.plan(run.key, FILES, ["pacs"])
    return run.key


def at_rest(stores: NodeStores, policy: NodePolicy, count: int = 3) -> list[ReceivedInstance]:
    """Study 1.2.3, received whole by the inbox two hours ago; returns its images."""
    kept = [images.received(images.ct_slice(number, "1.2.3")) for number in range(count)]
    for one in kept:
        stores.inbox.store(one)
    stores.inbox.settle()
    before = utc_now() - timedelta(hours=2)
    with stores.engine.begin() as connection:
        connection.execute(update(InstanceRow).values(received_at=before))
    folder = policy.inbox_dir / "studies" / "1.2.3"
    os.utime(folder, (before.timestamp(),) * 2)
    return kept


def whole(stores: NodeStores) -> int:
    """How many images of the study have a row and their file, where none lacks either."""
    stores.inbox.settle()
    content = stores.inbox.content("1.2.3")
    assert content.absent() == 0
    assert {path.name for path in content.paths} == {
        path.name for path in (stores.inbox.folder / "studies" / "1.2.3").glob("*")
    }
    return len(content.rows)
