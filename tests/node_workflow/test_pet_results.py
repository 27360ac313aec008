"""Earlier PET results of the same patient are found, of nobody else, and never a later one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
from pydicom.uid import PositronEmissionTomographyImageStorage

from app.domain.outcome import Status, StudyOutcome
from app.domain.study import Patient, StudyKind
from app.node.database import open_database
from app.node.outbox import Outbox
from app.node.pet_results import PetResults
from app.node.run_ledger import RunKey
from tests.node_workflow.fake_node import _pair, _result, secondary_capture

NOON = datetime(2026, 3, 1, 12)
PATIENT = Patient("P1", "CLINIC")


class Store:
    """Results of studies that are files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = open_database(f"sqlite:///{folder / 'node.sqlite'}")
        inbox = SimpleNamespace(paths=self.paths)
        self.results = PetResults(self.engine, inbox, Outbox(folder / "results", "x"))

    def paths(self, study: str) -> Sequence[Path]:
        return (self.folder / f"{study}.dcm",)

    def add(self, study: str, when: str, patient: Patient = PATIENT, lesions: bool = True) -> None:
        """Register the result of a PET of ``when`` (YYYYMMDD)."""
        path = secondary_capture(self.paths(study)[0], study, f"{study}.9")
        header = pydicom.dcmread(path)
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        header.Modality = "PT"
        header.PatientID, header.IssuerOfPatientID = patient.patient_id, patient.issuer
        header.StudyDate, header.StudyTime = when, "120000"
        header.SeriesInstanceUID = f"{study}.2"
        header.save_as(path)
        kinds = ("SEG", "SR", "PAGE") if lesions else ("SR", "PAGE")
        pair = _pair(study, tuple(_result(self.folder, study, kind, 1) for kind in kinds))
        outcome = StudyOutcome(study, Status.DONE, pairs=(replace(pair, kind=StudyKind.PET_CT),))
        self.results.register(RunKey(study, 1), outcome)

    def found(self, patient: Patient = PATIENT) -> list[str]:
        """Studies found before noon of 1 March 2026."""
        return [item.study_instance_uid for item in self.results.of_patient(patient, NOON)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.engine.dispose()


def test_latest_earlier_result_comes_first_and_later_ones_do_not_count(store: Store) -> None:
    store.add("1.1", "20260101")
    store.add("1.2", "20260215")
    store.add("1.3", "20260401")
    assert store.found() == ["1.2", "1.1"]


@pytest.mark.parametrize("other", [Patient("P2", "CLINIC"), Patient("P1", "OTHER"), Patient("", "CLINIC")])
def test_another_patient_has_none_of_them(store: Store, other: Patient) -> None:
    store.add("1.1", "20260101")
    assert store.found(other) == []


def test_patients_without_identifier_are_not_one_patient(store: Store) -> None:
    store.add("1.1", "20260101", Patient("", ""))
    assert store.found(Patient("", "")) == []


def test_no_lesion_is_a_result(store: Store) -> None:
    store.add("1.1", "20260101", lesions=False)
    (found,) = store.results.of_patient(PATIENT, NOON)
    assert found.segmentation is None
    assert found.segmentation_sop_instance_uid == ""


def test_registering_twice_keeps_one(store: Store) -> None:
    store.add("1.1", "20260101")
    store.add("1.1", "20260101")
    assert store.found() == ["1.1"]
