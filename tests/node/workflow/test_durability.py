"""Nothing is lost and nothing arrives twice, whatever ends when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from app.domain.study import StudyKind
from app.node.peers import DeliverPolicy, ReceivePolicy
from app.node.policy import NodePolicy
from app.node.records.states import StudyState
from app.node.records.stores import open_stores
from app.node.service import NodePlan, NodeService
from app.node.upkeep.retry import retry_study
from tests.node.receive.images import STUDY, ct_slice, received
from tests.node.workflow.fake_node import KINDS, derived_uid, examine
from tests.node.workflow.peers import FakePacs, NodeProcess, free_port, wait_until

NewNode = Callable[..., NodeProcess]


def results(study: str, revision: int = 1) -> set[str]:
    """SOP Instance UIDs of a revision's results."""
    return {derived_uid(study, kind, revision) for kind in KINDS}


def test_killed_while_a_study_runs_the_results_arrive_once(pacs: FakePacs, new_node: NewNode) -> None:
    node = new_node(pacs, behaviour={"seconds": 1.5}).start()
    study = node.send_study(1)
    wait_until(lambda: len(node.calls()) == 1, "the chain runs")
    assert node.status(study).state == "running"
    assert node.status(study).stage == "segment"
    node.kill()
    node.start()
    node.wait_for(study, "done")
    assert len(node.calls()) == 2
    assert pacs.received == dict.fromkeys(results(study), 1)
    assert node.stop() == 0
    assert node.stores().audit.verify().intact


def test_late_image_makes_a_second_revision(pacs: FakePacs, new_node: NewNode) -> None:
    node = new_node(pacs).start()
    study = node.send_study(1)
    assert node.wait_for(study, "done").revision == 1
    node.send_study(1, instance=1)  # the same once more: nothing new
    node.send_study(1, instance=2)
    wait_until(lambda: node.status(study).revision == 2, "revision 2 is opened")
    node.wait_for(study, "done")
    assert node.calls() == [f"{study} 1 1", f"{study} 2 2"]
    assert pacs.received == dict.fromkeys(results(study, 1) | results(study, 2), 1)


def test_pacs_down_costs_no_inference_and_loses_nothing(new_node: NewNode) -> None:
    pacs = FakePacs(free_port())
    node = new_node(pacs).start()
    study = node.send_study(1)
    node.wait_for(study, "delivering")
    wait_until(lambda: "can't be reached" in node.status(study).reason, "the first try fails")
    assert "0 of 3 acknowledged" in node.status(study).reason
    node.kill()
    node.start()
    pacs.start()
    node.wait_for(study, "done")
    pacs.stop()
    assert len(node.calls()) == 1
    assert pacs.received == dict.fromkeys(results(study), 1)


def test_killed_while_delivering_sends_nothing_acknowledged_again(pacs: FakePacs, new_node: NewNode) -> None:
    pacs.delay_s = 0.7
    node = new_node(pacs).start()
    study = node.send_study(1)
    stores = node.stores()

    def acknowledged() -> int:
        return sum(item.acknowledged for item in node.status(study).deliveries)

    node.wait_for(study, "delivering")
    wait_until(lambda: acknowledged() >= 1, "the first is acknowledged")
    node.kill()
    delivery = stores.deliveries.pending()[0]
    safe = {i.sop_instance_uid for i in stores.deliveries.instances(delivery.key) if i.acknowledged_at}
    stores.close()
    node.start()
    node.wait_for(study, "done")
    assert len(node.calls()) == 1
    assert set(pacs.received) == results(study)
    assert all(pacs.received[uid] == 1 for uid in safe)


def test_two_workers_share_the_work_and_one_takes_over_from_the_dead(
    pacs: FakePacs, new_node: NewNode
) -> None:
    first = new_node(pacs, behaviour={"seconds": 1.0}).start()
    second = new_node(pacs, executor_id="node-b", receives=False).start()
    studies = [first.send_study(number) for number in range(1, 5)]
    wait_until(lambda: len(first.calls()) >= 1, "a chain runs")
    for study in studies:
        second.wait_for(study, "done")
    assert sorted(first.calls()) == sorted(f"{study} 1 1" for study in studies)

    last = first.send_study(9)
    second.kill()  # so that the first one has it
    wait_until(lambda: first.status(last).state in ("running", "delivering", "done"), "it is begun")
    first.kill()
    second.start()
    second.wait_for(last, "done")
    assert pacs.received[derived_uid(last, "SR", 1)] == 1


