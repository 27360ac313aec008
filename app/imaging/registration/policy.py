"""Section ``align``: when an earlier PET result may guide M4, and the check of every limit.

A misplaced prior makes M4 far worse than M2 without one, so every limit errs towards refusing. The defaults
stand between the fits of right and wrong pairs that ``benchmarks/prior_margins.py`` measures; see
docs/explanation/registration.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from app.domain.ranges import Correlation, Range, Ranged, Share
from app.domain.refusal import Reason, RefusalCode

if TYPE_CHECKING:
    from app.domain.analysis import RegistrationFit

NOT_PLACED = "The PET lesions can't be placed on the SPECT with certainty; M4 was not given a prior"


@dataclass(frozen=True)
class AlignPolicy(Ranged):
    """When the patient's earlier PET lesions may serve as a prior."""

    max_prior_age_days: Annotated[float, Range(0, 3650, above=True)] = 180.0
    """Oldest PET to use, days before the SPECT: disease moves on."""
    min_overlap_fraction: Share = 0.9
    """Least share of the SPECT CT's body that the PET's CT covers: elsewhere nobody looked for lesions."""
    max_rotation_deg: Annotated[float, Range(0, 180)] = 15.0
    """Largest rotation, degrees: a body that lies more obliquely does not bend like a rigid one."""
    max_translation_mm: Annotated[float, Range(0, 100_000)] = 2000.0
    """Largest shift of the bone's centre, mm. Scanners have arbitrary origins: this catches nonsense only."""
    min_bone_dice: Share = 0.5
    """Least Dice of bone in the trunk (4 mm voxels): the skeletons lie on each other."""
    max_bone_distance_mm: Annotated[float, Range(0, 1000)] = 8.0
    """75 % of the trunk's bone has its counterpart within this distance, mm."""
    min_soft_tissue_correlation: Correlation = 0.8
    """Least correlation of soft tissue: another patient's organs and fat lie elsewhere."""
    min_side_correlation: Correlation = 0.08
    """Least correlation of left minus right: a mirrored CT is negative."""
    max_stretch: Share = 0.011
    """Largest difference in body length, as a share: body length does not change."""
    max_thickness_difference_mm: Annotated[float, Range(0, 1000)] = 9.0
    """Largest mean difference of the trunk's thickness, mm: fat and girth change slowly."""
    max_rival_overlap: Share = 0.8
    """Bone overlap at the best other place, as a share of the overlap found: near 1 the place is a guess."""
    max_uptake_shift_mm: Annotated[float, Range(0, 1000)] = 15.0
    """Largest distance to where PET and SPECT uptake agree best, mm: a CT may not fit its own PET."""
    min_lesions_on_pet: Share = 0.75
    """Least contrast of PET uptake under the lesions, as a share of that at the best place within 64 mm."""
    min_lesions_on_spect: Share = 0.5
    """The same on the SPECT: a prior that contradicts the SPECT is no help."""


def broken_limits(fit: RegistrationFit, policy: AlignPolicy) -> tuple[Reason, ...]:
    """Every limit that the fit of the two CTs breaks, in the policy's order; empty when they fit."""
    measured = (
        ("min_overlap_fraction", "share of the body that both CTs show", fit.overlap_fraction),
        ("max_rotation_deg", "rotation (degrees)", fit.rotation_deg),
        ("max_translation_mm", "shift (mm)", fit.translation_mm),
        ("min_bone_dice", "Dice of bone", fit.bone_dice),
        ("max_bone_distance_mm", "distance of bone surfaces (mm)", fit.bone_distance_mm),
        ("min_soft_tissue_correlation", "correlation of soft tissue", fit.soft_tissue_correlation),
        ("min_side_correlation", "correlation of left minus right", fit.side_correlation),
        ("max_stretch", "difference in body length", fit.stretch),
        (
            "max_thickness_difference_mm",
            "difference of the trunk's thickness (mm)",
            fit.thickness_difference_mm,
        ),
        ("max_rival_overlap", "bone overlap at the best other place, relative", fit.rival_overlap),
    )
    return tuple(_broken(measured, policy))


def broken_uptake_limits(fit: RegistrationFit, policy: AlignPolicy) -> tuple[Reason, ...]:
    """Every limit on the agreement of uptake that is broken; what the CTs can't tell."""
    measured = (
        ("max_uptake_shift_mm", "shift that brings uptake to agree (mm)", fit.uptake_shift_mm),
        ("min_lesions_on_pet", "PET uptake under the lesions, of the best place's", fit.lesions_on_pet),
        ("min_lesions_on_spect", "SPECT uptake under the lesions, of the best place's", fit.lesions_on_spect),
    )
    return tuple(_broken(measured, policy))


def _broken(measured: Iterable[tuple[str, str, float | None]], policy: AlignPolicy) -> Iterator[Reason]:
    """A reason for each number that its limit excludes, or that could not be measured (``None``)."""
    for key, meaning, found in measured:
        limit, is_least = getattr(policy, key), key.startswith("min_")
        if found is not None and (found >= limit if is_least else found <= limit):
            continue
        seen = "nothing that could be measured" if found is None else f"{found:.3g}"
        expected = f"{'at least' if is_least else 'at most'} {limit:g}"
        yield Reason(RefusalCode.PRIOR_MISFIT, f"align.{key}", f"{meaning} {seen}", expected, NOT_PLACED)
