"""Every defect, with the kind of study that it is done to."""

from __future__ import annotations

from collections.abc import Callable

from tests.defects import ct, pet, spect, stacks
from tests.defects.damage import Defect
from tests.defects.studies import Images, pet_ct, spect_ct

STUDIES: dict[str, Callable[[], Images]] = {"PET/CT": pet_ct, "SPECT/CT": spect_ct}

TABLE: tuple[tuple[str, Defect], ...] = (
    *(("PET/CT", defect) for defect in (*pet.DEFECTS, *stacks.DEFECTS, *ct.DEFECTS)),
    *(("SPECT/CT", defect) for defect in spect.DEFECTS),
)
