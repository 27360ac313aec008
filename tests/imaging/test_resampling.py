"""Resampling: any orientation, rigid motions, lesions that survive a coarser grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from app.domain.volume import AIR_HU, FloatArray, Grid, LabelMap, Unit, Volume
from app.imaging.nifti import to_image
from app.imaging.resampling import _dense, _give_each_a_voxel, resample, resample_mask

TARGET = Grid.axis_aligned((9, 10, 11), (3.0, 3.0, 3.0), (-15.0, -14.0, -12.0))


def plane(grid: Grid) -> Volume:
    """A linear function of position: linear interpolation reproduces it exactly."""
    depth, height, width = grid.shape
    z, y, x = np.mgrid[:depth, :height, :width]
    points = grid.to_lps(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(float))
    return Volume((points @ (1.0, -2.0, 3.0)).reshape(grid.shape), grid, Unit.HU, "1.2.3")


def rotation(degrees_about_z: float) -> FloatArray:
    angle = np.deg2rad(degrees_about_z)
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return motion


def sphere(grid: Grid, centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    depth, height, width = grid.shape
    z, y, x = np.mgrid[:depth, :height, :width]
    points = grid.to_lps(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(float))
    return (np.linalg.norm(points - centre_mm, axis=1) <= radius_mm).reshape(grid.shape)


@settings(max_examples=25, deadline=None)
@given(
    permutation=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    shear=st.floats(-0.3, 0.3),
)
def test_a_linear_function_is_reproduced_from_any_orientation(
    permutation: list[int], signs: tuple[float, float, float], shear: float
) -> None:
    axes = np.eye(3)[:, permutation] * signs * 2.0
    axes[:, 2] += shear * axes[:, 1]
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ (20.0, 20.0, 20.0)
    source = plane(Grid((41, 41, 41), affine))
    moved = resample(source, TARGET, AIR_HU)
    np.testing.assert_allclose(moved.array, plane(TARGET).array, atol=1e-2)
    assert moved.frame_of_reference_uid == "1.2.3"


def test_the_motion_maps_points_of_the_wanted_grid_to_points_of_the_source() -> None:
    source = plane(Grid.axis_aligned((60, 60, 60), (2.0, 2.0, 2.0), (-60.0, -60.0, -60.0)))
    motion = rotation(20.0)
    motion[:3, 3] = (3.0, -4.0, 5.0)
    moved = resample(source, TARGET, AIR_HU, motion)
    depth, height, width = TARGET.shape
    z, y, x = np.mgrid[:depth, :height, :width]
    points = TARGET.to_lps(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(float))
    expected = (points @ motion[:3, :3].T + motion[:3, 3]) @ (1.0, -2.0, 3.0)
    np.testing.assert_allclose(moved.array.ravel(), expected, atol=1e-2)
    assert moved.frame_of_reference_uid == ""  # it no longer lies in the frame it came from


def test_outside_the_field_of_view_is_the_fill_value() -> None:
    grid = Grid.axis_aligned((2, 2, 2), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    small = Volume(np.zeros(grid.shape, np.float32), grid, Unit.HU)
    moved = resample(small, TARGET, AIR_HU)
    assert moved.array[0, 0, 0] == AIR_HU
    assert (moved.array == 0).sum() > 0


def test_the_same_grid_is_returned_untouched() -> None:
    source = plane(TARGET)
    assert np.shares_memory(resample(source, TARGET, 0.0).array, source.array)


def test_a_singular_motion_is_refused() -> None:
    with pytest.raises(ValueError, match="invertible"):
        resample(plane(TARGET), TARGET, 0.0, np.zeros((4, 4)))


def test_a_tilted_gantry_cannot_become_a_simpleitk_image() -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.2
    with pytest.raises(ValueError, match="sheared"):
        to_image(np.zeros((3, 3, 3), np.float32), Grid((3, 3, 3), affine))


@pytest.mark.parametrize("radius_mm", [1.6, 2.0, 3.0])
def test_a_small_pet_lesion_survives_on_the_coarser_spect_grid(radius_mm: float) -> None:
    pet = Grid.axis_aligned((40, 40, 40), (2.0, 2.0, 2.0), (-40.0, -40.0, -40.0))
    spect = Grid.axis_aligned((18, 18, 18), (4.8, 4.8, 4.8), (-40.0, -40.0, -40.0))
    labels = LabelMap(sphere(pet, (0.9, 1.1, -0.8), radius_mm), pet)
    moved = resample_mask(labels, spect)
    assert moved.count == 1
    index = np.argwhere(moved.mask)[:, ::-1].astype(float)
    assert np.linalg.norm(spect.to_lps(index).mean(axis=0) - (0.9, 1.1, -0.8)) < 4.8


def test_a_small_lesion_beside_a_large_one_survives_wherever_it_lies() -> None:
    """A review found 8 of 300 such lesions overwritten by their neighbour."""
    pet = Grid.axis_aligned((30, 30, 30), (2.0, 2.0, 2.0), (-29.0, -29.0, -29.0))
    spect = Grid.axis_aligned((13, 13, 13), (4.8, 4.8, 4.8), (-29.0, -29.0, -29.0))
    rng = np.random.default_rng(1)
    for _ in range(100):
        array = np.zeros(pet.shape, np.uint16)
        small, large = rng.uniform(-8, 8, 3), rng.uniform(-8, 8, 3)
        array[sphere(pet, tuple(small), 2.2)] = 1
        array[sphere(pet, tuple(large), 6.0) & (array == 0)] = 2
        dense = LabelMap(array, pet)
        assert resample_mask(dense, spect).count == dense.count


def test_lesions_keep_their_volume_and_their_order() -> None:
    pet = Grid.axis_aligned((50, 50, 50), (2.0, 2.0, 2.0), (-50.0, -50.0, -50.0))
    spect = Grid.axis_aligned((22, 22, 22), (4.6, 4.6, 4.6), (-51.0, -49.0, -50.0))
    array = np.zeros(pet.shape, np.uint16)
    array[sphere(pet, (-20, 0, 0), 14)] = 1
    array[sphere(pet, (22, 10, -5), 10)] = 2
    array[sphere(pet, (0, -30, 30), 5)] = 3
    moved = resample_mask(LabelMap(array, pet), spect)
    assert moved.count == 3
    for number, within in ((1, 0.1), (2, 0.2), (3, 0.3)):
        before = (array == number).sum() * pet.voxel_ml
        after = (moved.array == number).sum() * spect.voxel_ml
        assert after == pytest.approx(before, rel=within)


def test_lesions_outside_the_new_grid_are_gone_and_the_rest_are_numbered_densely() -> None:
    pet = Grid.axis_aligned((60, 20, 20), (2.0, 2.0, 2.0), (-20.0, -20.0, -60.0))
    array = np.zeros(pet.shape, np.uint16)
    array[2:5, 8:12, 8:12] = 1
    array[40:44, 8:12, 8:12] = 2
    short = Grid.axis_aligned((10, 10, 10), (4.0, 4.0, 4.0), (-20.0, -20.0, 10.0))
    moved = resample_mask(LabelMap(array, pet), short)
    assert moved.count == 1
    assert set(np.unique(moved.array)) == {0, 1}


def test_a_mask_follows_the_motion() -> None:
    grid = Grid.axis_aligned((40, 40, 40), (2.0, 2.0, 2.0), (-40.0, -40.0, -40.0))
    motion = np.eye(4)
    motion[:3, 3] = (10.0, 0.0, 0.0)  # a fixed point lies 10 mm further left in the moving patient
    moved = resample_mask(LabelMap(sphere(grid, (5, 0, 0), 8), grid), grid, motion)
    assert np.array_equal(moved.mask, sphere(grid, (-5, 0, 0), 8))


@pytest.mark.parametrize("seed", range(12))
def test_a_part_of_a_volume_is_sampled_as_scipy_samples_the_whole(seed: int) -> None:
    """Oblique, sheared and anisotropic sources; targets within, across each end, around, and outside."""
    random = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=seed).as_matrix() @ np.diag(random.uniform(0.8, 4.0, 3))
    affine[:3, 2] += 0.3 * affine[:3, 1]
    affine[:3, 3] = random.uniform(-300, 300, 3)
    source = Grid((24, 31, 27), affine)
    volume = Volume(np.round(random.normal(0, 300, source.shape)), source, Unit.HU)
    for place in (0.5, 0.0, 1.0, 5.0):
        centre = source.to_lps(place * np.array([source.shape[::-1]]))[0]
        target = Grid.axis_aligned((9, 10, 11), (1.3, 1.7, 2.1), tuple(centre - 9.0))
        found = resample(volume, target, AIR_HU).array
        z, y, x = np.mgrid[:9, :10, :11]
        points = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(np.float64)
        index = source.to_index(target.to_lps(points))[:, ::-1].T
        sampled = map_coordinates(volume.array, index, order=1, mode="nearest", output=np.float64)
        ends = np.array(source.shape)[:, None] - 0.5
        seen = ((index >= -0.5) & (index < ends)).all(axis=0)
        expected = np.where(seen, sampled, AIR_HU).reshape(target.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-3)
        assert np.array_equal(found == AIR_HU, ~seen.reshape(target.shape))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_labels_left_without_a_voxel_get_one_and_all_are_numbered_densely(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 9, (3, 4, 5)).astype(np.uint16)
    if seed % 2:
        labels[labels < 3] = 0
    best = {int(n): tuple(random.integers(0, (3, 4, 5))) for n in random.choice(np.arange(1, 14), 5, False)}
    expected = labels.copy()
    for label, voxel in best.items():
        owner = expected[voxel]
        if not (expected == label).any() and (owner == 0 or np.count_nonzero(expected == owner) > 1):
            expected[voxel] = label
    _give_each_a_voxel(labels, best)
    assert np.array_equal(labels, expected)
    present, positions = np.unique(expected, return_inverse=True)
    dense = (np.arange(present.size) + (present[0] != 0))[positions].reshape(expected.shape)
    assert np.array_equal(_dense(labels), dense)
