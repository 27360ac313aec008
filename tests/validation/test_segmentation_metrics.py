"""Metrics: known answers, and what is not defined stays undefined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.scores import count_lesions, count_voxels


def test_voxel_measures_of_a_known_pair() -> None:
    truth = np.zeros((1, 1, 10), dtype=np.bool_)
    result = truth.copy()
    truth[..., :4] = True
    result[..., 2:8] = True
    counts = count_voxels(result, truth)
    assert counts.dice == pytest.approx(0.4)
    assert counts.ppv == pytest.approx(2 / 6)
    assert counts.sensitivity == pytest.approx(0.5)


def test_nothing_found_in_nothing_has_no_dice() -> None:
    empty = np.zeros((2, 2, 2), dtype=np.bool_)
    counts = count_voxels(empty, empty)
    assert (counts.dice, counts.ppv, counts.sensitivity) == (None, None, None)


def test_something_found_in_nothing_is_dice_zero() -> None:
    empty = np.zeros((2, 2, 2), dtype=np.bool_)
    counts = count_voxels(~empty, empty)
    assert (counts.dice, counts.ppv, counts.sensitivity) == (0.0, 0.0, None)


def test_lesions_count_by_a_single_shared_voxel() -> None:
    truth = np.array([[[1, 1, 0, 2, 0, 3, 3, 0, 0]]], dtype=np.uint16)
    result = np.array([[[0, 5, 5, 5, 0, 0, 0, 0, 7]]], dtype=np.uint16)
    counts = count_lesions(result, truth)
    assert (counts.true, counts.detected, counts.found, counts.correct) == (3, 2, 2, 1)
    assert counts.sensitivity == pytest.approx(2 / 3)
    assert counts.ppv == pytest.approx(0.5)
    assert counts.false_positives == 1


@given(seed=st.integers(0, 500), density=st.floats(0.0, 1.0))
def test_dice_is_symmetric_and_one_only_for_equal_masks(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 3, 4, 5)) < density
    there, back = count_voxels(first, second).dice, count_voxels(second, first).dice
    assert there == back
    assert (there == 1.0) == (bool(first.any()) and bool((first == second).all()))


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="can't be compared"):
        count_voxels(np.zeros((1, 2, 3), dtype=np.bool_), np.zeros((3, 2, 1), dtype=np.bool_))
