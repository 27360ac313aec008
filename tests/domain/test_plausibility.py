"""What is told of doses, weights, uptake times and shares that are rarely true."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.dicom.reading.functional_image import LARGEST_SHARE_IN_VIEW
from app.domain.quantities.plausibility import (
    LARGEST_SHARE,
    LEAST_SHARE,
    POSSIBLE_BMI,
    SMALL_BODY_KG,
    USUAL_BMI,
    WHOLE_BODY_MM,
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
    told = " ".join(decision.line for decision in found)  # type: ignore[attr-defined]
    assert not found or told.startswith("warning: ")
    return told


@pytest.mark.parametrize(
    ("nuclide", "mbq", "kg"),
    [
        (GA68, 1.8 * 60, 60), (GA68, 2.2 * 120, 120), (GA68, 50, 20), (F18, 250, 80), (F18, 370, 80),
        (F18, 560, 110), (F18, 60, 20), (LU177, 3700, 70), (LU177, 9300, 90),
    ],
)  # fmt: skip
def test_what_guidelines_give_gets_no_warning(nuclide: Radionuclide, mbq: float, kg: float) -> None:
    assert activity_warnings(nuclide, mbq * 1e6, kg) == ()


@pytest.mark.parametrize(
    ("nuclide", "mbq"), [(GA68, 15), (GA68, 1100), (F18, 37), (F18, 1500), (LU177, 740), (LU177, 15000)]
)
def test_ten_times_too_much_or_too_little_is_warned_of(nuclide: Radionuclide, mbq: float) -> None:
    assert f"injected activity {mbq} MBq is unusual for {nuclide.key}" in text(
        activity_warnings(nuclide, mbq * 1e6, 80)
    )


@pytest.mark.parametrize(
    ("nuclide", "mbq", "kg", "is_usual"),
    [
        (GA68, 39, 60, False), (GA68, 41, 60, True), (GA68, 39, 50, False), (GA68, 39, 48, True),
        (GA68, 21, 25, True), (GA68, 19, 25, False), (GA68, 399, 25, True), (GA68, 401, 60, False),
        (LU177, 990, 70, False), (LU177, 1010, 70, True), (LU177, 11900, 70, True), (LU177, 12100, 70, False),
    ],
)  # fmt: skip
def test_the_usual_activity_shrinks_with_a_small_body(
    nuclide: Radionuclide, mbq: float, kg: float, is_usual: bool
) -> None:
    assert (activity_warnings(nuclide, mbq * 1e6, kg) == ()) is is_usual


def test_usual_activities_are_written_out() -> None:
    assert "unusual for 177Lu (1000 to 12000 MBq)" in text(activity_warnings(LU177, 740e6, 70))
    assert "is it in mCi (11100 MBq)?" in text(activity_warnings(LU177, 300e6, 70))


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


@pytest.mark.parametrize(("kg", "height_m"), [(60, 1.7), (100, 1.8), (130, 1.75), (22, 1.2)])
def test_bodies_of_people_get_no_warning(kg: float, height_m: float | None) -> None:
    assert body_doubts(kg, height_m, by_site=False) == ()


@pytest.mark.parametrize(
    ("height_m", "why"),
    [(None, "PatientSize is absent"), (0.0, "PatientSize is absent"), (0.06, "0.06 is wrong")],
)
def test_a_weight_without_a_height_is_noted_and_gets_a_warning_where_it_may_be_pounds(
    height_m: float | None, why: str
) -> None:
    [told] = body_doubts(79.3, height_m, by_site=False)  # type: ignore[misc]
    assert told.line.startswith("PatientSize")
    assert f"{why}: the weight of 79.3 kg could not be checked" in told.line
    assert f"{why}: the weight of 174.8 kg" in text(body_doubts(174.8, height_m, by_site=False))
    assert "(in pounds it would be 79 kg)" in text(body_doubts(174.8, height_m, by_site=False))


@pytest.mark.parametrize(("kg", "is_warned"), [(129.9, False), (130.1, True)])
def test_both_sides_of_the_heaviest_usual_weight(kg: float, is_warned: bool) -> None:
    [told] = body_doubts(kg, None, by_site=True)  # type: ignore[misc]
    assert told.line.startswith("warning: ") is is_warned


@pytest.mark.parametrize(
    ("bmi", "end"),
    [
        (6.9, "refused"), (7.1, "told"), (11.9, "told"), (12.1, ""), (44.9, ""), (45.1, "told"),
        (99.0, "told"), (101.0, "refused"),
    ],
)  # fmt: skip
def test_both_sides_of_each_limit_of_the_body_mass_index(bmi: float, end: str) -> None:
    found = body_doubts(bmi * 1.7**2, 1.7, by_site=False)
    assert ("refused" if isinstance(found, Reason) else "told" if found else "") == end


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
        (0.19, 1000.0, GA68, True), (0.21, 1000.0, GA68, False), (0.21, 1000.0, F18, False),
        (1.04, 1000.0, GA68, False), (1.06, 1000.0, GA68, True),
        (0.1, 690.0, GA68, False), (0.1, 710.0, GA68, True),
    ],
)  # fmt: skip
def test_the_share_of_the_injected_activity_gives_a_warning_where_no_patient_explains_it(
    share: float, length_mm: float, nuclide: Radionuclide, is_told: bool
) -> None:
    assert bool(text(share_warnings(share, length_mm, nuclide))) is is_told


def test_the_documentation_has_the_limits_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "quantities.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("| ")]
    for nuclide, per_mbq, unit, per_s, time in (
        (GA68, 1.0, "MBq", MIN, "min"), (F18, 1.0, "MBq", MIN, "min"), (LU177, 1e3, "GBq", 0.0, "2 h to 8 d"),
    ):  # fmt: skip
        assert nuclide.usual_activity_mbq is not None
        assert nuclide.usual_uptake_s is not None
        (low, high), (short, late) = nuclide.usual_activity_mbq, nuclide.usual_uptake_s
        usual = f"{low / per_mbq:g} to {high / per_mbq:g} {unit}"
        waited = f"{short / per_s:g} to {late / per_s:g} {time}" if per_s else time
        possible = " to ".join(f"{limit / per_mbq:g}" for limit in nuclide.activity_mbq)
        (row,) = [row for row in rows if row.startswith(f"| {nuclide.key} |")]
        assert usual in row.split("|")[2]
        assert waited in row.split("|")[2]
        assert row.split("|")[3].strip() == f"{possible} {unit}"
    assert LU177.usual_uptake_s == (2 * H, 8 * 24 * H)
    (bmi,) = [row.split("|") for row in rows if row.startswith("| BMI |")]
    assert f"{USUAL_BMI[0]:g} to {USUAL_BMI[1]:g};" in bmi[2]
    assert f"{POSSIBLE_BMI[0]:g} to {POSSIBLE_BMI[1]:g}," in bmi[3]
    (share,) = [row.split("|") for row in rows if row.startswith("| share of the injected")]
    assert f"{LEAST_SHARE:g} to {LARGEST_SHARE:g};" in share[2]
    assert f"{WHOLE_BODY_MM / 10:g} cm" in share[2]
    assert share[3].strip() == f"{LARGEST_SHARE_IN_VIEW:g}"
    assert f"Under {SMALL_BODY_KG:g} kg" in page
