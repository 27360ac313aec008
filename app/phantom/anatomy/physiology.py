"""Physiological uptake of PSMA ligands, drawn for one patient.

68Ga-PSMA-11 SUVmean one hour after injection and 177Lu-PSMA-617 SUV one to four days after it; the numbers
and their sources stand in docs/explanation/phantom.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np

from app.phantom.anatomy.shapes import Uptake


class Tissue(StrEnum):
    """Tissues with an uptake of their own."""

    MUSCLE = "muscle"
    BLOOD = "blood"
    MARROW = "marrow"
    LUNG = "lung"
    BRAIN = "brain"
    LIVER = "liver"
    SPLEEN = "spleen"
    KIDNEY = "kidney"
    PAROTID = "parotid"
    SUBMANDIBULAR = "submandibular"
    LACRIMAL = "lacrimal"
    BOWEL = "bowel"
    BLADDER = "bladder"
    PROSTATE = "prostate"


Physiology = Mapping[Tissue, Uptake]

_SUV: Mapping[Tissue, tuple[float, float, float, float]] = {
    # tissue: (PET mean, PET sd, SPECT mean, SPECT sd)
    Tissue.MUSCLE: (0.70, 0.12, 0.22, 0.06),
    Tissue.BLOOD: (1.5, 0.35, 0.32, 0.10),
    Tissue.MARROW: (0.9, 0.25, 0.32, 0.10),
    Tissue.LUNG: (0.45, 0.08, 0.15, 0.04),
    Tissue.BRAIN: (0.30, 0.05, 0.10, 0.02),
    Tissue.LIVER: (5.0, 1.5, 0.9, 0.30),
    Tissue.SPLEEN: (6.5, 2.6, 1.1, 0.5),
    Tissue.KIDNEY: (48.0, 13.0, 16.0, 5.0),
    Tissue.PAROTID: (14.5, 4.5, 6.0, 2.2),
    Tissue.SUBMANDIBULAR: (13.0, 3.8, 4.5, 1.8),
    Tissue.LACRIMAL: (7.0, 2.2, 2.5, 0.9),
    Tissue.BOWEL: (10.0, 3.5, 2.2, 1.0),
    Tissue.BLADDER: (25.0, 16.0, 4.0, 2.5),
    Tissue.PROSTATE: (2.4, 0.6, 0.5, 0.15),
}


def lognormal(rng: np.random.Generator, mean: float, sd: float, limits: tuple[float, float]) -> float:
    """A lognormal draw of that mean and standard deviation, clipped to ``limits``."""
    variance = np.log1p((sd / mean) ** 2)
    return float(np.clip(rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance)), *limits))


def draw_physiology(rng: np.random.Generator) -> Physiology:
    """Uptake of every tissue in one patient."""
    drawn: dict[Tissue, Uptake] = {}
    for tissue, (pet, pet_sd, spect, spect_sd) in _SUV.items():
        drawn[tissue] = Uptake(
            lognormal(rng, pet, pet_sd, (0.45 * pet, 2.2 * pet)),
            lognormal(rng, spect, spect_sd, (0.35 * spect, 2.5 * spect)),
        )
    return drawn
