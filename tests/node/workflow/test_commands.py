"""``psma-node status``, ``retry``, ``check`` and ``audit verify``, without a node that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SegmentationStorage
from sqlalchemy import insert, update
from typer.testing import CliRunner, Result

from app.cli.main import app
from app.domain.outcome import ResultFile, Status, StudyOutcome
from app.domain.selection.screening import CT_IMAGE
from app.domain.study import Patient
from app.errors import MisconfiguredError
from app.files.outcome import write_outcome
from app.node.policy import NodePolicy
from app.node.records.database import utc_now
from app.node.records.deliveries import DeliveryTransition
from app.node.records.inbox_index import InstanceRow
from app.node.records.runs import RunTransition
from app.node.records.settlement import settle_run
from app.node.records.states import DeliveryKey, DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from app.node.upkeep.retry import resend_study
from app.node.watch.health import CheckResult
from tests.node.workflow.fake_node import _pair
from tests.node.workflow.test_ledgers import FILES

Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a command on a data folder of its own."""

    def run(*words: str) -> Result:
        folder = [f"node.data_dir={tmp_path / 'data'}", "node.min_free_mb=1"]
        return CliRunner().invoke(app, [*words, *(word for item in folder for word in ("--set", item))])

    return run


@pytest.fixture
def stores(tmp_path: Path) -> NodeStores:
    return open_stores(NodePolicy(data_dir=tmp_path / "data"))


def arrived(stores: NodeStores, study: str, sop_class_uid: str = CT_IMAGE) -> RunKey:
    """A study with one instance in the inbox."""
    row = {
        "sop_instance_uid": f"{study}.1",
        "sha256": "0" * 64,
        "study_instance_uid": study,
        "series_instance_uid": f"{study}.2",
        "sop_class_uid": sop_class_uid,
        "path": "x",
        "bytes": 1,
        "received_at": utc_now(),
        "calling_ae": "X",
        "conflict": False,
    }
    with stores.engine.begin() as connection:
        connection.execute(insert(InstanceRow).values(row))
    (stores.inbox.folder / "x").write_bytes(b"x")
    return RunKey(study, 1)


def queued(stores: NodeStores, study: str) -> RunKey:
    """A complete study."""
    key = arrived(stores, study)
    stores.runs.open(study, "d" * 64)
    stores.studies.observe(study, StudyState.QUEUED)
    return key


def ended(stores: NodeStores, study: str, ending: RunTransition) -> RunKey:
    """A study whose first try has ended."""
    key = queued(stores, study)
    stores.runs.claim(key, 1, "x")
    stores.runs.end(key, 1, ending)
    return key


def test_status_of_a_new_node_says_that_nothing_came(command: Command, stores: NodeStores) -> None:
    assert command("status").stdout == "no study has arrived yet\n"
    assert json.loads(command("status", "--json").stdout) == {"studies": []}


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("audit", "verify"), ("retry", "1.2")])
def test_absent_data_folder_is_a_wrong_setting(
    command: Command, tmp_path: Path, words: tuple[str, ...]
) -> None:
    error = command(*words).exception
    assert isinstance(error, MisconfiguredError)
    assert f"no data folder at {tmp_path / 'data'}; is this the right app.yaml" in str(error)
    assert not (tmp_path / "data").exists(), "a look leaves nothing behind"


def test_status_tells_state_reason_and_next_step(command: Command, stores: NodeStores) -> None:
    arrived(stores, "1.1")
    stores.studies.observe("1.1", StudyState.WAITING, "a CT that covers the PET")
    soon = utc_now() + timedelta(seconds=90)
    ended(stores, "1.2", RunTransition(StudyState.FAILED, "ValueError at x.py:1", soon, at_fault=True))
    ended(stores, "1.3", RunTransition(StudyState.REJECTED, "the unit is CNTS"))
    output = command("status").stdout
    assert "waiting              1.1  1 image\n" in output
    assert "why: a CT that covers the PET\n" in output
    assert "failed               1.2  revision 1, 1 image\n" in output
    assert "next: processing again in " in output
    assert "rejected             1.3" in output
    assert "next: psma-node retry\n" in output


