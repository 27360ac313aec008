"""What headers refuse needs no worker, and a try that was cut off is no fault of the study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pydicom
import pytest

from app.domain.outcome import Status, StudyOutcome
from app.domain.study import Patient, StudyKind
from app.files.outcome import write_outcome
from app.node.peers import ReceivePolicy
from app.node.policy import NodePolicy
from app.node.process.processors import ProcessorPool
from app.node.process.work import MOST_INTERRUPTIONS, AttemptKind, StudyWork
from app.node.receive.watcher import Watcher
from app.node.records.states import Rank, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from tests.node.receive.images import received
from tests.node.workflow.fake_node import IRRELEVANT, OTHER_TRACER, Subject, examine, judge, pet_image
from tests.node.workflow.peers import FakePacs, NodeProcess, wait_until

NewNode = Callable[..., NodeProcess]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


def arrived(stores: NodeStores, tmp_path: Path, study: str, kind: StudyKind | str) -> None:
    """A study of one image, complete."""
    path = pet_image(tmp_path / f"{study}.dcm", study, f"{study}.1", Subject(kind=kind, day="20991231"))
    stores.inbox.store(received(pydicom.dcmread(path), calling_ae="ROUTER"))
    stores.inbox.settle()
    Watcher(stores, ReceivePolicy(settle_s=0), examine, 0).look()


class Chain:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.seen: list[Sequence[Path]] = []

    def process(self, paths: Sequence[Path], out: Path, *_: object) -> StudyOutcome:
        self.seen.append(paths)
        outcome = StudyOutcome("1.2", Status.REJECTED)
        write_outcome(outcome, out)
        return outcome


def steps(stores: NodeStores, tmp_path: Path, chain: Any, decide: Any = judge) -> StudyWork:
    pool = ProcessorPool(lambda _: chain, 1)
    return StudyWork(stores, NodePolicy(data_dir=tmp_path / "data"), pool, [], Mock(), decide)


def test_the_watcher_notes_sender_and_rank_and_what_headers_refuse(
    stores: NodeStores, tmp_path: Path
) -> None:
    arrived(stores, tmp_path, "1.2", IRRELEVANT)
    arrived(stores, tmp_path, "1.3", StudyKind.SPECT_CT)
    irrelevant, good = (stores.runs.of_study(study)[0] for study in ("1.2", "1.3"))
    assert (irrelevant.sender, irrelevant.rank, irrelevant.by_headers) == ("ROUTER", Rank.ROUTINE, True)
    assert (good.sender, good.rank, good.by_headers) == ("ROUTER", Rank.THERAPY, False)


def test_what_headers_refuse_is_rejected_without_a_chain(stores: NodeStores, tmp_path: Path) -> None:
    arrived(stores, tmp_path, "1.2", IRRELEVANT)
    run, chain = stores.runs.of_study("1.2")[0], Chain()
    work = steps(stores, tmp_path, chain)
    tried = work.run_chain(run.key, 1)
    assert (tried.kind, tried.reason) == (AttemptKind.REJECTED, str(OTHER_TRACER))
    assert work.record(run.key, 1, tried) == "rejected"
    outcome = stores.outbox.outcome_of(run.key)
    assert outcome is not None
    assert outcome.reasons == (OTHER_TRACER,)
    assert chain.seen == []


def test_what_headers_do_not_refuse_after_all_goes_to_a_worker(stores: NodeStores, tmp_path: Path) -> None:
    arrived(stores, tmp_path, "1.2", IRRELEVANT)
    run, chain = stores.runs.of_study("1.2")[0], Chain()
    work = steps(stores, tmp_path, chain, lambda *_: None)
    tried = work.run_chain(run.key, 1)
    assert work.record(run.key, 1, tried) == "queued"
    [again] = stores.runs.for_workers()
    assert (again.by_headers, again.attempt, again.faults) == (False, 2, 0)
    assert not stores.outbox.folder_of(run.key).exists()
    assert work.run_chain(run.key, 2).kind is AttemptKind.REJECTED
    assert len(chain.seen) == 1


def test_what_headers_refuse_waits_for_no_prior_until_it_needs_a_worker(
    stores: NodeStores, tmp_path: Path
) -> None:
    """Held back, it would be judged again at once, over and over, before all that come after it."""
    arrived(stores, tmp_path, "1.2", IRRELEVANT)
    patient = Patient("P-1")
    stores.studies.identify(StudySubject("1.1", patient, datetime(2026, 3, 1)))
    stores.studies.observe("1.1", StudyState.QUEUED)
    stores.runs.open("1.1", "a" * 64)
    stores.studies.identify(StudySubject("1.2", patient, None, datetime(2026, 3, 4)))
    run = stores.runs.of_study("1.2")[0]
    assert steps(stores, tmp_path, Chain()).run_chain(run.key, 1).kind is AttemptKind.REJECTED
    stores.runs.note_needs_worker(run.key)
    tried = steps(stores, tmp_path, Chain()).run_chain(run.key, 1)
    assert (tried.kind, tried.reason[:41]) == (AttemptKind.HELD, "waits for the PET/CT of the same patient,")


def test_an_image_that_is_gone_is_no_refusal(stores: NodeStores, tmp_path: Path) -> None:
    arrived(stores, tmp_path, "1.2", IRRELEVANT)
    run = stores.runs.of_study("1.2")[0]
    stores.inbox.content("1.2").paths[0].write_bytes(b"DICM")
    tried = steps(stores, tmp_path, Chain()).run_chain(run.key, 1)
    assert tried.kind is AttemptKind.MISCONFIGURED
    assert tried.reason.startswith("1 of 1 images are gone")


def test_a_study_that_ends_the_process_each_time_is_not_tried_for_ever(
    stores: NodeStores, tmp_path: Path
) -> None:
    arrived(stores, tmp_path, "1.2", StudyKind.PET_CT)
    run, chain = stores.runs.of_study("1.2")[0], Chain()
    work = steps(stores, tmp_path, chain)
    for _ in range(MOST_INTERRUPTIONS):
        assert stores.runs.claim(run.key, 1, "killed while it ran") is not None
    tried = work.run_chain(run.key, 1)
    assert tried.kind is AttemptKind.EXHAUSTED
    assert tried.reason.startswith("5 tries in a row were cut off: each time the node was killed")
    assert work.record(run.key, 1, tried) == "failed"
    assert chain.seen == []
    assert stores.runs.for_workers() == ()


def test_irrelevant_studies_are_done_with_while_a_chain_runs(
    pacs: FakePacs, new_node: NewNode, tmp_path: Path
) -> None:
    may_end = tmp_path / "may end"
    node = new_node(pacs, behaviour={"ends_after": str(may_end)}).start()
    running = node.send_study(1)
    wait_until(lambda: len(node.calls()) == 1, "the chain runs")
    irrelevant = Subject(kind=IRRELEVANT)
    for number in range(100, 120):
        node.send_study(number, subject=irrelevant)
    good = node.send_study(2)

    def states() -> list[str]:
        return [status.state for status in node.statuses()]

    wait_until(lambda: states().count("rejected") == 20, "headers have refused all that they can")
    assert (node.status(running).state, node.status(good).state) == ("running", "queued")
    assert node.status(good).next_step.endswith("its turn: number 1 in the queue (replay)")
    may_end.touch()
    node.wait_for(good, "done")
    assert node.calls() == [f"{running} 1 1", f"{good} 1 1"]
    [run] = [run for run in node.stores().runs.latest() if run.state is StudyState.REJECTED][:1]
    assert run.by_headers
