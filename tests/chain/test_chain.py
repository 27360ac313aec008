"""The chain on whole studies: results whole or none, whatever the files' names and order."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from app.chain import folder
from app.chain.folder import FolderOutcome, RunResults, process_folder
from app.dicom.reading.studies import read_study
from app.domain.analysis import Aligned, Segmented
from app.domain.outcome import Status, StudyOutcome
from app.domain.refusal import Reason, RefusalCode
from app.errors import ExitCode, MisconfiguredError, RetryLaterError
from app.files.outcome import read_outcome
from app.imaging.earlier_results import EarlierReport, prior_candidates
from app.phantom.dicom.writer import WrittenPatient
from app.settings import Settings
from operators.load import LoadOperator
from tests.chain.conftest import links_to, processor, use_segmentation
from tests.chain.fakes import BrokenSegmentation


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.dcm"))}


@pytest.fixture(scope="module")
def pet_result(patient: WrittenPatient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The PET/CT's results, from files in the order in which they were written."""
    out = tmp_path_factory.mktemp("pet-result")
    with pytest.MonkeyPatch.context() as monkeypatch:
        from app.settings import load_settings
        from tests.chain.fakes import ThresholdSegmentation

        use_segmentation(monkeypatch, ThresholdSegmentation)
        processor(load_settings()).process(patient.pet.images, out, revision=1)
    return out


def test_a_pet_ct_gives_seg_sr_and_page_and_an_outcome_that_names_them(pet_result: Path) -> None:
    outcome = read_outcome(pet_result)
    [pair] = outcome.pairs
    assert outcome.status is Status.DONE
    assert {file.kind for file in pair.files} == {"SEG", "SR", "PAGE"}
    for file in pair.files:
        dataset = pydicom.dcmread(pet_result / file.path)
        assert dataset.SOPInstanceUID == file.sop_instance_uid
    assert pair.findings.burden.lesion_count == len(pair.findings.lesions) > 0


def test_order_and_names_of_files_make_no_difference(
    patient: WrittenPatient, settings: Settings, pet_result: Path, tmp_path: Path
) -> None:
    total = len(patient.pet.images)
    folder = links_to(patient.pet.images, tmp_path / "in", lambda n: f"{n % 7}/{(n * 89) % total:05d}.tmp")
    outcome = process_folder(folder, tmp_path / "out", settings)
    assert outcome.status is Status.DONE
    assert contents(tmp_path / "out" / "study-1") == contents(pet_result)


def test_a_later_revision_in_the_same_folder_leaves_one_set_of_results_with_other_uids(
    patient: WrittenPatient, settings: Settings, pet_result: Path, tmp_path: Path
) -> None:
    first = contents(pet_result)
    shutil.copytree(pet_result, tmp_path, dirs_exist_ok=True)
    processor(settings).process(patient.pet.images, tmp_path, revision=2)
    assert len(first) == len(contents(tmp_path)) == 3
    assert not first.keys() & contents(tmp_path).keys()


def test_a_result_of_the_same_run_is_read_again_as_it_was_analysed(
    patient: WrittenPatient, settings: Settings, tmp_path: Path
) -> None:
    run = processor(settings).process_study(lambda: read_study(patient.pet.images), tmp_path, revision=1)
    [written] = run.written
    [pair] = run.outcome.pairs
    memory = RunResults(settings.load)
    memory.remember(written)
    segmented = written.quantified.segmented
    loaded = segmented.aligned.loaded
    found = memory.for_patient(loaded.selection.study.patient, datetime.max)
    [prior] = prior_candidates(found, datetime.max)
    assert prior.acquired_at == loaded.selection.functional.when
    assert prior.lesion_count == segmented.labels.count == pair.findings.burden.lesion_count
    uids = {file.kind: file.sop_instance_uid for file in pair.files}
    assert prior.segmentation_sop_instance_uid == uids["SEG"]
    assert prior.report == EarlierReport(uids["SR"], pair.tracer, pair.model, pair.findings)
    for again, then in ((prior.ct(), loaded.ct), (prior.suv(), loaded.uptake)):
        assert np.array_equal(again.array, then.array)
        assert again.grid.matches(then.grid)
        assert again.frame_of_reference_uid == then.frame_of_reference_uid
    assert np.array_equal(prior.labels().array, segmented.labels.array)


