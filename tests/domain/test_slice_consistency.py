"""A wrong slope is found; bodies, lesions, phantoms and crops are let alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.slice_consistency import check_scales
from app.domain.volume import Grid, Unit, Volume
from tests.defects.body import SPACING_MM, body_bqml

SLICES = 30


def volume(array: NDArray[np.float64], spacing_mm: tuple[float, float, float] = SPACING_MM) -> Volume:
    return Volume(array.astype(np.float32), Grid.axis_aligned(array.shape, spacing_mm, (0, 0, 0)), Unit.BQML)


def slopes(slices: int) -> NDArray[np.float64]:
    """Another one for each slice, as scanners have them."""
    return np.linspace(1.0, 2.0, slices)


def found(
    array: NDArray[np.float64], spacing_mm: tuple[float, float, float] = SPACING_MM
) -> tuple[Decision, ...] | Reason:
    return check_scales(volume(array, spacing_mm), slopes(len(array)))


def refused(array: NDArray[np.float64]) -> bool:
    reason = found(array)
    return isinstance(reason, Reason) and (reason.code, reason.attribute) == (
        RefusalCode.VALUES_IMPLAUSIBLE, "RescaleSlope",
    )  # fmt: skip


def scaled(first: int, last: int, factor: float) -> NDArray[np.float64]:
    array = body_bqml()
    array[first : last + 1] *= factor
    return array


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(1, 23), length=st.integers(1, 25),
    factor=st.sampled_from([0.1, 0.5, 0.6, 1.6, 2.0, 3.0, 10.0]),
)  # fmt: skip
def test_any_block_within_the_stack_is_refused(first: int, length: int, factor: float) -> None:
    assert refused(scaled(first, min(first + length - 1, 23), factor))


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("keep", [2, 9, 17, 24])
def test_a_block_to_the_end_of_the_stack_is_refused(keep: int, factor: float) -> None:
    assert refused(scaled(0, keep - 1, factor))
    assert refused(scaled(keep, 25, factor))


@pytest.mark.parametrize("factor", [1.25, 0.8])
@pytest.mark.parametrize(("first", "last"), [(5, 5), (5, 6), (8, 16)])
def test_a_smaller_jump_is_a_warning_that_names_the_slices(first: int, last: int, factor: float) -> None:
    told = found(scaled(first, last, factor))
    assert not isinstance(told, Reason)
    names = f"slice {first + 1} of" if first == last else f"slices {first + 1} to {last + 1} of"
    assert [decision.line for decision in told if "RescaleSlope" in decision.line and names in decision.line]


def test_the_reason_names_slices_ratio_and_limit() -> None:
    reason = found(scaled(8, 16, 3.0))
    assert isinstance(reason, Reason)
    assert "slices 9 to 17 of 26" in reason.found
    assert "3.00 times as high" in reason.found
    assert "1.35" in reason.expected
    assert reason.advice


def test_an_outermost_slice_that_is_low_is_warned_of_only_as_phantoms_end_so() -> None:
    assert refused(scaled(0, 0, 2.0))
    assert not refused(scaled(0, 0, 0.5))
    assert found(scaled(0, 0, 0.5))


def test_one_slope_written_over_slices_that_had_their_own_is_refused() -> None:
    """Each scaled to full range by itself, as scanners do: one slope for all leaves their ratios in."""
    array = body_bqml()
    own = array.max(axis=(1, 2)) / 32767.0
    reason = check_scales(volume(array / own[:, None, None]), np.full(len(array), own[0]))
    assert isinstance(reason, Reason)
    assert reason.found.startswith("one slope for all slices")
    assert check_scales(volume(array), np.full(len(array), own[0])) == ()


def smooth(array: NDArray[np.float64], slices: float) -> NDArray[np.float64]:
    """Blurred along z with the given standard deviation."""
    if slices == 0.0:
        return array
    distance = np.subtract.outer(np.arange(len(array)), np.arange(len(array)))
    kernel = np.exp(-0.5 * (distance / slices) ** 2) / (slices * math.sqrt(2.0 * math.pi))
    blurred: NDArray[np.float64] = np.tensordot(kernel, array, axes=1)
    return blurred


def disc(radius_mm: float, pixel_mm: float = 5.0, pixels: int = 60) -> NDArray[np.float64]:
    y, x = (np.indices((pixels, pixels)) - pixels / 2 + 0.5) * pixel_mm
    return np.where(np.hypot(y, x) < radius_mm, 1.0, 0.0)


def noisy(array: NDArray[np.float64], noise: float, seed: int) -> NDArray[np.float64]:
    rough = np.random.default_rng(seed).normal(0.0, noise, array.shape)
    return np.maximum(array + rough * np.sqrt(array + 0.02), 0.0)


def filled(partly: float) -> NDArray[np.float64]:
    """A cylinder that begins and ends within the image, in slices that it fills in part."""
    along = np.zeros(SLICES)
    along[6:24] = 1.0
    along[5], along[24] = partly, 1.0 - partly
    return along[:, None, None] * disc(100.0)


def with_spheres(array: NDArray[np.float64], activity: float) -> NDArray[np.float64]:
    """The six spheres of the IEC phantom, 10 to 37 mm, in slices of 4 mm."""
    k, y, x = np.indices(array.shape)
    for turn, diameter_mm in enumerate((10, 13, 17, 22, 28, 37)):
        centre = 57.0 * np.array([np.cos(turn * np.pi / 3), np.sin(turn * np.pi / 3)])
        off = [(y - 29.5) * 5.0 - centre[0], (x - 29.5) * 5.0 - centre[1], (k - 15) * 4.0]
        array = np.where(sum(part**2 for part in off) < (diameter_mm / 2) ** 2, activity, array)
    return array


@pytest.mark.parametrize("partly", [0.0, 0.1, 0.5, 0.7])
@pytest.mark.parametrize("blur", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_phantoms_are_not_refused(partly: float, blur: float, noise: float) -> None:
    """A cylinder, one with spheres, spheres in air, and a crop that a cylinder fills from end to end."""
    full = np.ones(SLICES)[:, None, None] * disc(100.0)
    air = np.zeros((SLICES, 60, 60))
    cylinder = filled(partly)
    shapes = (
        cylinder,
        with_spheres(cylinder, 8.0),
        with_spheres(air, 8.0),
        full,
        cylinder[5:20],
        full[:, 20:40],
    )
    for seed, shape in enumerate(shapes):
        told = found(noisy(smooth(shape, blur), noise, seed), (5.0, 5.0, 4.0))
        assert not isinstance(told, Reason), (seed, told)


def empty_ends(array: NDArray[np.float64]) -> None:
    array[:4], array[-3:] = 0.0, 0.0


def air_at_ends(array: NDArray[np.float64]) -> None:
    array[:4] = np.abs(np.random.default_rng(1).normal(0.0, 5.0, array[:4].shape))


def a_bladder(array: NDArray[np.float64]) -> None:
    array[6:10, 12:20, 15:23] *= 100.0


def a_hot_slice_of_bowel(array: NDArray[np.float64]) -> None:
    array[6, 12:18, 10:26] *= 8.0


def noise_at_the_end(array: NDArray[np.float64]) -> None:
    array[:2] *= np.random.default_rng(2).lognormal(0.0, 0.5, array[:2].shape)


def shoulders(array: NDArray[np.float64]) -> None:
    array[18:, :, :12], array[18:, :, 28:] = 5.0, 5.0


def a_slice_of_zeros(array: NDArray[np.float64]) -> None:
    array[7] = 0.0


@pytest.mark.parametrize(
    "change",
    [empty_ends, air_at_ends, a_bladder, a_hot_slice_of_bowel, noise_at_the_end, shoulders, a_slice_of_zeros],
    ids=lambda change: change.__name__,
)
def test_what_patients_have_is_no_jump(change: Callable[[NDArray[np.float64]], None]) -> None:
    array = body_bqml()
    change(array)
    assert found(array) == ()


@pytest.mark.parametrize(
    "box", [np.s_[:, 4:28, 4:36], np.s_[3:20, 8:24, 8:30], np.s_[:4], np.s_[9:15, 10:18, 13:23]]
)
def test_crops_are_no_jump(box: tuple[slice, ...]) -> None:
    assert found(body_bqml()[box]) == ()


def test_too_few_voxels_are_not_judged() -> None:
    assert found(scaled(5, 5, 3.0)[:, 10:15, 10:15]) == ()
