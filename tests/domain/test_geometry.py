"""Stacks from positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.pair import coverage
from app.domain.stack.geometry import Stack, stack_frames, stack_gaps, stack_slices
from app.domain.study import Instance, Series
from app.domain.volume import Grid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def instances(
    z_mm: list[float],
    orientation: tuple[float, float, float, float, float, float] = AXIAL,
    shear: float = 0.0,
) -> list[Instance]:
    """Slices at distances ``z_mm`` along the normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    places = [np.array([1.0, 2.0, 3.0]) + z * (normal + shear * np.array(orientation[:3])) for z in z_mm]
    return [
        Instance(f"1.{i}", "1.2", Path(), 4, 5, 1, (p[0], p[1], p[2]), orientation, (2.0, 3.0))
        for i, p in enumerate(places)
    ]


def stacked(found: Stack | Reason) -> Stack:
    assert isinstance(found, Stack), found
    return found


def refused(found: Stack | Reason) -> RefusalCode:
    assert isinstance(found, Reason), found
    return found.code


def cosines(angles: tuple[float, float, float]) -> tuple[float, float, float, float, float, float]:
    a, b, c = angles
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    axes = turn_z @ turn_x @ turn_y
    row, column = axes[:, 0], axes[:, 1]
    return (*map(float, row), *map(float, column))  # type: ignore[return-value]


@given(
    order=st.permutations(range(7)),
    angles=st.tuples(*(st.floats(-3.0, 3.0) for _ in range(3))),
    step_mm=st.floats(0.5, 10.0),
)
def test_any_file_order_and_orientation_gives_the_grid_of_the_positions(
    order: list[int], angles: tuple[float, float, float], step_mm: float
) -> None:
    slices = instances([i * step_mm for i in range(7)], cosines(angles))
    stack = stacked(stack_slices([slices[i] for i in order]))
    assert [order[i] for i in stack.order] == list(range(7))
    assert np.linalg.det(stack.grid.affine[:3, :3]) > 0
    corner_of_slices = np.array([[0.0, 0.0, float(z)] for z in range(7)])
    positions = np.array([item.image_position_mm for item in slices])
    assert np.allclose(stack.grid.to_lps(corner_of_slices), positions, atol=1e-6)


def test_spacing_between_rows_is_along_y_and_between_columns_along_x() -> None:
    assert stacked(stack_slices(instances([0, 1, 2]))).grid.spacing_mm == pytest.approx((3.0, 2.0, 1.0))


def test_bed_joints_of_a_real_scanner_are_accepted_and_shown() -> None:
    steps = ([3.27] * 40 + [3.19] + [3.27] * 40 + [3.29]) * 2
    stack = stacked(stack_slices(instances(list(np.cumsum([0.0, *steps])))))
    assert stack.step_range_mm == pytest.approx((3.19, 3.29))
    assert stack.grid.spacing_mm[2] == pytest.approx(np.mean(steps))


@pytest.mark.parametrize(
    ("z_mm", "code"),
    [
        ([0, 1, 2, 4, 5], RefusalCode.SLICE_GAP),
        ([0, 1, 1, 2, 3], RefusalCode.DUPLICATE_SLICE),
        ([0, 1, 2.3, 3, 4], RefusalCode.GEOMETRY_INCONSISTENT),
        ([0, 1], RefusalCode.TOO_FEW_SLICES),
        ([0] * 5, RefusalCode.DUPLICATE_SLICE),
    ],
)
def test_a_stack_that_is_no_regular_lattice_is_refused(z_mm: list[float], code: RefusalCode) -> None:
    assert refused(stack_slices(instances(z_mm))) is code


def test_steps_that_drift_off_the_regular_grid_are_refused() -> None:
    drifting = list(np.cumsum([0.0] + [1.0] * 30 + [1.08] * 30))
    assert refused(stack_slices(instances(drifting))) is RefusalCode.GEOMETRY_INCONSISTENT


def test_a_gap_names_where_it_is_and_how_many_slices_are_lost() -> None:
    reason = stack_slices(instances([0, 2, 4, 10, 12]))
    assert isinstance(reason, Reason)
    assert "6.00 mm between the slices at" in reason.found
    assert "(2 lost)" in reason.found


def rounded(step_mm: float, count: int = 60) -> list[float]:
    return [round(step_mm * i, 1) for i in range(count)]


@pytest.mark.parametrize("step_mm", [0.5, 0.625, 0.65, 0.75, 1.25, 1.953125, 3.27])
def test_positions_written_with_one_decimal_are_the_regular_grid_that_they_round(step_mm: float) -> None:
    """0.625 mm becomes steps of 0.6 and 0.7, up to 0.07 mm off; the ends are 0.05 mm off at most."""
    stack = stacked(stack_slices(instances(rounded(step_mm))))
    assert stack.grid.spacing_mm[2] == pytest.approx(step_mm, abs=0.1 / 59)


