"""Earlier PET results of the same patient are found, of nobody else, and never a later one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import PositronEmissionTomographyImageStorage

from app.domain.outcome import Status, StudyOutcome
from app.domain.study import Patient, StudyKind
from app.errors import MisconfiguredError
from app.node.records.database import open_database
from app.node.records.outbox import Outbox
from app.node.records.results import ResultRegister, SeriesSubject, pet_subjects
from app.node.records.states import RunKey
from tests.node.workflow.fake_node import _pair, _result, secondary_capture

NOON = datetime(2026, 3, 1, 12)
PATIENT = Patient("P1", "CLINIC")
OLD_PETS = '{"1.1.2": {"patient_id": "P1", "issuer": "CLINIC", "acquired_at": "2026-01-01T12:30:00"}}'


class Store:
    """Results of studies that are files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = open_database(f"sqlite:///{folder / 'node.sqlite'}")
        self.outbox = Outbox(folder / "results", "x")
        self.results = ResultRegister(self.engine, self.outbox)

    def add(self, study: str, when: str, patient: Patient = PATIENT, lesions: bool = True) -> None:
        """Process a PET of ``when`` (YYYYMMDD) and register its result."""
        paths = [self.receive(study, when, patient)]
        self.results.register(RunKey(study, 1), *self.process(study, paths, lesions))

    def receive(self, study: str, when: str, patient: Patient = PATIENT, number: int = 9) -> Path:
        """An image of a PET."""
        path = secondary_capture(self.folder / f"{study}.{number}.dcm", study, f"{study}.{number}")
        header = pydicom.dcmread(path)
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        header.Modality = "PT"
        header.PatientID, header.IssuerOfPatientID = patient.patient_id, patient.issuer
        header.StudyDate, header.StudyTime = when, "120000"
        header.SeriesInstanceUID = f"{study}.2"
        header.save_as(path)
        return path

    def process(
        self, study: str, paths: Sequence[Path], lesions: bool = True
    ) -> tuple[StudyOutcome, Mapping[str, SeriesSubject]]:
        """What comes of ``paths``, and whose they are."""
        kinds = ("SEG", "SR", "PAGE") if lesions else ("SR", "PAGE")
        pair = _pair(study, tuple(_result(self.folder, study, kind, 1) for kind in kinds))
        outcome = StudyOutcome(study, Status.DONE, pairs=(replace(pair, kind=StudyKind.PET_CT),))
        return outcome, pet_subjects(paths, outcome)

    def register_old(self, study: str, pets_json: str) -> None:
        """Processed by version 0.1.0, which left this file."""
        outcome, _ = self.process(study, [self.receive(study, "20260101")])
        with self.outbox.fill(RunKey(study, 1)) as folder:
            (folder / "pets.json").write_text(pets_json)
        self.results.register_old(RunKey(study, 1), outcome)

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
    assert found.segmentation_path == ""
    assert found.segmentation_sop_instance_uid == ""


def test_registering_twice_keeps_one(store: Store) -> None:
    store.add("1.1", "20260101")
    store.add("1.1", "20260101")
    assert store.found() == ["1.1"]


def test_an_image_that_came_after_the_run_does_not_change_whose_the_result_is(store: Store) -> None:
    processed = store.process("1.1", [store.receive("1.1", "20260101")])
    store.receive("1.1", "20260101", Patient("P0", "CLINIC"), number=1)
    store.results.register(RunKey("1.1", 1), *processed)
    assert store.found() == ["1.1"]
    assert store.found(Patient("P0", "CLINIC")) == []


def test_a_pet_whose_images_name_two_patients_is_no_prior(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    others = Patient("P0", "CLINIC")
    paths = [store.receive("1.1", "20260101"), store.receive("1.1", "20260101", others, number=1)]
    store.results.register(RunKey("1.1", 1), *store.process("1.1", paths))
    assert store.found() == store.found(others) == []
    assert "its images name several patients: no prior" in caplog.messages
    assert "P0" not in caplog.text and "P1" not in caplog.text


def test_a_result_without_a_subject_is_logged_and_left_out(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    outcome, subjects = store.process("1.1", [store.receive("1.1", "")])
    assert subjects == {}
    store.results.register(RunKey("1.1", 1), outcome, subjects)
    assert store.found() == []
    assert "PET results not kept as priors" in caplog.messages


def test_the_file_in_which_version_0_1_0_kept_whose_the_pets_are_is_still_read(store: Store) -> None:
    store.register_old("1.1", OLD_PETS)
    (found,) = store.results.of_patient(PATIENT, NOON)
    assert found.run == RunKey("1.1", 1)
    assert (found.functional_series_instance_uid, found.acquired_at) == (
        "1.1.2",
        datetime(2026, 1, 1, 12, 30),
    )


def test_without_that_file_what_is_registered_stays(store: Store) -> None:
    store.add("1.1", "20260101")
    outcome, _ = store.process("1.1", [store.receive("1.1", "20260101")])
    store.results.register_old(RunKey("1.1", 1), outcome)
    assert store.found() == ["1.1"]


@pytest.mark.parametrize(
    "damaged", ["{", "[]", '{"1.1.2": {"patient_id": "P1"}}', OLD_PETS.replace("2026", "x")]
)
def test_that_file_damaged_is_said_without_what_is_in_it(store: Store, damaged: str) -> None:
    with pytest.raises(MisconfiguredError, match=r"pets\.json is damaged") as caught:
        store.register_old("1.1", damaged)
    assert "P1" not in str(caught.value)
    assert store.found() == []
