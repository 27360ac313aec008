"""Pictures of simulated patients: maximum intensity projections as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.imaging.mip import anterior
from app.phantom.acquisition import Acquisition

PIXEL_MM = 2.6
PET_BLACK_SUV, SPECT_BLACK_SUV = 15.0, 5.0
"""Upper end of the grey scale (black)."""

OUTLINE_RGB = (215, 40, 40)


def picture(scan: Acquisition, black_suv: float, with_truth: bool) -> NDArray[np.uint8]:
    """Inverted anterior MIP as RGB (rows, columns, 3), lesions outlined on request.

    Head up, the patient's right on the left, square pixels of ``PIXEL_MM``.
    """
    projected = anterior(scan.functional.array, scan.functional.grid).image
    x_mm, _, z_mm = scan.functional.grid.spacing_mm
    size = (round(projected.shape[1] * x_mm / PIXEL_MM), round(projected.shape[0] * z_mm / PIXEL_MM))
    grey = np.asarray(255 - np.clip(projected / black_suv, 0, 1) * 255, dtype=np.uint8)
    grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
    rgb = np.repeat(grey[..., None], 3, axis=2)
    if with_truth:
        rgb[_outline(scan, size)] = OUTLINE_RGB
    return rgb


def _outline(scan: Acquisition, size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = anterior(scan.truth.mask, scan.truth.grid).image > 0
    flat = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    inside = flat.copy()
    inside[1:-1, 1:-1] &= flat[:-2, 1:-1] & flat[2:, 1:-1] & flat[1:-1, :-2] & flat[1:-1, 2:]
    edge: NDArray[np.bool_] = flat & ~inside
    return edge


def write_row(pictures: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """Pictures side by side in one PNG file."""
    tall = max(each.shape[0] for each in pictures)
    padded = [np.pad(p, ((0, tall - p.shape[0]), (0, 6), (0, 0)), constant_values=255) for p in pictures]
    Image.fromarray(np.concatenate(padded, axis=1)).save(path, optimize=True)