def test_status_tells_when_a_study_was_acquired_and_not_whose_it_is(
    command: Command, stores: NodeStores
) -> None:
    arrived(stores, "1.1")
    stores.studies.identify(StudySubject("1.1", Patient("P-4711"), datetime(2026, 3, 4, 9, 30)))
    output = command("status").stdout
    assert "1.1  1 image, acquired 2026-03-04\n" in output
    (study,) = json.loads(command("status", "--json").stdout)["studies"]
    assert study["acquired_at"] == "2026-03-04T09:30:00"
    assert "4711" not in output + json.dumps(study)


def test_status_counts_images_apart_from_other_objects(command: Command, stores: NodeStores) -> None:
    arrived(stores, "1.1", SegmentationStorage)
    stores.studies.observe("1.1", StudyState.WAITING, "no image")
    output = command("status").stdout
    assert "1.1  0 images\n" in output
    assert "kept with the images: 1 Segmentation Storage\n" in output
    (study,) = json.loads(command("status", "--json").stdout)["studies"]
    assert (study["image_count"], study["instance_count"]) == (0, 1)


def test_status_tells_how_far_a_delivery_is(command: Command, stores: NodeStores) -> None:
    key = ended(stores, "1.2", RunTransition(StudyState.DELIVERING))
    stores.deliveries.plan(key, FILES, ["pacs"])
    delivery = DeliveryKey(key, "pacs")
    stores.deliveries.acknowledge(delivery, "1.2.SEG", 0)
    soon = utc_now() + timedelta(seconds=90)
    stores.deliveries.end(delivery, 1, DeliveryTransition(DeliveryState.PENDING, "it is down", soon))
    (study,) = json.loads(command("status", "--json").stdout)["studies"]
    assert study["state"] == "delivering"
    assert study["reason"] == "pacs: 1 of 2 acknowledged, it is down"
    assert study["next_step"].startswith("delivery again in ")
    assert study["deliveries"][0]["acknowledged"] == 1


def test_late_images_are_shown_with_the_earlier_result(command: Command, stores: NodeStores) -> None:
    ended(stores, "1.2", RunTransition(StudyState.DONE))
    stores.studies.observe("1.2", StudyState.WAITING, "3 of 40 images of the CT series")
    assert "why: 3 of 40 images of the CT series (revision 1 is done)" in command("status").stdout


def test_retry_begins_a_rejected_study_again(command: Command, stores: NodeStores) -> None:
    key = ended(stores, "1.2", RunTransition(StudyState.REJECTED, "tracer not allowed"))
    assert command("retry", "1.2").stdout == "revision 1 is processed again\n"
    assert stores.runs.get(key).state is StudyState.QUEUED
    assert stores.runs.get(key).attempt == 2


@pytest.mark.parametrize(("study", "words"), [("1.2", "the study is done"), ("9.9", "found no revision")])
def test_retry_of_what_needs_none_is_refused(
    command: Command, stores: NodeStores, study: str, words: str
) -> None:
    ended(stores, "1.2", RunTransition(StudyState.DONE))
    assert words in str(command("retry", study).exception)


def delivered(stores: NodeStores, study: str) -> DeliveryKey:
    """A study whose results a PACS has taken."""
    key = ended(stores, study, RunTransition(StudyState.DELIVERING))
    stores.deliveries.plan(key, FILES, ["pacs"])
    delivery = DeliveryKey(key, "pacs")
    for file in FILES:
        stores.deliveries.acknowledge(delivery, file.sop_instance_uid, 0)
    stores.deliveries.end(delivery, 1, DeliveryTransition(DeliveryState.DONE))
    stores.runs.finish_delivery(key, StudyState.DONE)
    return delivery


def test_results_of_a_done_study_are_sent_again(command: Command, stores: NodeStores) -> None:
    key = delivered(stores, "1.2")
    output = command("retry", "1.2", "--resend").stdout
    assert output == "every result of revision 1 is sent again to pacs\n"
    assert stores.runs.get(key.run).state is StudyState.DELIVERING
    assert (stores.deliveries.get(key).state, stores.deliveries.get(key).attempt) == (
        DeliveryState.PENDING,
        2,
    )
    planned = stores.deliveries.instances(key)
    assert all(item.is_open and item.acknowledged_at for item in planned), "what the PACS has stays known"
    assert "pacs: 0 of 2 acknowledged" in command("status").stdout
    stores.deliveries.refuse(key, planned[0].sop_instance_uid, 0xC000)
    stores.deliveries.acknowledge(key, planned[1].sop_instance_uid, 0)
    assert [item.is_open for item in stores.deliveries.instances(key)] == [True, False]


