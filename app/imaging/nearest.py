"""Labels on another grid by nearest neighbour: what a reader drew is moved, never smoothed."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import FloatArray, Grid, LabelMap

ON_THE_EDGE = 1e-6
"""Of a voxel: a centre that lies exactly between two voxels goes to the lower one on every machine."""


def nearest_labels(labels: LabelMap, grid: Grid) -> LabelMap:
    """The label at every voxel centre of ``grid``; 0 outside the source.

    Exact between grids that differ only in the order or direction of their axes.

    Args:
        labels: on any grid in the same space.
        grid: where the result lies.
    """
    if labels.grid.matches(grid):
        return LabelMap(labels.array, grid)
    moved = np.zeros(grid.shape, dtype=np.uint16)
    box = _box_of(labels, grid)
    if box is None:
        return LabelMap(moved, grid)
    z_range, y_range, x_range = box
    y, x = (axis.ravel() for axis in np.meshgrid(np.arange(*y_range), np.arange(*x_range), indexing="ij"))
    for z in range(*z_range):
        index = labels.grid.to_index(grid.to_lps(np.column_stack([x, y, np.full(x.size, z)]).astype(float)))
        moved[z, y, x] = _values_at(labels, index)
    return LabelMap(moved, grid)


def share_outside(labels: LabelMap, grid: Grid) -> float:
    """Share of the labelled voxels whose centres lie outside ``grid``, 0..1; 0 when nothing is labelled."""
    centres = np.argwhere(labels.mask)[:, ::-1].astype(np.float64)
    if not len(centres):
        return 0.0
    index = grid.to_index(labels.grid.to_lps(centres))
    return 1.0 - float(inside(index, grid).mean())


def inside(index_xyz: FloatArray, grid: Grid) -> NDArray[np.bool_]:
    """Whether each index ``(n, 3)`` lies within the voxels of ``grid``."""
    size = np.array(grid.shape[::-1], dtype=np.float64)
    return np.asarray(((index_xyz >= -0.5) & (index_xyz < size - 0.5)).all(axis=1))


def _values_at(labels: LabelMap, index_xyz: FloatArray) -> NDArray[np.uint16]:
    nearest = np.ceil(index_xyz - 0.5 - ON_THE_EDGE).astype(np.int64)
    within = ((nearest >= 0) & (nearest < np.array(labels.grid.shape[::-1]))).all(axis=1)
    values = np.zeros(len(nearest), dtype=np.uint16)
    x, y, z = nearest[within].T
    values[within] = labels.array[z, y, x]
    return values


def _box_of(labels: LabelMap, grid: Grid) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
    """The part of ``grid`` that the labels can reach, as ranges of z, y and x."""
    occupied = np.argwhere(labels.mask)
    if not len(occupied):
        return None
    low, high = occupied.min(axis=0)[::-1] - 0.5, occupied.max(axis=0)[::-1] + 0.5
    corners = np.array(list(product(*zip(low, high, strict=True))))
    index = grid.to_index(labels.grid.to_lps(corners))[:, ::-1]
    first = np.maximum(np.floor(index.min(axis=0)).astype(int), 0)
    end = np.minimum(np.ceil(index.max(axis=0)).astype(int) + 1, np.array(grid.shape))
    if (first >= end).any():
        return None
    z, y, x = ((int(a), int(b)) for a, b in zip(first, end, strict=True))
    return z, y, x
