"""Maximum intensity projections, as a physician stands before the patient.

Pure numpy. Any grid is brought to the LPS axes first, so that left is left whatever order the scanner wrote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import Grid

ALIGNED_TOLERANCE = 1e-3
"""Direction cosines off the axes below this (1 mm in a metre) count as aligned: no resampling."""

Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Projection:
    """A view of the patient.

    Attributes:
        image: ``(rows, columns)``, row 0 at the head, column 0 at the viewer's left.
        horizontal_mm: LPS position of the left and right edge: x in the anterior, y in the lateral view.
        vertical_mm: LPS z of the lower and upper edge.
    """

    image: Image
    horizontal_mm: tuple[float, float]
    vertical_mm: tuple[float, float]


def anterior(array: NDArray[np.generic], grid: Grid) -> Projection:
    """An image ``(z, y, x)`` from the front: the patient's right is at the viewer's left."""
    return _project(*along_lps(array, grid), axis=1)


def left_lateral(array: NDArray[np.generic], grid: Grid) -> Projection:
    """Seen from the patient's left: the patient's front is at the viewer's left."""
    return _project(*along_lps(array, grid), axis=2)


def along_lps(array: NDArray[np.generic], grid: Grid) -> tuple[Image, Grid]:
    """The image with axes along LPS: z to the head, y to the back, x to the patient's left.

    Aligned grids are only permuted and flipped; oblique ones take the nearest voxel, outside is 0.
    """
    directions = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    index_axis = _index_axis_of_each_lps_axis(directions)
    off_axis = np.abs(directions).copy()
    off_axis[range(3), index_axis] = 0.0
    if off_axis.max() > ALIGNED_TOLERANCE:
        return _nearest_on_lps(array, grid, index_axis)
    signs = directions[range(3), index_axis]
    # index axis i (x, y, z) is array axis 2 - i
    aligned = np.transpose(array, [2 - index_axis[lps] for lps in (2, 1, 0)])
    aligned = np.flip(aligned, axis=tuple(2 - lps for lps in range(3) if signs[lps] < 0))
    origin = grid.corners_mm().min(axis=0)
    x, y, z = (float(grid.spacing_mm[i]) for i in index_axis)
    shape = (aligned.shape[0], aligned.shape[1], aligned.shape[2])
    return aligned.astype(np.float32), Grid.axis_aligned(shape, (x, y, z), tuple(origin))


def _index_axis_of_each_lps_axis(directions: NDArray[np.float64]) -> list[int]:
    """For L, P and S the index axis closest to it, each used once, clearest first."""
    strength = np.abs(directions).copy()
    chosen = [0, 0, 0]
    for _ in range(3):
        lps, index = divmod(int(strength.argmax()), 3)
        chosen[lps] = index
        strength[lps, :] = -1.0
        strength[:, index] = -1.0
    return chosen


def _nearest_on_lps(array: NDArray[np.generic], grid: Grid, index_axis: list[int]) -> tuple[Image, Grid]:
    corners = grid.corners_mm()
    low, high = corners.min(axis=0), corners.max(axis=0)
    spacing = np.array([grid.spacing_mm[i] for i in index_axis])
    nx, ny, nz = np.floor((high - low) / spacing + 1e-6).astype(int) + 1
    x, y, z = (float(value) for value in spacing)
    lps = Grid.axis_aligned((nz, ny, nx), (x, y, z), tuple(low))
    plane = np.stack(np.meshgrid(np.arange(ny), np.arange(nx), indexing="ij"), axis=-1).reshape(-1, 2)
    image = np.zeros(lps.shape, dtype=np.float32)
    for k in range(nz):
        points = np.column_stack([plane[:, 1], plane[:, 0], np.full(len(plane), k)]).astype(np.float64)
        index = np.rint(grid.to_index(lps.to_lps(points))).astype(int)[:, ::-1]
        inside = ((index >= 0) & (index < np.array(grid.shape))).all(axis=1)
        values = np.zeros(len(plane), dtype=np.float32)
        values[inside] = array[tuple(index[inside].T)]
        image[k] = values.reshape(ny, nx)
    return image, lps


def _project(aligned: Image, lps: Grid, axis: int) -> Projection:
    across = 0 if axis == 1 else 1
    first = lps.origin_mm - np.array(lps.spacing_mm) / 2
    last = first + np.array(lps.spacing_mm) * np.array(lps.shape[::-1])
    return Projection(
        image=np.ascontiguousarray(aligned.max(axis=axis)[::-1]),
        horizontal_mm=(float(first[across]), float(last[across])),
        vertical_mm=(float(first[2]), float(last[2])),
    )
