"""Painting of shapes, against volumes that geometry knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.volume import Grid
from app.phantom.anatomy.shapes import (
    BLOCK,
    CYLINDER,
    ELLIPSOID,
    PLUMP,
    ROUNDED,
    Exponents,
    Pose,
    Shape,
    euler,
    paint,
    stencil,
    tube,
)

GRID = Grid.axis_aligned((60, 64, 68), (2.0, 2.0, 2.4), (-68.0, -64.0, -70.0))


def painted_ml(shape: Shape) -> float:
    image = np.zeros(GRID.shape, np.float32)
    paint(image, GRID, Pose.identity(), [(shape, 1.0)])
    return float(image.sum()) * GRID.voxel_ml


angles = st.floats(-180, 180)


@settings(max_examples=25, deadline=None)
@given(angles, angles, angles, st.floats(-8, 8))
def test_an_ellipsoid_keeps_its_volume_in_every_pose(x: float, y: float, z: float, shift_mm: float) -> None:
    half_axes = (24.0, 16.0, 20.0)
    shape = Shape((shift_mm, -shift_mm, shift_mm / 2), half_axes, rotation=euler(x, y, z))
    assert painted_ml(shape) == pytest.approx(4 / 3 * np.pi * np.prod(half_axes) / 1000, rel=0.02)


def test_a_cylinder_has_the_volume_of_a_cylinder() -> None:
    shape = Shape((0, 0, 0), (20, 20, 30), exponents=CYLINDER)
    assert painted_ml(shape) == pytest.approx(np.pi * 20**2 * 60 / 1000, rel=0.08)


@pytest.mark.parametrize("exponents", [ELLIPSOID, ROUNDED, CYLINDER, PLUMP, BLOCK])
def test_no_shape_reaches_beyond_its_box(exponents: Exponents) -> None:
    shape = Shape((3, -2, 1), (22, 12, 30), exponents=exponents, rotation=euler(30, 40, 50))
    placed = stencil(shape, Pose.identity(), GRID)
    assert placed is not None
    full = (slice(0, GRID.shape[0]), slice(0, GRID.shape[1]), slice(0, GRID.shape[2]))
    everywhere, outside = placed.coverage(GRID, full), np.ones(GRID.shape, np.bool_)
    outside[placed.box] = False
    assert everywhere.max() == 1
    assert everywhere[outside].max() < 0.02


def test_slabs_cover_the_box_once() -> None:
    placed = stencil(Shape((0, 0, 0), (60, 60, 60)), Pose.identity(), GRID)
    assert placed is not None
    touched = np.zeros(GRID.shape, np.int8)
    for box in placed.slabs():
        touched[box] += 1
    assert (touched[placed.box] == 1).all()
    assert touched.sum() == touched[placed.box].sum()


def test_a_shape_outside_the_grid_is_left_out() -> None:
    assert stencil(Shape((500, 0, 0), (10, 10, 10)), Pose.identity(), GRID) is None


def test_a_tube_joins_its_ends() -> None:
    shape = tube((-20, 0, -30), (20, 10, 30), (6, 6))
    image = np.zeros(GRID.shape, np.float32)
    paint(image, GRID, Pose.identity(), [(shape, 1.0)])
    points = np.array([(-20, 0, -30), (0, 5, 0), (20, 10, 30)]) * np.array([[0.8], [1.0], [0.8]])
    for x, y, z in np.rint(GRID.to_index(points)).astype(int):
        assert image[z, y, x] > 0.9


def test_none_leaves_the_tissue_underneath() -> None:
    image = np.full(GRID.shape, 7, np.float32)
    paint(image, GRID, Pose.identity(), [(Shape((0, 0, 0), (20, 20, 20)), None)])
    assert (image == 7).all()
