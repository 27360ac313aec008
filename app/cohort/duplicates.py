"""One person, one patient: across centres, and under new UIDs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.cohort.fingerprint import same_image
from app.cohort.manifest import CohortPatient
from app.cohort.record import PatientRecord


@dataclass(frozen=True)
class Sorted:
    """Patients that are each another person, those that are not, and doubts."""

    kept: tuple[CohortPatient, ...]
    repeated: tuple[tuple[CohortPatient, str], ...]
    warnings: tuple[str, ...]


def without_repeated(records: Sequence[PatientRecord]) -> Sorted:
    """Leave out every patient that an earlier record has already.

    Args:
        records: in the order in which the first of two is kept.
    """
    kept: list[tuple[CohortPatient, PatientRecord]] = []
    repeated, warnings = [], []
    for record in records:
        if record.patient is None:
            continue
        reason = ""
        for other, of_other in kept:
            reason = _same(record.patient, record, other, of_other)
            if reason:
                repeated.append((record.patient, reason))
                break
            if _perhaps_same(record, of_other):
                doubt = "have one Patient ID and no birth date: they may be one person"
                warnings.append(f"{other.id} and {record.patient.id} {doubt}")
        if not reason:
            kept.append((record.patient, record))
    return Sorted(tuple(patient for patient, _ in kept), tuple(repeated), tuple(warnings))


def _same(
    patient: CohortPatient, record: PatientRecord, other: CohortPatient, of_other: PatientRecord
) -> str:
    """Why two are one person; empty when nothing says so."""
    if _uids(patient, "study_instance_uid") & _uids(other, "study_instance_uid"):
        return f"its study is {other.id}'s already: one Study Instance UID"
    if _uids(patient, "series_instance_uid") & _uids(other, "series_instance_uid"):
        return f"its images are {other.id}'s already: one Series Instance UID"
    if record.has_birth_date and _one_person(record, of_other):
        return f"it is {other.id} already: one Patient ID and birth date"
    for first in record.fingerprints.values():
        if any(same_image(first, second) for second in of_other.fingerprints.values()):
            return f"its images are {other.id}'s already, under other UIDs"
    return ""


def _perhaps_same(record: PatientRecord, other: PatientRecord) -> bool:
    return not record.has_birth_date and _one_person(record, other)


def _one_person(record: PatientRecord, other: PatientRecord) -> bool:
    return bool(record.person) and (record.person, record.salt) == (other.person, other.salt)


def _uids(patient: CohortPatient, what: str) -> set[str]:
    return {str(getattr(scan, what)) for scan in patient.scans}
