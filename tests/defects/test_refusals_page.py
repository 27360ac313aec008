"""The page of refusals is what code and tests make it."""

from __future__ import annotations

from app.domain.refusal import RefusalCode
from tests.defects.refusals_page import ROOT, provoking_tests, raised_codes, refusals_page
from tests.defects.table import TABLE


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "refusals.md").read_text(encoding="utf-8")
    assert page == refusals_page(), "run: python -m tests.defects.refusals_page > docs/refusals.md"


def test_every_reason_is_given_somewhere_in_the_program() -> None:
    assert set(RefusalCode) - raised_codes() == set()


def test_every_reason_is_provoked_by_a_test() -> None:
    by_defect = {defect.code for _, defect in TABLE} | {defect.beside for _, defect in TABLE}
    assert set(RefusalCode) - by_defect - provoking_tests().keys() == set()


def test_every_reason_says_what_it_means() -> None:
    assert [code for code in RefusalCode if not code.meaning.endswith(".")] == []
