"""Lesions as labels: numbered from a mask, moved to another grid, and compared between two studies.

What a reader drew is moved by nearest neighbour, never smoothed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from app.domain.findings.change import Affinity, Proximity
from app.domain.volume import FloatArray, Grid, LabelMap, moved_points

SEEN_SHARE = 0.5
"""A lesion was in the other's field of view when at least this share of its voxels is."""


@dataclass(frozen=True, eq=False)
class _Cloud:
    """One lesion's voxel centres in the other study's space, and what lies there.

    Attributes:
        points_mm: ``(n, 3)`` voxel centres, LPS mm of the *previous* study's space.
        volume_ml: its volume.
        found: the other study's label at each voxel centre; 0 for none.
        seen: whether it lies in the other study's field of view.
    """

    points_mm: FloatArray
    volume_ml: float
    found: NDArray[np.uint16]
    seen: bool


def lesion_proximity(
    previous: LabelMap, current: LabelMap, current_to_previous: FloatArray, reach_mm: float
) -> Proximity:
    """Every pair of lesions that overlaps or lies within ``reach_mm``.

    Args:
        previous, current: each on its own grid.
        current_to_previous: 4x4, LPS mm of the current study to LPS mm of the previous one.
        reach_mm: pairs farther apart are left out.
    """
    back = np.linalg.inv(current_to_previous)
    before, now = {}, {}
    for n, points in _lesions(previous):
        before[n] = _cloud((points, moved_points(back, points)), previous.grid, current)
    for n, points in _lesions(current):
        moved = moved_points(current_to_previous, points)
        now[n] = _cloud((moved, moved), current.grid, previous)
    return Proximity(
        tuple(_affinities(before, now, reach_mm)),
        frozenset(n for n, cloud in before.items() if not cloud.seen),
        frozenset(n for n, cloud in now.items() if not cloud.seen),
    )


def _lesions(labels: LabelMap) -> Iterator[tuple[int, FloatArray]]:
    """Each lesion with its voxel centres, ``(n, 3)`` LPS mm."""
    for number, box in enumerate(find_objects(labels.array), start=1):
        if box is not None:
            voxels = np.argwhere(labels.array[box] == number) + [part.start for part in box]
            yield number, labels.grid.to_lps(voxels[:, ::-1].astype(np.float64))


def _cloud(points: tuple[FloatArray, FloatArray], grid: Grid, other: LabelMap) -> _Cloud:
    """Of the lesion's voxels: their centres in the previous study's space, and in that of ``other``."""
    points_mm, points_in_other_mm = points
    index = np.rint(other.grid.to_index(points_in_other_mm)[:, ::-1]).astype(np.int64)
    inside = ((index >= 0) & (index < np.array(other.grid.shape))).all(axis=1)
    found = np.zeros(len(points_mm), dtype=np.uint16)
    found[inside] = other.array[tuple(index[inside].T)]
    return _Cloud(points_mm, len(points_mm) * grid.voxel_ml, found, bool(inside.mean() >= SEEN_SHARE))


def _affinities(before: dict[int, _Cloud], now: dict[int, _Cloud], reach_mm: float) -> Iterator[Affinity]:
    for previous, old in before.items():
        low, high = old.points_mm.min(axis=0) - reach_mm, old.points_mm.max(axis=0) + reach_mm
        tree: cKDTree | None = None
        for current, new in now.items():
            near = ((new.points_mm >= low) & (new.points_mm <= high)).all(axis=1)
            overlap = _overlap(previous, old, current, new)
            if not near.any() and overlap == 0:
                continue
            tree = tree or cKDTree(old.points_mm)
            distance_mm = float(tree.query(new.points_mm[near])[0].min()) if near.any() else np.inf
            if overlap > 0 or distance_mm <= reach_mm:
                yield Affinity(previous, current, overlap, distance_mm)


def _overlap(previous: int, old: _Cloud, current: int, new: _Cloud) -> float:
    """Shared volume over the smaller volume, from both sides: a coarse grid may miss a small lesion."""
    from_old = float((old.found == current).mean()) * old.volume_ml
    from_new = float((new.found == previous).mean()) * new.volume_ml
    return min(1.0, max(from_old, from_new) / min(old.volume_ml, new.volume_ml))


ON_THE_EDGE = 1e-6
"""Of a voxel: a centre that lies exactly between two voxels goes to the lower one on every machine."""


def nearest_labels(labels: LabelMap, grid: Grid) -> LabelMap:
    """The label at every voxel centre of ``grid``, which is in the same space; 0 outside the source.

    Exact between grids that differ only in the order or direction of their axes.
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


CONNECTIVITY = 18
"""Faces and edges join, corners don't: as the autoPET challenge counts lesions."""

VOLUME_TOLERANCE = 1e-9
"""Relative: a lesion of exactly the minimum stays, whatever the rounding of voxel_ml."""


@dataclass(frozen=True, eq=False)
class LabelledLesions:
    """Lesions, and what was too small to be one.

    Attributes:
        labels: ``1..n``, largest first; of equals, the one whose first voxel comes first in the array.
        dropped_count: components smaller than the minimum.
        dropped_ml: their volume together, ml.
    """

    labels: LabelMap
    dropped_count: int
    dropped_ml: float


def label_lesions(mask: NDArray[np.bool_], grid: Grid, minimum_ml: float) -> LabelledLesions:
    """Connected components (18-neighbourhood) of at least ``minimum_ml``, largest first.

    Raises:
        ValueError: the mask does not fit the grid, or more than 65535 lesions remain.
    """
    if mask.shape != grid.shape:
        raise ValueError(f"mask {mask.shape} does not fit its grid {grid.shape}")
    binary = np.ascontiguousarray(mask, dtype=np.uint8)
    components = cc3d.connected_components(binary, connectivity=CONNECTIVITY)
    inside = np.flatnonzero(components)
    _, first, counts = np.unique(components.ravel()[inside], return_index=True, return_counts=True)
    keep = counts * grid.voxel_ml >= minimum_ml * (1.0 - VOLUME_TOLERANCE)
    order = np.lexsort((first, -counts))
    kept = order[keep[order]]
    if len(kept) > np.iinfo(np.uint16).max:
        raise ValueError(f"found {len(kept)} lesions, at most 65535 can be numbered: is this a lesion mask?")
    numbers = np.zeros(len(counts) + 1, dtype=np.uint16)
    numbers[kept + 1] = np.arange(1, len(kept) + 1)
    return LabelledLesions(
        labels=LabelMap(numbers[components], grid),
        dropped_count=int((~keep).sum()),
        dropped_ml=float(counts[~keep].sum() * grid.voxel_ml),
    )
