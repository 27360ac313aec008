"""One patient's build and uptake, and the body's outline: fat and muscle of trunk, head, thighs and arms.

Uptake is the SUVmean of 68Ga-PSMA-11 one hour after injection, and the SUV of 177Lu-PSMA-617 one to four days
after it; the numbers and their sources stand in docs/explanation/phantom.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from app.phantom.anatomy.shapes import CYLINDER, ELLIPSOID, PLUMP, ROUNDED, Shape, Uptake, along, tube
from app.phantom.centres import Arms

FAT_HU = -95.0
MUSCLE_HU = 48.0
SKIN_MM = 4.0
FAT_AVIDITY = 0.35
"""Uptake of fat, as a share of muscle."""


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
    return {
        tissue: Uptake(
            lognormal(rng, pet, pet_sd, (0.45 * pet, 2.2 * pet)),
            lognormal(rng, spect, spect_sd, (0.35 * spect, 2.5 * spect)),
        )
        for tissue, (pet, pet_sd, spect, spect_sd) in _SUV.items()
    }


@dataclass(frozen=True)
class Habitus:
    """How stout a patient is.

    Attributes:
        fat_mm: thickness of the subcutaneous fat.
        girth: width of trunk and limbs, 1 for average.
    """

    fat_mm: float
    girth: float


def draw_habitus(rng: np.random.Generator) -> Habitus:
    """Fat and build of one patient."""
    fat_mm = float(np.clip(abs(rng.normal(14, 9)), 5, 38))
    return Habitus(fat_mm, float(np.clip(rng.normal(1, 0.05), 0.9, 1.1)))


_TRUNK = (
    Shape((0, 12, 255), (166, 98, 150), exponents=(2, 4)),
    Shape((0, 6, 430), (152, 97, 190), exponents=(2, 4)),
    Shape((0, 6, 650), (157, 104, 200), exponents=(2, 4)),
    Shape((0, 18, 785), (168, 72, 62), exponents=(2, 4)),
    Shape((0, 28, 845), (92, 44, 52), exponents=ELLIPSOID),
    Shape((0, 10, 880), (56, 58, 90), exponents=CYLINDER),
    Shape((0, -6, 978), (75, 96, 108), exponents=ELLIPSOID),
    Shape((0, -38, 918), (56, 58, 62), exponents=ROUNDED),
)
_THIGHS = tuple(tube((side * 84, 12, 225), (side * 92, 6, -60), (76, 82)) for side in (-1.0, 1.0))


def _layer(shape: Shape, thicker_mm: float, girth: float) -> Shape:
    a, b, c = shape.half_axes
    axes = (a * girth + thicker_mm, b * girth + thicker_mm, c + min(thicker_mm, 8.0))
    return Shape(shape.centre, axes, exponents=shape.exponents, rotation=shape.rotation)


def _tissue(shapes: Sequence[Shape], hu: float, uptake_factor: float, physiology: Physiology) -> list[Shape]:
    uptake = physiology[Tissue.MUSCLE].times(uptake_factor)
    return [shape.grown(1.0, hu, uptake) for shape in shapes]


def _arm_bones(side: float, arms: Arms, habitus: Habitus) -> tuple[Shape, Shape]:
    """Upper arm and forearm as tubes along their bones."""
    if arms is Arms.RAISED:
        elbow = (side * 205.0, -22.0, 1010.0)
        return (
            tube((side * 158, 22, 775), elbow, (40, 44)),
            tube((side * 200, -25, 1000), (side * 70, -45, 1160), (34, 34)),
        )
    out = side * (196.0 * habitus.girth + habitus.fat_mm)
    return (
        tube((side * 166, 22, 815), (out, 34, 525), (37, 43)),
        tube((out, 32, 540), (out * 0.98, 0, 250), (30, 33)),
    )


def arm_outline(arms: Arms, habitus: Habitus, physiology: Physiology) -> tuple[list[Shape], list[Shape]]:
    """Fat and muscle of both arms, each to be painted with its layer of the trunk."""
    limbs = [limb for side in (-1.0, 1.0) for limb in _arm_bones(side, arms, habitus)]
    skin = SKIN_MM + habitus.fat_mm * 0.3
    fat = _tissue([_layer(limb, skin, habitus.girth) for limb in limbs], FAT_HU, FAT_AVIDITY, physiology)
    return fat, _tissue([_layer(limb, 0, habitus.girth) for limb in limbs], MUSCLE_HU, 1, physiology)


def arm_skeleton(arms: Arms, habitus: Habitus, physiology: Physiology) -> list[Shape]:
    """Humerus and forearm bones of both sides."""
    marrow, bones = physiology[Tissue.MARROW].times(0.6), []
    for side in (-1.0, 1.0):
        for limb, radius in zip(_arm_bones(side, arms, habitus), (11.0, 9.0), strict=True):
            half = limb.half_axes[2] * 0.96
            shaft = Shape(limb.centre, (radius, radius, half), 850, marrow, PLUMP, limb.rotation)
            cavity = (radius * 0.55, radius * 0.55, half * 0.9)
            bones += [shaft, Shape(limb.centre, cavity, 60, marrow, PLUMP, limb.rotation)]
    return bones


def trunk_outline(habitus: Habitus, physiology: Physiology) -> tuple[list[Shape], list[Shape]]:
    """Fat and muscle of trunk, head and thighs."""
    fat, muscle = [], []
    for shape in (*_TRUNK, *_THIGHS):
        above_neck = shape.centre[2] > 860
        share = 0.12 if above_neck else 0.6 if shape in _THIGHS else 1.0
        girth = 1.0 if above_neck else habitus.girth
        fat.append(_layer(shape, SKIN_MM + habitus.fat_mm * share, girth))
        muscle.append(_layer(shape, 0, girth))
    gluteal = [
        Shape((s * 75.0, 70.0, 225.0), (72, 52, 70), rotation=along(np.array([s * 0.2, 0.0, 1.0])))
        for s in (-1, 1)
    ]
    muscle += gluteal
    fat += [_layer(shape, SKIN_MM + habitus.fat_mm, habitus.girth) for shape in gluteal]
    return _tissue(fat, FAT_HU, FAT_AVIDITY, physiology), _tissue(muscle, MUSCLE_HU, 1, physiology)
