"""Slices that lost their content are found; bodies, computed phantoms and clipped images are let alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.slice_content import check_content
from app.domain.volume import Grid, Unit, Volume
from tests.defects.body import SPACING_MM, body_bqml

Stored = NDArray[Any]
Damage = Callable[[Stored], None]
Z = 12


def scaled(array: NDArray[np.float64], slopes: NDArray[np.float64]) -> Stored:
    found: Stored = np.rint(array / slopes[:, None, None]).astype("<i2")
    return found


def own_slopes(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each slice to full range, as scanners do it."""
    found: NDArray[np.float64] = np.maximum(array.max(axis=(1, 2)), 1e-6) / 32767.0
    return found


def judged(stored: Stored, slopes: NDArray[np.float64]) -> tuple[Decision, ...] | Reason:
    array = (stored * slopes[:, None, None]).astype(np.float32)
    return check_content(
        Volume(array, Grid.axis_aligned(array.shape, SPACING_MM, (0, 0, 0)), Unit.BQML), stored, slopes
    )


def of_body(damage: Damage) -> tuple[Decision, ...] | Reason:
    array = body_bqml()
    slopes = own_slopes(array)
    stored = scaled(array, slopes)
    damage(stored)
    return judged(stored, slopes)


def zeroed(stored: Stored) -> None:
    stored[Z] = 0


def four_zeroed(stored: Stored) -> None:
    stored[Z : Z + 4] = 0


def half_zero(stored: Stored) -> None:
    stored[Z, stored.shape[1] // 2 :] = 0


def half_of_three_zero(stored: Stored) -> None:
    stored[Z : Z + 3, :, : stored.shape[2] // 2] = 0


def copied(stored: Stored) -> None:
    stored[Z + 1] = stored[Z]


def copied_elsewhere(stored: Stored) -> None:
    stored[Z + 5] = stored[Z]


def swapped(stored: Stored) -> None:
    stored[Z] = stored[Z].byteswap()


def two_swapped(stored: Stored) -> None:
    stored[Z : Z + 2] = stored[Z : Z + 2].byteswap()


def rolled(stored: Stored) -> None:
    stored[Z : Z + 5] = np.roll(stored[Z : Z + 5], 15, axis=2)


def nothing(stored: Stored) -> None:
    """Undamaged."""


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (zeroed, RefusalCode.PIXEL_DATA_MISSING, "nothing but zeros in slice 13 of 26"),
        (four_zeroed, RefusalCode.PIXEL_DATA_MISSING, "nothing but zeros in slices 13 to 16 of 26"),
        (half_zero, RefusalCode.PIXEL_DATA_MISSING, "zeros in a part of the body in slice 13 of 26"),
        (half_of_three_zero, RefusalCode.PIXEL_DATA_MISSING, "in slices 13 to 15 of 26"),
        (copied, RefusalCode.VALUES_IMPLAUSIBLE, "slices 13, 14 of 26"),
        (copied_elsewhere, RefusalCode.VALUES_IMPLAUSIBLE, "slices 13, 18 of 26"),
        (swapped, RefusalCode.VALUES_IMPLAUSIBLE, "slice 13 of 26"),
        (two_swapped, RefusalCode.VALUES_IMPLAUSIBLE, "bytes swapped"),
        (rolled, RefusalCode.GEOMETRY_INCONSISTENT, "slices 13 to 17 of 26"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_slice_that_lost_its_content_is_refused(damage: Damage, code: RefusalCode, words: str) -> None:
    reason = of_body(damage)
    assert isinstance(reason, Reason)
    assert (reason.code, reason.attribute) == (code, "PixelData")
    assert words in reason.found


def a_little_rolled(stored: Stored) -> None:
    stored[Z : Z + 5] = np.roll(stored[Z : Z + 5], 6, axis=2)


def test_a_smaller_shift_is_a_warning() -> None:
    told = of_body(a_little_rolled)
    assert not isinstance(told, Reason)
    assert [decision.line for decision in told if "slices 13 to 17 of 26" in decision.line]


def empty_ends(stored: Stored) -> None:
    stored[:3], stored[-2:] = 0, 0


def empty_air(stored: Stored) -> None:
    stored[stored < stored.max(axis=(1, 2), keepdims=True) // 100] = 0


@pytest.mark.parametrize("damage", [nothing, empty_ends, empty_air])
def test_a_body_is_let_alone(damage: Damage) -> None:
    assert of_body(damage) == ()


def test_one_slope_over_slices_scaled_by_themselves_is_refused() -> None:
    array = body_bqml()
    stored = scaled(array, own_slopes(array))
    reason = judged(stored, np.full(len(array), 0.7))
    assert isinstance(reason, Reason)
    assert (reason.code, reason.attribute) == (RefusalCode.VALUES_IMPLAUSIBLE, "RescaleSlope")
    assert "26 of 26 reach 32767" in reason.found
    assert judged(scaled(array, np.full(len(array), array.max() / 32767.0)), np.ones(len(array))) == ()


def test_clipped_slices_and_plateaus_of_one_slope_are_let_alone() -> None:
    array = body_bqml()
    stored = np.minimum(scaled(array, np.full(len(array), 0.1)), 8191)
    assert judged(np.where(stored == 8191, 32767, stored), np.ones(len(array))) == ()


def ball(radius_mm: float) -> NDArray[np.float64]:
    k, y, x = (np.indices((30, 40, 40)) - 15.0) * 5.0
    return np.where(k**2 + (y - 25) ** 2 + (x - 25) ** 2 < radius_mm**2, 1000.0, 0.0)


def stacked_balls() -> NDArray[np.float64]:
    """Empty slices between two small ones."""
    return np.roll(ball(17.0), -6, axis=0) + np.roll(ball(17.0), 6, axis=0)


def cylinder(floor: float) -> NDArray[np.float64]:
    y, x = (np.indices((40, 40)) - 19.5) * 5.0
    along = np.zeros(30)
    along[6:24] = 1.0
    found: NDArray[np.float64] = 1000.0 * along[:, None, None] * (np.hypot(y, x) < 80.0) + floor
    return found


def noisy(array: NDArray[np.float64], seed: int = 2) -> NDArray[np.float64]:
    """Clipped at 0 as reconstructions are: half of the air is exactly 0."""
    noise = np.random.default_rng(seed).normal(0.0, 5.0, array.shape)
    return np.maximum(array + noise * np.sqrt(array + 20.0), 0.0)


@pytest.mark.parametrize("make", [own_slopes, lambda array: np.full(len(array), array.max() / 32767.0)])
@pytest.mark.parametrize(
    "array",
    [ball(70.0), stacked_balls(), cylinder(0.0), cylinder(10.0), noisy(ball(70.0)), noisy(stacked_balls()),
     noisy(cylinder(0.0)), noisy(cylinder(10.0))],
)  # fmt: skip
def test_phantoms_are_let_alone(
    array: NDArray[np.float64], make: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> None:
    slopes = make(array)
    assert judged(scaled(array, slopes), slopes) == ()
