"""Real scans through the whole chain, with the models that are shipped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from app.domain.outcome import Status, StudyOutcome
from app.domain.study import StudyKind
from app.files.outcome import read_outcome
from tests.dicom.reading import tiny


def processed(source: Path, out: Path, *settings: str) -> tuple[int, StudyOutcome]:
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "app", "process", str(source), str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, read_outcome(out / "study-1")


def is_whole_result(outcome: StudyOutcome, folder: Path) -> bool:
    """SR and page always; SEG when there is a lesion; all there and readable."""
    [pair] = outcome.pairs
    for file in pair.files:
        pydicom.dcmread(folder / "study-1" / Path(file.path).name)
    expected = {"SR", "PAGE"} | ({"SEG"} if pair.findings.lesions else set())
    return {file.kind for file in pair.files} == expected


def test_a_real_fdg_pet_without_ct_is_rejected_by_its_attributes(samples: Path, tmp_path: Path) -> None:
    exit_code, outcome = processed(samples / "pet-ge-sts001" / "pet", tmp_path)
    assert (exit_code, outcome.status) == (3, Status.REJECTED)
    attributes = {reason.attribute for reason in outcome.reasons}
    assert {"RadiopharmaceuticalCodeSequence", "SOPClassUID"} <= attributes
    assert not list(tmp_path.rglob("*.dcm"))


def test_a_real_pet_ct_runs_through_once_its_tracer_is_allowed(samples: Path, tmp_path: Path) -> None:
    for name in ("pet-suv-cropped", "ct-cropped"):
        shutil.copytree(samples / "pet-ge-sts001" / name, tmp_path / "in" / name)
    exit_code, outcome = processed(tmp_path / "in", tmp_path / "out", "select.additional_tracers=[18F-FDG]")
    assert (exit_code, outcome.status) == (0, Status.DONE)
    assert outcome.pairs[0].kind is StudyKind.PET_CT
    assert is_whole_result(outcome, tmp_path / "out")


def test_a_real_177lu_spect_stored_as_pt_runs_through_with_a_ct(samples: Path, tmp_path: Path) -> None:
    images = samples / "spect-lu177" / "SCAN_001" / "image"
    shutil.copytree(images, tmp_path / "in" / "spect")
    made_for(sorted(images.iterdir()), tmp_path / "in")
    exit_code, outcome = processed(tmp_path / "in", tmp_path / "out")
    assert (exit_code, outcome.status) == (0, Status.DONE)
    [pair] = outcome.pairs
    assert pair.kind is StudyKind.SPECT_CT
    assert (pair.model.role, pair.prior_used) == ("M2", False)
    assert pair.no_prior
    assert is_whole_result(outcome, tmp_path / "out")


def made_for(images: list[Path], folder: Path) -> None:
    """A body of water that covers the SPECT, in its frame of reference."""
    first = pydicom.dcmread(images[0], stop_before_pixels=True)

    def belong(dataset: Dataset, index: int) -> None:
        for keyword in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
            setattr(dataset, keyword, first[keyword].value)

    body: Any = np.full((98, 100, 100), 1024, dtype=np.int16)
    body[:, :5] = 0
    tiny.write_ct(folder, tiny.Scan(body, "1.2.3.2", (5.0, 5.0, 4.0), (-249.0, -410.0, 1156.9), belong))


@pytest.mark.parametrize("name", ["nothing-here", "a-file.dcm"])
def test_what_is_no_folder_is_a_sentence_and_an_exit_code(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file.dcm").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "app", "process", str(tmp_path / name), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is not a folder" in done.stderr
    assert "Traceback" not in done.stderr
