"""Pictures of simulated patients: maximum intensity projections as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.phantom.acquisition import Acquisition

PIXEL_MM = 2.6
PET_BLACK_SUV, SPECT_BLACK_SUV = 15.0, 5.0
"""Upper end of the grey scale (black)."""

OUTLINE_RGB = (215, 40, 40)


def anterior_mip(scan: Acquisition, black_suv: float) -> NDArray[np.uint8]:
    """Inverted anterior MIP, (rows, columns) uint8: head up, patient's right on the left."""
    projected = scan.functional.array.max(axis=1)[::-1]
    grey = 255 - np.clip(projected / black_suv, 0, 1) * 255
    return np.asarray(grey, dtype=np.uint8)


def _outline(scan: Acquisition) -> NDArray[np.bool_]:
    flat = scan.truth.array.max(axis=1)[::-1] > 0
    inside = flat.copy()
    inside[1:-1, 1:-1] = flat[:-2, 1:-1] & flat[2:, 1:-1] & flat[1:-1, :-2] & flat[1:-1, 2:]
    edge: NDArray[np.bool_] = flat & ~inside
    return edge


def picture(scan: Acquisition, black_suv: float, with_truth: bool) -> NDArray[np.uint8]:
    """The anterior MIP as RGB (rows, columns, 3), lesions outlined on request, square pixels."""
    rgb = np.repeat(anterior_mip(scan, black_suv)[..., None], 3, axis=2)
    if with_truth:
        rgb[_outline(scan)] = OUTLINE_RGB
    x_mm, _, z_mm = scan.functional.grid.spacing_mm
    size = (round(rgb.shape[1] * x_mm / PIXEL_MM), round(rgb.shape[0] * z_mm / PIXEL_MM))
    resample = Image.Resampling.NEAREST if with_truth else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(rgb).resize(size, resample))


def write_row(pictures: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """Pictures side by side in one PNG file."""
    tall = max(each.shape[0] for each in pictures)
    padded = [np.pad(p, ((0, tall - p.shape[0]), (0, 6), (0, 0)), constant_values=255) for p in pictures]
    Image.fromarray(np.concatenate(padded, axis=1)).save(path, optimize=True)
