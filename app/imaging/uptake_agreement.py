"""Does the uptake agree with where the lesions were placed? A check that owes nothing to the CTs.

The CTs can fit perfectly and the lesions lie wrong all the same: when the PET does not lie on its CT, or the
lesions not on their PET. Then uptake tells: lesions stand out on their own PET, organs shine at the same
place on PET and SPECT, and most lesions that took up 68Ga or 18F take up 177Lu.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter

from app.domain.volume import FloatArray, Grid, LabelMap, Unit, Volume
from app.imaging.resampling import resample, resample_mask

SPACING_MM = 8.0
"""Organs are larger; a shift is found to within half of this."""

REACH_MM = 64.0
"""Shifts up to this are tried: beyond it, the CTs don't fit either."""

FLOOR_SUV = 0.05
"""Added before the logarithm, which lets liver and muscle count beside kidneys."""

BODY_SUV = 0.2
"""PET uptake from here on is patient."""

SURROUNDINGS_MM = (12.0, 28.0)
"""A lesion is compared with the tissue at this distance: beyond the spill of a SPECT's resolution."""

STANDS_OUT = 1.4
"""A lesion's upper uptake over its surroundings' median from which it stands out."""


@dataclass(frozen=True)
class UptakeAgreement:
    """What uptake says about the place.

    Attributes:
        shift_mm: distance to the place where PET and SPECT uptake agree best; 0 at the registered place.
        on_pet_share: share of the lesions that stand out on the PET they were found on.
        on_spect_share: share of the lesions in the SPECT's view that stand out on the SPECT.
    """

    shift_mm: float
    on_pet_share: float
    on_spect_share: float


def measure_uptake_agreement(
    spect: Volume, pet: Volume, lesions: LabelMap, placed: LabelMap, fixed_to_moving: FloatArray
) -> UptakeAgreement:
    """Compare uptake where the registration puts it.

    Args:
        spect, pet: SUVbw.
        lesions: in the PET's frame of reference, usually on its grid.
        placed: the same lesions on the SPECT's grid.
        fixed_to_moving: 4x4, LPS mm of the SPECT to LPS mm of the PET.
    """
    on_pet = lesions if lesions.grid.matches(pet.grid) else resample_mask(lesions, pet.grid)
    return UptakeAgreement(
        _best_shift_mm(spect, pet, fixed_to_moving),
        _share_standing_out(on_pet, pet),
        _share_standing_out(placed, spect),
    )


def _best_shift_mm(spect: Volume, pet: Volume, fixed_to_moving: FloatArray) -> float:
    grid = _coarse_grid(spect.grid)
    spect_suv = resample(_blurred(spect), grid, 0.0).array
    pet_suv = resample(_blurred(pet), grid, 0.0, fixed_to_moving).array
    patient = pet_suv > BODY_SUV
    if not patient.any():
        return float("inf")
    correlation = _correlation_at_shifts(_logarithm(pet_suv), patient, _logarithm(spect_suv))
    reach = round(REACH_MM / SPACING_MM)
    near = np.ix_(*([i % n for i in range(-reach, reach + 1)] for n in correlation.shape))
    best = np.unravel_index(int(np.argmax(correlation[near])), (2 * reach + 1,) * 3)
    return float(np.linalg.norm(np.array(best) - reach)) * SPACING_MM


def _correlation_at_shifts(
    image: NDArray[np.float32], inside: NDArray[np.bool_], other: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Pearson's correlation, within ``inside``, of ``image(x)`` and ``other(x + t)`` for every shift t."""
    reach = round(REACH_MM / SPACING_MM)
    size = [fft.next_fast_len(n + reach, real=True) for n in image.shape]
    other = other - float(other.min())  # padding is no uptake
    mask = inside.astype(np.float32)
    count = float(mask.sum())
    centred = (image - float(image[inside].mean())) * mask

    def correlated(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
        product: NDArray[np.float32] = fft.irfftn(np.conj(fft.rfftn(a, size)) * fft.rfftn(b, size), size)
        return product

    spread = correlated(mask, other**2) - correlated(mask, other) ** 2 / count
    norm = np.sqrt(np.maximum(spread, 1e-6 * count) * float((centred**2).sum()))
    return np.asarray(correlated(centred, other) / np.maximum(norm, 1e-6), dtype=np.float32)


def _share_standing_out(lesions: LabelMap, suv: Volume) -> float:
    found = [
        _stands_out(lesions, number, box, suv)
        for number, box in enumerate(find_objects(lesions.array), start=1)
        if box is not None
    ]
    return float(np.mean(found)) if found else 0.0


def _stands_out(lesions: LabelMap, number: int, box: tuple[slice, slice, slice], suv: Volume) -> bool:
    near_mm, far_mm = SURROUNDINGS_MM
    spacing = suv.grid.spacing_mm[::-1]
    margins = [int(np.ceil(far_mm / mm)) for mm in spacing]
    wide = tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margins, strict=True))
    lesion, uptake = lesions.array[wide] == number, suv.array[wide]
    distance_mm = distance_transform_edt(~lesion, sampling=spacing)
    around = (distance_mm >= near_mm) & (distance_mm <= far_mm) & (lesions.array[wide] == 0)
    if not around.any():
        return False
    upper, level = float(np.percentile(uptake[lesion], 80)), float(np.median(uptake[around]))
    return upper + FLOOR_SUV >= STANDS_OUT * (level + FLOOR_SUV)


def _blurred(volume: Volume) -> Volume:
    """Smoothed to the coarse spacing, so that sampling it does not alias noise."""
    sigma = [SPACING_MM / 2.0 / mm for mm in volume.grid.spacing_mm[::-1]]
    return Volume(gaussian_filter(volume.array, sigma, truncate=3.0), volume.grid, Unit.NONE)


def _logarithm(suv: NDArray[np.float32]) -> NDArray[np.float32]:
    logarithm: NDArray[np.float32] = np.log(np.maximum(suv, 0.0) + np.float32(FLOOR_SUV))
    return logarithm


def _coarse_grid(grid: Grid) -> Grid:
    corners = grid.corners_mm()
    low, high = corners.min(axis=0), corners.max(axis=0)
    width, height, depth = (int(n) + 1 for n in (high - low) / SPACING_MM)
    x, y, z = low.tolist()
    return Grid.axis_aligned((depth, height, width), (SPACING_MM,) * 3, (x, y, z))
