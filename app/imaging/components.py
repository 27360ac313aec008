"""From a lesion mask to single lesions."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from app.domain.volume import Grid, LabelMap

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

    Args:
        mask: ``(z, y, x)`` bool, on ``grid``.
        grid: where the voxels lie.
        minimum_ml: smallest volume that counts as a lesion, ml; 0 keeps everything.

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
