"""Which lesions of two studies belong together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from app.domain.findings.change import LinkLimits, link_lesions
from app.domain.findings.findings import Lesion, LesionLink, LinkKind
from app.domain.findings.measurements import measure
from app.domain.volume import Grid, LabelMap, Unit, Volume
from app.imaging.labels import lesion_proximity

GRID = Grid.axis_aligned((30, 40, 50), (4.0, 4.0, 4.0), (10.0, -20.0, 30.0))
LIMITS = LinkLimits(0.1, 10.0)
Box = tuple[slice, slice, slice]


def box(z: int, y: int, x: int, size: int = 4) -> Box:
    return slice(z, z + size), slice(y, y + size), slice(x, x + size)


def labels_of(*boxes: Box, grid: Grid = GRID) -> LabelMap:
    array = np.zeros(grid.shape, np.uint16)
    for number, place in enumerate(boxes, start=1):
        array[place] = number
    return LabelMap(array, grid)


def lesions_of(labels: LabelMap, uptake: float = 5.0) -> tuple[Lesion, ...]:
    suv = Volume(np.full(labels.grid.shape, uptake, np.float32), labels.grid, Unit.SUVBW)
    return measure(labels, suv, None).lesions


def linked(
    previous: LabelMap, current: LabelMap, motion: NDArray[np.float64] | None = None
) -> tuple[LesionLink, ...]:
    moved = np.eye(4) if motion is None else motion
    proximity = lesion_proximity(previous, current, moved, LIMITS.max_distance_mm)
    return link_lesions(lesions_of(previous), lesions_of(current, 10.0), proximity, LIMITS)


def kinds(links: tuple[LesionLink, ...]) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    return [(link.kind.value, link.previous, link.current) for link in links]


def test_one_lesion_grown_is_matched_with_its_changes() -> None:
    (link,) = linked(labels_of(box(5, 5, 5, 4)), labels_of(box(5, 5, 5, 5)))
    assert link.kind is LinkKind.MATCHED
    assert link.volume_percent == pytest.approx(100 * (125 / 64 - 1))
    assert link.tl_psma_percent == pytest.approx(100 * (2 * 125 / 64 - 1))
    assert link.suv_max_percent == pytest.approx(100.0)


def test_split_merged_new_and_vanished_in_one_patient() -> None:
    previous = labels_of(box(2, 2, 2, 8), box(15, 5, 5), box(15, 5, 10), box(25, 35, 5))
    current = labels_of(box(14, 5, 4, 10), box(2, 2, 2, 3), box(7, 7, 7, 3), box(2, 30, 40))
    assert kinds(linked(previous, current)) == [
        ("merged", (2, 3), (1,)),
        ("split", (1,), (2, 3)),
        ("new", (), (4,)),
        ("vanished", (4,), ()),
    ]


def test_many_to_many_is_a_regrouping() -> None:
    previous = labels_of(box(5, 5, 5, 6), box(5, 5, 12, 6))
    current = labels_of((slice(5, 11), slice(5, 11), slice(8, 15)), box(5, 5, 4, 3))
    assert kinds(linked(previous, current)) == [("regrouped", (1, 2), (1, 2))]


def test_lesions_near_each_other_are_one_only_up_to_the_named_distance() -> None:
    previous = labels_of(box(5, 5, 5))
    assert kinds(linked(previous, labels_of(box(5, 5, 10)))) == [("matched", (1,), (1,))]  # 8 mm
    assert kinds(linked(previous, labels_of(box(5, 5, 11)))) == [  # 12 mm
        ("new", (), (1,)),
        ("vanished", (1,), ()),
    ]


def test_nearness_links_one_to_one_and_never_what_overlaps_already() -> None:
    previous = labels_of(box(5, 5, 5))
    current = labels_of(box(5, 5, 5), box(5, 5, 10))
    assert kinds(linked(previous, current)) == [("matched", (1,), (1,)), ("new", (), (2,))]


def test_what_the_other_study_did_not_show_is_neither_new_nor_vanished() -> None:
    shorter = Grid.axis_aligned((20, 40, 50), (4.0, 4.0, 4.0), (10.0, -20.0, 70.0))
    whole, part = labels_of(box(2, 5, 5), box(20, 20, 20)), labels_of(box(10, 20, 20), grid=shorter)
    assert kinds(linked(part, whole)) == [("not seen before", (), (1,)), ("matched", (1,), (2,))]
    assert kinds(linked(whole, part)) == [("matched", (2,), (1,)), ("not seen now", (1,), ())]


def test_a_lesion_smaller_than_a_voxel_of_the_other_grid_is_found() -> None:
    fine = Grid.axis_aligned((120, 160, 200), (1.0, 1.0, 1.0), (8.5, -21.5, 28.5))
    small = np.zeros(fine.shape, np.uint16)
    small[21, 21, 21] = 1
    links = linked(LabelMap(small, fine), labels_of(box(3, 3, 3, 5)))
    assert kinds(links) == [("matched", (1,), (1,))]


@settings(max_examples=25, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    shift=st.tuples(*[st.floats(-500, 500)] * 3),
    flips=st.tuples(*[st.booleans()] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_links_forget_how_bodies_lay_and_grids_run(
    angles: tuple[float, float, float],
    shift: tuple[float, float, float],
    flips: tuple[bool, bool, bool],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    previous = labels_of(*[box(*(int(v) for v in rng.integers(2, 24, 3))) for _ in range(4)])
    current = labels_of(*[box(*(int(v) for v in rng.integers(2, 24, 3))) for _ in range(4)])
    sizes = [np.bincount(labels.array.ravel(), minlength=5) for labels in (previous, current)]
    assume(all(size.all() for size in sizes))  # no box hid another
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    motion[:3, 3] = shift
    placed = Grid(previous.grid.shape, motion @ previous.grid.affine)
    axes = tuple(axis for axis, flip in enumerate(flips) if flip)
    affine = placed.affine.copy()
    for axis in axes:  # (z, y, x) against columns (x, y, z)
        column = 2 - axis
        affine[:3, 3] += affine[:3, column] * (placed.shape[axis] - 1)
        affine[:3, column] *= -1
    turned = LabelMap(np.flip(previous.array, axes), Grid(placed.shape, affine))
    assert kinds(linked(turned, current, motion)) == kinds(linked(previous, current))


def test_every_lesion_is_in_exactly_one_link() -> None:
    rng = np.random.default_rng(5)
    previous = labels_of(*[box(*(int(v) for v in rng.integers(0, 24, 3)), size=3) for _ in range(12)])
    current = labels_of(*[box(*(int(v) for v in rng.integers(0, 24, 3)), size=3) for _ in range(12)])
    links = linked(previous, current)
    assert sorted(n for link in links for n in link.previous) == list(range(1, 13))
    assert sorted(n for link in links for n in link.current) == list(range(1, 13))


def test_links_do_not_depend_on_values() -> None:
    previous, current = labels_of(box(5, 5, 5)), labels_of(box(5, 5, 6))
    proximity = lesion_proximity(previous, current, np.eye(4), 10.0)
    cold = tuple(replace(lesion, suv_max=0.0, tl_psma=0.0) for lesion in lesions_of(previous))
    (link,) = link_lesions(cold, lesions_of(current), proximity, LIMITS)
    assert (link.kind, link.suv_max_percent, link.tl_psma_percent) == (LinkKind.MATCHED, None, None)
