"""Longest diameter and the distance of the farthest lesions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from app.domain.findings.measurements import farthest_pair, longest_diameter_mm, measure
from app.domain.volume import Grid, LabelMap, Unit, Volume

ISOTROPIC = Grid.axis_aligned((60, 60, 60), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def voxels_of(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.argwhere(mask).astype(np.int64)


def brute_force_mm(voxels: NDArray[np.int64], grid: Grid) -> float:
    points = grid.to_lps(voxels[:, ::-1].astype(float))
    return float(max(np.linalg.norm(points - point, axis=1).max() for point in points))


def test_a_single_voxel_has_no_diameter() -> None:
    assert longest_diameter_mm(np.array([[3, 4, 5]]), ISOTROPIC) == 0.0


def test_a_box_has_its_space_diagonal() -> None:
    grid = Grid.axis_aligned((20, 20, 20), (4.07, 3.8, 3.0), (7.0, -3.0, 11.0))
    mask = np.zeros(grid.shape, bool)
    mask[2:6, 4:9, 3:7] = True
    expected = np.linalg.norm([3 * 4.07, 4 * 3.8, 3 * 3.0])
    assert longest_diameter_mm(voxels_of(mask), grid) == pytest.approx(expected, abs=1e-9)


def test_a_ball_of_a_hundred_thousand_voxels_has_its_diameter() -> None:
    z, y, x = np.indices(ISOTROPIC.shape)
    mask = (z - 30) ** 2 + (y - 30) ** 2 + (x - 30) ** 2 <= 29**2
    assert mask.sum() > 100_000
    assert longest_diameter_mm(voxels_of(mask), ISOTROPIC) == pytest.approx(58.0, abs=1e-9)


def test_a_diagonal_rod_on_an_oblique_anisotropic_grid_has_its_length() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix() @ np.diag([2, 3, 5])
    rod = np.array([[i, i, i] for i in range(11)])
    expected = 10 * np.linalg.norm([2, 3, 5])
    assert longest_diameter_mm(rod, Grid((12, 12, 12), affine)) == pytest.approx(expected)


def test_a_hollow_lesion_counts_across_its_hole() -> None:
    mask = np.zeros(ISOTROPIC.shape, bool)
    mask[10, 10, 10:50] = True
    mask[10, 10, 20:40] = False
    assert longest_diameter_mm(voxels_of(mask), ISOTROPIC) == 39.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 400),
    spacing=st.tuples(*[st.floats(0.5, 6.0)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    flips=st.tuples(*[st.sampled_from([1.0, -1.0])] * 3),
)
def test_it_is_what_comparing_all_pairs_gives_on_any_grid(
    seed: int,
    size: int,
    spacing: tuple[float, float, float],
    angles: tuple[float, float, float],
    flips: tuple[float, float, float],
) -> None:
    rng = np.random.default_rng(seed)
    voxels = np.unique(rng.integers(0, rng.integers(1, 14, 3) + 1, (size, 3)), axis=0)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing) * flips
    grid = Grid((20, 20, 20), affine)
    assert longest_diameter_mm(voxels, grid) == pytest.approx(brute_force_mm(voxels, grid), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.1, 10.0))
def test_it_scales_with_the_voxels_and_forgets_order_axes_and_flips(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    voxels = np.unique(rng.integers(0, 9, (60, 3)), axis=0)
    found = longest_diameter_mm(voxels, ISOTROPIC)
    larger = Grid.axis_aligned((60, 60, 60), (factor,) * 3, (5.0, 5.0, 5.0))
    assert longest_diameter_mm(voxels, larger) == pytest.approx(factor * found)
    assert longest_diameter_mm(rng.permutation(voxels), ISOTROPIC) == pytest.approx(found)
    assert longest_diameter_mm(voxels[:, [2, 0, 1]], ISOTROPIC) == pytest.approx(found)
    assert longest_diameter_mm(voxels * (1, -1, 1) + (0, 20, 0), ISOTROPIC) == pytest.approx(found)


def test_points_on_one_spot_are_no_distance_apart() -> None:
    assert farthest_pair(np.full((5, 3), 3.0)).distance_mm == 0.0


def test_no_point_has_no_distance() -> None:
    with pytest.raises(ValueError, match="no point"):
        farthest_pair(np.zeros((0, 3)))


def labels_at(*places: tuple[int, int, int]) -> LabelMap:
    array = np.zeros(ISOTROPIC.shape, np.uint16)
    for number, (z, y, x) in enumerate(places, start=1):
        array[z, y, x] = number
    return LabelMap(array, ISOTROPIC)


def measured(labels: LabelMap) -> tuple[float | None, tuple[int, int] | None]:
    suv = Volume(np.ones(ISOTROPIC.shape, np.float32), ISOTROPIC, Unit.SUVBW)
    burden = measure(labels, suv, None).burden
    return burden.dmax_mm, burden.dmax_lesions


def test_dmax_is_between_the_centres_of_the_two_farthest_lesions() -> None:
    assert measured(labels_at((0, 0, 0), (10, 0, 0), (0, 30, 40), (0, 3, 4))) == (
        pytest.approx(np.hypot(10, 50)),
        (2, 3),
    )


@pytest.mark.parametrize("places", [(), ((5, 5, 5),)])
def test_dmax_needs_two_lesions(places: tuple[tuple[int, int, int], ...]) -> None:
    assert measured(labels_at(*places)) == (None, None)
