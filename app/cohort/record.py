"""A patient's record in its folder, written last: without it the folder was interrupted and is made again."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from app.cohort.manifest import CohortPatient, patient_folder
from app.durable_file import write_durably
from app.record_file import Record

RECORD_FILE = "patient.json"


class Refused(Record):
    """A study or scan of the patient that was not taken."""

    what: str
    reason: str


class PatientRecord(Record):
    """What became of one patient.

    Attributes:
        digest: of inputs and settings; as long as it is the same, nothing is made again.
        patient: ``None`` when no scan could be used.
        person: keyed hash of Patient ID and birth date, with ``salt`` telling which key it was.
        has_birth_date: without one, two equal hashes may be two persons.
        fingerprints: of each functional image, by Series Instance UID.
    """

    digest: str
    patient: CohortPatient | None
    refused: tuple[Refused, ...] = ()
    person: str = ""
    salt: str = ""
    has_birth_date: bool = False
    fingerprints: dict[str, tuple[float, ...]] = Field(default_factory=dict)


def read_record(cohort: Path, name: str) -> PatientRecord | None:
    """The record of a patient; ``None`` when there is none, or none that this version understands."""
    path = patient_folder(cohort, name) / RECORD_FILE
    try:
        return PatientRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_record(record: PatientRecord, cohort: Path, name: str) -> None:
    """Last of a patient's files."""
    folder = patient_folder(cohort, name)
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / RECORD_FILE, record.model_dump_json(indent=1).encode())
