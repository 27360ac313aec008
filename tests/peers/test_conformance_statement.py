"""The conformance statement says what the program does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from app.dicom.results.policy import RESULT_CLASSES
from app.reference import conformance_statement
from tests.peers.results import Case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "conformance.md"
TEMPLATE_SCHEMES = {"DCM", "SCT", "RFC5646"}
"""Of the concept names that the Standard's templates give, which the statement names by their TID."""


@pytest.fixture(scope="module")
def statement() -> str:
    return conformance_statement()


def test_the_page_is_up_to_date(statement: str) -> None:
    command = "run: psma-node conformance > docs/reference/conformance.md"
    assert PAGE.read_text(encoding="utf-8") == statement, command


def test_nothing_is_left_to_fill_in(statement: str) -> None:
    assert "$" not in statement
    assert "{{" not in statement


def test_every_object_written_is_of_a_class_that_is_stated(cases: dict[str, Case]) -> None:
    for case in cases.values():
        for result in case.results:
            assert result.dataset.SOPClassUID in RESULT_CLASSES[result.kind]


def test_every_code_that_is_not_of_a_template_is_stated(cases: dict[str, Case], statement: str) -> None:
    written = {
        (str(item.CodeValue), str(item.CodingSchemeDesignator))
        for case in cases.values()
        for result in case.results
        for item in _concepts(result.dataset)
    }
    assert ("TL-PSMA", "99PSMANODE") in written
    missing = {(value, scheme) for value, scheme in written if f"| `{value}` | {scheme} |" not in statement}
    assert {scheme for _, scheme in missing} <= TEMPLATE_SCHEMES


def _concepts(dataset: Dataset) -> Iterator[Dataset]:
    if "CodeValue" in dataset:
        yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _concepts(item)
