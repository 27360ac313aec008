"""Does the uptake agree with where the lesions were placed? A check that owes nothing to the CTs.

The CTs can fit perfectly and the lesions lie wrong all the same: when the PET does not lie on its CT, or the
lesions not on their PET. Then uptake tells: lesions lie where uptake is, on their own PET and mostly on the
SPECT too, and organs shine at the same place on both.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from app.domain.volume import FloatArray, LabelMap, Volume
from app.imaging.morphology import box_of
from app.imaging.registration.working_ct import blurred, smoothed, upright_grid
from app.imaging.resampling import resample, resample_mask
from app.imaging.slices import thread_count

SPACING_MM = 8.0
"""Organs are larger; a shift is found to within half of this."""

REACH_MM = 64.0
"""Shifts up to this are tried: beyond it, the CTs don't fit either."""

FLOOR_SUV = 0.05
"""Added before the logarithm, which lets liver and muscle count as well as kidneys."""

BLUR_MM, BLUR_REACH = SPACING_MM / 2.0, 3.0
"""Standard deviation, and how many of them the blur reaches."""

BODY_SUV = 0.2
"""PET uptake from here on is patient."""

LESION_SPACING_MM = 5.0
"""Fine enough for a lesion of a centimetre."""

SURROUNDINGS_MM = {"pet": 20.0, "spect": 30.0}
"""Standard deviation of the blur that stands for a lesion's surroundings: beyond the resolution's spill."""

FULL_CONTRAST = 1.0
"""Logarithm of uptake over surroundings from which a voxel counts fully (2.7 times): a kidney no more than a
lesion."""


@dataclass(frozen=True)
class UptakeAgreement:
    """What uptake says about the place.

    Attributes:
        shift_mm: distance to the place where PET and SPECT uptake agree best; 0 at the registered place.
        lesions_on_pet, lesions_on_spect: contrast of the uptake under the lesions, as a share of the contrast
            they would have at the best place within reach; 1 when it is nowhere better.
    """

    shift_mm: float
    lesions_on_pet: float
    lesions_on_spect: float


def measure_uptake_agreement(
    spect: Volume, pet: Volume, lesions: LabelMap, placed: LabelMap, fixed_to_moving: FloatArray
) -> UptakeAgreement:
    """Compare uptake where the registration puts it.

    Args:
        spect, pet: SUVbw.
        lesions, placed: in the PET's frame of reference, and the same ones on the SPECT's grid.
        fixed_to_moving: 4x4, LPS mm of the SPECT to LPS mm of the PET.
    """
    with ThreadPoolExecutor(thread_count()) as threads:
        on_pet = threads.submit(_share_of_best_place, lesions, pet, SURROUNDINGS_MM["pet"])
        on_spect = threads.submit(_share_of_best_place, placed, spect, SURROUNDINGS_MM["spect"])
        shift_mm = _best_shift_mm(spect, pet, fixed_to_moving)
        return UptakeAgreement(shift_mm, on_pet.result(), on_spect.result())


def _best_shift_mm(spect: Volume, pet: Volume, fixed_to_moving: FloatArray) -> float:
    grid = upright_grid(spect.grid, SPACING_MM)
    shown = _where_the_patient_is(pet)
    if shown is None:
        return float("inf")
    smooth_spect, smooth_pet = (blurred(image, BLUR_MM, BLUR_REACH) for image in (spect, shown))  # no aliases
    spect_suv = resample(smooth_spect, grid, 0.0).array
    pet_suv = resample(smooth_pet, grid, 0.0, fixed_to_moving).array
    patient = pet_suv > BODY_SUV
    if not patient.any():
        return float("inf")
    correlation = _correlation_at_shifts(_logarithm(pet_suv), patient, _logarithm(spect_suv))
    reach = round(REACH_MM / SPACING_MM)
    near = np.ix_(*([i % n for i in range(-reach, reach + 1)] for n in correlation.shape))
    best = np.unravel_index(int(np.argmax(correlation[near])), (2 * reach + 1,) * 3)
    return float(np.linalg.norm(np.array(best) - reach)) * SPACING_MM


def _where_the_patient_is(pet: Volume) -> Volume | None:
    """The part of a PET in which a blurred voxel can be above :data:`BODY_SUV`; ``None`` if there is none.

    A mean of voxels is above it only with one of them in reach that is; twice that reach, so that the ends of
    the part don't change those that are.
    """
    reach = int(np.ceil(BLUR_REACH * BLUR_MM / min(pet.grid.spacing_mm))) + 1
    box = box_of(pet.array > BODY_SUV, 2 * reach)
    return None if box is None else Volume(pet.array[box], pet.grid.part(box), pet.unit)


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


def _share_of_best_place(lesions: LabelMap, suv: Volume, surroundings_mm: float) -> float:
    grid = upright_grid(suv.grid, LESION_SPACING_MM)
    labels = resample_mask(lesions, grid).array
    within = box_of(labels > 0, round(REACH_MM / LESION_SPACING_MM))
    if within is None:
        return 0.0
    uptake = _logarithm(resample(suv, grid, 0.0).array)
    around = smoothed(uptake, surroundings_mm / LESION_SPACING_MM, within, truncate=2.5)
    contrast = np.clip(uptake[within] - around, 0.0, FULL_CONTRAST)
    labels = labels[within]
    sizes = np.bincount(labels.ravel()).astype(np.float32)
    weights = np.zeros_like(sizes)
    weights[1:] = 1.0 / np.maximum(sizes[1:], 1.0)  # every lesion counts once, whatever its size
    scores = _scores_at_shifts(weights[labels], contrast)
    best = float(scores.max())
    here = max(0.0, float(scores[tuple(n // 2 for n in scores.shape)]))  # FFT leaves a tiny rest below 0
    return here / best if best > 1e-3 else 0.0


def _scores_at_shifts(weights: NDArray[np.float32], contrast: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of ``weights(x) contrast(x + t)`` for every shift t within reach; t = 0 in the middle."""
    reach = round(REACH_MM / LESION_SPACING_MM)
    size = [fft.next_fast_len(n + reach, real=True) for n in weights.shape]
    spectrum = np.conj(fft.rfftn(weights, size)) * fft.rfftn(contrast, size)
    scores = fft.irfftn(spectrum, size)[np.ix_(*([i % n for i in range(-reach, reach + 1)] for n in size))]
    z, y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    return np.asarray(np.where(z**2 + y**2 + x**2 <= reach**2, scores, 0.0), dtype=np.float32)


def _logarithm(suv: NDArray[np.float32]) -> NDArray[np.float32]:
    logarithm: NDArray[np.float32] = np.log(np.maximum(suv, 0.0) + np.float32(FLOOR_SUV))
    return logarithm
