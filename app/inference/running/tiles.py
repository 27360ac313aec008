"""Where the network looks, and which tiles need not be looked at: those that say nothing about the body.

The tiles are nnU-Net's own, at its own places. What is no air by CT, or has uptake, or is near a lesion of
the prior, may be body, and so may what is within a margin of it. A tile is needless when each such voxel in
it has nearly all of its weight from other tiles, for a tile's weights fall off towards its edge. What CT does
not show (beyond its field of view it is filled with air) is air only where there is no uptake either.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

EMPTY_BELOW_HU = -800.0
"""Air is -1000 HU with noise; skin, fat, a limb's tip and every solid lesion lie far above."""

COLD_BELOW_SUV = 0.5
"""Below it nothing is called a lesion: blood pool is 1.5, muscle 0.7, the faintest lesion about 2 g/ml; air
shows less than 0.3. A voxel with more is kept, wherever it lies."""

MARGIN_MM = 10.0
"""Around what may be body: more than half the width of either camera's blur, and than resampling reaches."""

NEGLIGIBLE = 0.001
"""Share of a voxel's weight that a needless tile has at most: nnU-Net's half precision rounds as much."""

Window = tuple[slice, slice, slice]
Windows = tuple[Window, ...]


def tile_windows(image: Sequence[int], tile: Sequence[int], step: float) -> Windows:
    """nnU-Net's tiles in its order; a two-dimensional tile is one slice high.

    Args:
        image: voxels along ``(z, y, x)``, nowhere fewer than the tile's.
        tile: voxels along ``(z, y, x)`` or ``(y, x)``.
        step: distance of two tiles as a share of the tile, at most.
    """
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    axes = len(tile)
    starts = compute_steps_for_sliding_window(tuple(image[-axes:]), tuple(tile), step)
    rows = starts if axes == len(image) else [list(range(image[0])), *starts]
    sizes = tile if axes == len(image) else [1, *tile]
    return tuple(
        (slice(z, z + sizes[0]), slice(y, y + sizes[1]), slice(x, x + sizes[2]))
        for z in rows[0]
        for y in rows[1]
        for x in rows[2]
    )


def maybe_body(channels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where something may be: not air by CT, or uptake, or near a lesion of the prior.

    Args:
        channels: ``(c, z, y, x)``: functional image in SUVbw, CT in HU, and the prior as encoded (0: none).

    Returns:
        ``(z, y, x)``; true too where a value is no number.
    """
    uptake, hu, *priors = channels
    found: NDArray[np.bool_] = hu < EMPTY_BELOW_HU
    found &= uptake < COLD_BELOW_SUV
    np.logical_not(found, out=found)
    for prior in priors:
        found |= prior != 0
    return found


def spread(body: NDArray[np.bool_], shape: Sequence[int], spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    """``body`` on another grid with the same edges: true within :data:`MARGIN_MM` of it along every axis.

    Args:
        body: ``(z, y, x)``.
        shape: of the other grid.
        spacing_mm: of ``body``.
    """
    for axis, (length, spacing) in enumerate(zip(shape, spacing_mm, strict=True)):
        ratio, margin = body.shape[axis] / length, MARGIN_MM / spacing
        slices = []
        for number in range(length):
            low, high = int(number * ratio - margin), int(np.ceil((number + 1) * ratio + margin))
            reached = (slice(None),) * axis + (slice(max(0, low), high),)
            slices.append(body[reached].any(axis))
        body = np.stack(slices, axis)
    return body


def needless_windows(
    windows: Windows, weights: NDArray[np.float32], body: NDArray[np.bool_]
) -> tuple[bool, ...]:
    """For each tile, whether it has a negligible share in every voxel of ``body``.

    Args:
        windows: on the network's grid.
        weights: of a tile's voxels.
        body: ``(z, y, x)`` on the network's grid, its margin included.
    """
    total = _total(windows, weights, body.shape)
    return tuple(
        not (body[window] & (weights > NEGLIGIBLE * total[window])).any() if body[window].any() else True
        for window in windows
    )


def largest_share(
    windows: Windows, chosen: Sequence[bool], weights: NDArray[np.float32], shape: Sequence[int]
) -> NDArray[np.float32]:
    """For each voxel of a tile, the most that a chosen one has of the weights there; of none 0.

    Args:
        windows, weights: as for :func:`needless_windows`.
        chosen: for each window, whether it is.
        shape: of the network's grid.
    """
    share = np.zeros_like(weights)
    total = _total(windows, weights, shape) if any(chosen) else np.zeros(())
    for window in compress(windows, chosen):
        np.maximum(share, weights / total[window], out=share)
    return share


def _total(windows: Windows, weights: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.floating[Any]]:
    total = np.zeros(tuple(shape), np.float32)
    for window in windows:
        total[window] += weights
    return total
