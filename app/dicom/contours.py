"""Outlines of a mask along its voxels' edges: closed polygons that hold exactly the voxels of the mask.

Their area is the mask's, and every voxel centre lies half a voxel away from them, so that drawing them on the
same grid gives the same mask. A region with a hole is cut in two at the hole's upper end, again and again
until no piece has one: pieces never overlap, so a reader that unites contours and one that takes their
exclusive or (PS3.3 C.8.8.6.3) see the same, and no keyhole is needed.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Corner = tuple[int, int]
Polygon = NDArray[np.float64]
"""``(n, 2)`` vertices (x, y) in voxel indices, not closed; corners lie at halves."""


def outlines(mask: Mask) -> list[Polygon]:
    """The polygons of one slice, ``(rows, columns)``."""
    loops = _loops(mask)
    hole = next((loop for loop in loops if _signed_area(loop) < 0), None)
    if hole is None:
        return [np.array(_corners_alone(loop), dtype=np.float64) - 0.5 for loop in loops]
    cut = min(y for _, y in hole)
    upper, lower = mask.copy(), mask.copy()
    upper[cut:], lower[:cut] = False, False
    return outlines(upper) + outlines(lower)


def filled(polygon: Polygon, shape: tuple[int, int]) -> Mask:
    """Voxels of a slice of this shape (rows, columns) whose centre lies within a polygon (even-odd rule)."""
    inside = np.zeros(shape, dtype=np.bool_)
    x, y = np.arange(shape[1])[None, :], np.arange(shape[0])[:, None]
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        spans = (y0 > y) != (y1 > y)
        if spans.any():
            inside ^= spans & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def _loops(mask: Mask) -> list[list[Corner]]:
    """Closed walks along the edges, the mask at the right hand: clockwise outside, the other way round holes.

    Corners are counted from the upper left of voxel (0, 0).
    """
    leaving = _edges(mask)
    loops = []
    while leaving:
        start = min(leaving)
        loop, before, here = [start], None, start
        while True:
            ahead = _turn(before, here, leaving[here])
            leaving[here].remove(ahead)
            if not leaving[here]:
                del leaving[here]
            before, here = here, ahead
            if here == start:
                break
            loop.append(here)
        loops.append(loop)
    return loops


def _edges(mask: Mask) -> defaultdict[Corner, list[Corner]]:
    """Edges between the mask and the rest, by the corner they leave."""
    padded = np.pad(mask, 1)
    leaving: defaultdict[Corner, list[Corner]] = defaultdict(list)
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above: to the right
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # at the right: down
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # below: to the left
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # at the left: up
    )
    for neighbour, begin, end in sides:
        for row, column in np.argwhere(mask & ~neighbour).tolist():
            leaving[column + begin[0], row + begin[1]].append((column + end[0], row + end[1]))
    return leaving


def _turn(before: Corner | None, here: Corner, choices: list[Corner]) -> Corner:
    """Where voxels touch at a corner alone, keep to the same voxel: turn right."""
    if before is None or len(choices) == 1:
        return choices[0]
    along = (here[0] - before[0], here[1] - before[1])
    right = (here[0] - along[1], here[1] + along[0])
    return right if right in choices else choices[0]


def _signed_area(loop: list[Corner]) -> float:
    """Positive when walked clockwise as seen on the screen (y points down)."""
    x, y = np.array(loop, dtype=np.float64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2.0


def _corners_alone(loop: list[Corner]) -> list[Corner]:
    """Without the points between two ends of a straight line."""
    count = len(loop)
    return [
        point
        for i, point in enumerate(loop)
        if not (loop[i - 1][0] == point[0] == loop[(i + 1) % count][0])
        and not (loop[i - 1][1] == point[1] == loop[(i + 1) % count][1])
    ]
