"""A reader's file gives the voxels that the reader drew, whatever form and grid it came in."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.cohort.truth import numbered_lesions
from app.dicom.contours import outlines
from app.dicom.outlines.seg import read_segmentation
from app.dicom.outlines.truth import UnusableTruthError, read_structure_set
from app.domain.volume import Grid, LabelMap
from app.imaging.labels import nearest_labels, share_outside
from tests.cohort.tiny_cohort import GRID, SHAPE, Person, write_seg, write_structures

PERSON = Person(1)
FINE = Grid.axis_aligned((16, 20, 24), (2.0, 2.0, 2.5), (-11.0, -21.0, -31.25))
"""Half of each step, the same edges."""


def two_lesions() -> NDArray[np.uint16]:
    """Two regions far apart; slices 4 and 5 between them are empty."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[2:4, 2:5, 3:7] = 1
    labels[6, 7, 9:11] = 2
    return labels


def turned(axes: tuple[int, ...], flips: tuple[bool, ...], grid: Grid) -> tuple[tuple[int, ...], Grid]:
    """``grid`` with other array axes: the transposition, and where that array lies."""
    columns = grid.affine[:3, :3][:, ::-1]  # by array axis (z, y, x)
    shape = [grid.shape[axis] for axis in axes]
    affine = np.eye(4)
    origin = grid.origin_mm.copy()
    for axis, flip, length, place in zip(axes, flips, shape, (2, 1, 0), strict=True):
        affine[:3, place] = columns[:, axis] * (-1.0 if flip else 1.0)
        origin = origin + (columns[:, axis] * (length - 1) if flip else 0.0)
    affine[:3, 3] = origin
    return axes, Grid((shape[0], shape[1], shape[2]), affine)


def oblique() -> Grid:
    """The tiny grid, turned by 20 degrees about x and 10 about z."""
    a, b = np.deg2rad([20.0, 10.0])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ GRID.affine[:3, :3]
    affine[:3, 3] = (-31.5, 12.25, -880.0)
    return Grid(SHAPE, affine)


