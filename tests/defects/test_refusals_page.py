"""The page of refusals is what code and tests make it."""

from __future__ import annotations

from app.domain.refusal import Reason, RefusalCode
from tests.defects.refusals_page import ROOT, provoking_tests, raised_codes, refusals_page
from tests.defects.table import TABLE


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "reference" / "refusals.md").read_text(encoding="utf-8")
    assert page == refusals_page(), "run: python -m tests.defects.refusals_page > docs/reference/refusals.md"


def test_every_reason_is_given_somewhere_in_the_program() -> None:
    assert set(RefusalCode) - raised_codes() == set()


def test_every_reason_is_provoked_by_a_test() -> None:
    by_defect = {defect.code for _, defect in TABLE} | {defect.beside for _, defect in TABLE}
    assert set(RefusalCode) - by_defect - provoking_tests().keys() == set()


NOTHING_TO_DO = {
    RefusalCode.NOT_AN_IMAGE, RefusalCode.OTHER_MODALITY, RefusalCode.NOT_PRIMARY,
    RefusalCode.BETTER_SERIES_CHOSEN, RefusalCode.NO_PRIOR, RefusalCode.PRIOR_TOO_OLD,
    RefusalCode.PRIOR_EMPTY, RefusalCode.PRIOR_MISFIT, RefusalCode.PRIOR_UNREADABLE,
}  # fmt: skip
"""Objects that lie beside the wanted ones in every study, and priors: the study is analysed without."""


def test_every_reason_that_a_person_can_clear_says_how() -> None:
    assert {code for code in RefusalCode if not code.advice} == NOTHING_TO_DO


def test_a_refusal_that_knows_something_nearer_says_that_instead() -> None:
    common = Reason(RefusalCode.SLICE_GAP, "ImagePositionPatient", "a gap", "none")
    nearer = Reason(RefusalCode.SLICE_GAP, "ImagePositionPatient", "a gap", "none", "Look behind the camera")
    assert str(common).endswith(f"expected none. {RefusalCode.SLICE_GAP.advice}")
    assert str(nearer).endswith("expected none. Look behind the camera")


def test_every_reason_says_what_it_means() -> None:
    assert [code for code in RefusalCode if not code.meaning.endswith(".")] == []
