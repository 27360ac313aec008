"""Two contents under one SOP Instance UID: what stands, who decides, and what follows from the decision."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import Result
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian
from sqlalchemy import ColumnElement
from typer.testing import CliRunner

from app.cli.main import app
from app.domain.outcome import Status, StudyOutcome
from app.errors import MisconfiguredError
from app.files.outcome import write_outcome
from app.node.peers import ReceivePolicy
from app.node.policy import NodePolicy
from app.node.process.earlier_revisions import earlier_revisions
from app.node.process.processors import ProcessorPool
from app.node.process.work import StudyWork
from app.node.receive.watcher import Watcher
from app.node.records.audit import AuditEvent
from app.node.records.inbox_index import InboxIndex, InstanceRow
from app.node.records.instances import StoreCommand, identify
from app.node.records.runs import RunTransition
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.watch.health import check_contents
from app.node.watch.status import StudyStatus, study_statuses
from tests.node.receive.images import encoded
from tests.node.workflow.fake_node import KINDS, _pair, _result, examine, pet_image

STUDY = "1.2.3"
IMAGES = (f"{STUDY}.1", f"{STUDY}.2")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


@pytest.fixture
def watcher(stores: NodeStores) -> Watcher:
    """Of a node that goes on running."""
    return Watcher(stores, ReceivePolicy(settle_s=0.0, give_up_s=0.0), examine, calm_s=0.0)


@pytest.fixture
def discard(tmp_path: Path, stores: NodeStores) -> Callable[..., Result]:
    def run(*words: str) -> Result:
        settings = ["--set", f"node.data_dir={tmp_path / 'data'}"]
        return CliRunner().invoke(app, ["discard", STUDY, *words, *settings])

    return run


def send(stores: NodeStores, tmp_path: Path, sender: str, pixel: int | None = None, syntax: str = "") -> None:
    """Both images of the study, the second with another ``pixel`` where it is given."""
    for uid in IMAGES:
        image: Dataset = dcmread(pet_image(tmp_path / "image.dcm", STUDY, uid))
        if pixel is not None and uid == IMAGES[1]:
            image.PixelData = bytes([pixel] * 16)
        syntax = syntax or image.file_meta.TransferSyntaxUID
        command = StoreCommand(image.SOPInstanceUID, image.SOPClassUID, syntax, sender)
        stores.inbox.store(identify(command, encoded(image, syntax)))


def look(stores: NodeStores, watcher: Watcher) -> StudyStatus:
    watcher.look()
    (status,) = study_statuses(stores)
    return status


def analyse(stores: NodeStores, state: StudyState = StudyState.DONE) -> RunKey:
    """The last revision is processed, with a result."""
    run = stores.runs.of_study(STUDY)[-1]
    stores.runs.claim(run.key, run.attempt, "x")
    with stores.outbox.fill(run.key) as folder:
        files = tuple(_result(folder, STUDY, kind, run.revision) for kind in KINDS)
        write_outcome(StudyOutcome(STUDY, Status.DONE, pairs=(_pair(STUDY, files),)), folder)
    if state is not StudyState.RUNNING:
        stores.runs.end(run.key, run.attempt, RunTransition(state))
    return run.key


def standing(stores: NodeStores) -> list[int]:
    """Revisions whose results a next revision would replace or withdraw."""
    earlier = earlier_revisions(stores, RunKey(STUDY, len(stores.runs.of_study(STUDY)) + 1))
    return [result.report.revision for result in earlier.standing]


def revisions(stores: NodeStores) -> list[StudyState]:
    return [run.state for run in stores.runs.of_study(STUDY)]


def test_the_same_images_in_another_syntax_change_nothing(
    stores: NodeStores, watcher: Watcher, tmp_path: Path
) -> None:
    send(stores, tmp_path, "SCANNER")
    look(stores, watcher)
    analyse(stores)
    send(stores, tmp_path, "PACS", syntax=ImplicitVRLittleEndian)
    status = look(stores, watcher)
    assert (status.state, status.revision, status.conflicts, status.instance_count) == ("done", 1, 0, 2)


@pytest.mark.parametrize("state", [StudyState.DONE, StudyState.FAILED])
def test_a_conflict_leaves_the_result_and_says_what_to_do(
    stores: NodeStores, watcher: Watcher, tmp_path: Path, state: StudyState, caplog: pytest.LogCaptureFixture
) -> None:
    send(stores, tmp_path, "SCANNER")
    look(stores, watcher)
    analyse(stores, state)
    send(stores, tmp_path, "PACS", pixel=7)
    watcher.look()
    assert revisions(stores) == [state]
    assert "waits for a choice of content" in caplog.messages
    known = stores.studies.get(STUDY)
    assert known is not None
    assert known.state is StudyState.HELD
    assert known.reason == (
        "1 images arrived with more than one content; the result of revision 1 stands until a person chooses"
    )
    if state is StudyState.DONE:
        status = look(stores, watcher)
        assert (status.state, status.revision, status.conflicts) == ("waiting", 1, 1)
        assert status.next_step == "psma-node discard shows the contents, and lets one stand"
        assert standing(stores) == [1]


def test_a_result_that_was_withdrawn_does_not_stand(
    stores: NodeStores, watcher: Watcher, tmp_path: Path
) -> None:
    """A later revision has spoken last, and was rejected."""
    send(stores, tmp_path, "SCANNER")
    look(stores, watcher)
    analyse(stores)
    run, _ = stores.runs.open(STUDY, "2" * 64)
    stores.runs.claim(run.key, run.attempt, "x")
    stores.runs.end(run.key, run.attempt, RunTransition(StudyState.REJECTED, "slice-gap"))
    send(stores, tmp_path, "PACS", pixel=7)
    status = look(stores, watcher)
    assert (status.state, status.revision) == ("queued", 3)


@pytest.mark.parametrize("gives_result", [True, False])
def test_a_running_revision_is_waited_for_and_is_no_result_yet(
    stores: NodeStores, watcher: Watcher, tmp_path: Path, gives_result: bool
) -> None:
    send(stores, tmp_path, "SCANNER")
    look(stores, watcher)
    run = stores.runs.of_study(STUDY)[-1]
    stores.runs.claim(run.key, run.attempt, "x")
    send(stores, tmp_path, "PACS", pixel=7)
    assert look(stores, watcher).state == "running"
    known = stores.studies.get(STUDY)
    assert known is not None
    assert known.reason.endswith("; revision 1, which may give a result, is running")
    if gives_result:
        analyse(stores, StudyState.RUNNING)
    end = StudyState.DONE if gives_result else StudyState.FAILED
    stores.runs.end(run.key, run.attempt, RunTransition(end))
    status = look(stores, watcher)
    assert (status.state, status.revision) == (("waiting", 1) if gives_result else ("queued", 2))


def test_the_check_of_the_node_says_that_a_choice_is_due(stores: NodeStores, tmp_path: Path) -> None:
    policy = NodePolicy(data_dir=tmp_path / "data")
    send(stores, tmp_path, "SCANNER")
    assert check_contents(policy).found == "no image with more than one content"
    send(stores, tmp_path, "PACS", pixel=7)
    found = check_contents(policy)
    assert (found.ok, found.found) == (True, "warning: 1 studies with images of two contents")
    assert "psma-node discard" in found.advice


def test_a_conflict_before_any_result_is_analysed_and_rejected_as_ever(
    stores: NodeStores, watcher: Watcher, tmp_path: Path, discard: Callable[..., Result]
) -> None:
    send(stores, tmp_path, "SCANNER")
    send(stores, tmp_path, "PACS", pixel=7)
    assert look(stores, watcher).state == "queued"
    run = stores.runs.of_study(STUDY)[-1]
    stores.runs.claim(run.key, run.attempt, "x")
    stores.runs.end(run.key, run.attempt, RunTransition(StudyState.REJECTED, "conflicting-duplicate"))
    status = look(stores, watcher)
    assert (status.state, status.next_step[:17]) == ("rejected", "psma-node discard")
    assert discard("--content", "PACS").exit_code == 0
    status = look(stores, watcher)
    assert (status.state, status.revision, status.conflicts, status.instance_count) == ("queued", 2, 0, 2)


def test_the_content_of_the_standing_result_is_not_analysed_again(
    stores: NodeStores, watcher: Watcher, tmp_path: Path, discard: Callable[..., Result]
) -> None:
    send(stores, tmp_path, "SCANNER")
    look(stores, watcher)
    analyse(stores)
    before = stores.inbox.content_digest(STUDY)
    send(stores, tmp_path, "PACS", pixel=7)
    look(stores, watcher)
    assert discard("--content", "2").exit_code == 0
    assert stores.inbox.content_digest(STUDY) == before
    assert (look(stores, watcher).state, revisions(stores)) == ("done", [StudyState.DONE])
    send(stores, tmp_path, "PACS", pixel=7)
    assert look(stores, watcher).conflicts == 0, "a content that was discarded is not a new one"
    lines = (tmp_path / "data" / "audit" / "audit.jsonl").read_text().splitlines()
    [entry] = [json.loads(line) for line in lines if AuditEvent.CONTENT_CHOSEN in line]
    assert entry["facts"] == {"discarded": ["2"], "series": "", "files": 1}


@pytest.mark.parametrize("running", [True, False], ids=["running", "started again"])
def test_the_other_content_is_analysed_and_the_choice_can_be_taken_back(
    stores: NodeStores, watcher: Watcher, tmp_path: Path, discard: Callable[..., Result], running: bool
) -> None:
    def next_look() -> StudyStatus:
        policy = ReceivePolicy(settle_s=0.0, give_up_s=0.0)
        return look(stores, watcher if running else Watcher(stores, policy, examine, calm_s=0.0))

    send(stores, tmp_path, "SCANNER")
    next_look()
    analyse(stores)
    send(stores, tmp_path, "PACS", pixel=7)
    next_look()
    discard("--content", "SCANNER")
    status = next_look()
    assert (status.state, status.revision) == ("queued", 2)
    pixels = {bytes(dcmread(path).PixelData) for path in stores.inbox.image_paths(STUDY)}
    assert pixels == {bytes(16), bytes([7] * 16)}
    assert standing(stores) == [1], "until the new result is there"
    analyse(stores)
    assert standing(stores) == [2]

    discard("--content", "2")
    status = next_look()
    assert (status.state, status.revision) == ("queued", 3)
    assert revisions(stores) == [StudyState.DONE, StudyState.DONE, StudyState.QUEUED]
    assert {bytes(dcmread(path).PixelData) for path in stores.inbox.image_paths(STUDY)} == {bytes(16)}


class Reader:
    """Keeps the pixels that it was given."""

    pixels: set[bytes]

    def process(self, paths: Sequence[Path], out: Path, revision: int, *_: object) -> StudyOutcome:
        self.pixels = {bytes(dcmread(path).PixelData) for path in paths}
        outcome = StudyOutcome(STUDY, Status.REJECTED)
        write_outcome(outcome, out)
        return outcome


def test_a_choice_between_two_looks_changes_no_run_under_way(
    stores: NodeStores, watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is what was digested."""
    send(stores, tmp_path, "SCANNER")
    look(stores, watcher)
    send(stores, tmp_path, "PACS", pixel=7)
    first, second = (row.path for row in stores.inbox.contents(STUDY))
    stores.inbox.choose([second], [first])
    fetched = InboxIndex._contents

    def then_chosen(inbox: InboxIndex, *which: ColumnElement[bool]) -> tuple[InstanceRow, ...]:
        rows = fetched(inbox, *which)
        stores.inbox.choose([first], [second])
        return rows

    monkeypatch.setattr(InboxIndex, "_contents", then_chosen)
    reader = Reader()
    pool = ProcessorPool(lambda _: reader, 1)
    run = stores.runs.of_study(STUDY)[-1]
    StudyWork(stores, NodePolicy(data_dir=tmp_path), pool, [], Mock()).run_chain(run.key, run.attempt)
    assert reader.pixels == {bytes(16)}