@pytest.mark.parametrize(
    ("state", "words"), [(StudyState.REJECTED, "the study is rejected"), (StudyState.DONE, "sent nowhere")]
)
def test_what_was_never_sent_is_not_sent_again(
    command: Command, stores: NodeStores, state: StudyState, words: str
) -> None:
    ended(stores, "1.2", RunTransition(state))
    assert words in str(command("retry", "1.2", "--resend").exception)


def test_check_names_a_wrong_key_and_exits_2(command: Command) -> None:
    result = command("check", "--set", "receive.prot=1")
    assert result.exit_code == 2
    assert "receive.prot" in result.stdout
    assert result.stdout.startswith("FAILED  settings  ")


@pytest.mark.parametrize(
    "text", ["receive: [", "receive: {port: many}", None], ids=["YAML", "type", "missing"]
)
def test_check_of_a_wrong_file_exits_2(command: Command, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "site.yaml"
    if text is not None:
        file.write_text(text)
    result = command("check", "--config", str(file))
    assert result.exit_code == 2
    assert result.stdout.startswith("FAILED  settings  ")


def test_settings_that_are_wrong_are_reported_without_the_password(command: Command) -> None:
    output = command(
        "check", "--set", "node.workers=-1", "--set", "node.database_url=postgresql://node:hush@db/node",
        "--set", "deliver.destinations=[{name: pacs, ae_title: P, host: h}]",
    ).stdout  # fmt: skip
    assert "node.workers: found -1, expected 0 to 64" in output
    assert "deliver.destinations.0.port: missing" in output
    assert "hush" not in output


def test_audit_verify_finds_a_changed_line(command: Command, stores: NodeStores, tmp_path: Path) -> None:
    ended(stores, "1.2", RunTransition(StudyState.FAILED, "why", at_fault=True))
    command("retry", "1.2")
    assert command("audit", "verify").exit_code == 0
    log = tmp_path / "data" / "audit" / "audit.jsonl"
    log.write_text(log.read_text().replace("processed again", "never touched"))
    result = command("audit", "verify")
    assert result.exit_code == 1
    assert "NOT whole" in result.stderr


def test_check_warns_of_a_labelmap_and_of_nothing_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CheckResult("models", True, "right")
    monkeypatch.setattr("app.cli.operate._check_models", lambda settings: right)
    monkeypatch.setattr("app.node.watch.health.node_checks", lambda *policies: ())
    result = CliRunner().invoke(app, ["check", "--set", "write.seg_type=LABELMAP"])
    assert result.exit_code == 0
    assert "warning: SEG as LABELMAP" in result.output
    assert "warning" not in CliRunner().invoke(app, ["check"]).output


def test_status_of_one_patient_one_accession_number_one_state_one_day(
    command: Command, stores: NodeStores
) -> None:
    ended(stores, "1.1", RunTransition(StudyState.REJECTED, "the unit is CNTS"))
    queued(stores, "1.2")
    spect = {"spect_acquired_at": datetime(2026, 3, 5, 9, 30)}
    pet = {"pet_acquired_at": datetime(2026, 3, 4)}
    stores.studies.identify(StudySubject("1.1", Patient("P-4711"), **pet, accession_number="A1"))
    stores.studies.identify(StudySubject("1.2", Patient("P-4711", "ward"), **spect, accession_number="A2"))
    arrived(stores, "1.3")

    def found(*words: str) -> list[str]:
        content = json.loads(command("status", "--json", *words).stdout)
        return [study["study_instance_uid"] for study in content["studies"]]

    assert found("--patient", "P-4711") == ["1.1", "1.2"]
    assert found("--patient", "P-471") == []
    assert found("--accession", "A2") == ["1.2"]
    assert found("--state", "rejected") == ["1.1"]
    assert found("--state", "receiving", "--patient", "P-4711") == []
    assert found("--day", "2026-03-05") == ["1.2"]
    assert found("--day", f"{datetime.now():%Y-%m-%d}") == ["1.1", "1.2", "1.3"], "received today"
    assert command("status", "--accession", "A9").stdout == "no study fits what was asked for\n"
    assert found("--state", "Rejected") == ["1.1"]
    stores.studies.observe("1.3", StudyState.HELD, "1 image arrived with more than one content")
    assert found("--state", "held") == found("--state", "waiting") == ["1.3"]
    wrong = command("status", "--state", "rejcted")
    assert wrong.exit_code == 2
    assert "there is no state 'rejcted'" in wrong.stderr


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE runs; --", "x' OR '1'='1", '"; DELETE FROM studies; --', "%", "_"]
)
def test_sql_in_a_header_or_on_the_command_line_is_text(
    command: Command, stores: NodeStores, text: str
) -> None:
    queued(stores, "1.1")
    queued(stores, "1.2")
    stores.studies.identify(StudySubject("1.1", Patient("P-4711"), accession_number="A1"))
    stores.studies.identify(StudySubject("1.2", Patient(text, text), accession_number=text))
    for option in ("--patient", "--accession"):
        content = json.loads(command("status", "--json", option, text).stdout)
        assert [study["study_instance_uid"] for study in content["studies"]] == ["1.2"]
    for name in ("retry", "remove", "discard"):
        refused = command(name, text)
        assert isinstance(refused.exception, MisconfiguredError)
    assert [run.study_instance_uid for run in stores.runs.latest()] == ["1.1", "1.2"]


