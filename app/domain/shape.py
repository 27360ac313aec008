"""Distances of a lesion and among lesions: exact, whatever the grid.

The farthest pair of a set of points is found without comparing all pairs, and without approximation:

* on a straight line of voxels only the two ends can belong to a farthest pair, since distance to any point is
  convex; so only voxels that end their line in every direction looked at stay;
* a lower bound L is found by walking from a point to the one farthest from it until nothing is gained;
* with R the largest distance from a centre c, a point p has no partner beyond ``|p - c| + R``; where that is
  below L, p goes. Any c will do; the middle of the best pair found keeps R small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import FloatArray, Grid

ROUNDING_MM = 1e-6
"""Below any grid's precision: a pair that ties with the bound must not be lost to rounding."""

CHUNK_PAIRS = 2_000_000
"""So many distances are held at once: 16 MB."""

LINE_DIRECTIONS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1),
                   (0, 1, -1), (1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1))  # fmt: skip

IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class FarthestPair:
    """Two points of a set, by their place in it, and their distance."""

    distance_mm: float
    first: int
    second: int


def longest_diameter_mm(voxels_zyx: IndexArray, grid: Grid) -> float:
    """The largest distance between two voxel centres of a lesion; 0 for a single voxel.

    Args:
        voxels_zyx: ``(n, 3)`` as (z, y, x), at least one.
        grid: where they lie; any affine.
    """
    ends = voxels_zyx[_end_every_line(voxels_zyx)]
    return farthest_pair(grid.to_lps(ends[:, ::-1].astype(np.float64))).distance_mm


def farthest_pair(points_mm: FloatArray) -> FarthestPair:
    """The two points farthest apart; of pairs equally far, the one that comes first.

    Args:
        points_mm: ``(n, 3)``.

    Raises:
        ValueError: there is no point.
    """
    if len(points_mm) == 0:
        raise ValueError("no point, so no distance")
    first, second = _far_pair(points_mm)
    bound = _distance(points_mm[first], points_mm[second])
    centre = (points_mm[first] + points_mm[second]) / 2.0
    from_centre = np.linalg.norm(points_mm - centre, axis=1)
    kept = np.flatnonzero(from_centre + from_centre.max() >= bound - ROUNDING_MM)
    return _farthest_of_all(points_mm, kept)


def _end_every_line(voxels: IndexArray) -> NDArray[np.bool_]:
    """Voxels with no neighbour on one side, along every direction.

    A voxel between two voxels of its line is no end; that alone may keep a voxel which is none (its line has
    a gap), never lose one which is.
    """
    padded = voxels - voxels.min(axis=0) + 1
    inside = np.zeros(padded.max(axis=0) + 2, dtype=np.bool_)
    inside[tuple(padded.T)] = True
    is_end = np.ones(len(voxels), dtype=np.bool_)
    for direction in LINE_DIRECTIONS:
        is_end &= ~(inside[tuple((padded + direction).T)] & inside[tuple((padded - direction).T)])
    return is_end


def _far_pair(points: FloatArray) -> tuple[int, int]:
    """Two points far apart: from each point to its farthest, until the distance grows no more."""
    first = _farthest_from(points.mean(axis=0), points)
    second, reached = first, -1.0
    while True:
        partner = _farthest_from(points[first], points)
        distance = _distance(points[first], points[partner])
        if distance <= reached:
            return second, first
        first, second, reached = partner, first, distance


def _farthest_from(point: FloatArray, points: FloatArray) -> int:
    return int(np.linalg.norm(points - point, axis=1).argmax())


def _distance(point: FloatArray, other: FloatArray) -> float:
    return float(np.linalg.norm(point - other))


def _farthest_of_all(points: FloatArray, kept: NDArray[np.intp]) -> FarthestPair:
    """Every pair of the points kept, a chunk of rows at a time."""
    some = points[kept]
    rows = max(1, CHUNK_PAIRS // len(some))
    best, pair = -1.0, (0, 0)
    for start in range(0, len(some), rows):
        apart = np.linalg.norm(some[start : start + rows, None] - some[None, start:], axis=2)
        place = int(apart.argmax())
        if apart.flat[place] > best:
            row, column = divmod(place, apart.shape[1])
            best, pair = float(apart.flat[place]), (start + row, start + column)
    return FarthestPair(best, int(kept[pair[0]]), int(kept[pair[1]]))
