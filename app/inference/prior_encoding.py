"""How M4 is shown the patient's earlier PET lesions: a distance map instead of a mask.

nnU-Net resamples image channels with splines of order 3, which overshoot at the edge of a binary mask.
A signed distance, clipped, has no such edge. It is shifted so that 0 means "far from any lesion": nnU-Net
pads patches with 0, and padding must not look like a lesion's surface.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REACH_MM = 20.0
"""Beyond this distance from a lesion's surface the map is flat: more than any tolerated misplacement."""

ENCODING = "signed distance to the lesions' surface / 20 mm + 1, clipped to 0..2; 0 is far or no lesion"
"""In words, for cards."""


def encode_prior(mask: NDArray[np.bool_], spacing_zyx_mm: tuple[float, float, float]) -> NDArray[np.float32]:
    """Signed distance to the surface, clipped to ±20 mm, divided by 20, plus 1.

    Args:
        mask: ``(z, y, x)``, true inside a lesion.
        spacing_zyx_mm: distance of voxel centres along ``(z, y, x)``, mm.

    Returns:
        ``(z, y, x)`` float32 in 0..2: 0 is 20 mm or more outside (or no lesion at all), 1 the surface,
        2 is 20 mm or more inside.
    """
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return np.zeros(mask.shape, dtype=np.float32)
    half_voxel_mm = float(np.mean(spacing_zyx_mm)) / 2.0  # the surface lies between two voxel centres
    inside_mm = distance_transform_edt(mask, sampling=spacing_zyx_mm)
    outside_mm = distance_transform_edt(~mask, sampling=spacing_zyx_mm)
    signed_mm = np.where(mask, inside_mm - half_voxel_mm, half_voxel_mm - outside_mm)
    encoded: NDArray[np.float32] = (np.clip(signed_mm / REACH_MM, -1.0, 1.0) + 1.0).astype(np.float32)
    return encoded
