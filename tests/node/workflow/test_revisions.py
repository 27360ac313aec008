"""What a node knows of earlier revisions, and how a withdrawal is planned, sent and written down."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom import dcmread
from sqlalchemy import update

from app.domain.outcome import EarlierRevisions, ResultFile, RunContext, Status, StudyOutcome, Withdrawal
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Patient
from app.errors import RetryLaterError
from app.files.outcome import write_outcome
from app.node.deliver.delivery import ResultDelivery
from app.node.deliver.scu import StoreResponse
from app.node.peers import DeliverPolicy, Destination
from app.node.policy import NodePolicy
from app.node.process.earlier_revisions import earlier_revisions
from app.node.process.processors import ProcessorPool
from app.node.process.work import AttemptKind, AttemptResult, StudyWork
from app.node.records.database import utc_now
from app.node.records.deliveries import Delivery
from app.node.records.pending import InboxFullError
from app.node.records.runs import Run, RunTransition
from app.node.records.settlement import settle_left
from app.node.records.states import DeliveryKey, DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from app.node.upkeep.retry import retry_study
from tests.node.receive.images import ct_slice, received
from tests.node.workflow.fake_node import _pair

STUDY = "1.2.3"
PACS = "pacs"
DESTINATION = Destination(PACS, "PACS", "localhost", 104)
SERIES = f"{STUDY}.2"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path))
    yield opened
    opened.close()


def file(kind: str, revision: int) -> ResultFile:
    uid = f"{STUDY}.9.{revision}.{len(kind)}"
    return ResultFile(kind, f"{kind}.{revision}.dcm", "1.2.840.10008.5.1.4.1.1.88.34", uid, f"{uid}.1")


def result(revision: int) -> StudyOutcome:
    files = tuple(file(kind, revision) for kind in ("SEG", "SR", "PAGE"))
    return StudyOutcome(STUDY, Status.DONE, pairs=(_pair(STUDY, files),))


def withdrawal(revision: int) -> StudyOutcome:
    files = (file("WITHDRAWAL", revision), file("WITHDRAWAL-PAGE", revision))
    notice = Withdrawal(SERIES, revision - 1, "a gap", files)
    return StudyOutcome(STUDY, Status.REJECTED, withdrawals=(notice,))


def two_contents() -> StudyOutcome:
    reason = Reason(RefusalCode.CONFLICTING_DUPLICATE, "SOPInstanceUID", "two", "one")
    return StudyOutcome(STUDY, Status.REJECTED, (reason,))


def give(stores: NodeStores, revision: int, outcome: StudyOutcome | None, state: StudyState) -> RunKey:
    """A revision that ended so."""
    run, _ = stores.runs.open(STUDY, f"{revision:064d}")
    assert run.key.revision == revision
    stores.runs.claim(run.key, run.attempt, "x")
    if outcome is not None:
        with stores.outbox.fill(run.key) as folder:
            for item in outcome.files:
                (folder / item.path).write_bytes(b"DICM")
            write_outcome(outcome, folder)
    if state is not StudyState.RUNNING:
        stores.runs.end(run.key, run.attempt, RunTransition(state))
    return run.key


def work(stores: NodeStores, tmp_path: Path) -> StudyWork:
    """Its second step alone: no study is processed here, so there is no chain."""
    pool: Any = ProcessorPool(Mock(), 0)
    return StudyWork(stores, NodePolicy(data_dir=tmp_path), pool, [DESTINATION], Mock())


def record(stores: NodeStores, tmp_path: Path, key: RunKey, kind: AttemptKind) -> str:
    ending = AttemptResult(kind, "a gap")
    attempt = stores.runs.get(key).attempt
    return work(stores, tmp_path).record(key, attempt, ending)


def send_all(
    paths: Sequence[Path], destination: Destination, title: str, limit_s: float
) -> tuple[StoreResponse, ...]:
    return tuple(StoreResponse("1.2", 0, True) for _ in paths)


def deliver(stores: NodeStores, key: RunKey) -> None:
    policy = DeliverPolicy(destinations=(Destination(PACS, "PACS", "localhost", 104),))
    delivery = ResultDelivery(stores, policy, send_all)
    to_pacs = DeliveryKey(key, PACS)
    attempt = stores.deliveries.get(to_pacs).attempt
    delivery.record(to_pacs, attempt, delivery.send(to_pacs, attempt))


def test_the_first_revision_has_nothing_earlier(stores: NodeStores) -> None:
    key = give(stores, 1, result(1), StudyState.DONE)
    assert earlier_revisions(stores, key).standing == ()


def test_the_latest_result_stands_over_revisions_that_said_nothing(stores: NodeStores) -> None:
    give(stores, 1, result(1), StudyState.DONE)
    give(stores, 2, result(2), StudyState.DONE)
    give(stores, 3, None, StudyState.REJECTED)
    give(stores, 4, None, StudyState.SUPERSEDED)
    earlier = earlier_revisions(stores, RunKey(STUDY, 5))
    [standing] = earlier.standing
    assert standing.report.revision == 2
    assert standing.report.sop_instance_uid == file("SR", 2).sop_instance_uid
    assert standing.report_file.read_bytes() == b"DICM"
    assert earlier.last_words == (standing.report,)


def test_a_withdrawn_result_stands_no_more_and_the_notice_is_the_last_word(stores: NodeStores) -> None:
    give(stores, 1, result(1), StudyState.DONE)
    give(stores, 2, withdrawal(2), StudyState.REJECTED)
    earlier = earlier_revisions(stores, RunKey(STUDY, 3))
    assert earlier.standing == ()
    assert [word.is_withdrawal for word in earlier.last_words] == [True]
    assert earlier.last_words[0].sop_instance_uid == file("WITHDRAWAL", 2).sop_instance_uid


def test_a_revision_waits_for_an_earlier_one_under_way(stores: NodeStores) -> None:
    give(stores, 1, None, StudyState.RUNNING)
    with pytest.raises(RetryLaterError, match="revision 1"):
        earlier_revisions(stores, RunKey(STUDY, 2))


@pytest.mark.parametrize("read", ["content", "other_cts"])
@pytest.mark.parametrize(
    "failure", [InboxFullError("the disk is full"), PermissionError(errno.EACCES, "permission denied")]
)
def test_an_inbox_that_can_not_be_read_costs_no_try(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str, failure: Exception
) -> None:
    """What stands in its way may be another study's: nothing is known of this one."""
    run, _ = stores.runs.open(STUDY, "0" * 64)
    monkeypatch.setattr(stores.inbox, read, Mock(side_effect=failure))
    steps = work(stores, tmp_path)
    for attempt in range(1, NodePolicy().max_attempts + 2):
        tried = steps.run_chain(run.key, attempt)
        assert tried.kind is AttemptKind.POSTPONED
        assert tried.reason.endswith(f"can't be read: {failure.args[-1]}")
        assert steps.record(run.key, attempt, tried) == "queued"
    assert (stores.runs.get(run.key).faults, stores.runs.get(run.key).postponements) == (0, attempt)


