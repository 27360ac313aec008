"""The network's input: orientation, prior encoding, units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decision import ModelRole
from app.domain.volume import Grid, Unit, Volume
from app.inference.models.channels import Orientation, build_input, encode_prior

SPACING = (4.0, 4.0, 4.0)
GRID = Grid.axis_aligned((20, 18, 16), SPACING, (0.0, 0.0, 0.0))


@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    tilt_rad=st.floats(-0.5, 0.5),
)
def test_canonical_orientation_is_undone_exactly(
    order: list[int], signs: tuple[float, float, float], tilt_rad: float
) -> None:
    affine = np.eye(4)
    tilt = np.array(
        [[np.cos(tilt_rad), -np.sin(tilt_rad), 0], [np.sin(tilt_rad), np.cos(tilt_rad), 0], [0, 0, 1]]
    )
    affine[:3, :3] = tilt @ np.eye(3)[:, order] @ np.diag(np.array(signs) * [2.0, 3.0, 5.0])
    orientation = Orientation.of(Grid((4, 5, 6), affine))
    array = np.arange(2 * 4 * 5 * 6).reshape(2, 4, 5, 6)
    moved = orientation.apply(array)
    np.testing.assert_array_equal(orientation.revert(moved), array)
    assert sorted(orientation.spacing_zyx_mm) == pytest.approx([2.0, 3.0, 5.0])


def test_canonical_axes_run_to_the_left_posterior_and_up() -> None:
    affine = np.array([[0, 0, -3.0, 0], [2.0, 0, 0, 0], [0, -5.0, 0, 0], [0, 0, 0, 1]])
    # index x runs posterior, index y down, index z to the right
    grid = Grid((4, 5, 6), affine)
    orientation = Orientation.of(grid)
    lps = grid.to_lps(
        np.array([[x, y, z] for z in range(4) for y in range(5) for x in range(6)], dtype=float)
    )
    moved = orientation.apply(lps.T.reshape(3, 4, 5, 6))
    assert orientation.spacing_zyx_mm == (5.0, 2.0, 3.0)
    left, posterior, up = moved
    assert (np.diff(left, axis=2) == 3.0).all()
    assert (np.diff(posterior, axis=1) == 2.0).all()
    assert (np.diff(up, axis=0) == 5.0).all()


def test_no_lesion_is_zero_everywhere_as_padding_is() -> None:
    assert not encode_prior(np.zeros((5, 5, 5), dtype=np.bool_), SPACING).any()


def test_the_prior_is_one_at_the_surface_and_falls_with_distance_in_millimetres() -> None:
    mask = np.zeros((1, 1, 12), dtype=np.bool_)
    mask[0, 0, :2] = True
    encoded = encode_prior(mask, (5.0, 5.0, 2.0))[0, 0]
    surface = (encoded[1] + encoded[2]) / 2
    assert surface == pytest.approx(1.0)
    assert encoded[3] - encoded[4] == pytest.approx(2.0 / 20.0)
    assert encoded[-1] == pytest.approx(1.0 - (10 * 2.0 - 1.5) / 20.0, abs=0.05)


@given(seed=st.integers(0, 1000))
def test_the_prior_stays_within_its_bounds_and_keeps_the_mask(seed: int) -> None:
    mask = np.random.default_rng(seed).random((6, 7, 8)) > 0.9
    encoded = encode_prior(mask, (3.0, 3.0, 3.0))
    assert encoded.min() >= 0.0
    assert encoded.max() <= 2.0
    np.testing.assert_array_equal(encoded > 1.0, mask)


def volume(unit: Unit, grid: Grid = GRID) -> Volume:
    return Volume(np.full(grid.shape, 7.0, dtype=np.float32), grid, unit)


def test_ct_is_brought_to_the_functional_grid_and_air_fills_what_it_does_not_cover() -> None:
    short = Grid.axis_aligned((10, 36, 32), (2.0, 2.0, 4.0), (0.0, 0.0, 0.0))
    built = build_input(ModelRole.M1, volume(Unit.SUVBW), volume(Unit.HU, short))
    assert built.channels.shape == (2, *GRID.shape)
    assert built.channels[1, 5, 5, 5] == pytest.approx(7.0)
    assert built.channels[1, 15, 5, 5] == pytest.approx(-1024.0)


def test_only_m4_takes_a_prior_and_m4_needs_one() -> None:
    prior = np.zeros(GRID.shape, dtype=np.bool_)
    assert build_input(ModelRole.M4, volume(Unit.SUVBW), volume(Unit.HU), prior).channels.shape[0] == 3
    with pytest.raises(ValueError, match="only M4 takes one"):
        build_input(ModelRole.M4, volume(Unit.SUVBW), volume(Unit.HU))
    with pytest.raises(ValueError, match="only M4 takes one"):
        build_input(ModelRole.M2, volume(Unit.SUVBW), volume(Unit.HU), prior)


def test_a_volume_in_other_units_never_reaches_a_network() -> None:
    with pytest.raises(ValueError, match="take SUVbw and HU"):
        build_input(ModelRole.M2, volume(Unit.BQML), volume(Unit.HU))
