"""Percentages and RECIP 1.0."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.findings.change import RecipInputs, percent_change, recip
from app.domain.findings.findings import RecipCategory

CR, PR = RecipCategory.COMPLETE_RESPONSE, RecipCategory.PARTIAL_RESPONSE
SD, PD = RecipCategory.STABLE_DISEASE, RecipCategory.PROGRESSIVE_DISEASE


@pytest.mark.parametrize(
    ("previous", "current", "new", "category"),
    [
        (100.0, 120.0, 1, PD),
        (100.0, 119.9, 5, SD),
        (100.0, 300.0, 0, SD),
        (100.0, 70.0, 0, PR),
        (100.0, 70.0, 1, SD),
        (100.0, 70.1, 0, SD),
        (100.0, 0.0, 0, CR),
        (100.0, 0.0, None, CR),
        (100.0, 110.0, None, SD),
    ],
)
def test_recip_follows_volume_and_new_lesions(
    previous: float, current: float, new: int | None, category: RecipCategory
) -> None:
    assert recip(RecipInputs(previous, current, new)).category is category


@pytest.mark.parametrize("current", [120.0, 250.0, 70.0, 10.0])
def test_recip_says_nothing_where_a_new_lesion_would_decide_and_nobody_knows(current: float) -> None:
    found = recip(RecipInputs(100.0, current, None))
    assert found.category is None
    assert "new lesion is unknown" in found.reason


def test_recip_says_nothing_of_a_patient_without_lesions_before() -> None:
    assert recip(RecipInputs(0.0, 12.0, 3)).category is None
    assert recip(RecipInputs(0.0, 0.0, 0)).category is None


def test_recip_says_nothing_when_the_volumes_cannot_be_compared() -> None:
    found = recip(RecipInputs(100.0, 500.0, 3, ("another model: a then, b now",)))
    assert (found.category, found.reason) == (None, "another model: a then, b now")
    assert found.psma_tv_percent == pytest.approx(400.0)


@given(st.floats(1e-3, 1e5), st.floats(0.0, 1e5), st.one_of(st.none(), st.integers(0, 50)))
def test_recip_depends_on_the_ratio_alone(previous: float, current: float, new: int | None) -> None:
    assert recip(RecipInputs(previous, current, new)).category is (
        recip(RecipInputs(4 * previous, 4 * current, new)).category
    )


@given(st.floats(1e-3, 1e5), st.floats(0, 1e5))
def test_a_change_in_percent_leads_back_to_the_value(previous: float, current: float) -> None:
    percent = percent_change(previous, current)
    assert percent is not None
    assert previous * (1 + percent / 100) == pytest.approx(current, abs=1e-6 * previous)


@pytest.mark.parametrize(("previous", "current"), [(0.0, 1.0), (None, 1.0), (1.0, None)])
def test_no_percentage_of_nothing(previous: float | None, current: float | None) -> None:
    assert percent_change(previous, current) is None
