"""Lesions found against lesions that are there, as numbers and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset

from app.domain.scores import count_voxels
from app.domain.volume import LabelMap, Volume
from app.imaging.mip import anterior

Overlaps = NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """One row of the table: a true lesion with what was found for it, or something found where nothing is.

    Attributes:
        true_number, true_ml: of the true lesion; ``None`` for a false positive.
        found_number, found_ml: of the found lesion that overlaps it most; ``None`` for a miss.
    """

    true_number: int | None
    true_ml: float | None
    found_number: int | None
    found_ml: float | None


@dataclass(frozen=True)
class Comparison:
    """Truth against result on one image.

    Attributes:
        matches: true lesions, largest first, then the false positives, largest first.
        dice: of the two masks; ``None`` when both are empty.
        precision: share of found voxels that are true; ``None`` when nothing was found.
    """

    matches: tuple[Match, ...]
    dice: float | None
    precision: float | None

    @property
    def true_count(self) -> int:
        """Lesions that are there."""
        return sum(match.true_number is not None for match in self.matches)

    @property
    def hit_count(self) -> int:
        """Lesions that are there and were found."""
        return sum(None not in (match.true_number, match.found_number) for match in self.matches)

    @property
    def false_positive_count(self) -> int:
        """Lesions that were found and are not there."""
        return sum(match.true_number is None for match in self.matches)


def compare(truth: LabelMap, found: LabelMap) -> Comparison:
    """Match by overlap: to each true lesion the found one that shares most voxels with it.

    Raises:
        ValueError: the two lie on different grids.
    """
    if not truth.grid.matches(found.grid):
        raise ValueError("truth and result lie on different grids")
    overlaps = _overlaps(truth, found)
    true_ml = np.bincount(truth.array.ravel(), minlength=truth.count + 1) * truth.grid.voxel_ml
    found_ml = np.bincount(found.array.ravel(), minlength=found.count + 1) * found.grid.voxel_ml
    rows = []
    for number in _largest_first(true_ml):
        partner = int(overlaps[number, 1:].argmax()) + 1 if overlaps[number, 1:].any() else None
        size = None if partner is None else float(found_ml[partner])
        rows.append(Match(number, float(true_ml[number]), partner, size))
    false = [number for number in _largest_first(found_ml) if not overlaps[1:, number].any()]
    rows += [Match(None, None, number, float(found_ml[number])) for number in false]
    voxels = count_voxels(found.mask, truth.mask)
    return Comparison(tuple(rows), voxels.dice, voxels.ppv)


def _overlaps(truth: LabelMap, found: LabelMap) -> Overlaps:
    """Shared voxels, ``[true number, found number]``, background 0 included."""
    width = found.count + 1
    pairs = truth.array.astype(np.int64) * width + found.array
    counts: Overlaps = np.bincount(pairs.ravel(), minlength=(truth.count + 1) * width).astype(np.int64)
    return counts.reshape(truth.count + 1, width)


def _largest_first(volumes_ml: NDArray[np.floating[Any]]) -> list[int]:
    """Lesion numbers that have any voxel, the largest first."""
    numbers = [number for number in range(1, len(volumes_ml)) if volumes_ml[number] > 0]
    return sorted(numbers, key=lambda number: -volumes_ml[number])


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