@pytest.mark.parametrize("receives", [True, False])
def test_only_a_node_that_receives_judges_a_study(tmp_path: Path, receives: bool) -> None:
    """What the receiver acknowledged just before it died is in no index: elsewhere the study looks quiet."""
    node = NodePolicy(data_dir=tmp_path / "data", poll_s=0.01)
    receive = ReceivePolicy(settle_s=0.0)
    stores = open_stores(node)
    plan = NodePlan(node, receive, DeliverPolicy(), examine, Mock(), receives)
    service = NodeService(plan, stores)
    image = ct_slice(1)
    image.StudyDescription, image.StudyDate = str(StudyKind.PET_CT), "20260301"
    stores.inbox.store(received(image))
    stores.inbox.settle()
    time.sleep(2 * node.poll_s)
    service._look()
    states = [run.state for run in stores.runs.of_study(STUDY)]
    stores.close()
    assert states == [StudyState.QUEUED] * receives
    assert service._wake.is_set() is receives  # the planner does not wait for its next look


def test_a_silent_peer_takes_nothing_of_the_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = NodePolicy(data_dir=tmp_path / "data", drain_s=60.0)
    service = NodeService(
        NodePlan(node, ReceivePolicy(port=0), DeliverPolicy(), examine, Mock()), open_stores(node)
    )
    service._engine, service._planner = engine, planner = Mock(), Mock()
    planner.plan.return_value = None
    is_waiting, answers = threading.Event(), threading.Event()

    def tell() -> None:
        is_waiting.set()
        assert answers.wait(60)

    monkeypatch.setattr(service._owed, "tell", tell)
    monkeypatch.setattr(service, "_tidy", lambda: None)
    engine.stop.side_effect = lambda _drain_s: answers.set()
    service._start_loops()
    assert is_waiting.wait(20)
    service.stop()
    [(drain_s,)] = [call.args for call in engine.stop.call_args_list]
    assert drain_s > 30
    assert not any(thread.is_alive() for thread in service._waiting_loops)


def test_sigterm_lets_the_study_under_way_end(pacs: FakePacs, new_node: NewNode) -> None:
    node = new_node(pacs, behaviour={"seconds": 2.0}).start()
    study = node.send_study(1)
    wait_until(lambda: len(node.calls()) == 1, "the chain runs")
    assert node.stop() == 0
    assert node.status(study).state == "delivering"
    assert node.events()[-2:] == ["processed", "stopped"]
    node.start()
    node.wait_for(study, "done")
    assert len(node.calls()) == 1


def test_sigterm_with_a_study_longer_than_the_drain_begins_it_again(
    pacs: FakePacs, new_node: NewNode
) -> None:
    node = new_node(pacs, behaviour={"seconds": 30.0}, node={"drain_s": 1.0}).start()
    study = node.send_study(1)
    wait_until(lambda: len(node.calls()) == 1, "the chain runs")
    assert node.stop() == 0
    node.behaviour["seconds"] = 0.0
    node.start()
    node.wait_for(study, "done")
    assert pacs.received == dict.fromkeys(results(study), 1)


def test_a_process_that_can_not_compute_any_more_ends_for_a_new_one_and_the_study_waits(
    pacs: FakePacs, new_node: NewNode
) -> None:
    node = new_node(pacs, behaviour={"spoilt": True}).start()
    study = node.send_study(1)
    assert node.ended() == 4  # what keeps it running starts it again
    waiting = node.status(study)
    assert (waiting.state, waiting.reason) == ("queued", "the GPU computes nothing any more")
    node.behaviour["spoilt"] = False
    node.start()
    node.wait_for(study, "done")
    assert pacs.received == dict.fromkeys(results(study), 1)


def test_images_removed_by_hand_withdraw_nothing(pacs: FakePacs, new_node: NewNode) -> None:
    node = new_node(pacs).start()
    study = node.send_study(1)
    node.wait_for(study, "done")
    node.stop()
    for path in (node.policy.inbox_dir / "studies" / study).iterdir():
        path.unlink()
    node.start()
    node.send_study(1, instance=2)
    failed = node.wait_for(study, "failed")
    assert failed.reason.startswith("1 of 2 images are gone from the inbox")
    node.send_study(1)
    stores = node.stores()
    retry_study(stores, study)
    stores.close()
    node.wait_for(study, "done")
    assert node.calls() == [f"{study} 1 1", f"{study} 2 2"]
