"""What has had its time goes; images, results and ledgers stay."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

from tests.node.workflow.peers import FakePacs, NodeProcess, wait_until

NewNode = Callable[..., NodeProcess]


def test_finished_workflows_and_old_tracebacks_are_removed_and_nothing_else(
    pacs: FakePacs, new_node: NewNode
) -> None:
    node = new_node(pacs, node={"keep_days": 1e-5}).start()
    study = node.send_study(1)
    node.wait_for(study, "done")
    assert node.stop() == 0
    failures = node.policy.failures_dir
    failures.mkdir(exist_ok=True)
    old, new = failures / "old.txt", failures / "new.txt"
    for path in (old, new):
        path.write_text("a traceback")
    os.utime(old, (0, 0))
    os.utime(new, (4e9, 4e9))
    kept = set(node.policy.data_dir.rglob("*.dcm"))
    assert len(kept) == 4, "an image, and three results"

    def workflows() -> int:
        with sqlite3.connect(node.policy.data_dir / "workflows.sqlite") as connection:
            return int(connection.execute("SELECT count(*) FROM workflow_status").fetchone()[0])

    assert workflows() == 2
    node.start()
    wait_until(lambda: workflows() == 0, "the workflows are removed")
    wait_until(lambda: not old.exists(), "the traceback is removed")
    assert new.exists()
    assert set(node.policy.data_dir.rglob("*.dcm")) == kept
    assert node.status(study).state == "done"
    assert len(node.calls()) == 1