@given(st.sampled_from(list(permutations(range(3)))), st.tuples(*[st.booleans()] * 3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_seg_on_a_turned_flipped_or_oblique_grid_gives_the_same_voxels(
    tmp_path_factory: pytest.TempPathFactory, axes: tuple[int, ...], flips: tuple[bool, ...], tilted: bool
) -> None:
    functional = oblique() if tilted else GRID
    order, grid = turned(axes, flips, functional)
    drawn = np.flip(two_lesions().transpose(order), [axis for axis in range(3) if flips[axis]])
    path = write_seg(tmp_path_factory.mktemp("seg") / "a.dcm", np.ascontiguousarray(drawn), grid, PERSON)
    found = read_segmentation(path, functional)
    np.testing.assert_array_equal(found.labels.array, two_lesions())
    assert found.share_outside == 0.0


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_every_type_of_seg_gives_its_segments(tmp_path: Path, kind: str) -> None:
    path = write_seg(tmp_path / "a.dcm", two_lesions(), GRID, PERSON, segmentation_type=kind)
    found = read_segmentation(path, GRID)
    np.testing.assert_array_equal(found.labels.array, two_lesions())
    assert not found.resampled


def test_a_seg_on_the_ct_grid_is_brought_to_the_functional_one_and_says_so(tmp_path: Path) -> None:
    fine = np.kron(two_lesions(), np.ones((2, 2, 2), np.uint16))
    found = read_segmentation(write_seg(tmp_path / "a.dcm", fine, FINE, PERSON), GRID)
    np.testing.assert_array_equal(found.labels.array, two_lesions())
    assert found.resampled


def test_one_slice_alone_keeps_its_place(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[5, 4, 4] = 1
    found = read_segmentation(write_seg(tmp_path / "a.dcm", labels, GRID, PERSON), GRID)
    assert np.argwhere(found.labels.array).tolist() == [[5, 4, 4]]


def test_only_regions_with_a_wanted_name_are_lesions(tmp_path: Path) -> None:
    names = ("Bone metastasis 1", "Kidney left")
    seg = write_seg(tmp_path / "a.dcm", two_lesions(), GRID, PERSON, names=names)
    found = read_segmentation(seg, GRID, "metastasis|lesion")
    np.testing.assert_array_equal(found.labels.mask, two_lesions() == 1)
    contours = [contours_of(two_lesions() == n, GRID) for n in (1, 2)]
    rtstruct = write_structures(tmp_path / "b.dcm", contours, PERSON, names=names)
    found = read_structure_set(rtstruct, GRID, GRID, "METASTASIS")
    np.testing.assert_array_equal(found.labels.mask, two_lesions() == 1)
    with pytest.raises(UnusableTruthError, match="--roi"):
        read_segmentation(seg, GRID, "liver")


def test_a_truth_outside_the_image_is_measured(tmp_path: Path) -> None:
    away = Grid.axis_aligned(SHAPE, GRID.spacing_mm, (-10.0, -20.0, -30.0 + 3 * 5.0))
    found = read_segmentation(write_seg(tmp_path / "a.dcm", two_lesions(), away, PERSON), GRID)
    assert found.share_outside == pytest.approx(2 / 26)  # slice 6 of it is slice 9 of 8


def test_frames_that_are_no_stack_are_refused(tmp_path: Path) -> None:
    import pydicom

    path = write_seg(tmp_path / "a.dcm", two_lesions(), GRID, PERSON)
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient[0] = 7.0
    dataset.save_as(path)
    with pytest.raises(UnusableTruthError, match="no stack"):
        read_segmentation(path, GRID)


def test_a_file_cut_off_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "a.dcm", two_lesions(), GRID, PERSON)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnusableTruthError, match="damaged"):
        read_segmentation(path, GRID)


def contours_of(mask: NDArray[np.bool_], grid: Grid) -> list[NDArray[np.float64]]:
    """Along the voxels' edges, in LPS mm."""
    return [
        grid.to_lps(np.column_stack([polygon, np.full(len(polygon), float(z))]))
        for z in range(grid.shape[0])
        if mask[z].any()
        for polygon in outlines(mask[z])
    ]


def square(low: float, high: float, z: float, grid: Grid) -> NDArray[np.float64]:
    """A square contour in index coordinates of ``grid``, in LPS mm."""
    corners = [[low, low, z], [high, low, z], [high, high, z], [low, high, z]]
    return grid.to_lps(np.array(corners))


@pytest.mark.parametrize("grid", [GRID, oblique()], ids=["straight", "oblique"])
def test_contours_on_functional_slices_give_exactly_their_voxels(tmp_path: Path, grid: Grid) -> None:
    contours = [contours_of(two_lesions() == n, grid) for n in (1, 2)]
    found = read_structure_set(write_structures(tmp_path / "a.dcm", contours, PERSON), grid, FINE)
    np.testing.assert_array_equal(found.labels.array, two_lesions())
    assert not found.resampled
    assert found.share_outside == 0.0


def test_a_contour_within_a_contour_is_a_hole(tmp_path: Path) -> None:
    contours = [[square(1.5, 7.5, 3, GRID), square(3.5, 5.5, 3, GRID)]]
    found = read_structure_set(write_structures(tmp_path / "a.dcm", contours, PERSON), GRID, GRID)
    expected = np.zeros(SHAPE, np.bool_)
    expected[3, 2:8, 2:8] = True
    expected[3, 4:6, 4:6] = False
    np.testing.assert_array_equal(found.labels.mask, expected)


def test_contours_on_ct_slices_between_the_functional_ones_fill_them(tmp_path: Path) -> None:
    fine = np.kron(two_lesions(), np.ones((2, 2, 2), np.uint16))
    contours = [contours_of(fine == n, FINE) for n in (1, 2)]
    found = read_structure_set(write_structures(tmp_path / "a.dcm", contours, PERSON), GRID, FINE)
    np.testing.assert_array_equal(found.labels.array, two_lesions())
    assert found.resampled


def test_a_slice_further_than_half_a_step_from_any_contour_stays_empty(tmp_path: Path) -> None:
    contours = [[square(1.5, 7.5, 2.3, GRID), square(1.5, 7.5, 5.3, GRID)]]
    found = read_structure_set(write_structures(tmp_path / "a.dcm", contours, PERSON), GRID, GRID)
    assert np.flatnonzero(found.labels.mask.any(axis=(1, 2))).tolist() == [1, 2, 3, 4, 5, 6]
    one_step_mm = [[square(1.5, 7.5, 2.0, FINE), square(1.5, 7.5, 5.0, FINE)]]  # CT slices, 2.5 mm thick
    found = read_structure_set(write_structures(tmp_path / "b.dcm", one_step_mm, PERSON), GRID, FINE)
    assert np.flatnonzero(found.labels.mask.any(axis=(1, 2))).tolist() == [1, 2]


def test_contours_on_a_ct_that_lies_askew_are_filled_there(tmp_path: Path) -> None:
    functional = oblique()
    centre = functional.to_index(functional.corners_mm().mean(axis=0))[0]
    ct = Grid.axis_aligned((60, 60, 60), (1.0, 1.0, 1.0), tuple(functional.corners_mm().mean(axis=0) - 30.0))
    contours = [[square(22.5, 37.5, float(z), ct) for z in range(22, 38)]]
    found = read_structure_set(write_structures(tmp_path / "a.dcm", contours, PERSON), functional, ct)
    volume_ml = found.labels.mask.sum() * functional.voxel_ml
    assert volume_ml == pytest.approx(16 * 15 * 15 / 1000, rel=0.15)
    np.testing.assert_allclose(np.argwhere(found.labels.mask)[:, ::-1].mean(axis=0), centre, atol=0.3)


def test_contours_in_planes_of_neither_image_are_refused(tmp_path: Path) -> None:
    sagittal = np.array([[0.0, -10, -20], [0, 10, -20], [0, 10, 0]])
    path = write_structures(tmp_path / "a.dcm", [[sagittal]], PERSON)
    with pytest.raises(UnusableTruthError, match="neither"):
        read_structure_set(path, GRID, FINE)


def test_nearest_labels_agree_with_a_search_over_all_voxels() -> None:
    rng = np.random.default_rng(3)
    source = LabelMap(rng.integers(0, 4, SHAPE).astype(np.uint16), GRID)
    target = oblique()
    target = Grid(
        target.shape, np.vstack([np.column_stack([target.affine[:3, :3], GRID.origin_mm]), [0, 0, 0, 1]])
    )
    found = nearest_labels(source, target)
    for z, y, x in np.ndindex(*target.shape):
        place = np.rint(GRID.to_index(target.to_lps(np.array([[x, y, z]], float)))[0]).astype(int)[::-1]
        inside = (place >= 0).all() and (place < SHAPE).all()
        assert found.array[z, y, x] == (source.array[tuple(place)] if inside else 0)


def test_nothing_drawn_lies_nowhere() -> None:
    assert share_outside(LabelMap(np.zeros(SHAPE, np.uint16), GRID), FINE) == 0.0


def test_a_mask_is_numbered_as_the_product_numbers_lesions() -> None:
    lesions, parted = numbered_lesions(LabelMap((two_lesions() > 0).astype(np.uint16) * 7, GRID))
    np.testing.assert_array_equal(lesions.array, two_lesions())
    assert not parted


def test_a_readers_own_numbers_stay_where_regions_touch() -> None:
    labels = np.zeros(SHAPE, np.uint16)
    labels[2, 2, 2], labels[2, 2, 3:6] = 1, 5
    lesions, parted = numbered_lesions(LabelMap(labels, GRID))
    assert (int(lesions.array[2, 2, 2]), int(lesions.array[2, 2, 4]), parted) == (1, 2, False)


def test_a_lesion_cut_in_two_by_a_smaller_one_stays_one() -> None:
    labels = np.zeros(SHAPE, np.uint16)
    labels[2, 2, 2:8], labels[2, 2, 4] = 1, 2
    lesions, parted = numbered_lesions(LabelMap(labels, GRID))
    assert (lesions.count, parted) == (2, False)


def test_a_region_in_many_places_is_as_many_lesions() -> None:
    labels = two_lesions()
    labels[0, 0, 0] = 1
    lesions, parted = numbered_lesions(LabelMap(labels, GRID))
    assert [int((lesions.array == n).sum()) for n in (1, 2, 3)] == [24, 2, 1]
    assert parted
