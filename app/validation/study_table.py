"""What the study behind the product published, for comparison with our numbers.

The study does not say which statistical test gave its p-values, nor whether its PPV is by voxel or by lesion;
ours are given both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.decision import ModelRole
from app.domain.measures import STUDY_DOI
from app.domain.scores import Validation
from app.domain.study import StudyKind

TITLE = (
    "Automatic lesion segmentation in 68Ga-PSMA PET/CT and 177Lu-PSMA SPECT/CT: "
    "added value of PET-guided SPECT in a bicentric study"
)
JOURNAL = "EJNMMI Research 2026"
DOI = STUDY_DOI
PATIENTS = {Validation.INTERNAL: 48, Validation.EXTERNAL: 25}
"""Centre A, and centre B, which no training saw."""


@dataclass(frozen=True)
class Published:
    """Mean and standard deviation over patients, as published."""

    mean: float
    sd: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.sd:.2f}"


DSC, PPV = "dsc", "ppv"
_PET, _SPECT = StudyKind.PET_CT, StudyKind.SPECT_CT
_INTERNAL, _EXTERNAL = Validation.INTERNAL, Validation.EXTERNAL

PUBLISHED = {
    (ModelRole.M1, _PET, _INTERNAL, DSC): Published(0.83, 0.19),
    (ModelRole.M1, _PET, _EXTERNAL, DSC): Published(0.76, 0.22),
    (ModelRole.M3, _PET, _INTERNAL, DSC): Published(0.83, 0.16),
    (ModelRole.M3, _PET, _EXTERNAL, DSC): Published(0.77, 0.21),
    (ModelRole.M2, _SPECT, _INTERNAL, DSC): Published(0.61, 0.26),
    (ModelRole.M2, _SPECT, _EXTERNAL, DSC): Published(0.70, 0.25),
    (ModelRole.M4, _SPECT, _INTERNAL, DSC): Published(0.63, 0.24),
    (ModelRole.M4, _SPECT, _EXTERNAL, DSC): Published(0.78, 0.14),
    (ModelRole.M2, _SPECT, _INTERNAL, PPV): Published(0.63, 0.25),
    (ModelRole.M2, _SPECT, _EXTERNAL, PPV): Published(0.71, 0.24),
    (ModelRole.M4, _SPECT, _INTERNAL, PPV): Published(0.65, 0.26),
    (ModelRole.M4, _SPECT, _EXTERNAL, PPV): Published(0.75, 0.23),
}
PUBLISHED_P = {
    (ModelRole.M4, ModelRole.M2, _SPECT, _INTERNAL): 0.35,
    (ModelRole.M4, ModelRole.M2, _SPECT, _EXTERNAL): 0.014,
}
"""Of the DSC of two models; the test is not named."""


def published(model: ModelRole, kind: StudyKind, validation: Validation, measure: str) -> Published | None:
    """The study's figure, ``None`` where it gives none. ``measure`` is ``DSC`` or ``PPV`` of this module."""
    return PUBLISHED.get((model, kind, validation, measure))


def published_p(first: ModelRole, second: ModelRole, kind: StudyKind, validation: Validation) -> float | None:
    """The study's p-value of the DSC of two models, ``None`` where it gives none."""
    return PUBLISHED_P.get((first, second, kind, validation))
