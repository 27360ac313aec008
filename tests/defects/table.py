"""Every defect, with the kind of study that it is done to."""

from __future__ import annotations

from tests.defects import agreement, candidates, counts, ct, pet, spect, stacks
from tests.defects.damage import Defect

TABLE: tuple[tuple[str, Defect], ...] = (
    *(("PET/CT", defect) for defect in (*pet.DEFECTS, *stacks.DEFECTS, *ct.DEFECTS, *candidates.PET)),
    *(("SPECT/CT", defect) for defect in (*spect.DEFECTS, *candidates.SPECT)),
    *(("SPECT/CT in counts", defect) for defect in counts.DEFECTS),
    *(("PET/CT of a body", defect) for defect in agreement.DEFECTS),
)
