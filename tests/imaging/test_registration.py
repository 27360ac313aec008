"""Bone brings two CTs of a person together; what tells a right place from a wrong one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from app.domain.analysis import RegistrationFit
from app.domain.volume import FloatArray, Grid, Unit, Volume
from app.imaging.registration import registration as registration_room
from app.imaging.registration.policy import AlignPolicy, broken_limits
from app.imaging.registration.registration import measure_fit, register_rigid
from app.imaging.registration.search import BoneMatch, _Slopes, measure_stretch, refine
from app.imaging.registration.working_ct import WorkingCt, smoothed, working_ct
from tests.imaging.bodies import Person, Pose, trunk_grid

TRUNK = trunk_grid()
MONTHS_LATER = Pose((12, 6, -30), (3, 2, 4), arms_up=False, hip_flexion_deg=15, breath_mm=12, bend_mm=5)


def distance_mm(found: FloatArray, pose: Pose) -> float:
    """How far ``found`` puts points of the spine from where they are in the unmoved body."""
    spine = np.array([[0.0, 40.0, z, 1.0] for z in (300, 450, 600, 660)])
    placed = spine @ pose.motion().T @ found.T
    return float(np.linalg.norm(placed - spine, axis=1).max())


def broken(fit: RegistrationFit) -> set[str]:
    return {reason.attribute for reason in broken_limits(fit, AlignPolicy())}


def test_a_person_months_later_in_another_pose_is_brought_together() -> None:
    earlier = Person(1).ct(TRUNK)
    later = Person(1).ct(TRUNK, MONTHS_LATER)
    registration = register_rigid(later, earlier)
    assert registration is not None
    assert distance_mm(registration.fixed_to_moving, MONTHS_LATER) < 8  # the trunk bends by 5 mm
    assert not broken(registration.fit)


def test_the_same_input_gives_the_same_transform_to_the_last_bit() -> None:
    short = trunk_grid(220.0, 340.0)
    fixed, moving = Person(1).ct(short, Pose((5, 5, 5))), Person(1).ct(short)
    first, second = register_rigid(fixed, moving), register_rigid(fixed, moving)
    assert first is not None
    assert second is not None
    assert np.array_equal(first.fixed_to_moving, second.fixed_to_moving)
    assert first.fit == second.fit


@pytest.mark.parametrize("off_mm", [31.0, -31.0])
def test_one_vertebra_off_does_not_fit(off_mm: float) -> None:
    ct = working_ct(Person(1).ct(trunk_grid(350.0, 600.0)))
    motion = np.eye(4)
    motion[2, 3] = off_mm
    assert broken(measure_fit(ct, ct, motion, 0.5)) >= {"align.min_soft_tissue_correlation"}


def test_a_few_lumbar_vertebrae_alone_could_lie_anywhere() -> None:
    lumbar = Person(1).ct(trunk_grid(395.0, 555.0))
    registration = register_rigid(lumbar, Person(1).ct(trunk_grid(330.0, 640.0)))
    assert registration is not None
    assert "align.max_rival_overlap" in broken(registration.fit)


def test_a_pet_that_covers_half_of_the_spect_does_not_fit() -> None:
    whole, upper = Person(1).ct(trunk_grid(230.0, 430.0)), Person(1).ct(trunk_grid(310.0, 430.0))
    registration = register_rigid(whole, upper)
    assert registration is not None
    assert "align.min_overlap_fraction" in broken(registration.fit)


def test_a_body_turned_on_its_side_does_not_fit() -> None:
    turned = Person(1).ct(trunk_grid(230.0, 380.0), Pose(turn_deg=(0, 0, 90)))
    registration = register_rigid(turned, Person(1).ct(trunk_grid(230.0, 380.0)))
    assert registration is None or broken(registration.fit)


@pytest.mark.parametrize("hu", [-1000.0, 40.0])
def test_a_ct_without_bone_is_not_registered(hu: float) -> None:
    grid = Grid.axis_aligned((40, 40, 40), (5.0, 5.0, 5.0), (0.0, 0.0, 0.0))
    blank = Volume(np.full(grid.shape, hu), grid, Unit.HU)
    pelvis = Person(1).ct(trunk_grid(200.0, 320.0))
    assert register_rigid(blank, pelvis) is None
    assert register_rigid(pelvis, blank) is None


def test_other_units_than_hu_are_refused() -> None:
    ct = Person(1).ct(trunk_grid(spacing_mm=12.0))
    with pytest.raises(ValueError, match="HU"):
        register_rigid(ct, Volume(ct.array, ct.grid, Unit.SUVBW))


def test_the_table_is_not_part_of_the_body() -> None:
    with_table, without = (
        working_ct(Person(1).ct(TRUNK, table=table, noise_hu=0.0)) for table in (True, False)
    )
    assert np.array_equal(with_table.body, without.body)


def test_flipped_and_permuted_axes_show_the_same_body() -> None:
    ct = Person(1).ct(trunk_grid(250.0, 400.0))
    flipped_affine = ct.grid.affine @ np.array(
        [[0, 1.0, 0, 0], [1, 0, 0, 0], [0, 0, -1, ct.grid.shape[0] - 1], [0, 0, 0, 1]]
    )
    array = ct.array[::-1].transpose(0, 2, 1)
    other = Volume(array, Grid(array.shape, flipped_affine), Unit.HU)  # type: ignore[arg-type]
    one, two = working_ct(ct), working_ct(other)
    assert one.grid.matches(two.grid)
    np.testing.assert_allclose(one.hu, two.hu, atol=0.1)


def test_what_was_not_measured_breaks_its_limit() -> None:
    fit = RegistrationFit(0.8, 30.0, 3.0, 0.98, 0.9)
    assert "align.max_stretch" in broken(fit)


def test_every_limit_can_be_broken_alone_and_says_so() -> None:
    good = RegistrationFit(
        bone_dice=0.8,
        translation_mm=700.0,
        rotation_deg=3.0,
        overlap_fraction=0.98,
        soft_tissue_correlation=0.9,
        bone_distance_mm=4.0,
        side_correlation=0.5,
        stretch=0.003,
        thickness_difference_mm=3.0,
        rival_overlap=0.7,
    )
    assert not broken(good)
    wrong = {
        "bone_dice": 0.2,
        "translation_mm": 1e5,
        "rotation_deg": 40.0,
        "overlap_fraction": 0.3,
        "soft_tissue_correlation": 0.1,
        "bone_distance_mm": 30.0,
        "side_correlation": -0.5,
        "stretch": 0.05,
        "thickness_difference_mm": 30.0,
        "rival_overlap": 0.99,
    }
    for name, value in wrong.items():
        found = broken(replace(good, **{name: value}))
        assert len(found) == 1, name


def test_a_limit_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="max_stretch"):
        AlignPolicy(max_stretch=float("nan"))


@pytest.mark.parametrize(
    "pose", [Pose((12, 6, -30)), Pose((-7, 15, 22), (3, 2, 4)), Pose((0, -9, 4), (-4, 5, -8))]
)
def test_a_body_moved_as_a_whole_is_brought_back_within_a_sixth_of_a_voxel(pose: Pose) -> None:
    registration = register_rigid(Person(1).ct(TRUNK, pose), Person(1).ct(TRUNK))
    assert registration is not None
    assert distance_mm(registration.fixed_to_moving, pose) < 0.7
    assert not broken(registration.fit)


def bones(seed: int, spacing_mm: float = 4.0) -> WorkingCt:
    """Random bone that reaches the ends of its view, with a part that was not seen."""
    random = np.random.default_rng(seed)
    shape = (17, 14, 19)
    bone = np.clip(ndimage.gaussian_filter(random.normal(size=shape), 1.5) * 6.0, 0.0, 1.0).astype(np.float32)
    bone[:, :, :5] = 0.0
    seen = np.ones(shape, dtype=bool)
    seen[:4, 9:] = False
    grid = Grid.axis_aligned(shape, (spacing_mm,) * 3, (-40.0, 12.0, 300.0))
    hu = (bone * 500.0 - 200.0).astype(np.float32)
    return WorkingCt(grid, hu, seen, bone > 0, bone)


def test_bone_and_its_slopes_are_interpolated_as_scipy_does_it_on_the_whole_image() -> None:
    ct, random = bones(1), np.random.default_rng(2)
    low, high = ct.grid.corners_mm().min(axis=0) - 12.0, ct.grid.corners_mm().max(axis=0) + 12.0
    places = np.vstack([random.uniform(low, high, (4000, 3)), ct.grid.corners_mm()])
    index = ct.grid.to_index(places)[:, ::-1].T
    blurred = ndimage.gaussian_filter(ct.bone, 1.0, truncate=3.0)
    slopes = np.gradient(blurred, *ct.grid.spacing_mm[::-1])
    *found_there, seen_there = _Slopes(ct).at(places.T)
    for found, image in zip(found_there, (blurred, *slopes[::-1]), strict=True):
        expected = ndimage.map_coordinates(image, index, order=1, output=np.float64)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    seen = ndimage.map_coordinates(ct.seen.astype(np.float64), index, order=0)
    assert np.array_equal(seen_there, seen)
    assert 0 < seen.sum() < len(seen)


def test_a_step_solves_the_weighted_normal_equations_of_all_points() -> None:
    fixed, moving = bones(1), bones(1)
    motion = np.eye(4)
    motion[:3, 3] = (1.5, -1.0, 2.0)
    match = BoneMatch(fixed, moving)
    blurred = ndimage.gaussian_filter(fixed.bone, 1.0, truncate=3.0)
    near = np.argwhere(ndimage.binary_dilation(blurred > 0.05) & fixed.seen)
    points = fixed.grid.to_lps(near[:, ::-1].astype(np.float64))
    places = points + motion[:3, 3]
    value, *slopes, seen = _Slopes(moving).at(places.T)
    difference = blurred[tuple(near.T)] - value
    weight = (0.25 / (0.25 + difference**2)) ** 2 * seen
    reach = np.percentile(np.linalg.norm(points - points.mean(axis=0), axis=1), 90)
    slope, arm = np.stack(slopes, axis=1), (places - places.mean(axis=0)) / reach
    for scaling in (False, True):
        jacobian = np.hstack([np.cross(arm, slope), slope, *([arm * slope] if scaling else [])])
        normal = jacobian.T @ (jacobian * weight[:, None])
        normal += np.eye(len(normal)) * (1e-3 * np.trace(normal) / len(normal) + 1e-9)
        expected = np.linalg.solve(normal, jacobian.T @ (weight * difference))
        found, centre = match._solve(motion, 0.5, scaling)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(centre, places.mean(axis=0))


def whole(image: NDArray[np.float32], sigma: float, truncate: float = 3.0) -> NDArray[np.float32]:
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(image, sigma, truncate=truncate)
    return blurred


@pytest.mark.parametrize("sigma", [0.7, 1.0, 6.0])
def test_a_blur_within_a_box_is_that_of_the_whole(sigma: float) -> None:
    image = np.random.default_rng(4).normal(size=(40, 33, 29)).astype(np.float32)
    for box in (np.s_[0:40, 0:33, 0:29], np.s_[3:9, 30:33, 0:29], np.s_[20:21, 5:6, 7:8]):
        assert np.array_equal(smoothed(image, sigma, box, truncate=2.5), whole(image, sigma, 2.5)[box])
    assert np.array_equal(smoothed(image, sigma), whole(image, sigma))


def test_a_fit_is_measured_on_part_of_the_grid_as_on_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the distance of bone is that of two distance transforms."""
    fixed, moving = (working_ct(Person(1).ct(TRUNK, pose)).without_arms() for pose in (MONTHS_LATER, Pose()))
    motion = np.linalg.inv(MONTHS_LATER.motion())
    found = measure_fit(fixed, moving, motion, 0.5)
    monkeypatch.setattr(registration_room, "AROUND_VOXELS", 10_000)
    everything = measure_fit(fixed, moving, motion, 0.5)
    for name, value in vars(everything).items():
        assert vars(found)[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name
    moved = registration_room._moved(moving, fixed.grid, motion)
    view, least = fixed.seen & moved.seen, registration_room.BONE_SHARE
    a, b = (fixed.bone > least) & view, (moved.bone > least) & view
    distances = ndimage.distance_transform_edt
    apart = [distances(~one, fixed.grid.spacing_mm)[two] for one, two in ((a, b), (b, a))]
    assert found.bone_distance_mm == np.percentile(np.concatenate(apart), 75)


def test_starts_share_a_match_and_end_where_each_would_alone() -> None:
    fixed, moving = bones(1), bones(1)
    shared = BoneMatch(fixed, moving)
    for shift_mm in (0.0, 1.5, -2.5):
        start = np.eye(4)
        start[:3, 3] = shift_mm
        found, alone = refine(shared, start), refine(BoneMatch(fixed, moving), start)
        assert np.array_equal(found.fixed_to_moving, alone.fixed_to_moving)
        assert found.bone_overlap == alone.bone_overlap
        assert measure_stretch(shared, start) == measure_stretch(BoneMatch(fixed, moving), start)
