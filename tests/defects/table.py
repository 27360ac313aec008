"""Every defect, with the kind of study that it is done to."""

from __future__ import annotations

from collections.abc import Callable

from tests.defects import agreement, ct, pet, spect, stacks
from tests.defects.damage import Defect
from tests.defects.studies import Images, body_pet_ct, pet_ct, spect_ct

STUDIES: dict[str, Callable[[], Images]] = {
    "PET/CT": pet_ct,
    "SPECT/CT": spect_ct,
    "PET/CT of a body": body_pet_ct,
}

TABLE: tuple[tuple[str, Defect], ...] = (
    *(("PET/CT", defect) for defect in (*pet.DEFECTS, *stacks.DEFECTS, *ct.DEFECTS)),
    *(("SPECT/CT", defect) for defect in spect.DEFECTS),
    *(("PET/CT of a body", defect) for defect in agreement.DEFECTS),
)
