"""Lesions of two studies in one space: how much they overlap, how near they are, and what neither saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from app.domain.findings.change import Affinity, Proximity
from app.domain.volume import FloatArray, Grid, LabelMap

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
    back: FloatArray = np.linalg.inv(current_to_previous).astype(np.float64)
    before = {n: _cloud(points, previous.grid, current, back) for n, points in _lesions(previous)}
    now = {
        n: _moved(_cloud(points, current.grid, previous, current_to_previous), current_to_previous)
        for n, points in _lesions(current)
    }
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


def _cloud(points_mm: FloatArray, grid: Grid, other: LabelMap, motion: FloatArray) -> _Cloud:
    index = np.rint(other.grid.to_index(_through(motion, points_mm))[:, ::-1]).astype(np.int64)
    inside = ((index >= 0) & (index < np.array(other.grid.shape))).all(axis=1)
    found = np.zeros(len(points_mm), dtype=np.uint16)
    found[inside] = other.array[tuple(index[inside].T)]
    return _Cloud(points_mm, len(points_mm) * grid.voxel_ml, found, bool(inside.mean() >= SEEN_SHARE))


def _moved(cloud: _Cloud, motion: FloatArray) -> _Cloud:
    return _Cloud(_through(motion, cloud.points_mm), cloud.volume_ml, cloud.found, cloud.seen)


def _through(motion: FloatArray, points_mm: FloatArray) -> FloatArray:
    moved: FloatArray = points_mm @ motion[:3, :3].T + motion[:3, 3]
    return moved


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
