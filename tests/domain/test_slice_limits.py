"""Both sides of the limits for a jump of scale, and why each of them stands."""

from __future__ import annotations

import numpy as np
import pytest

from app.domain.refusal import Reason
from tests.defects.body import body_bqml
from tests.domain.test_slice_consistency import SLICES, disc, found, refused, scaled


@pytest.mark.parametrize("end", [0, 25])
@pytest.mark.parametrize(("factor", "is_refused"), [(1.45, False), (1.75, True)])
def test_an_outermost_slice_that_is_high_gives_a_warning_and_is_refused_later(
    end: int, factor: float, is_refused: bool
) -> None:
    array = scaled(end, end, factor)
    assert refused(array) is is_refused
    assert found(array)


@pytest.mark.parametrize(("factor", "is_refused"), [(1.28, False), (1.42, True), (0.78, False), (0.7, True)])
def test_both_sides_of_the_limit_within_the_stack(factor: float, is_refused: bool) -> None:
    assert refused(scaled(8, 8, factor)) is is_refused
    assert found(scaled(8, 8, factor))


@pytest.mark.parametrize("heat", [50.0, 100.0, 200.0])
def test_a_bladder_that_changes_within_itself_is_no_jump(heat: float) -> None:
    """It holds most of the activity and a fifteenth of the body: the tissue beside it is what is compared."""
    array = body_bqml()
    array[5:11, 12:20, 15:23] *= heat
    array[7, 12:20, 15:23] *= 2.0
    assert found(array) == ()


@pytest.mark.parametrize("heat", [6.0, 10.0, 14.0])
def test_a_bladder_does_not_hide_a_wrong_slope_that_begins_with_it(heat: float) -> None:
    array = body_bqml()
    array[6:10, 12:20, 15:23] *= heat
    array[6:10] *= 2.0
    assert refused(array)


def test_a_disc_that_three_slices_hold_is_no_jump() -> None:
    """Blur carries a thin object into the slices beside it; the next ones are empty."""
    along = np.zeros(SLICES)
    along[9:12] = 0.3, 1.0, 0.3
    assert found(along[:, None, None] * disc(100.0), (5.0, 5.0, 4.0)) == ()
    along[8:13] = 0.3, 0.6, 1.0, 0.6, 0.3
    assert found(along[:, None, None] * disc(100.0), (5.0, 5.0, 4.0)) == ()


def test_fine_pixels_are_as_many_square_centimetres() -> None:
    """A head of 110 cm² in 256 x 256 pixels, of which every second is looked at."""
    array = np.ones(SLICES)[:, None, None] * disc(60.0, 2.0, 256)
    assert found(array, (2.0, 2.0, 4.0)) == ()
    array[8:14] *= 2.0
    assert isinstance(found(array, (2.0, 2.0, 4.0)), Reason)


def test_an_arm_is_too_small_to_be_compared() -> None:
    array = np.ones(SLICES)[:, None, None] * disc(30.0, 2.0, 256)
    array[8:14] *= 2.0
    assert found(array, (2.0, 2.0, 4.0)) == ()