def test_a_rejected_revision_delivers_its_withdrawal_and_stays_rejected(
    stores: NodeStores, tmp_path: Path
) -> None:
    give(stores, 1, result(1), StudyState.DONE)
    key = give(stores, 2, withdrawal(2), StudyState.RUNNING)
    assert record(stores, tmp_path, key, AttemptKind.REJECTED) == "delivering"
    planned = stores.deliveries.instances(DeliveryKey(key, PACS))
    assert {item.kind for item in planned} == {"WITHDRAWAL", "WITHDRAWAL-PAGE"}
    deliver(stores, key)
    run = stores.runs.get(key)
    assert (run.state, run.reason) == (StudyState.REJECTED, "a gap")


def test_a_result_not_sent_yet_is_not_sent_after_its_withdrawal(stores: NodeStores, tmp_path: Path) -> None:
    first = give(stores, 1, result(1), StudyState.RUNNING)
    record(stores, tmp_path, first, AttemptKind.DONE)
    second = give(stores, 2, withdrawal(2), StudyState.RUNNING)
    record(stores, tmp_path, second, AttemptKind.REJECTED)
    deliver(stores, second)
    deliver(stores, first)
    assert stores.deliveries.get(DeliveryKey(first, PACS)).state is DeliveryState.SUPERSEDED


def test_a_rejection_with_nothing_to_withdraw_sends_nothing(stores: NodeStores, tmp_path: Path) -> None:
    key = give(stores, 1, None, StudyState.RUNNING)
    assert record(stores, tmp_path, key, AttemptKind.REJECTED) == "rejected"
    assert stores.deliveries.of_run(key) == ()


