"""Rigid CT-to-CT registration driven by bone: every translation searched, the best refined, the fit measured.

All of it runs in one thread without random numbers: equal inputs give equal transforms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.domain.analysis import RegistrationFit
from app.domain.volume import FloatArray, Unit, Volume
from app.imaging.registration.fit import measure_fit
from app.imaging.registration.search import (
    STARTS_APART_MM,
    TURNS_DEG,
    UPRIGHT_DEG,
    Refined,
    likely_starts,
    refine,
)
from app.imaging.registration.working_ct import WorkingCt, bone_centre_mm, bone_ml, moved_points, working_ct

MIN_BONE_ML = 30.0
"""Dense bone, cancellous counted by half: about two lumbar vertebrae. With less there is nothing to go by."""

GOOD_OVERLAP = 0.75
"""Soft Dice of bone at 8 mm that a right place reaches (0.80 at least on simulated patients)."""


@dataclass(frozen=True, eq=False)
class RigidRegistration:
    """Where a point of the fixed CT lies in the moving CT, and how well that fits.

    Attributes:
        fixed_to_moving: 4x4, LPS mm of the fixed CT to LPS mm of the moving CT.
        fit: every number that the limits of :class:`app.imaging.registration.policy.AlignPolicy` check.
    """

    fixed_to_moving: FloatArray
    fit: RegistrationFit


def register_rigid(fixed_ct: Volume, moving_ct: Volume) -> RigidRegistration | None:
    """Bring two CTs of one patient together.

    Args:
        fixed_ct: the SPECT's CT in HU.
        moving_ct: the PET's CT in HU.

    Returns:
        The best rigid transform with its fit, or ``None`` when one of the two shows no bone to go by.

    Raises:
        ValueError: a volume is not in HU: a fault of the caller.
    """
    if fixed_ct.unit is not Unit.HU or moving_ct.unit is not Unit.HU:
        raise ValueError(f"registration takes HU, found {fixed_ct.unit} and {moving_ct.unit}")
    fixed, moving = working_ct(fixed_ct).without_arms(), working_ct(moving_ct).without_arms()
    if min(bone_ml(fixed), bone_ml(moving)) < MIN_BONE_ML:
        return None
    return register_working(fixed, moving)


def register_working(fixed: WorkingCt, moving: WorkingCt) -> RigidRegistration | None:
    """As :func:`register_rigid`, of CTs that are prepared already."""
    places = _places(fixed.coarser(), moving.coarser())
    if not places:
        return None
    motion = refine(fixed, moving, places[0].fixed_to_moving).fixed_to_moving
    fit = measure_fit(fixed, moving, motion, _rival_overlap(places, fixed))
    return RigidRegistration(motion, fit)


def _places(fixed: WorkingCt, moving: WorkingCt) -> list[Refined]:
    """Refined places, best first; turned bodies are searched for only when upright none is good."""
    places: list[Refined] = []
    for turns_deg in (UPRIGHT_DEG, TURNS_DEG):
        places += [refine(fixed, moving, start) for start in likely_starts(fixed, moving, turns_deg)]
        places.sort(key=lambda place: -place.bone_overlap)
        if places and places[0].bone_overlap >= GOOD_OVERLAP:
            break
    return places


def _rival_overlap(places: list[Refined], fixed: WorkingCt) -> float:
    """Overlap of the best other place, as a share of the best place's: near 1, the place is a guess."""
    centre = bone_centre_mm(fixed)
    best = moved_points(places[0].fixed_to_moving, centre)
    rivals = (
        place.bone_overlap
        for place in places[1:]
        if np.linalg.norm(moved_points(place.fixed_to_moving, centre) - best) > STARTS_APART_MM / 2
    )
    return max(rivals, default=0.0) / max(places[0].bone_overlap, 1e-6)
