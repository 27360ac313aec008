"""What is told of doses, weights, uptake times and shares that are rarely true."""

from __future__ import annotations

import pytest

from app.domain.plausibility import (
    activity_warnings,
    body_doubts,
    is_rather_mci,
    share_warnings,
    uptake_warnings,
)
from app.domain.radionuclides import F18, GA68, LU177, RADIONUCLIDES, Radionuclide
from app.domain.refusal import Reason, RefusalCode

MIN, H = 60.0, 3600.0


def text(found: Reason | tuple[object, ...]) -> str:
    assert not isinstance(found, Reason), found
    told = " ".join(decision.text for decision in found)  # type: ignore[attr-defined]
    assert not found or told.startswith("warning: ")
    return told


@pytest.mark.parametrize(
    ("nuclide", "mbq", "kg"),
    [
        (GA68, 1.8 * 60, 60), (GA68, 2.2 * 120, 120), (GA68, 50, 20), (F18, 250, 80), (F18, 370, 80),
        (F18, 560, 110), (F18, 60, 20), (LU177, 3700, 70), (LU177, 9300, 90),
    ],
)  # fmt: skip
def test_what_guidelines_give_is_not_doubted(nuclide: Radionuclide, mbq: float, kg: float) -> None:
    assert activity_warnings(nuclide, mbq * 1e6, kg) == ()


@pytest.mark.parametrize(
    ("nuclide", "mbq"), [(GA68, 15), (GA68, 1100), (F18, 37), (F18, 1500), (LU177, 740), (LU177, 15000)]
)
def test_ten_times_too_much_or_too_little_is_warned_of(nuclide: Radionuclide, mbq: float) -> None:
    assert f"injected activity {mbq} MBq is unusual for {nuclide.key}" in text(
        activity_warnings(nuclide, mbq * 1e6, 80)
    )


def test_curies_are_suggested_where_they_fit() -> None:
    assert "is it in mCi (7400 MBq)?" in text(activity_warnings(LU177, 200e6, 80))
    assert is_rather_mci(GA68, 5.0)
    assert not is_rather_mci(GA68, 150.0)


@pytest.mark.parametrize("nuclide", RADIONUCLIDES)
def test_usual_activities_lie_within_the_possible_ones(nuclide: Radionuclide) -> None:
    if nuclide.usual_activity_mbq is None:
        return
    assert nuclide.activity_mbq[0] < nuclide.usual_activity_mbq[0]
    assert nuclide.usual_activity_mbq[1] < nuclide.activity_mbq[1]
    assert nuclide.activity_mbq[1] / nuclide.activity_mbq[0] < 1e6


@pytest.mark.parametrize(
    ("nuclide", "uptake_s", "is_usual"),
    [
        (GA68, 60 * MIN, True), (GA68, 100 * MIN, True), (GA68, 120 * MIN, False), (GA68, 10 * MIN, False),
        (F18, 120 * MIN, True), (F18, 180 * MIN, False), (LU177, 4 * H, True), (LU177, 168 * H, True),
        (LU177, 1 * H, False), (LU177, 240 * H, False), (GA68, None, True), (None, 5.0, True),
    ],
)  # fmt: skip
def test_unusual_uptake_times_are_warned_of(
    nuclide: Radionuclide | None, uptake_s: float | None, is_usual: bool
) -> None:
    assert (uptake_warnings(nuclide, uptake_s) == ()) is is_usual


@pytest.mark.parametrize(
    ("kg", "height_m"), [(60, 1.7), (100, 1.8), (130, 1.75), (22, 1.2), (70, None), (70, 0.06)]
)
def test_bodies_of_people_are_not_doubted(kg: float, height_m: float | None) -> None:
    assert body_doubts(kg, height_m, by_site=False) == ()


def test_pounds_are_suggested() -> None:
    assert "(in pounds it would be 80 kg, a BMI of 29)" in text(body_doubts(176.4, 1.66, by_site=False))


def test_an_impossible_body_is_refused_unless_the_site_entered_the_weight() -> None:
    found = body_doubts(380.0, 1.7, by_site=False)
    assert isinstance(found, Reason)
    assert found.code is RefusalCode.WEIGHT_IMPLAUSIBLE
    assert "a BMI of 131" in text(body_doubts(380.0, 1.7, by_site=True))


@pytest.mark.parametrize(
    ("share", "length_mm", "nuclide", "is_told"),
    [
        (0.66, 870.0, F18, False), (1.02, 1000.0, GA68, False), (1.2, 200.0, GA68, True),
        (0.1, 1000.0, GA68, True), (0.1, 400.0, GA68, False),
        (0.1, 1000.0, LU177, False), (1.2, 400.0, LU177, True),
    ],
)  # fmt: skip
def test_the_share_of_the_injected_activity_is_told_where_no_patient_explains_it(
    share: float, length_mm: float, nuclide: Radionuclide, is_told: bool
) -> None:
    assert bool(text(share_warnings(share, length_mm, nuclide))) is is_told