def test_tried_again_a_revision_replaces_the_notice_it_sent_itself(
    stores: NodeStores, tmp_path: Path
) -> None:
    give(stores, 1, result(1), StudyState.DONE)
    key = give(stores, 2, withdrawal(2), StudyState.RUNNING)
    record(stores, tmp_path, key, AttemptKind.REJECTED)
    deliver(stores, key)
    earlier = earlier_revisions(stores, key)
    assert [word.is_withdrawal for word in earlier.last_words] == [True]
    assert [standing.report.revision for standing in earlier.standing] == [1]

    stores.runs.requeue(stores.runs.get(key))
    stores.runs.claim(key, stores.runs.get(key).attempt, "x")
    with stores.outbox.fill(key) as folder:
        for item in result(2).files:
            (folder / item.path).write_bytes(b"DICM")
        write_outcome(result(2), folder)
    record(stores, tmp_path, key, AttemptKind.DONE)
    deliver(stores, key)
    kinds = {item.kind for item in stores.deliveries.instances(DeliveryKey(key, PACS))}
    assert kinds == {"WITHDRAWAL", "WITHDRAWAL-PAGE", "SEG", "SR", "PAGE"}
    assert stores.runs.get(key).state is StudyState.DONE


def test_a_rejection_tried_again_whose_notice_has_arrived_is_rejected_again(
    stores: NodeStores, tmp_path: Path
) -> None:
    """Nothing is planned, so no delivery will end and say so."""
    give(stores, 1, result(1), StudyState.DONE)
    key = give(stores, 2, withdrawal(2), StudyState.RUNNING)
    record(stores, tmp_path, key, AttemptKind.REJECTED)
    deliver(stores, key)
    retry_study(stores, STUDY)
    stores.runs.claim(key, stores.runs.get(key).attempt, "x")
    record(stores, tmp_path, key, AttemptKind.REJECTED)
    again = stores.runs.get(key)
    assert (again.state, again.reason) == (StudyState.REJECTED, "a gap")
    assert retry_study(stores, STUDY) == "revision 2 is processed again"


