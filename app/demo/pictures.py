"""Pictures of the demo: the page as the PACS has it, and truth beside result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset

from app.domain.volume import LabelMap, Volume
from app.imaging.mip import anterior

PIXEL_MM = 2.0
GAP_PIXELS = 12
CAPTION_PIXELS = 20
TRUE_RGB = (0, 140, 60)
FOUND_RGB = (215, 40, 40)

Rgb = NDArray[np.uint8]


def write_page(page: Dataset, path: Path) -> None:
    """The secondary capture as PNG."""
    pixels = page.pixel_array
    Image.fromarray(pixels[0] if pixels.ndim == 4 else pixels).save(path)


def write_truth_beside_result(
    functional: Volume, truth: LabelMap, found: LabelMap, white_suv: float, path: Path
) -> None:
    """Two anterior MIPs side by side: true lesions outlined in green, found ones in red. PNG."""
    left = _outlined(functional, truth, white_suv, TRUE_RGB)
    right = _outlined(functional, found, white_suv, FOUND_RGB)
    gap = np.full((left.shape[0], GAP_PIXELS, 3), 255, dtype=np.uint8)
    views = Image.fromarray(np.concatenate([left, gap, right], axis=1))
    picture = Image.new("RGB", (views.width, views.height + CAPTION_PIXELS), "white")
    picture.paste(views, (0, CAPTION_PIXELS))
    write = ImageDraw.Draw(picture)
    write.text((4, 4), f"{truth.count} true lesions", fill=TRUE_RGB)
    write.text((left.shape[1] + GAP_PIXELS + 4, 4), f"{found.count} lesions found", fill=FOUND_RGB)
    picture.save(path)


def _outlined(functional: Volume, labels: LabelMap, white_suv: float, colour: tuple[int, int, int]) -> Rgb:
    view = anterior(functional.array, functional.grid)
    grey = (255 - 255 * np.clip(view.image / white_suv, 0, 1)).astype(np.uint8)
    mask = anterior(labels.mask.astype(np.uint8), labels.grid).image > 0
    height_mm = view.vertical_mm[1] - view.vertical_mm[0]
    width_mm = view.horizontal_mm[1] - view.horizontal_mm[0]
    size = (round(width_mm / PIXEL_MM), round(height_mm / PIXEL_MM))
    rgb = np.repeat(_resized(grey, size)[..., None], 3, axis=2)
    rgb[_edge(_resized(mask.astype(np.uint8) * 255, size) > 127)] = colour
    return rgb


def _resized(image: Rgb, size: tuple[int, int]) -> Rgb:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask that touch its outside."""
    wide = np.pad(mask, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    edge: NDArray[np.bool_] = mask & ~inner
    return edge
