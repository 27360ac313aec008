"""Numbers against positions, and the warning where nothing counts the slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.slice_order import (
    SMALLEST_SLICE_VOXELS,
    by_bed,
    check_completeness,
    check_order,
    out_of_order,
)
from tests.defects.body import body_bqml

BODY = body_bqml()
SLICES = len(BODY)


def exchanged(one: int, two: int) -> list[int]:
    """Which slice lies at each place once two have each other's position."""
    order = list(range(SLICES))
    order[one], order[two] = order[two], order[one]
    return order


def test_any_numbering_of_slices_that_lie_right_is_accepted() -> None:
    schemes = {
        "feet first": range(1, SLICES + 1), "head first": range(SLICES, 0, -1), "from 0": range(SLICES),
        "tens": range(0, 10 * SLICES, 10), "interleaved": [k // 2 + 13 * (k % 2) for k in range(SLICES)],
        "by bed, head first": [5 - k % 6 + 6 * (k // 6) for k in range(SLICES)], "none": [None] * SLICES,
        "one": [1] * SLICES,
    }  # fmt: skip
    for name, numbers in schemes.items():
        assert check_order(BODY, {"InstanceNumber": list(numbers)}) == (), name


@settings(max_examples=40, deadline=None)
@given(numbers=st.permutations(range(SLICES)))
def test_no_numbering_refuses_slices_that_lie_right(numbers: list[int]) -> None:
    assert not isinstance(check_order(BODY, {"InstanceNumber": numbers}), Reason)


@settings(max_examples=40, deadline=None)
@given(
    pair=st.lists(st.integers(0, SLICES - 1), min_size=2, max_size=2, unique=True), backwards=st.booleans()
)
def test_two_exchanged_slices_are_refused(pair: list[int], backwards: bool) -> None:
    """Number and content went to another place together."""
    order = exchanged(*pair)
    numbers = [-number for number in order] if backwards else order
    reason = check_order(BODY[order], {"InstanceNumber": numbers})
    assert isinstance(reason, Reason)
    assert (reason.code, reason.attribute) == (RefusalCode.GEOMETRY_INCONSISTENT, "ImagePositionPatient")
    assert f"{min(pair) + 1}, {max(pair) + 1} of {SLICES}" in reason.found


def test_a_whole_stack_in_another_order_is_refused() -> None:
    order = np.random.default_rng(3).permutation(SLICES)
    assert isinstance(check_order(BODY[order], {"InstanceNumber": [float(k) for k in order]}), Reason)


def test_numbers_that_the_image_speaks_against_are_a_warning() -> None:
    found = check_order(BODY, {"SliceLocation": exchanged(4, 11)})
    assert not isinstance(found, Reason)
    (told,) = found
    assert "slices 5, 12 of 26" in told.line
    assert "SliceLocation" in told.line


def test_a_few_numbers_out_of_place_give_a_warning_and_many_are_no_numbering_by_place() -> None:
    few = exchanged(4, 11)
    assert check_order(BODY, {"InstanceNumber": few})
    many = [*range(8), *range(16, 7, -1), *range(17, SLICES)]
    assert 0.1 < out_of_order(many).size / SLICES < 0.5
    assert check_order(BODY, {"InstanceNumber": many}) == ()


def test_two_numbers_out_of_place_give_a_warning_in_the_shortest_stack_too() -> None:
    assert check_order(BODY[:6], {"InstanceNumber": [0, 1, 3, 2, 4, 5]})


@pytest.mark.parametrize("side", [32, 33, 64, 128, 200])
@pytest.mark.parametrize("first", [0, 5])
def test_noise_refuses_no_position(side: int, first: int) -> None:
    """Two neighbours misnumbered: by chance their order is a little better or a little worse."""
    numbers = list(range(12))
    numbers[first], numbers[first + 1] = numbers[first + 1], numbers[first]
    for seed in range(12):
        noise = np.abs(np.random.default_rng(seed).normal(0.0, 1.0, (12, side, side)))
        told = check_order(noise, {"InstanceNumber": numbers})
        assert not isinstance(told, Reason), (seed, told)


@pytest.mark.parametrize(("drift", "is_refused"), [(0.075, False), (0.088, True)])
def test_an_order_that_is_better_by_a_few_hundredths_is_no_proof(drift: float, is_refused: bool) -> None:
    """Noise of a fifth on tissue that changes along z: 0.92 and 0.90 of the difference."""
    order = [0, 1, 2, 3, 5, 4, *range(6, 12)]
    noise = np.random.default_rng(0).normal(1.0, 0.2, (12, 128, 128))
    body = noise + drift * np.array(order)[:, None, None]
    found = check_order(body, {"InstanceNumber": order})
    assert isinstance(found, Reason) is is_refused
    assert found


def test_slices_of_too_few_voxels_tell_nothing() -> None:
    order = exchanged(4, 11)
    side = 32
    assert side * 31 < SMALLEST_SLICE_VOXELS < side * 40
    assert isinstance(check_order(BODY[order], {"InstanceNumber": order}), Reason)
    assert not isinstance(check_order(BODY[order][:, :, :31], {"InstanceNumber": order}), Reason)


def test_a_uniform_phantom_can_not_tell() -> None:
    told = check_order(np.ones((SLICES, 20, 20)), {"InstanceNumber": exchanged(4, 11)})
    assert not isinstance(told, Reason)
    assert len(told) == 1


def test_an_order_counts_from_either_end() -> None:
    assert out_of_order([3, 2, 1]).size == 0
    assert list(out_of_order([1, 2, 4, 3, 5])) == [2, 3]


def test_bed_times_betray_two_slices_exchanged_between_beds() -> None:
    times: list[float | None] = [*[0.0] * 9, *[150.0] * 9, *[300.0] * 8]
    assert by_bed(times) == ()
    times[4], times[12] = times[12], times[4]
    assert list(by_bed(times)) == exchanged(4, 12)
    assert isinstance(check_order(BODY[exchanged(4, 12)], {"Time": by_bed(times)}), Reason)
    assert by_bed([*times[:-1], None]) == ()


def test_an_announced_series_needs_no_word() -> None:
    assert check_completeness([6, 7, 8], is_announced=True) == ()


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([1, 2, 3], "only slices after 3 could be missing"),
        ([3, 2, 1], "only slices after 3 could be missing"),
        ([0, 1, 2], "only slices after 2 could be missing"),
        (range(6, 12), "begins at 6, as if 5 were missing"),
        (range(1001, 1031), "goes from 1001 to 1030 with 30 slices, which counts nothing"),
        (range(1, 301, 10), "goes from 1 to 291 with 30 slices, which counts nothing"),
        ([1, 2, 3, 7], "goes to 7 with 4 slices, as if 3 were missing"),
        ([None, 2, 3], "can't be noticed"),
        ([1, 1, 1], "can't be noticed"),
    ],
)
def test_a_series_that_nothing_counts_says_so(numbers: Sequence[float | None], words: str) -> None:
    (told,) = check_completeness(numbers, is_announced=False)
    assert told.line.startswith("warning: NumberOfSlices is absent")
    assert words in told.line
