"""Where the network looks, and which of its tiles need not be looked at: those without any of the body.

The tiles are nnU-Net's own, at its own places. A tile is empty when CT and functional image both say so, of
every voxel in it and in a margin around it. So each voxel of the body is seen by exactly the tiles that see
it without the rule. What CT does not show (beyond its field of view it is filled with air) counts as empty
only where there is no uptake either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EMPTY_BELOW_HU = -800.0
"""Air is -1000 HU with noise; skin, fat, a limb's tip and every solid lesion lie far above."""

COLD_BELOW_SUV = 0.5
"""Below it nothing is called a lesion: blood pool is 1.5, muscle 0.7, the faintest lesion about 2 g/ml; air
shows less than 0.3. A voxel with more is kept, wherever it lies."""

MARGIN_MM = 20.0
"""Around a tile: more than the width of either camera's blur and than what resampling reaches."""

Windows = tuple[tuple[slice, slice, slice], ...]


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
    found: NDArray[np.bool_] = ~((hu < EMPTY_BELOW_HU) & (uptake < COLD_BELOW_SUV))
    for prior in priors:
        found |= prior != 0
    return found


def empty_windows(
    windows: Windows,
    shape: Sequence[int],
    offset: Sequence[int],
    body: NDArray[np.bool_],
    spacing_mm: Sequence[float],
) -> tuple[bool, ...]:
    """For each tile, whether there is nothing of ``body`` in it or within :data:`MARGIN_MM` of it.

    Args:
        windows: on the network's grid, which may be padded.
        shape: of the network's grid before it was padded.
        offset: voxels of padding before it.
        body: ``(z, y, x)`` on the image's own grid, which has the same edges.
        spacing_mm: of the image's own grid.
    """
    ratios = [own / size for own, size in zip(body.shape, shape, strict=True)]
    margins = [MARGIN_MM / spacing for spacing in spacing_mm]

    def seen(window: tuple[slice, slice, slice]) -> tuple[slice, ...]:
        edges = zip(window, offset, ratios, margins, strict=True)
        return tuple(
            slice(
                max(0, int(np.floor((part.start - before) * ratio - margin))),
                max(0, int(np.ceil((part.stop - before) * ratio + margin))),
            )
            for part, before, ratio, margin in edges
        )

    return tuple(not body[seen(window)].any() for window in windows)
