"""Whose study it is: when an identifier tells patients apart, and when two records are two people."""

from __future__ import annotations

import pytest

from app.domain.study import Patient


@pytest.mark.parametrize(
    "identifier",
    ["", "  ", "ANON", "Anonymous", "anonymized", "ANONYMOUS^PATIENT", "UNKNOWN", "(none)", "N/A", "nan", "0",
     "0000000", "xxx", "XXXXXX", "***", "-", "11111", "NO_ID", "Patient ID", "REMOVED", "de-identified",
     "ANONYMIZED PATIENT", "AnonymizedPatient", "TEST^PATIENT", "TEST", "test test", "Anónimo", "anonimizado",
     "UNK", "MRN", "PSEUDO", "NOTSET", "not set", "unassigned", "confidential", "John Doe", "DOE^JANE", "QA",
     "QC", "PHANTOM", "qa phantom", "SERVICE", "emergency", "Patient Name"],
)  # fmt: skip
def test_a_placeholder_is_no_identity(identifier: str) -> None:
    patient = Patient(identifier, "clinic", "DOE^ADAM", "19500102")
    assert patient.unidentified
    assert "DOE" not in patient.unidentified


@pytest.mark.parametrize(
    "identifier",
    ["ANON-017", "PSMA_001", "P", "1", "11", "SIM-4", "Ж-12", "Unknown7",
     "PSMA-0012", "SUBJ-0034", "123465", "TEMP0057", "Tempel", "TEST-0034"],
)  # fmt: skip
def test_a_pseudonym_that_tells_patients_apart_is_one(identifier: str) -> None:
    assert Patient(identifier).unidentified == ""


@pytest.mark.parametrize("identifier", ["123456", "1234567890", "0123", "4321", "TEMP0001", "anonymous1"])
def test_a_number_that_anybody_types_is_an_identity_with_a_witness_alone(identifier: str) -> None:
    for alone in (Patient(identifier), Patient(identifier, "clinic", "ANON^X", "19000101")):
        assert "neither name nor birth date" in alone.unidentified
    assert "neither" in Patient(identifier, "", identifier).unidentified
    assert Patient(identifier, "", "DOE^ADAM").unidentified == ""
    assert Patient(identifier, "", "", "19500102").unidentified == ""


def test_name_and_birth_date_are_witnesses_and_no_part_of_equality() -> None:
    one, other = Patient("P", "c", "DOE^ADAM", "19500102"), Patient("P", "c", "DOE^A.", "19500102")
    assert (one, hash(one)) == (other, hash(other))
    assert "DOE" not in repr(one)
    assert one.contradiction(other) == ""


@pytest.mark.parametrize(
    ("name", "born", "contradicts"),
    [
        ("DOE^ADAM", "19500102", ""),
        ("", "", ""),
        ("ROE^ADAM", "19500102", ""),
        ("DOE^ADAM", "19610203", "PatientBirthDate"),
        ("DOE^ADAM", "19000101", ""),
        ("ROE^ADAM", "", "PatientName"),
        ("doe^a.=ドウ", "", ""),
        ("ANON", "", ""),
    ],
)
def test_two_people_under_one_identifier(name: str, born: str, contradicts: str) -> None:
    one, other = Patient("P", "", "DOE^ADAM", "19500102"), Patient("P", "", name, born)
    for a, b in ((one, other), (other, one)):
        assert a.contradiction(b).startswith(contradicts)
        assert bool(a.contradiction(b)) is bool(contradicts)
