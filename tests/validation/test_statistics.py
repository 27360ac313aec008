"""Statistics: known answers, agreement with scipy, and what is said when there is no answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from app.validation.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_interval,
    compare_pairs,
    describe,
    wilcoxon,
)

distinct = st.lists(st.integers(-400, 400).filter(bool), min_size=2, max_size=25, unique_by=abs)
tied = st.lists(st.integers(-3, 3), min_size=2, max_size=10)


@given(numbers=distinct)
@settings(deadline=None, max_examples=60)
def test_wilcoxon_without_ties_is_scipys_exact_test(numbers: list[int]) -> None:
    theirs = stats.wilcoxon(numbers, method="exact")
    ours = wilcoxon(np.array(numbers, dtype=np.float64))
    assert ours.p == pytest.approx(float(theirs.pvalue), abs=1e-9)
    total = len(numbers) * (len(numbers) + 1) / 2
    assert min(ours.positive_rank_sum, total - ours.positive_rank_sum) == float(theirs.statistic)


@given(numbers=tied)
@settings(deadline=None, max_examples=60)
def test_wilcoxon_with_ties_counts_every_change_of_sign(numbers: list[int]) -> None:
    nonzero = [number for number in numbers if number]
    assume(nonzero)
    ranks = stats.rankdata(np.abs(nonzero))
    sums = [float(np.dot(signs, ranks)) for signs in itertools.product((0, 1), repeat=len(ranks))]
    observed = float(ranks[np.array(nonzero) > 0].sum())
    below, above = np.mean(np.array(sums) <= observed), np.mean(np.array(sums) >= observed)
    ours = wilcoxon(np.array(numbers, dtype=np.float64))
    assert ours.p == pytest.approx(min(1.0, 2 * min(below, above)), abs=1e-12)
    assert ours.zeros == numbers.count(0)


def test_six_pairs_that_all_point_one_way_are_the_fewest_that_can_be_significant() -> None:
    assert wilcoxon(np.arange(1.0, 6.0)).p == pytest.approx(2 / 2**5)
    assert wilcoxon(np.arange(1.0, 7.0)).p == pytest.approx(2 / 2**6)
    assert wilcoxon(np.array([1.0, -2.0, 3.0, 4.0])).smallest_possible_p == pytest.approx(2 / 2**4)


def test_a_hundred_pairs_are_still_exact() -> None:
    differences = np.arange(1.0, 101.0) * np.where(np.arange(100) % 3 == 0, -1, 1)
    assert wilcoxon(differences).p == pytest.approx(
        float(stats.wilcoxon(differences, method="exact").pvalue), rel=1e-9
    )


@given(
    pairs=st.lists(
        st.tuples(st.floats(0, 1).map(lambda x: round(x, 3)), st.floats(0, 1).map(lambda x: round(x, 3))),
        min_size=3,
        max_size=30,
    )
)
@settings(deadline=None, max_examples=40)
def test_paired_t_and_its_interval_are_scipys(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    assume(np.ptp(np.round(np.subtract(first, second), 12)) > 0.01)
    theirs = stats.ttest_rel(first, second)
    ours = compare_pairs(first, second)
    assert ours.paired_t_p is not None
    assert ours.interval is not None
    assert ours.paired_t_p == pytest.approx(float(theirs.pvalue), abs=1e-6)
    interval = theirs.confidence_interval(0.95)
    assert (ours.interval.low, ours.interval.high) == pytest.approx(tuple(interval), abs=1e-6)


@given(values=st.lists(st.floats(-50, 50), min_size=2, max_size=20))
@settings(deadline=None, max_examples=10)
def test_the_bootstrap_interval_repeats_itself_and_lies_within_the_values(values: list[float]) -> None:
    array = np.array(values)
    first, again = (bootstrap_interval(array, np.mean) for _ in range(2))
    assert first == again
    assert array.min() - 1e-9 <= first.low <= first.high <= array.max() + 1e-9


def test_the_bootstrap_interval_agrees_with_scipys() -> None:
    values = np.random.default_rng(3).normal(0.7, 0.2, 30)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = bootstrap_interval(values, np.mean)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_undefined_values_are_left_out_and_counted() -> None:
    found = describe([0.5, None, 1.0, 0.9])
    assert (found.patients, found.n, found.undefined) == (4, 3, 1)
    assert (found.mean, found.median) == (pytest.approx(0.8), 0.9)
    assert found.sd == pytest.approx(np.std([0.5, 1.0, 0.9], ddof=1))


def test_one_value_has_no_deviation_and_no_interval_and_none_has_nothing() -> None:
    one, none = describe([0.4]), describe([None, None])
    assert (one.mean, one.sd, one.interval, one.median_interval) == (0.4, None, None, None)
    assert (none.patients, none.n, none.mean, none.median) == (2, 0, None, None)


def test_a_pair_counts_only_when_both_have_the_number() -> None:
    found = compare_pairs([0.9, None, 0.8, 0.7], [0.8, 0.5, None, 0.5])
    assert (found.pairs, found.n, found.left_out) == (4, 2, 2)
    assert (found.mean_first, found.mean_second) == (pytest.approx(0.8), pytest.approx(0.65))
    assert found.mean_difference == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ([0.5], [0.4], "one pair is too few for a test"),
        ([0.5, 0.6], [0.5, 0.6], "no pair differs"),
        ([0.3, 0.7], [0.1 + 0.2, 0.7], "no pair differs"),  # equal but for rounding
        ([None, 0.6], [0.5, None], "no patient has the number in both"),
        ([], [], "no patient has the number in both"),
    ],
)
def test_where_there_is_no_test_the_result_gives_the_reason(
    first: list[float | None], second: list[float | None], why: str
) -> None:
    found = compare_pairs(first, second)
    assert (found.wilcoxon, found.paired_t_p, found.why_no_p) == (None, None, why)


def test_equal_differences_have_a_rank_test_but_no_t() -> None:
    found = compare_pairs([0.3, 0.5, 0.9], [0.2, 0.4, 0.8])
    assert found.paired_t_p is None
    assert found.wilcoxon is not None
    assert found.wilcoxon.p == pytest.approx(0.25)
    assert found.wilcoxon.direction == 1
    assert found.interval == Interval(pytest.approx(0.1), pytest.approx(0.1))


def test_different_numbers_of_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare_pairs([0.5, 0.6], [0.5])