def test_a_pet_without_ct_is_rejected_and_writes_no_dicom(
    patient: WrittenPatient, settings: Settings, tmp_path: Path
) -> None:
    outcome = processor(settings).process(patient.pet.functional, tmp_path, revision=1)
    assert outcome.status is Status.REJECTED
    assert RefusalCode.NO_CT in [reason.code for reason in outcome.reasons]
    assert not contents(tmp_path)
    assert read_outcome(tmp_path) == outcome


def test_a_fault_in_a_stage_reaches_the_caller_and_writes_nothing(
    patient: WrittenPatient, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_segmentation(monkeypatch, BrokenSegmentation)
    with pytest.raises(ValueError, match="out of memory"):
        processor(settings).process(patient.spect.images, tmp_path / "out", revision=1)
    assert not (tmp_path / "out").exists()


def test_a_fault_in_one_study_does_not_stop_the_others(
    patient: WrittenPatient, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_segmentation(monkeypatch, BrokenSegmentation)
    images = (*patient.spect.images, *patient.pet.functional)
    folder = links_to(images, tmp_path / "in", str)
    outcome = process_folder(folder, tmp_path / "out", settings)
    assert outcome.status is Status.FAILED
    assert [study.status for study in outcome.studies] == [Status.REJECTED, Status.FAILED]


def test_a_stage_that_emits_nothing_is_not_taken_for_success(
    patient: WrittenPatient, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def silent(self: object, op_input: Any, op_output: Any, context: Any) -> None:
        op_input.receive("pairs")

    monkeypatch.setattr(LoadOperator, "compute", silent)
    with pytest.raises(RuntimeError, match="ended before its last stage"):
        processor(settings).process(patient.spect.images, tmp_path, revision=1)
    assert not contents(tmp_path)


def test_a_full_disk_asks_to_try_later(
    patient: WrittenPatient, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("app.dicom.results.read_back.write_durably", full)
    with pytest.raises(RetryLaterError, match="No space left on device"):
        processor(settings).process(patient.spect.images, tmp_path, revision=1)


def test_a_folder_with_nothing_in_it_is_rejected(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert process_folder(tmp_path / "in", tmp_path / "out", settings).status is Status.REJECTED


def test_the_outcome_in_words_says_what_was_not_used_and_why() -> None:
    no_ct = Reason(RefusalCode.NO_CT, "", "no CT", "one")
    rejected = StudyOutcome("1.2.3", Status.REJECTED, (no_ct,))
    failed = StudyOutcome("1.2.4", Status.FAILED, message="ValueError in segment")
    unreadable = Reason(RefusalCode.UNREADABLE, "", "a text file", "DICOM")
    lines = FolderOutcome.of((rejected, failed), (unreadable,)).lines()
    assert lines[0] == "failed: 2 study(ies), 1 unreadable file(s)"
    assert lines[1] == "study 1: rejected"
    assert lines[2].startswith("  not used: ")
    assert "no CT" in lines[2]
    assert lines[3] == "study 2: failed ValueError in segment"
    assert lines[4].startswith("unreadable: ")
    assert "a text file" in lines[4]
    assert len(lines) == 5


@pytest.mark.parametrize("seg_type, is_told", [("LABELMAP", True), ("BINARY", False)])
def test_a_run_cautions_of_a_labelmap_in_its_log(tmp_path: Path, seg_type: str, is_told: bool) -> None:
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-m", "app", "process", str(tmp_path / "in"), str(tmp_path / "out")]
    run = subprocess.run(
        [*command, "--set", f"write.seg_type={seg_type}"], capture_output=True, text=True, check=False
    )
    assert run.returncode == ExitCode.REJECTED
    assert ("SEG as LABELMAP" in run.stdout + run.stderr) is is_told


def test_a_missing_folder_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="nowhere is not a folder"):
        process_folder(tmp_path / "nowhere", tmp_path / "out", settings)


class NamingSegmentation:
    """Fails as a library that quotes a header might."""

    def segment(self, aligned: Aligned) -> Segmented:
        raise ValueError("cannot parse 'DOE^JOHN'")


def test_a_fault_that_quotes_a_name_is_reported_without_it(
    patient: WrittenPatient, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_segmentation(monkeypatch, NamingSegmentation)
    folder = links_to(patient.spect.images, tmp_path / "in", str)
    outcome = process_folder(folder, tmp_path / "out", settings)
    told = "\n".join([*outcome.lines(), *(path.read_text() for path in tmp_path.rglob("outcome.json"))])
    assert outcome.status is Status.FAILED
    assert "ValueError" in told
    assert "DOE" not in told


def test_results_of_an_earlier_run_are_gone_even_when_this_one_fails(
    patient: WrittenPatient,
    settings: Settings,
    pet_result: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for number in (1, 2):
        shutil.copytree(pet_result, tmp_path / "out" / f"study-{number}")
    assert len(list((tmp_path / "out").glob("study-*/*.dcm"))) == 6
    (tmp_path / "out" / "study-1" / "notes.txt").write_text("not ours")
    use_segmentation(monkeypatch, BrokenSegmentation)
    process_folder(links_to(patient.spect.images, tmp_path / "one", str), tmp_path / "out", settings)
    assert not list((tmp_path / "out").rglob("*.dcm"))
    assert (tmp_path / "out" / "study-1" / "notes.txt").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"study_instance_uid": 5}'])
def test_a_damaged_outcome_is_named_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "outcome.json").write_text(content)
    with pytest.raises(MisconfiguredError, match="move it away"):
        read_outcome(tmp_path)


def test_a_disk_without_room_for_the_outcome_asks_to_try_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    written = folder.write_durably

    def full_in_the_end(path: Path, content: bytes) -> None:
        if path.exists():
            raise OSError(28, "No space left on device")
        written(path, content)

    monkeypatch.setattr(folder, "write_durably", full_in_the_end)
    with pytest.raises(RetryLaterError, match="No space left on device"):
        process_folder(tmp_path / "in", tmp_path / "out", settings)
    assert '"failed"' in (tmp_path / "out" / "outcome.json").read_text()


def test_ctrl_c_ends_a_run_with_a_sentence_and_an_outcome_that_says_so(
    patient: WrittenPatient, tmp_path: Path
) -> None:
    folder = links_to(patient.spect.images, tmp_path / "in", str)
    outcome = tmp_path / "out" / "outcome.json"
    command = [sys.executable, "-m", "app", "process", str(folder), str(tmp_path / "out")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not outcome.exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "stopped" in told
    assert "Traceback" not in told
    assert '"failed"' in outcome.read_text()


@pytest.mark.parametrize(
    "words", [["--set", "receive.porrt=1"], ["--set", "segment.device=cuda:99"]], ids=["settings", "device"]
)
def test_a_run_that_ends_before_it_begins_leaves_no_earlier_outcome_behind(
    tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    study = tmp_path / "out" / "study-1" / "outcome.json"
    study.parent.mkdir(parents=True)
    for outcome in (study, tmp_path / "out" / "outcome.json"):
        outcome.write_text('{"status": "done"}')
    done = run_program("process", str(tmp_path / "in"), str(tmp_path / "out"), *words)
    assert done.returncode == 2
    left = [path.read_text() for path in (tmp_path / "out").rglob("outcome.json")]
    assert [text for text in left if '"done"' in text] == []


def test_a_failure_within_the_chain_is_reported_without_the_framework_s_lines(
    patient: WrittenPatient, tmp_path: Path
) -> None:
    """Each line of standard error is the node's own: JSON of its log, or the sentence at the end."""
    folder = links_to(patient.spect.images[:1], tmp_path / "in", str)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study-1").write_text("where a folder has to be")
    done = run_program("process", str(folder), str(tmp_path / "out"))
    assert done.returncode == 4
    assert "cannot write results" in done.stdout
    assert [line for line in done.stderr.splitlines() if not line.startswith(("{", "psma-node: "))] == []


@pytest.mark.parametrize("words", [["process", "in", "out"], ["inspect", "in"]], ids=lambda words: words[0])
def test_a_folder_without_an_image_is_named_without_loading_the_framework(
    tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    arguments = [str(tmp_path / word) if word in ("in", "out") else word for word in words]
    code = (
        "import atexit, sys; from app.cli import main; "
        "atexit.register(lambda: print([name for name in ('torch', 'monai') if name in sys.modules])); "
        f"sys.argv[1:] = {arguments!r}; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "found no DICOM image" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_usage_names_the_command_that_a_person_types() -> None:
    done = run_program("process", "--no-such-option")
    assert done.returncode == 2
    assert "Usage: psma-node process" in done.stderr
    assert "python -m app" not in done.stderr + run_program("--help").stdout


def run_program(*words: str) -> subprocess.CompletedProcess[str]:
    """``python -m app``, as in the image."""
    command = [sys.executable, "-m", "app", *words]
    environment = {key: value for key, value in os.environ.items() if key != "HOLOSCAN_LOG_LEVEL"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
