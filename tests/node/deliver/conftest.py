"""A revision with three results, planned for destinations, and tries to deliver it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from app.domain.outcome import ResultFile, Status, StudyOutcome
from app.files.outcome import write_outcome
from app.node.policy import NodePolicy
from app.node.records.runs import RunTransition
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from tests.node.workflow.fake_node import KINDS, _pair, derived_uid, secondary_capture

STUDY = "1.2.826.0.1.1"
RUN = RunKey(STUDY, 1)
UIDS = {kind: derived_uid(STUDY, kind, 1) for kind in KINDS}


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 8, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of deliveries, their proofs and their ledgers."""
    simulated = Clock()
    for module in ("deliver.delivery", "deliver.proof", "records.commitments", "records.deliveries"):
        monkeypatch.setattr(f"app.node.{module}.utc_now", simulated)
    return simulated


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


def plan(stores: NodeStores, *destinations: str) -> None:
    """Results of the study's first revision, for these destinations."""
    stores.runs.open(STUDY, "a")
    stores.runs.claim(RUN, 1, "x")
    files = []
    with stores.outbox.fill(RUN) as folder:
        for kind, uid in UIDS.items():
            secondary_capture(folder / f"{kind}.dcm", STUDY, uid)
            files.append(ResultFile(kind, f"{kind}.dcm", SecondaryCaptureImageStorage, uid, f"{STUDY}.9"))
        write_outcome(StudyOutcome(STUDY, Status.DONE, pairs=(_pair(STUDY, tuple(files)),)), folder)
    stores.deliveries.plan(RUN, files, destinations)
    stores.runs.end(RUN, 1, RunTransition(StudyState.DELIVERING))
