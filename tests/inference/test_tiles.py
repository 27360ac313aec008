"""Which tiles need not be looked at: never one that could hold a lesion."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from numpy.typing import NDArray

from app.domain.decision import ModelRole
from app.inference.models.channels import build_input, canonical
from app.inference.running.tiles import (
    COLD_BELOW_SUV,
    EMPTY_BELOW_HU,
    MARGIN_MM,
    Windows,
    largest_share,
    maybe_body,
    needless_windows,
    spread,
    tile_windows,
)
from app.phantom.centres import Centre
from tests.phantom.simulated import simulated

TILE = (16, 16, 16)


def air(*others: float) -> NDArray[np.float32]:
    """``(c, 4, 4, 4)`` without uptake, in air, and ``others``."""
    made = np.zeros((2 + len(others), 4, 4, 4), np.float32)
    made[1] = -1000
    for number, value in enumerate(others):
        made[2 + number] = value
    return made


def test_cold_air_is_empty() -> None:
    assert not maybe_body(air()).any()
    assert not maybe_body(air(0.0)).any()  # a prior that is far away


@pytest.mark.parametrize(
    ("channel", "value"),
    [
        (0, COLD_BELOW_SUV),  # a hot spot in air, or beyond CT's field of view, which is filled with air
        (0, np.nan),
        (1, EMPTY_BELOW_HU),
        (1, np.nan),
        (2, 0.01),  # within 20 mm of a lesion of the prior
    ],
)
def test_one_voxel_of_something_is_kept(channel: int, value: float) -> None:
    channels = air(0.0)
    channels[channel, 1, 2, 3] = value
    found = maybe_body(channels)
    assert found[1, 2, 3]
    assert found.sum() == 1


def test_what_may_be_body_is_spread_by_the_margin_on_the_networks_grid() -> None:
    body = np.zeros((40, 30, 20), np.bool_)
    body[20, 15, 10] = True
    found = spread(body, (20, 30, 40), (5.0, 4.0, 2.0))
    where = [
        np.flatnonzero(found.any(tuple(other for other in range(3) if other != axis))) for axis in range(3)
    ]
    for axis, (mm, voxel) in enumerate(zip((10.0, 4.0, 1.0), ((100, 105), (60, 64), (20, 22)), strict=True)):
        low, high = where[axis][0] * mm, (where[axis][-1] + 1) * mm
        assert voxel[0] - MARGIN_MM - 2 * mm < low <= voxel[0] - MARGIN_MM
        assert voxel[1] + MARGIN_MM <= high < voxel[1] + MARGIN_MM + 2 * mm


def gaussian() -> NDArray[np.float32]:
    made = compute_gaussian(TILE, 1.0 / 8, 10, device=torch.device("cpu")).float().numpy()
    return np.asarray(made)


@given(st.lists(st.tuples(*[st.integers(0, 49)] * 3), min_size=1, max_size=5), st.floats(0.3, 1.0))
def test_each_voxel_of_the_body_keeps_nearly_all_of_its_weight(
    where: list[tuple[int, int, int]], step: float
) -> None:
    body = np.zeros((50, 50, 50), np.bool_)
    for voxel in where:
        body[voxel] = True
    windows = tile_windows(body.shape, TILE, step)
    needless = needless_windows(windows, gaussian(), body)
    total, kept = np.zeros(body.shape), np.zeros(body.shape)
    for window, left_out in zip(windows, needless, strict=True):
        total[window] += gaussian()
        kept[window] += gaussian() * (not left_out)
        assert left_out or body[window].any()
    assert (kept[body] >= (1 - 0.03) * total[body]).all()  # 27 tiles at most, each with a thousandth


def test_a_tile_that_alone_sees_the_body_is_never_needless() -> None:
    """Without overlap a tile has all of the weight, at its very edge too."""
    body = np.zeros((32, 16, 16), np.bool_)
    body[31, 0, 15] = True
    windows = tile_windows(body.shape, TILE, 1.0)
    assert needless_windows(windows, gaussian(), body) == (True, False)


def test_a_tiles_share_is_the_most_that_it_has_anywhere() -> None:
    """At a corner of the image a tile is alone; where others lie over it, its corner counts for nothing."""
    windows = tile_windows((32, 16, 16), TILE, 0.5)
    assert len(windows) == 3
    alone = largest_share(windows, (True, False, False), gaussian(), (32, 16, 16))
    assert alone[0].min() == 1.0
    assert alone[-1].max() < 0.1
    assert largest_share(windows, (True, False, True), gaussian(), (32, 16, 16)).min() > 0.1
    assert not largest_share(windows, (False,) * 3, gaussian(), (32, 16, 16)).any()


@pytest.mark.parametrize("image", [(16, 16, 16), (33, 40, 17), (100, 64, 48)])
@pytest.mark.parametrize("tile", [TILE, (16, 16)])
def test_the_tiles_cover_the_image(image: tuple[int, int, int], tile: tuple[int, ...]) -> None:
    windows = tile_windows(image, tile, 0.5)
    seen = np.zeros(image, np.bool_)
    for window in windows:
        assert not seen[window].size - np.prod([1, *tile][-3:] if len(tile) == 2 else tile)
        seen[window] = True
    assert seen.all()
    assert all(a != b for a, b in pairwise(windows))


@pytest.mark.parametrize(("centre", "number"), [(Centre.A, 3), (Centre.B, 4)])
@pytest.mark.parametrize("role", [ModelRole.M1, ModelRole.M2])
def test_each_lesion_of_a_simulated_patient_keeps_its_tiles(
    centre: Centre, number: int, role: ModelRole
) -> None:
    patient = simulated(number, centre)
    scan = patient.pet if role is ModelRole.M1 else patient.spect
    channels, orientation = canonical(build_input(role, scan.functional, scan.ct))
    lesions = orientation.apply(scan.truth.array) > 0
    shape = lesions.shape
    windows = tile_windows(shape, TILE, 0.5)
    body = spread(maybe_body(channels), shape, orientation.spacing_zyx_mm)
    found = needless_windows(windows, gaussian(), body)
    assert any(found)
    assert lesions.any()
    assert body[lesions].all()
    total = sum_of_weights(windows, (True,) * len(windows), shape)
    kept = sum_of_weights(windows, tuple(not needless for needless in found), shape)
    assert (kept[lesions] >= 0.99 * total[lesions]).all()


def sum_of_weights(windows: Windows, used: tuple[bool, ...], shape: tuple[int, ...]) -> NDArray[np.float64]:
    found = np.zeros(shape)
    for window, counts in zip(windows, used, strict=True):
        found[window] += gaussian() * counts
    return found