def test_a_slice_lost_from_rounded_positions_is_still_a_gap() -> None:
    places = rounded(0.625)
    assert refused(stack_slices(instances(places[:30] + places[31:]))) is RefusalCode.SLICE_GAP


@pytest.mark.parametrize(
    "steps", [[2.5] * 20 + [5.0] * 40, [3.0] * 20 + [5.0] * 15, [5.0] * 9 + [1.0] * 30 + [5.0] * 9]
)
def test_a_spacing_that_varies_is_called_that_and_not_a_lost_slice(steps: list[float]) -> None:
    slices = instances(list(np.cumsum([0.0, *steps])))
    reason = stack_slices(slices)
    assert isinstance(reason, Reason)
    assert reason.code is RefusalCode.GEOMETRY_INCONSISTENT
    assert "a spacing that varies from one part of the scan to another" in reason.found
    assert f"{min(steps):.3f} to {max(steps):.3f} mm" in reason.found
    assert stack_gaps(Series("1", "CT", tuple(slices))) == ()


def test_a_tilted_gantry_is_refused() -> None:
    assert refused(stack_slices(instances([0, 5, 10, 15], shear=0.2))) is RefusalCode.GEOMETRY_INCONSISTENT


def test_slices_that_differ_in_size_spacing_or_orientation_are_refused() -> None:
    slices = instances([0, 1, 2, 3])
    for change in (
        {"rows": 8},
        {"pixel_spacing_mm": (2.0, 3.1)},
        {"image_orientation": (0.0, 1.0, 0.0, -1.0, 0.0, 0.0)},
    ):
        altered = [*slices[:3], replace(slices[3], **change)]  # type: ignore[arg-type]
        assert refused(stack_slices(altered)) is RefusalCode.GEOMETRY_INCONSISTENT


@pytest.mark.parametrize("name", ["image_position_mm", "image_orientation", "pixel_spacing_mm", "rows"])
def test_a_slice_without_its_place_is_refused(name: str) -> None:
    slices = instances([0, 1, 2, 3])
    slices[1] = replace(slices[1], **{name: None})  # type: ignore[arg-type]
    assert refused(stack_slices(slices)) is RefusalCode.GEOMETRY_MISSING


def frames(step_mm: float | None, numbers: tuple[int, ...] = ()) -> Instance:
    base = instances([0.0])[0]
    return replace(base, number_of_frames=4, spacing_between_slices_mm=step_mm, slice_numbers=numbers)


@given(step_mm=st.floats(0.5, 9.0), sign=st.sampled_from((-1.0, 1.0)), numbers=st.permutations((1, 2, 3, 4)))
def test_frames_lie_along_the_signed_spacing_in_order_of_the_slice_vector(
    step_mm: float, sign: float, numbers: list[int]
) -> None:
    stack = stacked(stack_frames(frames(sign * step_mm, tuple(numbers))))
    for z, frame in enumerate(stack.order):
        expected = np.array([1.0, 2.0, 3.0 + (numbers[frame] - 1) * sign * step_mm])
        assert np.allclose(stack.grid.to_lps(np.array([[0.0, 0.0, z]])), expected)
    assert np.linalg.det(stack.grid.affine[:3, :3]) > 0


def test_frames_without_a_signed_spacing_are_refused() -> None:
    assert refused(stack_frames(frames(None))) is RefusalCode.GEOMETRY_MISSING


def test_a_slice_vector_with_a_slice_twice_is_refused() -> None:
    assert refused(stack_frames(frames(2.0, (1, 2, 2, 4)))) is RefusalCode.GEOMETRY_INCONSISTENT


def test_a_wide_pet_is_covered_by_a_narrow_ct_of_its_length() -> None:
    pet = Grid.axis_aligned((100, 175, 175), (4.0, 4.0, 3.0), (-348.0, -348.0, 0.0))
    ct = Grid.axis_aligned((100, 500, 500), (1.0, 1.0, 3.0), (-249.5, -249.5, 0.0))
    cover = coverage(pet, ct)
    assert (cover.axial, cover.in_plane) == pytest.approx((1.0, 1.0))


def test_a_ct_of_half_the_body_covers_half() -> None:
    pet = Grid.axis_aligned((100, 100, 100), (4.0, 4.0, 3.0), (0.0, 0.0, 0.0))
    ct = Grid.axis_aligned((50, 400, 400), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0))
    assert coverage(pet, ct).axial == pytest.approx(0.5, abs=0.02)
