"""Projections: left is left on any grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain.volume import Grid
from app.imaging.mip import Projection, along_lps, anterior, left_lateral

SPACING = (4.0, 3.0, 5.0)
SIZE = (20, 24, 30)
"""Voxels along L, P and S."""

POINT_MM = (42.0, -15.0, 700.0)
"""On the patient's left, towards the front, low."""


def grids() -> list[Grid]:
    """The same box in every order of axes and every direction, and turned a little."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = 0
            for index, (lps, sign) in enumerate(zip(order, signs, strict=True)):
                affine[lps, index] = sign * SPACING[lps]
            sizes = [SIZE[lps] for lps in order]
            corner = affine[:3, :3] @ (np.array(sizes) - 1)
            affine[:3, 3] = np.array([4.0, -20.0, 750.0]) - corner / 2
            found.append(Grid((sizes[2], sizes[1], sizes[0]), affine))
    angle = np.deg2rad(9.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.diag([*SPACING, 1.0])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = np.array([4.0, -20.0, 750.0]) - affine[:3, :3] @ (np.array(SIZE) - 1) / 2
    return [*found, Grid(SIZE[::-1], affine)]


def with_a_point(grid: Grid) -> NDArray[np.float32]:
    """An image that is hot near POINT_MM and nowhere else."""
    z, y, x = np.indices(grid.shape)
    points = grid.to_lps(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(float))
    near = np.linalg.norm(points - np.array(POINT_MM), axis=1).reshape(grid.shape)
    return np.exp(-((near / 6.0) ** 2)).astype(np.float32)


def hottest_mm(view: Projection) -> tuple[float, float]:
    row, column = np.unravel_index(view.image.argmax(), view.image.shape)
    (left, right), (low, high) = view.horizontal_mm, view.vertical_mm
    rows, columns = view.image.shape
    return (
        left + (column + 0.5) * (right - left) / columns,
        high - (row + 0.5) * (high - low) / rows,
    )


@pytest.mark.parametrize("grid", grids())
def test_a_hot_spot_on_the_left_is_at_the_viewers_right_from_the_front(grid: Grid) -> None:
    x, z = hottest_mm(anterior(with_a_point(grid), grid))
    assert x == pytest.approx(POINT_MM[0], abs=4.0)
    assert z == pytest.approx(POINT_MM[2], abs=4.0)


@pytest.mark.parametrize("grid", grids())
def test_the_front_is_at_the_viewers_left_from_the_patients_left(grid: Grid) -> None:
    y, z = hottest_mm(left_lateral(with_a_point(grid), grid))
    assert y == pytest.approx(POINT_MM[1], abs=4.0)
    assert z == pytest.approx(POINT_MM[2], abs=4.0)


def test_the_head_is_up_and_edges_run_with_the_axes() -> None:
    grid = grids()[0]
    image = np.zeros(grid.shape, dtype=np.float32)
    image[-1] = 1.0  # the slice nearest the head
    view = anterior(image, grid)
    assert (view.image[0] == 1.0).all()
    assert (view.image[1:] == 0.0).all()
    assert view.horizontal_mm[0] < view.horizontal_mm[1]
    assert view.vertical_mm[1] - view.vertical_mm[0] == pytest.approx(SIZE[2] * SPACING[2])


def test_aligned_grids_keep_every_value() -> None:
    rng = np.random.default_rng(0)
    for grid in grids()[:-1]:
        image = rng.random(grid.shape).astype(np.float32)
        aligned, lps = along_lps(image, grid)
        assert np.array_equal(np.sort(aligned.ravel()), np.sort(image.ravel()))
        assert (np.diag(lps.affine)[:3] > 0).all()
        index = np.array([[2.0, 3.0, 4.0]])
        x, y, z = np.rint(grid.to_index(lps.to_lps(index))[0]).astype(int)
        assert aligned[4, 3, 2] == image[z, y, x]
