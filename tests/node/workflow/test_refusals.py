"""What goes wrong is reported in words, tried again within limits, and again when a person asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from app.domain.refusal import RefusalCode
from app.node.upkeep.retry import retry_study
from tests.node.workflow.fake_node import Subject
from tests.node.workflow.peers import FakePacs, NodeProcess, wait_until

NewNode = Callable[..., NodeProcess]


def retry(node: NodeProcess, study: str) -> str:
    """What ``psma-node retry`` does, beside a running node."""
    stores = node.stores()
    try:
        return retry_study(stores, study)
    finally:
        stores.close()


def audit_events(folder: Path) -> list[str]:
    """The events of the audit log in order."""
    lines = (folder / "data" / "audit" / "audit.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_pacs_that_refuses_fails_the_study_until_it_is_asked_again(
    pacs: FakePacs, new_node: NewNode, tmp_path: Path
) -> None:
    pacs.status = 0xA900
    node = new_node(pacs).start()
    study = node.send_study(1)
    failed = node.wait_for(study, "failed")
    assert "SEG refused with status A900" in failed.reason
    assert failed.next_step == "psma-node retry"
    pacs.status = 0
    assert "delivered again to pacs" in retry(node, study)
    node.wait_for(study, "done")
    assert len(node.calls()) == 1
    assert len(pacs.received) == 3
    assert audit_events(tmp_path)[1:] == [
        "study arrives",
        "study received",
        "study processed",
        "delivery failed",
        "retry asked for",
        "result delivered",
        "result delivered",
        "result delivered",
    ]


def test_failing_chain_is_tried_a_limited_number_of_times_and_no_name_gets_out(
    pacs: FakePacs, new_node: NewNode, tmp_path: Path
) -> None:
    node = new_node(pacs, behaviour={"fail": 2}, node={"max_attempts": 2}).start()
    study = node.send_study(1, subject=Subject("ZYXWVUT^QUINTUS"))
    node.wait_for(study, "failed")
    wait_until(lambda: node.status(study).next_step == "psma-node retry", "it is not tried any more")
    status = node.status(study)
    assert status.reason.startswith("ValueError at fake_node.py:")
    assert len(node.calls()) == 2
    assert "processed again" in retry(node, study)
    node.wait_for(study, "done")
    node.stop()

    told = node.log.read_text() + (tmp_path / "data/audit/audit.jsonl").read_text() + repr(status)
    assert "message withheld" in told
    assert "ZYXWVUT" not in told
    details = list((tmp_path / "data" / "failures").iterdir())
    assert any("ZYXWVUT" in path.read_text() for path in details), "the traceback is kept beside the images"
    assert all(path.stat().st_mode & 0o077 == 0 for path in details)


def test_postponed_study_is_queued_again_with_its_reason(pacs: FakePacs, new_node: NewNode) -> None:
    settings = {"max_attempts": 1, "first_retry_s": 3.0, "max_retry_s": 3.0}
    node = new_node(pacs, behaviour={"postpone": 1}, node=settings).start()
    study = node.send_study(1)
    wait_until(lambda: node.status(study).next_try_at is not None, "the next try is planned")
    status = node.status(study)
    assert (status.state, status.reason) == ("queued", "the disk is full")
    assert status.next_step.startswith("processing again in")
    retry(node, study)
    node.wait_for(study, "done")
    assert len(node.calls()) == 2


def test_rejected_study_says_why_and_sends_nothing(pacs: FakePacs, new_node: NewNode) -> None:
    node = new_node(pacs, behaviour={"reject": True}).start()
    study = node.send_study(1)
    status = node.wait_for(study, "rejected")
    told = "[units-unsupported] Units: found CNTS, expected BQML"
    assert status.reason == f"{told}. {RefusalCode.UNITS_UNSUPPORTED.advice}"
    assert not pacs.received


def test_port_in_use_and_second_node_of_the_same_name_are_clear_errors(
    pacs: FakePacs, new_node: NewNode
) -> None:
    taken = new_node(pacs, port=pacs.port).start(ready=False)
    assert taken.process is not None
    taken.process.join(20)
    assert taken.process.exitcode == 2
    assert f"port {pacs.port} can't be listened on" in taken.log.read_text()

    running = new_node(pacs).start()
    second = new_node(pacs).start(ready=False)
    assert second.process is not None
    second.process.join(20)
    assert second.process.exitcode == 2
    assert "a node already runs as executor node-a" in running.log.read_text()
