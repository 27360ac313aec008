"""Correlation at every shift, against the same computed directly at each."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain.volume import Grid
from app.imaging.registration.outline_search import OutlinePair, ShiftSearch
from app.imaging.registration.working_ct import WorkingCt

REACH = 3
SHAPE = (7, 9, 8)
WIDE = tuple(n + 2 * REACH for n in SHAPE)
SHIFTS = tuple(product(range(-REACH, REACH + 1), repeat=3))
Bool = NDArray[np.bool_]


def some_pair() -> OutlinePair:
    """Noise, with part of both views missing."""
    random = np.random.default_rng(3)
    ct_seen, seen = np.ones(SHAPE, dtype=bool), np.zeros(WIDE, dtype=bool)
    ct_seen[:, :2] = False
    seen[REACH : -REACH - 1, REACH:-REACH, REACH + 2 : -REACH] = True
    density = random.random(SHAPE, dtype=np.float32)
    share = random.random(WIDE, dtype=np.float32) * 1.5 * seen
    grid = Grid.axis_aligned(SHAPE, (8.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    ct = WorkingCt(grid, density, ct_seen, ct_seen, density)
    return OutlinePair(ct, density, share, seen, REACH)


def correlation(first: NDArray[np.float32], second: NDArray[np.float32], where: Bool) -> float:
    return float(np.corrcoef(first[where], second[where])[0, 1])


@pytest.mark.parametrize("axes", [(), (2,), (0, 1)])
def test_each_shift_is_correlated_over_the_view_that_both_share_there(axes: tuple[int, ...]) -> None:
    pair = some_pair()
    found = ShiftSearch(pair).correlation(axes)
    density, ct_seen = np.flip(pair.density, axes), np.flip(pair.ct.seen, axes)
    here = (ct_seen & pair.at((0, 0, 0), pair.seen)).sum()
    left_out = 0
    for shift in SHIFTS:
        shared = ct_seen & pair.at(shift, pair.seen)
        got = found[tuple(REACH + step for step in shift)]
        if shared.sum() < 0.4 * here:  # by so little, anything fits
            left_out += 1
            assert got == -1.0
        else:
            assert got == pytest.approx(correlation(density, pair.at(shift, pair.outline), shared), abs=1e-3)
    assert 0 < left_out < len(SHIFTS) / 2


def test_unmoved_is_the_better_of_both_images_parts_that_are_compared_there() -> None:
    pair = some_pair()
    found = ShiftSearch(pair).unmoved()
    outline = pair.at((0, 0, 0), pair.outline)
    shared = pair.ct.seen & pair.at((0, 0, 0), pair.seen)
    wide = np.pad(pair.ct.seen, REACH)
    for shift in SHIFTS:
        of_ct = shared & pair.at(shift, pair.seen)
        back = tuple(-step for step in shift)
        of_image = shared & pair.at(back, wide)
        if min(of_ct.sum(), of_image.sum()) < 40:
            continue
        expected = max(correlation(pair.density, outline, part) for part in (of_ct, of_image))
        assert found[tuple(REACH + step for step in shift)] == pytest.approx(expected, abs=1e-3)
