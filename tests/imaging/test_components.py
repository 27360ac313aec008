"""Lesions from a mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.imaging.labels import label_lesions
from tests.dicom.results.sources import small_grid


def test_voxels_that_share_an_edge_are_one_lesion_and_a_corner_parts_them() -> None:
    grid = small_grid()
    mask = np.zeros(grid.shape, dtype=bool)
    mask[1, 1, 1] = mask[1, 2, 2] = True
    mask[6, 6, 6] = mask[7, 7, 7] = True
    assert label_lesions(mask, grid, 0.0).labels.count == 3


def test_largest_comes_first_and_of_equals_the_first_in_the_array() -> None:
    grid = small_grid()
    mask = np.zeros(grid.shape, dtype=bool)
    mask[1, 1, 1:3] = True
    mask[9, 1, 1:5] = True
    mask[5, 1, 1:3] = True
    labels = label_lesions(mask, grid, 0.0).labels.array
    assert (labels[9, 1, 1], labels[1, 1, 1], labels[5, 1, 1]) == (1, 2, 3)


def test_too_small_ones_are_dropped_and_counted() -> None:
    grid = small_grid()
    mask = np.zeros(grid.shape, dtype=bool)
    mask[1:4, 1:4, 1:4] = True
    mask[8, 8, 8] = mask[8, 12, 12] = True
    found = label_lesions(mask, grid, 0.5)
    assert found.labels.count == 1
    assert found.dropped_count == 2
    assert found.dropped_ml == pytest.approx(2 * grid.voxel_ml)


def test_a_lesion_of_exactly_the_minimum_stays() -> None:
    grid = small_grid()
    mask = np.zeros(grid.shape, dtype=bool)
    mask[2, 2, 2:5] = True
    assert label_lesions(mask, grid, 3 * grid.voxel_ml).labels.count == 1


@pytest.mark.parametrize(("fill", "count"), [(False, 0), (True, 1)])
def test_an_empty_and_a_full_mask_are_fine(fill: bool, count: int) -> None:
    grid = small_grid()
    assert label_lesions(np.full(grid.shape, fill), grid, 0.0).labels.count == count


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        label_lesions(np.zeros((3, 3, 3), dtype=bool), small_grid(), 0.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.floats(0.02, 0.5))
def test_labels_cover_the_mask_and_shrink(seed: int, density: float) -> None:
    grid = small_grid()
    mask = np.random.default_rng(seed).random(grid.shape) < density
    labels = label_lesions(mask, grid, 0.0).labels
    assert (labels.mask == mask).all()
    sizes = np.bincount(labels.array.ravel())[1:]
    assert (np.diff(sizes) <= 0).all()
    assert (sizes > 0).all()
