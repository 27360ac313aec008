"""Truth against result: who is found, who is missed, what is made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.demo.story import Match, compare
from app.domain.volume import Grid, LabelMap

GRID = Grid.axis_aligned((4, 5, 6), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0))  # a voxel is 1 ml


def labels(**boxes: tuple[slice, slice, slice]) -> LabelMap:
    array = np.zeros(GRID.shape, np.uint16)
    for name, box in boxes.items():
        array[box] = int(name.removeprefix("lesion"))
    return LabelMap(array, GRID)


def rounded(match: Match) -> Match:
    true_ml, found_ml = (None if ml is None else round(ml, 9) for ml in (match.true_ml, match.found_ml))
    return replace(match, true_ml=true_ml, found_ml=found_ml)


def test_each_true_lesion_gets_the_found_one_that_covers_most_of_it() -> None:
    truth = labels(lesion1=np.s_[0:2, 0:2, 0:3], lesion2=np.s_[3:4, 4:5, 5:6])
    found = labels(lesion1=np.s_[0:2, 0:2, 0:1], lesion2=np.s_[0:2, 0:2, 1:3], lesion3=np.s_[3:4, 0:1, 0:2])
    comparison = compare(truth, found)
    assert [rounded(match) for match in comparison.matches] == [
        Match(1, 12.0, 2, 8.0),
        Match(2, 1.0, None, None),
        Match(None, None, 3, 2.0),
    ]
    assert (comparison.true_count, comparison.hit_count, comparison.false_positive_count) == (2, 1, 1)
    assert comparison.dice == pytest.approx(2 * 12 / (13 + 14))
    assert comparison.precision == pytest.approx(12 / 14)


def test_no_lesion_and_none_found_has_no_dice() -> None:
    comparison = compare(labels(), labels())
    assert (comparison.matches, comparison.dice, comparison.precision) == ((), None, None)


def test_other_grids_are_refused() -> None:
    moved = Grid.axis_aligned(GRID.shape, (10.0, 10.0, 10.0), (1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="different grids"):
        compare(labels(), LabelMap(np.zeros(GRID.shape, np.uint16), moved))


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint16, GRID.shape, elements=st.integers(0, 3)))
def test_a_perfect_result_misses_nothing_and_makes_nothing_up(array: np.ndarray) -> None:
    comparison = compare(LabelMap(array, GRID), LabelMap(array, GRID))
    assert comparison.hit_count == comparison.true_count == len(set(array.ravel()) - {0})
    assert comparison.false_positive_count == 0
    assert comparison.dice in (None, 1.0)
