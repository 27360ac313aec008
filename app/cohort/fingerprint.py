"""A functional image in 64 numbers that survive anonymisers, copying and compression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.domain.volume import Volume

PARTS = 4
"""Along each axis."""

SAME_WITHIN = 1e-5
"""Of all uptake. Rounding of slopes moves shares by 1e-6; two scans of one patient differ by 1e-3."""


def fingerprint(suv: Volume) -> tuple[float, ...]:
    """Share of the whole uptake in each of 4 x 4 x 4 parts: free of unit and of UIDs."""
    shares = np.maximum(np.asarray(suv.array, np.float64), 0.0)
    for axis, length in enumerate(suv.array.shape):
        starts = np.linspace(0, length, PARTS, endpoint=False).astype(int)
        shares = np.add.reduceat(shares, starts, axis=axis)
    total = float(shares.sum())
    return tuple(round(float(value) / total, 7) for value in shares.ravel())


def same_image(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two fingerprints are of one image."""
    return len(first) == len(second) and bool(np.abs(np.subtract(first, second)).max() <= SAME_WITHIN)
