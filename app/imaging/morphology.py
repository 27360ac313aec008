"""Masks grown, thinned, filled: what is near, what is deep, what is enclosed, what hangs together.

Every function gives, voxel by voxel, what the plain definition on the whole array gives (a distance transform
of scipy, its morphology, a labelling): it only looks no farther than the answer can depend on. Distances are
between voxel centres of isotropic grids, in voxels.
"""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Bool = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

IN_PLANE = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], dtype=bool)
"""Neighbours within an axial slice, faces only."""

FIRST_REACH = 12
"""Voxels around a seed that are looked at first."""


def box_of(mask: Bool, margin: int = 0) -> Box | None:
    """The smallest box that holds the mask, so many voxels wider within the array; ``None`` if empty."""
    box: list[slice] = []
    for axis in range(3):
        inner = mask[tuple(box)] if axis else mask
        places = np.flatnonzero(inner.any(axis=tuple(other for other in range(3) if other != axis)))
        if not places.size:
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    z, y, x = (
        slice(max(part.start - margin, 0), min(part.stop + margin, n))
        for part, n in zip(box, mask.shape, strict=True)
    )
    return z, y, x


def near(mask: Bool, reach: float) -> Bool:
    """Voxels with a voxel of the mask within ``reach``: ``distance_transform_edt(~mask) <= reach``.

    Nothing is near an empty mask.
    """
    found = np.zeros(mask.shape, dtype=np.bool_)
    box = box_of(mask, int(reach))
    if box is not None:
        found[box] = _squared_distance(mask[box], int(reach**2)) <= reach**2
    return found


def deep(mask: Bool, reach: float) -> Bool:
    """Voxels of the mask with all within ``reach`` in it too: ``distance_transform_edt(mask) > reach``.

    What lies outside the array counts as mask.
    """
    found = np.zeros(mask.shape, dtype=np.bool_)
    box = box_of(mask, int(reach))
    if box is not None:
        found[box] = _squared_distance(~mask[box], int(reach**2)) > reach**2
    return found


def _squared_distance(mask: Bool, most: int) -> NDArray[np.unsignedinteger]:
    """To the nearest voxel of the mask, squared; above ``most`` where it is farther. Axis by axis, as a
    squared distance is a sum (Felzenszwalb, Huttenlocher, Theory Comput 2012;8:415)."""
    kind = np.result_type(np.uint16, np.min_scalar_type(2 * most + 1))  # the largest sum below
    distance: NDArray[np.unsignedinteger] = np.where(mask, kind.type(0), kind.type(most + 1))
    for axis in range(3):
        before, distance = distance.swapaxes(0, axis), distance.copy()
        after = distance.swapaxes(0, axis)
        for step in range(1, min(int(most**0.5), len(after) - 1) + 1):
            moved = before + kind.type(step**2)
            np.minimum(after[step:], moved[:-step], out=after[step:])
            np.minimum(after[:-step], moved[step:], out=after[:-step])
    return distance


def depths(mask: Bool) -> NDArray[np.float64]:
    """Distance from each voxel of the mask to the nearest outside it: ``distance_transform_edt(mask)``.

    Any voxel outside lies farther than the one of the mask's box, a voxel wider, that is nearest to it.
    """
    found = np.zeros(mask.shape)
    box = box_of(mask, 1)
    if box is not None:
        found[box] = ndimage.distance_transform_edt(mask[box])
    return found


def filled_slices(mask: Bool) -> Bool:
    """The mask with what it encloses within each axial slice: ``binary_fill_holes`` slice by slice."""
    parts, count = ndimage.label(~mask, IN_PLANE)
    is_open = np.zeros(count + 1, dtype=np.bool_)
    for edge in (parts[:, 0], parts[:, -1], parts[:, :, 0], parts[:, :, -1]):
        is_open[edge] = True
    is_open[0] = False
    filled: Bool = ~is_open[parts]
    return filled


def part_at(mask: Bool, seed: tuple[int, ...]) -> tuple[Box, Bool]:
    """The part of the mask that hangs together, by faces, with a seed in it: a box, and the part in it.

    It is looked for around the seed, twice as far while it goes on at an end of what was looked at.
    """
    reach = FIRST_REACH
    while True:
        sides = zip(seed, mask.shape, strict=True)
        around = [(max(at - reach, 0), min(at + reach + 1, n)) for at, n in sides]
        z, y, x = (slice(*ends) for ends in around)
        parts = cc3d.connected_components(mask[z, y, x].astype(np.uint8), connectivity=6)
        part = parts == parts[tuple(at - start for at, (start, _) in zip(seed, around, strict=True))]
        if not any(_goes_on(part, around[axis], axis, mask.shape[axis]) for axis in range(3)):
            return (z, y, x), part
        reach *= 2


def _goes_on(part: Bool, ends: tuple[int, int], axis: int, size: int) -> bool:
    """Whether a part of a box reaches an end of it along an axis that is not the array's own."""
    first, last = part.take(0, axis), part.take(-1, axis)
    return bool((ends[0] > 0 and first.any()) or (ends[1] < size and last.any()))


def thinned(mask: Bool, times: int = 1) -> Bool:
    """``binary_erosion`` by the six neighbours; what lies outside the array is no mask."""
    for _ in range(times):
        inner = mask.copy()
        for axis in range(3):
            before, after = mask.swapaxes(0, axis), inner.swapaxes(0, axis)
            after[1:] &= before[:-1]
            after[:-1] &= before[1:]
            after[0] = after[-1] = False
        mask = inner
    return mask


def grown(mask: Bool, times: int = 1) -> Bool:
    """``binary_dilation`` by the six neighbours."""
    for _ in range(times):
        outer = mask.copy()
        for axis in range(3):
            before, after = mask.swapaxes(0, axis), outer.swapaxes(0, axis)
            after[1:] |= before[:-1]
            after[:-1] |= before[1:]
        mask = outer
    return mask
