"""Masks are grown, thinned and filled as scipy's plain definitions do it on the whole array."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from app.imaging.morphology import box_of, deep, depths, filled_slices, grown, near, part_at, thinned

REACHES = (0.0, 1.0, 2.0, 2.5, 3.2, 5.0, 12.0)


def blobs(shape: tuple[int, int, int], density: float, seed: int) -> NDArray[np.bool_]:
    """Smooth random pieces, some at the array's ends and some touching."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 1.3)
    return np.asarray(smooth > np.quantile(smooth, 1.0 - density))


def masks() -> dict[str, NDArray[np.bool_]]:
    one_corner, all_but_one = np.zeros((7, 9, 8), dtype=bool), np.ones((7, 9, 8), dtype=bool)
    one_corner[0, -1, 0] = True
    all_but_one[3, 0, 7] = False
    inner = np.zeros((31, 33, 35), dtype=bool)
    inner[9:20, 8:21, 10:24] = blobs((11, 13, 14), 0.4, 5)
    return {
        "few": blobs((23, 29, 31), 0.03, 1),
        "many": blobs((23, 29, 31), 0.5, 2),
        "nearly all": blobs((23, 29, 31), 0.97, 3),
        "a plate": blobs((1, 30, 20), 0.3, 4),
        "a rod": blobs((40, 1, 1), 0.3, 6),
        "inner": inner,
        "one at a corner": one_corner,
        "all but one": all_but_one,
    }


MASKS = masks()


@pytest.fixture(params=MASKS)
def mask(request: pytest.FixtureRequest) -> NDArray[np.bool_]:
    return MASKS[request.param]


@pytest.mark.parametrize("reach", REACHES)
def test_near_and_deep_are_thresholds_of_the_distance_transform(
    mask: NDArray[np.bool_], reach: float
) -> None:
    assert np.array_equal(near(mask, reach), ndimage.distance_transform_edt(~mask) <= reach)
    assert np.array_equal(deep(mask, reach), ndimage.distance_transform_edt(mask) > reach)


def test_a_reach_of_hundreds_of_voxels_does_not_wrap() -> None:
    """The squares of distances above 181 voxels don't add up in 16 bits."""
    mask = np.zeros((3, 4, 700), dtype=bool)
    mask[1, 2, [0, 350]] = True
    for reach in (181.0, 182.0, 255.0, 256.0, 300.5):
        assert np.array_equal(near(mask, reach), ndimage.distance_transform_edt(~mask) <= reach)
        assert np.array_equal(deep(~mask, reach), ndimage.distance_transform_edt(~mask) > reach)


def test_depths_are_the_distance_transform(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(depths(mask), ndimage.distance_transform_edt(mask))


def test_slices_are_filled_as_one_by_one(mask: NDArray[np.bool_]) -> None:
    expected = np.stack([ndimage.binary_fill_holes(plane) for plane in mask])
    assert np.array_equal(filled_slices(mask), expected)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_thinned_and_grown_are_erosion_and_dilation(mask: NDArray[np.bool_], times: int) -> None:
    cross = ndimage.generate_binary_structure(3, 1)
    assert np.array_equal(thinned(mask, times), ndimage.binary_erosion(mask, cross, times))
    assert np.array_equal(grown(mask, times), ndimage.binary_dilation(mask, cross, times))


def test_a_part_is_that_of_a_labelling_of_the_whole(mask: NDArray[np.bool_]) -> None:
    parts, count = ndimage.label(mask)
    for number in range(1, min(count, 40) + 1):
        places = np.argwhere(parts == number)
        box, part = part_at(mask, tuple(int(n) for n in places[len(places) // 2]))
        whole = np.zeros(mask.shape, dtype=bool)
        whole[box] = part
        assert np.array_equal(whole, parts == number)


def test_a_part_that_winds_out_of_the_first_box_is_found_whole() -> None:
    mask = np.zeros((5, 90, 70), dtype=bool)
    mask[2, 5, 3:66] = mask[2, 5:85, 65] = mask[2, 84, 3:66] = mask[2, 60:85, 3] = True
    box, part = part_at(mask, (2, 5, 4))
    assert part.sum() == mask.sum()
    assert mask[box].sum() == mask.sum()


def test_the_box_holds_the_mask_and_a_margin_within_the_array() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[1, 3, 8] = mask[4, 5, 6] = True
    assert box_of(mask) == (slice(1, 5), slice(3, 6), slice(6, 9))
    assert box_of(mask, 2) == (slice(0, 7), slice(1, 8), slice(4, 9))
    assert box_of(np.zeros((4, 4, 4), dtype=bool)) is None


def test_an_empty_mask_has_nothing_near_deep_or_filled() -> None:
    empty = np.zeros((4, 5, 6), dtype=bool)
    for found in (near(empty, 3.0), deep(empty, 1.0), depths(empty), filled_slices(empty), grown(empty)):
        assert not found.any()


def test_a_full_mask_is_deep_everywhere() -> None:
    assert deep(np.ones((4, 5, 6), dtype=bool), 2.5).all()
