"""Scores put together: the file, the groups, the pairs, the study's figures, the cards' metrics."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.measures import DICE, MEASURES, VOLUME_RELATIVE_ERROR
from app.domain.scores import LesionCounts, ScanKey, ScanScore, VoxelCounts
from app.errors import MisconfiguredError
from app.validation import study_table
from app.validation.cards import metrics_of
from app.validation.groups import (
    M4_FITTED_OR_M2,
    M4_OR_M2,
    Group,
    check_unique,
    compared,
    groups_of,
    rivals_of,
)
from app.validation.report.tables import study_beside_ours
from app.validation.scores import read_scores, write_scores
from tests.validation.made_scores import (
    EXTERNAL,
    INTERNAL,
    M1,
    M2,
    M3,
    M4,
    PET,
    SPECT,
    empty,
    made,
    series,
    whole_evaluation,
)

amounts = st.floats(0, 1e6, allow_nan=False)
counts = st.integers(0, 10**7)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@st.composite
def any_score(draw: st.DrawFn) -> ScanScore:
    whom = draw(st.text("ABC-019", min_size=1, max_size=6))
    key = ScanKey(M4, draw(st.sampled_from([M2, M4])), SPECT, EXTERNAL, "B", whom, draw(texts))
    voxels, lesions = [draw(counts) for _ in range(3)], [draw(counts) for _ in range(4)]
    return ScanScore(key, VoxelCounts(*voxels), LesionCounts(*lesions), *[draw(amounts) for _ in range(5)])


@given(scores=st.lists(any_score(), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_scores_are_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, scores: list[ScanScore]
) -> None:
    path = tmp_path_factory.mktemp("scores") / "scores.csv"
    write_scores(scores, path)
    assert read_scores(path) == tuple(scores)


@pytest.mark.parametrize("why", ["one\rtwo", "one\r\ntwo", 'a, "b"', "a\nb"])
def test_a_reason_of_several_lines_stays_in_its_own_column(tmp_path: Path, why: str) -> None:
    score = made(M4, "A-1", 5, used=M2)
    score = replace(score, key=replace(score.key, why=why))
    write_scores([score], tmp_path / "scores.csv")
    assert read_scores(tmp_path / "scores.csv") == (score,)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "found no score"),
        (lambda text: text.replace("true_tl", "tl"), "found no column true_tl"),
        (lambda text: text.replace("M4,", "M9,", 1), "line 2: not a score"),
        (lambda text: text.replace("0.15", "much"), "line 2: not a score"),
        (lambda text: text[: text.index("B-1") + 3] + "\n", "line 2: not a score"),
        (lambda text: text[: text.rstrip().rindex(",")] + "\n", "line 2: not a score: another number of col"),
        (lambda text: text.rstrip() + ",7\n", "line 2: not a score: another number of columns"),
        (lambda text: text.rstrip()[:-1], "its last line does not end"),
    ],
)
def test_a_damaged_file_of_scores_is_refused(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "scores.csv"
    write_scores([made(M4, "B-1", 5)], path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(MisconfiguredError, match=message):
        read_scores(path)


def test_a_missing_file_of_scores_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="not found"):
        read_scores(tmp_path / "scores.csv")


def test_every_measure_has_its_own_key_and_a_definition() -> None:
    assert len({measure.key for measure in MEASURES}) == len(MEASURES)
    assert all(measure.formula and measure.undefined and measure.source for measure in MEASURES)


def test_the_documentation_defines_every_measure() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "scores.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", page, flags=re.MULTILINE))
    assert {measure.name: rows.get(measure.name) for measure in MEASURES} == {
        measure.name: measure.unit or "–" for measure in MEASURES
    }


def test_measures_of_nothing_are_not_defined_and_errors_are() -> None:
    undefined = {measure.key for measure in MEASURES if measure.of(empty(M2, "A-1")) is None}
    assert undefined == {
        "dsc", "voxel_ppv", "voxel_sensitivity", "lesion_ppv", "lesion_sensitivity",
        "psma_tv_error_percent", "tl_psma_error_percent",
    }  # fmt: skip
    stated = {measure.key for measure in MEASURES if measure.undefined != "never"}
    assert stated == undefined


def test_relative_error_is_a_share_of_the_true_volume() -> None:
    half = replace(made(M2, "A-1", 5), voxels=VoxelCounts(5, 0, 5))
    assert VOLUME_RELATIVE_ERROR.of(half) == pytest.approx(50.0)


def test_m4s_fitted_patients_are_apart_only_when_its_prior_did_not_fit_in_all() -> None:
    fell_back, fitted = made(M4, "A-1", 5, used=M2), made(M4, "A-0", 6)
    apart = Group(M4, SPECT, INTERNAL, fitted_only=True)
    assert groups_of([fitted, fell_back]) == (Group(M4, SPECT, INTERNAL), apart)
    assert apart.of([fitted, fell_back]) == (fitted,)
    assert groups_of([fitted]) == (Group(M4, SPECT, INTERNAL),)
    assert groups_of([fell_back]) == (Group(M4, SPECT, INTERNAL),)


def test_models_are_compared_on_the_patients_that_both_have_whatever_their_order() -> None:
    scores = [made(M4, "A-2", 9), made(M4, "A-1", 5), made(M4, "A-0", 7), *series(M2, [4, 4, 4, 4])[::-1]]
    found = compared(scores, M4_OR_M2, INTERNAL, DICE)
    assert found is not None
    assert (found.n, found.mean_first, found.mean_second) == (3, pytest.approx(0.7), pytest.approx(0.4))


def test_m4_where_its_prior_fitted_meets_m2_on_the_same_patients() -> None:
    found = compared(whole_evaluation(), M4_FITTED_OR_M2, INTERNAL, DICE)
    assert found is not None
    assert (found.n, found.mean_difference) == (3, pytest.approx(0.2))
    assert M4_FITTED_OR_M2 in rivals_of(whole_evaluation(), INTERNAL)
    assert M4_FITTED_OR_M2 not in rivals_of(whole_evaluation(), EXTERNAL)


def test_validations_are_never_mixed() -> None:
    scores = [made(M4, "A-0", 9, validation=EXTERNAL), made(M2, "A-0", 5)]
    assert compared(scores, M4_OR_M2, INTERNAL, DICE) is None
    assert compared(scores, M4_OR_M2, EXTERNAL, DICE) is None


def test_a_scan_that_was_scored_twice_is_refused() -> None:
    check_unique(whole_evaluation())
    with pytest.raises(ValueError, match=r"1 scan\(s\) have more than one score, the first of M4"):
        check_unique([made(M4, "A-0", 5), made(M4, "A-0", 6, used=M2)])


def test_the_studys_figures_are_those_it_published() -> None:
    assert str(study_table.published(M4, SPECT, EXTERNAL, study_table.DSC)) == "0.78 ± 0.14"
    assert str(study_table.published(M2, SPECT, INTERNAL, study_table.PPV)) == "0.63 ± 0.25"
    assert study_table.published(M1, PET, INTERNAL, study_table.PPV) is None
    assert study_table.published(M3, SPECT, INTERNAL, study_table.DSC) is None
    assert study_table.published_p(M4, M2, SPECT, EXTERNAL) == 0.014
    assert study_table.published_p(M3, M1, PET, EXTERNAL) is None


def test_the_studys_figures_stand_next_to_ours() -> None:
    rows = study_beside_ours(whole_evaluation()).rows
    m4 = next(row for row in rows if row[0] == "M4" and "internal" in row)
    assert {"0.63 ± 0.24", "0.65 ± 0.13", "0.65 ± 0.26", "48 / 4"} <= set(m4)
    fitted = next(row for row in rows if "prior fitted" in str(row[0]))
    assert "0.63 ± 0.24" not in fitted  # the study has no such group
    assert "0.70 ± 0.10" in fitted


def test_a_cards_metrics_tell_how_many_patients_have_the_number() -> None:
    metrics = metrics_of([made(M2, "A-0", 8), empty(M2, "A-1")], simulated=True)
    dice = next(metric for metric in metrics if metric.name == "DSC")
    assert (dice.patients, dice.n, dice.mean, dice.sd) == (2, 1, 0.8, None)
    assert dice.note == "not defined for 1 of them (truth and result both empty)"
    assert dice.cohort == "internal validation, simulated patients of centre A"
    assert len(metrics) == len(MEASURES)


def test_m4s_card_has_all_patients_and_those_with_a_prior() -> None:
    metrics = metrics_of([made(M4, "A-0", 8), made(M4, "A-1", 4, used=M2)], simulated=False)
    dice = {metric.modality: metric.mean for metric in metrics if metric.name == "DSC"}
    assert dice == {"SPECT/CT": 0.6, "SPECT/CT, prior fitted": 0.8}
    notes = {metric.modality: metric.note for metric in metrics if metric.name == "DSC"}
    assert notes == {"SPECT/CT": "M2 ran in 1 of them", "SPECT/CT, prior fitted": ""}