def test_a_run_whose_deliveries_ended_before_that_was_written_is_done(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = give(stores, 1, result(1), StudyState.RUNNING)
    with monkeypatch.context() as full:
        full.setattr(stores.audit, "append", Mock(side_effect=OSError(errno.ENOSPC, "no space left")))
        with pytest.raises(OSError, match="no space left"):
            record(stores, tmp_path, key, AttemptKind.DONE)
    deliver(stores, key)
    assert stores.runs.get(key).state is StudyState.RUNNING
    record(stores, tmp_path, key, AttemptKind.DONE)
    assert stores.runs.get(key).state is StudyState.DONE


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_run_that_was_left_delivering_is_settled_but_no_sending_that_is_being_planned(
    stores: NodeStores, has_failed: bool
) -> None:
    key = give(stores, 1, result(1), StudyState.DELIVERING)
    to_pacs = DeliveryKey(key, PACS)
    stores.deliveries.plan(key, result(1).files, [PACS])

    def left(state: DeliveryState, minutes: float) -> StudyState:
        ended_at = utc_now() - timedelta(minutes=minutes)
        with stores.engine.begin() as connection:
            connection.execute(update(Delivery).values(state=state, reason="refused"))
            connection.execute(update(Run).values(state=StudyState.DELIVERING, changed_at=ended_at))
        settle_left(stores)
        return stores.runs.get(key).state

    assert stores.deliveries.get(to_pacs).state is DeliveryState.PENDING
    assert left(DeliveryState.PENDING, 9) is StudyState.DELIVERING
    assert left(DeliveryState.SENT, 9) is StudyState.DELIVERING
    ended, state = (
        (DeliveryState.FAILED, StudyState.FAILED) if has_failed else (DeliveryState.DONE, StudyState.DONE)
    )
    assert left(ended, 0.5) is StudyState.DELIVERING
    assert left(ended, 1.5) is state


def test_a_fault_in_what_goes_where_is_a_failed_try_and_counts(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = give(stores, 1, result(1), StudyState.RUNNING)
    monkeypatch.setattr(stores.deliveries, "plan", Mock(side_effect=RuntimeError("a fault of ours")))
    tries = NodePolicy().max_attempts
    for number in range(1, tries + 1):
        assert record(stores, tmp_path, key, AttemptKind.DONE) == "failed"
        run = stores.runs.get(key)
        assert (run.faults, run.next_try_at is None) == (number, number == tries)
        stores.runs.claim(key, run.attempt, "x")
    assert run.reason.startswith("RuntimeError")
    assert f"details in failures/{STUDY}-r1-{tries}.txt" in run.reason


def test_planning_the_same_files_twice_changes_nothing(stores: NodeStores) -> None:
    key = RunKey(STUDY, 1)
    stores.deliveries.plan(key, result(1).files, [PACS])
    before = stores.deliveries.get(DeliveryKey(key, PACS))
    stores.deliveries.plan(key, result(1).files, [PACS])
    assert stores.deliveries.get(DeliveryKey(key, PACS)) == before
    stores.deliveries.plan(key, [replace(item, sop_instance_uid=f"{item.sop_instance_uid}.7")
                                 for item in result(1).files], [PACS])  # fmt: skip
    planned = stores.deliveries.instances(DeliveryKey(key, PACS))
    assert all(item.sop_instance_uid.endswith(".7") for item in planned)


def damage(stores: NodeStores, key: RunKey) -> None:
    """As a file of another version is."""
    (stores.outbox.folder_of(key) / "outcome.json").write_text('{"study": 1}')


class Chain:
    """Finds what is given, whatever it is given."""

    def __init__(self, outcome: StudyOutcome) -> None:
        self.outcome = outcome
        self.earlier: EarlierRevisions | None = None
        self.context = RunContext()

    def process(
        self,
        paths: Sequence[Path],
        out: Path,
        revision: int,
        earlier: EarlierRevisions = EarlierRevisions(),
        context: RunContext = RunContext(),
    ) -> StudyOutcome:
        self.earlier, self.context = earlier, context
        write_outcome(self.outcome, out)
        return self.outcome


def test_an_unreadable_earlier_result_is_reported_and_does_not_stop_the_next_revision(
    stores: NodeStores, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(stores, give(stores, 1, result(1), StudyState.DONE))
    run, _ = stores.runs.open(STUDY, stores.inbox.content_digest(STUDY))
    chain = Chain(replace(result(2), pairs=()))
    pool = ProcessorPool(lambda _: chain, 1)
    steps = StudyWork(stores, NodePolicy(data_dir=tmp_path), pool, [DESTINATION], Mock())
    assert run.key == RunKey(STUDY, 2)
    steps.record(run.key, run.attempt, steps.run_chain(run.key, run.attempt))
    ended = stores.runs.get(run.key)
    assert ended.state is StudyState.DONE
    assert "earlier result unreadable (revision 1)" in ended.reason
    assert "earlier result unreadable" in caplog.messages
    assert chain.earlier == EarlierRevisions((), ())


def test_the_chain_is_told_of_the_cts_in_the_patients_other_studies(
    stores: NodeStores, tmp_path: Path
) -> None:
    """It names the one of the same frame of reference where the study has no CT."""
    for study, patient in ((STUDY, "P"), ("1.2.4", "P"), ("1.2.5", "Q")):
        stores.studies.identify(StudySubject(study, Patient(patient)))
    images = [ct_slice(number, study) for study in (STUDY, "1.2.4", "1.2.5") for number in (1, 2)]
    for image in images:
        stores.inbox.store(received(image))
    run, _ = stores.runs.open(STUDY, stores.inbox.content_digest(STUDY))
    chain = Chain(replace(result(1), pairs=()))
    steps = StudyWork(stores, NodePolicy(data_dir=tmp_path), ProcessorPool(lambda _: chain, 1), [], Mock())
    steps.run_chain(run.key, run.attempt)
    [one] = chain.context.other_cts
    assert dcmread(one).SOPInstanceUID == "1.2.4.2.1"


def test_results_that_can_not_be_read_after_the_chain_are_not_taken_for_none(
    stores: NodeStores, tmp_path: Path
) -> None:
    key = give(stores, 1, result(1), StudyState.RUNNING)
    damage(stores, key)
    assert record(stores, tmp_path, key, AttemptKind.DONE) == "failed"
    run = stores.runs.get(key)
    assert "outcome.json" in run.reason
    assert run.next_try_at is not None


def test_a_delivery_ends_although_its_outcome_has_become_unreadable(
    stores: NodeStores, tmp_path: Path
) -> None:
    key = give(stores, 1, result(1), StudyState.RUNNING)
    record(stores, tmp_path, key, AttemptKind.DONE)
    damage(stores, key)
    deliver(stores, key)
    run = stores.runs.get(key)
    assert run.state is StudyState.DONE
    assert "outcome.json" in run.reason


def test_a_fault_is_reported_although_its_details_find_no_room(stores: NodeStores, tmp_path: Path) -> None:
    run, _ = stores.runs.open(STUDY, stores.inbox.content_digest(STUDY))
    (tmp_path / "failures").write_text("where the folder should be")
    faulty = Mock()
    faulty.process.side_effect = ValueError("cannot read ZYXWVUT")
    pool = ProcessorPool(lambda _: faulty, 1)
    steps = StudyWork(stores, NodePolicy(data_dir=tmp_path), pool, [DESTINATION], Mock())
    result = steps.run_chain(run.key, run.attempt)
    assert result.kind is AttemptKind.FAILED
    assert "no details" in result.reason and "ZYXWVUT" not in result.reason
