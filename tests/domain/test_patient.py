"""Whose study it is: when an identifier tells patients apart, and when two records are two people."""

from __future__ import annotations

import pytest

from app.domain.study import Patient


@pytest.mark.parametrize(
    "identifier",
    ["", "  ", "ANON", "Anonymous", "anonymized", "ANONYMOUS^PATIENT", "UNKNOWN", "(none)", "N/A", "nan", "0",
     "0000000", "xxx", "XXXXXX", "***", "-", "11111", "NO_ID", "Patient ID", "REMOVED", "de-identified"],
)  # fmt: skip
def test_a_placeholder_is_no_identity(identifier: str) -> None:
    patient = Patient(identifier, "clinic", "DOE^ADAM", "19500102")
    assert patient.unidentified
    assert "DOE" not in patient.unidentified


@pytest.mark.parametrize("identifier", ["ANON-017", "PSMA_001", "P", "1", "11", "SIM-4", "Ж-12", "Unknown7"])
def test_a_pseudonym_that_tells_patients_apart_is_one(identifier: str) -> None:
    assert Patient(identifier).unidentified == ""


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
