"""A mask against its truth: the record that every table and figure of a validation derives from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.domain.scores import ScanKey, ScanScore, count_lesions, count_voxels
from app.domain.volume import LabelMap, Unit, Volume
from app.imaging.labels import label_lesions


def score_scan(key: ScanKey, found: LabelMap | NDArray[np.bool_], truth: LabelMap, suv: Volume) -> ScanScore:
    """Compare a result with its truth, both on the functional image's grid.

    Lesions are the connected components of either mask (18 neighbours, as in autoPET), so that a truth given
    as single lesions and one given as a single mask count alike, and touching lesions count as one on both
    sides. Nothing is dropped for its size: a smallest lesion is the segmenter's business.

    Args:
        key: what was segmented by what.
        found: label map, or mask ``(z, y, x)`` bool on the grid of ``suv``.
        truth: the reader's lesions.
        suv: the functional image in SUVbw.

    Raises:
        ValueError: the grids differ, the image is not in SUVbw, or SUV inside a lesion is not a number.
    """
    if suv.unit is not Unit.SUVBW:
        raise ValueError(f"the functional image is in {suv.unit.value}, expected {Unit.SUVBW.value}")
    found_mask, true_mask = _mask_on(suv, found, "result"), _mask_on(suv, truth, "truth")
    found_lesions = label_lesions(found_mask, suv.grid, minimum_ml=0.0).labels.array
    true_lesions = label_lesions(true_mask, suv.grid, minimum_ml=0.0).labels.array
    return ScanScore(
        key=key,
        voxels=count_voxels(found_mask, true_mask),
        lesions=count_lesions(found_lesions, true_lesions),
        voxel_ml=suv.grid.voxel_ml,
        false_positive_ml=_ml_apart(found_lesions, true_mask, suv.grid.voxel_ml),
        false_negative_ml=_ml_apart(true_lesions, found_mask, suv.grid.voxel_ml),
        true_tl=_total_lesion_uptake(suv, true_mask),
        found_tl=_total_lesion_uptake(suv, found_mask),
    )


def _mask_on(suv: Volume, mask: LabelMap | NDArray[np.bool_], what: str) -> NDArray[np.bool_]:
    if isinstance(mask, LabelMap):
        if not mask.grid.matches(suv.grid):
            raise ValueError(f"the {what} is not on the functional image's grid: bring it there first")
        return mask.mask
    if mask.shape != suv.grid.shape:
        raise ValueError(f"the {what} {mask.shape} does not fit the functional image {suv.grid.shape}")
    return mask.astype(np.bool_, copy=False)


def _ml_apart(lesions: NDArray[np.uint16], other: NDArray[np.bool_], voxel_ml: float) -> float:
    """Volume of the components without a voxel of the other mask (autoPET's FPV, and FNV the other way)."""
    sizes = np.bincount(lesions.ravel())
    apart = np.ones(len(sizes), dtype=np.bool_)
    apart[0] = False
    apart[np.unique(lesions[other])] = False
    return float(sizes[apart].sum()) * voxel_ml


def _total_lesion_uptake(suv: Volume, mask: NDArray[np.bool_]) -> float:
    """Sum of SUV times volume, g/ml times ml."""
    total = float(suv.array[mask].sum(dtype=np.float64)) * suv.grid.voxel_ml
    if not np.isfinite(total):
        raise ValueError("SUV inside a lesion is not a finite number: TL-PSMA can't be measured")
    return total
