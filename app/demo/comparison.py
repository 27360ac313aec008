"""Lesions found against lesions that are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import LabelMap

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
    both, in_truth, in_found = (int(m.sum()) for m in (truth.mask & found.mask, truth.mask, found.mask))
    dice = 2 * both / (in_truth + in_found) if in_truth + in_found else None
    return Comparison(tuple(rows), dice, both / in_found if in_found else None)


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
