"""M4's third channel for a cohort's patients: PET lesions brought on to the SPECT as the node brings them.

In training every patient is shown twice: with the prior as it is, and with one that was disturbed, so that M4
learns the patient and not one prior of it, and doesn't trust a prior blindly. The node's check of the fit
keeps most bad priors away; some will pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

from app.cohort.manifest import CohortPatient, image_file
from app.domain.decision import ModelRole
from app.domain.study import StudyKind
from app.domain.volume import LabelMap, Unit, Volume
from app.imaging.nifti import read_volume, write_array
from app.imaging.registration.policy import broken_uptake_limits
from app.imaging.registration.prior_alignment import place_lesions
from app.imaging.registration.registration import RigidRegistration
from app.inference.models.channels import build_input

DEFECT_PROBABILITY = 0.35
"""The chance that a disturbed prior is empty or misplaced: 17.5 % of all training cases."""

EMPTY_SHARE = 0.5
"""Share of the defective priors that are empty; the others are misplaced."""

MISPLACED_MM = (25.0, 60.0)
MAX_SHIFT_MM = 8.0
SHIFT_SD_MM = 4.0
SMALL_ML = 0.6
DROPPED_SMALL, DROPPED_LARGE = 0.15, 0.06
SOFTENING_MM = 2.0
THRESHOLDS = (0.30, 0.62)
"""Outlines vary: the softened mask is cut between these values."""


@dataclass(frozen=True, eq=False)
class CarriedPrior:
    """PET lesions on the SPECT grid; ``reasons`` say why the node would not give them to M4."""

    lesions: LabelMap | None
    reasons: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether M4 would run with it."""
        return self.lesions is not None and not self.reasons


def carry_prior(cohort: Path, patient: CohortPatient, lesions: LabelMap) -> CarriedPrior:
    """Bring lesions on the PET's grid to the SPECT, with the limits of the site that built the cohort."""
    registration = patient.registration
    if registration is None or registration.spect_to_pet is None or registration.fit is None:
        return CarriedPrior(None, ("the two CTs could not be brought together",))
    if not registration.fits:
        return CarriedPrior(None, registration.reasons)
    if lesions.count == 0:
        return CarriedPrior(None, ("no lesion on the PET",))
    rigid = RigidRegistration(np.array(registration.spect_to_pet), registration.fit)
    spect, pet = (_suv(cohort, patient, kind) for kind in (StudyKind.SPECT_CT, StudyKind.PET_CT))
    mask, fit = place_lesions(lesions, rigid, spect, pet)
    if fit is None:
        return CarriedPrior(None, ("none of the PET lesions in the SPECT's field of view",))
    return CarriedPrior(mask, tuple(str(reason) for reason in broken_uptake_limits(fit, registration.limits)))


def write_prior(cohort: Path, patient: CohortPatient, mask: NDArray[np.bool_], path: Path) -> None:
    """M4's third channel as the product makes it, from a mask on the SPECT grid."""
    spect = _suv(cohort, patient, StudyKind.SPECT_CT)
    ct = read_volume(image_file(cohort, patient.id, StudyKind.SPECT_CT, "ct"), Unit.HU)
    network_input = build_input(ModelRole.M4, spect, ct, mask)
    write_array(path, network_input.channels[2], spect.grid)


def disturbed(lesions: LabelMap, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The prior with a reader's and a registration's errors, ``(z, y, x)``; sometimes empty or far away."""
    if rng.random() < DEFECT_PROBABILITY:
        if rng.random() < EMPTY_SHARE:
            return np.zeros(lesions.grid.shape, np.bool_)
        return _moved(lesions.mask, lesions, _direction(rng) * rng.uniform(*MISPLACED_MM), 0.5)
    kept = _kept(lesions, rng)
    offset_mm = _direction(rng) * min(MAX_SHIFT_MM, abs(rng.normal(0.0, SHIFT_SD_MM)))
    return _moved(kept, lesions, offset_mm, float(rng.uniform(*THRESHOLDS)))


def _kept(lesions: LabelMap, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Some lesions are overlooked, small ones more often."""
    sizes_ml = np.bincount(lesions.array.ravel(), minlength=lesions.count + 1) * lesions.grid.voxel_ml
    chances = np.where(sizes_ml < SMALL_ML, DROPPED_SMALL, DROPPED_LARGE)
    keep = rng.random(len(sizes_ml)) >= chances
    keep[0] = False
    mask: NDArray[np.bool_] = keep[lesions.array]
    return mask


def _moved(
    mask: NDArray[np.bool_], lesions: LabelMap, offset_mm: NDArray[np.float64], threshold: float
) -> NDArray[np.bool_]:
    """The softened mask, shifted by ``(z, y, x)`` mm and cut at ``threshold``."""
    spacing = np.array(lesions.grid.spacing_mm[::-1])
    soft = gaussian_filter(mask.astype(np.float32), SOFTENING_MM / spacing)
    moved: NDArray[np.bool_] = shift(soft, offset_mm / spacing, order=1) > threshold
    return moved


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    vector = rng.normal(0.0, 1.0, 3)
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit


def _suv(cohort: Path, patient: CohortPatient, kind: StudyKind) -> Volume:
    return read_volume(image_file(cohort, patient.id, kind, "suv"), Unit.SUVBW)