def audit_lines(stores: NodeStores) -> list[dict[str, object]]:
    return [json.loads(line) for line in stores.audit.path.read_text().splitlines()]


def test_every_study_that_failed_is_tried_again_and_the_audit_log_says_who_asked(
    command: Command, stores: NodeStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("retry", "--failed").stdout == "no study failed\n"
    failed = ended(stores, "1.1", RunTransition(StudyState.FAILED, "ValueError", at_fault=True))
    soon = utc_now() + timedelta(seconds=90)
    waits = ended(stores, "1.2", RunTransition(StudyState.FAILED, "ValueError", soon, at_fault=True))
    rejected = ended(stores, "1.3", RunTransition(StudyState.REJECTED, "the unit is CNTS"))
    delivery = delivered(stores, "1.4")
    stores.runs.resume_delivery(delivery.run)
    stores.deliveries.retry(stores.deliveries.get(delivery))
    stores.deliveries.end(delivery, 2, DeliveryTransition(DeliveryState.FAILED, "refused"))
    stores.runs.finish_delivery(delivery.run, StudyState.FAILED, "refused")
    monkeypatch.setenv("SUDO_USER", "berta")
    assert command("retry", "--failed").stdout == (
        "1.1: revision 1 is processed again\n1.4: revision 1 is delivered again to pacs\n"
    )
    states = [stores.runs.get(key).state for key in (failed, waits, rejected, delivery.run)]
    assert states == [StudyState.QUEUED, StudyState.FAILED, StudyState.REJECTED, StudyState.DELIVERING]
    asked = [line["facts"]["asked_by"] for line in audit_lines(stores)]  # type: ignore[index]
    assert len(asked) == 2
    assert {words.partition(" as ")[0] for words in asked} == {"berta"}
    command("retry", "1.3", "--by", "Dr. Stone")
    assert audit_lines(stores)[-1]["facts"]["asked_by"] == "Dr. Stone"  # type: ignore[index]


@pytest.mark.parametrize(
    "words", [(), ("1.2", "--failed"), ("--failed", "--resend"), ("1.2", "--resend", "--again")]
)
def test_a_retry_of_nothing_or_of_two_things_is_no_command(command: Command, words: tuple[str, ...]) -> None:
    assert command("retry", *words).exit_code == 2


def test_status_says_what_was_sent_and_what_is_committed(command: Command, stores: NodeStores) -> None:
    delivery = delivered(stores, "1.2")
    assert "sent: pacs 2 of 2\n" in command("status").stdout
    stores.deliveries.commit(delivery, FILES[0].sop_instance_uid)
    assert "sent: pacs 2 of 2, 1 committed\n" in command("status").stdout


def test_a_study_that_waits_is_taken_as_it_is_when_asked(command: Command, stores: NodeStores) -> None:
    arrived(stores, "1.1")
    assert "images of the study are still coming" in str(command("retry", "1.1").exception)
    stores.studies.observe("1.1", StudyState.WAITING, "a CT in the frame of reference of the SPECT")
    assert "next: processed when complete; psma-node retry takes it as it is\n" in command("status").stdout
    output = command("retry", "1.1", "--by", "berta").stdout
    assert output == "it is taken as it is, as revision 1; images that come later make another one\n"
    [run] = stores.runs.of_study("1.1")
    assert (run.state, run.by_headers, run.sender) == (StudyState.QUEUED, True, "X")
    assert run.content_digest == stores.inbox.content_digest("1.1")
    assert "queued               1.1  revision 1, 1 image\n" in command("status").stdout
    events = [line["event"] for line in audit_lines(stores)]
    assert events == ["study received", "retry asked for"]
    arrived(stores, "1.2", SegmentationStorage)
    stores.studies.observe("1.2", StudyState.WAITING, "no image has come yet")
    assert "nothing to analyse" in str(command("retry", "1.2").exception)


def test_what_is_sent_again_is_delivered_though_another_delivery_ends_meanwhile(
    stores: NodeStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = delivered(stores, "1.2")
    resend = stores.deliveries.resend

    def after_the_last_one_ended(*arguments: Any) -> None:
        settle_run(stores, key.run)
        resend(*arguments)

    monkeypatch.setattr(stores.deliveries, "resend", after_the_last_one_ended)
    resend_study(stores, "1.2")
    assert stores.runs.get(key.run).state is StudyState.DELIVERING


def test_results_go_to_a_new_destination_when_asked(command: Command, stores: NodeStores) -> None:
    archive = "deliver.destinations=[{name: archive, ae_title: A, host: h, port: 104}]"
    assert command("forward", "--to", "archive", "--set", archive).stdout == "archive has everything\n"
    wrong = str(command("forward", "--to", "nowhere", "--set", archive).exception)
    assert wrong == "nowhere is not in deliver.destinations; found archive"
    assert command("forward", "1.2").exit_code == 2, "without --to it is no command"


def test_a_study_whose_images_are_gone_is_not_tried_again_and_keeps_no_other(
    command: Command, stores: NodeStores
) -> None:
    gone = ended(stores, "1.1", RunTransition(StudyState.FAILED, "ValueError", at_fault=True))
    there = ended(stores, "1.2", RunTransition(StudyState.FAILED, "ValueError", at_fault=True))
    done = ended(stores, "1.3", RunTransition(StudyState.DONE))
    rows = update(InstanceRow).where(InstanceRow.study_instance_uid.in_(("1.1", "1.3")))
    with stores.engine.begin() as connection:
        connection.execute(rows.values(path="gone"))
    words = "1 of 1 images of the study are not in the inbox any more"
    assert words in str(command("retry", "1.1").exception)
    assert words in str(command("retry", "1.3", "--again").exception)
    first, second = command("retry", "--failed").stdout.splitlines()
    assert first.startswith(f"1.1: not tried: {words}")
    assert second == "1.2: revision 1 is processed again"
    states = [stores.runs.get(key).state for key in (gone, there, done)]
    assert states == [StudyState.FAILED, StudyState.QUEUED, StudyState.DONE]


def test_a_study_that_is_tried_again_by_itself_is_processed_before_it_is_sent(
    command: Command, stores: NodeStores
) -> None:
    """It was delivered once, then asked for again; what failed to be sent is of a former try."""
    soon = utc_now() + timedelta(seconds=90)
    key = ended(stores, "1.2", RunTransition(StudyState.FAILED, "ValueError", soon, at_fault=True))
    stores.deliveries.plan(key, FILES, ["pacs"])
    stores.runs.resume_delivery(key)
    assert (stores.runs.get(key).state, stores.runs.get(key).next_try_at) == (StudyState.FAILED, soon)
    assert command("retry", "1.2").stdout == "revision 1 is processed again\n"
    assert stores.runs.get(key).state is StudyState.QUEUED


def test_what_a_later_try_has_replaced_is_not_sent_again(stores: NodeStores) -> None:
    key = delivered(stores, "1.2")
    new = [ResultFile("SEG", "seg.dcm", "1.2", "1.2.anew", "1.3")]
    stores.deliveries.plan(key.run, new, ["pacs"])
    stores.deliveries.acknowledge(key, "1.2.anew", 0)
    stores.deliveries.end(key, 2, DeliveryTransition(DeliveryState.DONE))
    with stores.outbox.fill(key.run) as folder:
        pair = _pair("1.2", tuple(new))
        write_outcome(StudyOutcome("1.2", Status.DONE, pairs=(pair,)), folder)
    resend_study(stores, "1.2")
    reopened = [item.sop_instance_uid for item in stores.deliveries.instances(key) if item.is_open]
    assert reopened == ["1.2.anew"]
