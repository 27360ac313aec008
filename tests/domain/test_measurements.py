"""Measurements against analytic answers."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.domain.findings.findings import Findings
from app.domain.findings.measurements import measure, sphere_kernel
from app.domain.findings.policy import QuantifyPolicy
from app.domain.volume import Grid, LabelMap, Unit, Volume
from tests.dicom.results.sources import small_grid, some_labels

FINE = Grid.axis_aligned((31, 33, 35), (1.5, 1.7, 1.9), (-25.0, -30.0, 400.0))
CENTRE_XYZ = (17, 16, 15)


def suv_of(array: NDArray[np.generic], grid: Grid) -> Volume:
    return Volume(np.asarray(array, dtype=np.float32), grid, Unit.SUVBW)


def distance_mm(grid: Grid, index_xyz: tuple[int, int, int]) -> NDArray[np.float64]:
    z, y, x = np.indices(grid.shape)
    points = grid.to_lps(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(float))
    centre = grid.to_lps(np.array([index_xyz], dtype=float))
    return np.linalg.norm(points - centre, axis=1).reshape(grid.shape)


def one_voxel(grid: Grid, index_xyz: tuple[int, int, int]) -> LabelMap:
    array = np.zeros(grid.shape, dtype=np.uint16)
    array[index_xyz[::-1]] = 1
    return LabelMap(array, grid)


def test_volume_is_voxels_times_the_voxel_even_on_a_sheared_grid() -> None:
    affine = small_grid().affine.copy()
    affine[0, 2] = 1.3
    grid = Grid((12, 20, 16), affine)
    labels = some_labels(grid)
    lesion = measure(labels, suv_of(np.ones(grid.shape), grid), None).lesions[0]
    assert lesion.volume_ml == pytest.approx(4 * 5 * 4 * 4.07 * 3.8 * 3.0 / 1000)


def test_a_uniform_lesion_has_the_same_maximum_mean_and_peak() -> None:
    labels = LabelMap((distance_mm(FINE, CENTRE_XYZ) < 12).astype(np.uint16), FINE)
    lesion = measure(labels, suv_of(labels.mask * 8.0, FINE), None).lesions[0]
    assert (lesion.suv_max, lesion.suv_mean) == (8.0, 8.0)
    assert lesion.suv_peak == pytest.approx(8.0, abs=1e-9)
    assert lesion.tl_psma == pytest.approx(8.0 * lesion.volume_ml)
    assert lesion.volume_ml == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.02)
    assert lesion.centre_mm == pytest.approx(tuple(FINE.to_lps(np.array([CENTRE_XYZ], float))[0]), abs=0.01)


def test_peak_of_a_paraboloid_is_its_top_less_three_fifths_of_the_drop_at_the_radius() -> None:
    distance = distance_mm(FINE, CENTRE_XYZ)
    labels = LabelMap((distance < 5).astype(np.uint16), FINE)
    lesion = measure(labels, suv_of(20.0 - 0.1 * distance**2, FINE), None).lesions[0]
    # half a percent is left to voxel values standing for their voxels at the sphere's surface
    assert lesion.suv_peak == pytest.approx(20.0 - 0.1 * 0.6 * 6.2035**2, rel=5e-3)
    assert lesion.suv_max == pytest.approx(20.0)


def test_peak_in_a_linear_ramp_is_the_value_at_the_centre() -> None:
    ramp = np.broadcast_to(np.arange(FINE.shape[2], dtype=float), FINE.shape)
    lesion = measure(one_voxel(FINE, CENTRE_XYZ), suv_of(ramp, FINE), None).lesions[0]
    assert lesion.suv_peak == pytest.approx(CENTRE_XYZ[0], abs=1e-6)


def test_peak_is_unknown_where_the_sphere_leaves_the_image() -> None:
    lesion = measure(one_voxel(FINE, (0, 16, 15)), suv_of(np.ones(FINE.shape), FINE), None).lesions[0]
    assert lesion.suv_peak is None
    assert lesion.suv_max == 1.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.07, 4.07, 3.0), (4.8, 4.8, 4.8), (2.0, 3.0, 8.0)])
def test_the_sphere_holds_one_cubic_centimetre_on_any_voxel(spacing: tuple[float, float, float]) -> None:
    grid = Grid.axis_aligned((9, 9, 9), spacing, (0.0, 0.0, 0.0))
    kernel = sphere_kernel(grid, 1.0)
    # the uniform weight of voxels wholly inside is voxel volume over sphere volume
    if spacing == (1.0, 1.0, 1.0):
        assert 1.0 / kernel.weights.max() * grid.voxel_ml == pytest.approx(1.0, rel=5e-3)
    assert kernel.weights.sum() == pytest.approx(1.0)
    # symmetric: the mean position is the centre, the second moment is that of a sphere plus the voxel's
    place = kernel.offsets[:, ::-1] * np.array(spacing)
    assert kernel.weights @ place == pytest.approx([0, 0, 0], abs=1e-9)


def test_peak_kernel_turns_with_the_grid() -> None:
    straight, turned = sphere_kernel(small_grid(), 1.0), sphere_kernel(small_grid(oblique=True), 1.0)
    assert np.sort(straight.weights) == pytest.approx(np.sort(turned.weights), abs=1e-9)


def test_flipping_the_slices_changes_no_number() -> None:
    grid, flipped = small_grid(), Grid((12, 20, 16), _upside_down(small_grid()))
    labels = some_labels(grid)
    image = np.random.default_rng(2).uniform(0, 9, grid.shape)
    before = measure(labels, suv_of(image, grid), None)
    after = measure(LabelMap(labels.array[::-1], flipped), suv_of(image[::-1], flipped), None)
    for one, other in zip(_as_numbers(before), _as_numbers(after), strict=True):
        assert one == pytest.approx(other)


def test_activity_is_concentration_times_volume() -> None:
    grid = small_grid()
    labels = some_labels(grid)
    activity = Volume(np.full(grid.shape, 2e5, dtype=np.float32), grid, Unit.BQML)
    findings = measure(labels, suv_of(np.ones(grid.shape), grid), activity)
    for lesion in findings.lesions:
        assert lesion.activity_mbq == pytest.approx(0.2 * lesion.volume_ml)
        assert lesion.concentration_max_bqml == lesion.concentration_mean_bqml == 2e5
    assert findings.burden.activity_mbq == pytest.approx(0.2 * findings.burden.psma_tv_ml)


def test_burden_sums_the_lesions() -> None:
    grid = small_grid()
    findings = measure(
        some_labels(grid), suv_of(np.random.default_rng(1).uniform(1, 9, grid.shape), grid), None
    )
    assert findings.burden.lesion_count == len(findings.lesions) == 3
    assert findings.burden.psma_tv_ml == pytest.approx(sum(lesion.volume_ml for lesion in findings.lesions))
    assert findings.burden.tl_psma == pytest.approx(sum(lesion.tl_psma for lesion in findings.lesions))
    assert findings.burden.suv_max == max(lesion.suv_max for lesion in findings.lesions)
    assert findings.burden.activity_mbq is None


def test_no_lesion_is_a_burden_of_zero() -> None:
    grid = small_grid()
    empty = LabelMap(np.zeros(grid.shape, dtype=np.uint16), grid)
    findings = measure(empty, suv_of(np.ones(grid.shape), grid), None)
    assert findings.lesions == ()
    assert (findings.burden.psma_tv_ml, findings.burden.tl_psma, findings.burden.suv_max) == (0.0, 0.0, None)


def test_hottest_voxel_is_where_the_maximum_is() -> None:
    image = np.ones(FINE.shape)
    labels = LabelMap((distance_mm(FINE, CENTRE_XYZ) < 8).astype(np.uint16), FINE)
    image[16, 15, 18] = 7.0
    lesion = measure(labels, suv_of(image, FINE), None).lesions[0]
    assert lesion.hottest_mm == pytest.approx(tuple(FINE.to_lps(np.array([[18.0, 15.0, 16.0]]))[0]))


def test_images_on_another_grid_are_refused() -> None:
    labels = some_labels(small_grid())
    with pytest.raises(ValueError, match="different grids"):
        measure(labels, suv_of(np.ones(small_grid().shape), small_grid(flipped=True)), None)


def test_a_number_without_voxels_is_refused() -> None:
    grid = small_grid()
    array = np.zeros(grid.shape, dtype=np.uint16)
    array[0, 0, 0] = 2
    with pytest.raises(ValueError, match="number 1 of 2 has no voxel"):
        measure(LabelMap(array, grid), suv_of(np.ones(grid.shape), grid), None)


def test_a_sphere_without_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="suv_peak_sphere_ml"):
        QuantifyPolicy(suv_peak_sphere_ml=0.0)


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.01, 100.0), seed=st.integers(0, 1000))
def test_any_calibration_scales_through(factor: float, seed: int) -> None:
    grid = small_grid()
    labels = some_labels(grid)
    image = suv_of(np.random.default_rng(seed).uniform(0.5, 20, grid.shape), grid)
    for one, other in zip(
        measure(labels, image, None).lesions,
        measure(labels, image.scaled(factor, Unit.SUVBW), None).lesions,
        strict=True,
    ):
        assert other.volume_ml == one.volume_ml
        assert other.suv_max == pytest.approx(factor * one.suv_max, rel=1e-5)
        assert other.suv_mean == pytest.approx(factor * one.suv_mean, rel=1e-5)
        assert other.tl_psma == pytest.approx(factor * one.tl_psma, rel=1e-5)
        if one.suv_peak is not None:
            assert other.suv_peak == pytest.approx(factor * one.suv_peak, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_mean_never_exceeds_maximum(seed: int) -> None:
    grid = small_grid()
    image = suv_of(np.random.default_rng(seed).gamma(2.0, 3.0, grid.shape), grid)
    for lesion in measure(some_labels(grid), image, None).lesions:
        assert lesion.suv_mean <= lesion.suv_max
        assert lesion.suv_peak is None or lesion.suv_peak <= image.array.max()


def _upside_down(grid: Grid) -> NDArray[np.float64]:
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_lps(np.array([[0.0, 0.0, grid.shape[0] - 1.0]]))[0]
    affine[:3, 2] *= -1
    return affine


def _as_numbers(findings: Findings) -> list[tuple[object, ...]]:
    """Everything but None, flat."""
    rows = []
    for lesion in findings.lesions:
        flat: list[object] = []
        for value in astuple(lesion):
            flat.extend(value if isinstance(value, tuple) else [value])
        rows.append(tuple(value for value in flat if value is not None))
    return rows
