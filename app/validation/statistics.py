"""The statistics of a validation: what a group of patients has, how two models differ on the same patients.

* Interval of a mean or median: percentile bootstrap over patients, ``RESAMPLES`` resamples, fixed seed. With
  few patients it is somewhat too narrow, as every bootstrap is.
* Wilcoxon signed-rank: two-sided and exact for any number of pairs. The distribution is that of the observed
  ranks under all changes of sign, so ties (mean ranks) need no approximation; scipy's ``exact`` is wrong with
  ties, without a warning. Pairs without a difference are dropped (Wilcoxon's own way) and counted.
* Paired t: two-sided, with the t interval of the mean difference.
* A pair in which the number is not defined for one is left out, and is counted.

Ranks, t and the bootstrap are scipy's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
BOOTSTRAP_SEED = 20260101
CONFIDENCE = 0.95
SIGNIFICANT = 0.05
EQUAL_DECIMALS = 12
"""Differences are compared to so many decimals: 0.8 − 0.7 and 0.9 − 0.8 are one rank, not one float."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Description:
    """A measure over a group.

    Attributes:
        patients: of the group; ``n`` of them have the number.
        sd: sample standard deviation; ``None`` for fewer than two.
        interval: bootstrap interval of the mean; ``None`` for fewer than two.
        median_interval: the same of the median.
    """

    patients: int
    n: int
    mean: float | None
    sd: float | None
    median: float | None
    interval: Interval | None
    median_interval: Interval | None

    @property
    def undefined(self) -> int:
        """Patients without the number."""
        return self.patients - self.n


@dataclass(frozen=True)
class WilcoxonTest:
    """Wilcoxon's signed-rank test.

    Attributes:
        n: pairs with a difference; ``zeros`` had none and were dropped.
        positive_rank_sum: of the differences above 0, out of n (n + 1) / 2.
        smallest_possible_p: what this many pairs could show at most.
    """

    n: int
    zeros: int
    positive_rank_sum: float
    p: float
    smallest_possible_p: float

    @property
    def direction(self) -> int:
        """1 when the ranks speak for the first, −1 for the second, 0 for neither."""
        return int(np.sign(2 * self.positive_rank_sum - self.n * (self.n + 1) / 2))


@dataclass(frozen=True)
class PairedComparison:
    """The first of each pair minus the second.

    Attributes:
        pairs: patients that both have; ``left_out`` of them lack the number in one or both.
        interval: t interval of the mean difference.
        paired_t_p: of Student's t on the differences.
        why_no_p: in words, when there is no test.
    """

    pairs: int
    n: int
    mean_first: float | None = None
    mean_second: float | None = None
    mean_difference: float | None = None
    sd_difference: float | None = None
    interval: Interval | None = None
    wilcoxon: WilcoxonTest | None = None
    paired_t_p: float | None = None
    why_no_p: str = ""

    @property
    def left_out(self) -> int:
        """Pairs in which the number is not defined for one or both."""
        return self.pairs - self.n


def describe(values: Sequence[float | None]) -> Description:
    """Mean ± SD, median, bootstrap intervals; undefined values are left out and counted."""
    return _describe(tuple(values))


@lru_cache(maxsize=4096)
def _describe(values: tuple[float | None, ...]) -> Description:
    """Kept, because every table and sentence about a group asks again."""
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if defined.size == 0:
        return Description(len(values), 0, None, None, None, None, None)
    several = defined.size > 1
    return Description(
        patients=len(values),
        n=int(defined.size),
        mean=float(defined.mean()),
        sd=float(defined.std(ddof=1)) if several else None,
        median=float(np.median(defined)),
        interval=bootstrap_interval(defined, np.mean) if several else None,
        median_interval=bootstrap_interval(defined, np.median) if several else None,
    )


def bootstrap_interval(values: Floats, statistic: Callable[..., Floats]) -> Interval:
    """Percentile interval of ``statistic`` over patients drawn with replacement.

    Args:
        values: ``(n,)``, at least two.
        statistic: takes ``(resamples, n)`` and ``axis``, like ``numpy.mean``.
    """
    from scipy.stats import bootstrap

    low, high = bootstrap(
        (values,),
        statistic,
        n_resamples=RESAMPLES,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return Interval(float(low), float(high))


def compare_pairs(first: Sequence[float | None], second: Sequence[float | None]) -> PairedComparison:
    """Two models on the same patients, in the same order.

    Raises:
        ValueError: not the same number of patients.
    """
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not both:
        return PairedComparison(len(first), 0, why_no_p="no patient has the number in both")
    values = np.array(both, dtype=np.float64)
    differences = np.round(values[:, 0] - values[:, 1], EQUAL_DECIMALS)
    n = len(differences)
    why = _why_no_test(differences)
    interval, paired_t_p = _student(differences) if n > 1 else (None, None)
    return PairedComparison(
        pairs=len(first),
        n=n,
        mean_first=float(values[:, 0].mean()),
        mean_second=float(values[:, 1].mean()),
        mean_difference=float(differences.mean()),
        sd_difference=float(differences.std(ddof=1)) if n > 1 else None,
        interval=interval,
        wilcoxon=None if why else wilcoxon(differences),
        paired_t_p=paired_t_p,
        why_no_p=why,
    )


def wilcoxon(differences: Floats) -> WilcoxonTest:
    """Wilcoxon's signed-rank test, exact, ties by their mean rank, zeros dropped.

    Raises:
        ValueError: no difference other than 0.
    """
    from scipy.stats import rankdata

    nonzero = differences[differences != 0]
    if nonzero.size == 0:
        raise ValueError("every difference is 0: there is nothing to rank")
    doubled = np.rint(2 * rankdata(np.abs(nonzero))).astype(int)  # mean ranks are halves: whole when doubled
    probabilities = _signed_rank_distribution(doubled)
    positive = int(doubled[nonzero > 0].sum())
    lower, upper = probabilities[: positive + 1].sum(), probabilities[positive:].sum()
    return WilcoxonTest(
        n=int(nonzero.size),
        zeros=int(differences.size - nonzero.size),
        positive_rank_sum=positive / 2,
        p=float(min(1.0, 2 * min(lower, upper))),
        smallest_possible_p=float(min(1.0, 2 * probabilities[0])),
    )


def _signed_rank_distribution(doubled_ranks: NDArray[np.int_]) -> Floats:
    """Probability of every doubled sum of positive ranks, when each sign is a fair coin."""
    probabilities = np.zeros(int(doubled_ranks.sum()) + 1)
    probabilities[0] = 1.0
    reached = 0
    for rank in doubled_ranks:
        with_rank = probabilities[: reached + 1].copy()
        probabilities[: reached + 1] *= 0.5
        probabilities[rank : rank + reached + 1] += 0.5 * with_rank
        reached += int(rank)
    return probabilities


def _why_no_test(differences: Floats) -> str:
    if len(differences) < 2:
        return "one pair is too few for a test"
    if not differences.any():
        return "no pair differs"
    return ""


def _student(differences: Floats) -> tuple[Interval, float | None]:
    """The t interval of the mean, and the t test's p; ``None`` when all differences are equal, t infinite."""
    from scipy.stats import ttest_1samp

    if np.ptp(differences) == 0:
        mean = float(differences.mean())
        return Interval(mean, mean), None
    found = ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(CONFIDENCE)
    return Interval(float(low), float(high)), float(found.pvalue)