def test_the_contents_are_listed_with_what_tells_them_apart(
    stores: NodeStores, watcher: Watcher, tmp_path: Path, discard: Callable[..., Result]
) -> None:
    send(stores, tmp_path, "SCANNER")
    send(stores, tmp_path, "PACS", pixel=7, syntax=ImplicitVRLittleEndian)
    first, second = discard().stdout.splitlines()
    assert first.startswith(f"series {STUDY}.1, content 1 from SCANNER: 1 images, Explicit VR Little Endian")
    assert second.startswith(f"series {STUDY}.1, content 2 from PACS: 1 images, Implicit VR Little Endian")
    assert second.endswith("; the first differs from content 1 in PixelData")
    discard("--content", "1", "--series", f"{STUDY}.1")
    assert discard().stdout.splitlines()[0].endswith("; discarded")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--content", "3"), "no content 3"),
        (("--content", "1", "--series", "1.9"), "no content 1"),
        (("--content", "1", "--content", "PACS"), "nothing of an image would be left"),
    ],
)
def test_a_choice_that_leaves_nothing_or_means_nothing_is_refused(
    stores: NodeStores, tmp_path: Path, discard: Callable[..., Result], words: tuple[str, ...], message: str
) -> None:
    send(stores, tmp_path, "SCANNER")
    assert "came with more than one content" in str(discard(*words).exception)
    send(stores, tmp_path, "PACS", pixel=7)
    error = discard(*words).exception
    assert isinstance(error, MisconfiguredError)
    assert message in str(error)
    assert stores.inbox.studies()[0].conflicts == 1
