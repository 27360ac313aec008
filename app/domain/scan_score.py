"""One model on one scan, compared with the truth: the record that every table and figure derives from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.domain.analysis import ModelRole
from app.domain.segmentation_metrics import LesionCounts, VoxelCounts
from app.domain.study import StudyKind


class Validation(StrEnum):
    """How the scan relates to the training."""

    INTERNAL = "internal"
    """Cross-validation: the patient was held out of the training that segmented it."""
    EXTERNAL = "external"
    """Another centre's patient; trained on all of the first centre's."""
    NODE = "node"
    """The node's own chain with its installed models."""


@dataclass(frozen=True)
class ScanKey:
    """What was segmented by what.

    Attributes:
        model: what was to be measured; of M4, the node's policy (M4 where a prior fits, M2 elsewhere).
        used: the model that ran.
        why: when ``used`` is another than ``model``: why, for example that no prior fitted.
    """

    model: ModelRole
    used: ModelRole
    kind: StudyKind
    validation: Validation
    centre: str
    patient: str
    why: str = ""


@dataclass(frozen=True)
class ScanScore:
    """The comparison of one mask with its truth.

    Attributes:
        voxel_ml: of the functional grid, on which both were compared.
        false_positive_ml: components of the result that share no voxel with the truth (autoPET's FPV).
        false_negative_ml: components of the truth that share no voxel with the result (autoPET's FNV).
        true_tl, found_tl: sum of SUV times volume over the mask, g/ml times ml (TL-PSMA).
    """

    key: ScanKey
    voxels: VoxelCounts
    lesions: LesionCounts
    voxel_ml: float
    false_positive_ml: float
    false_negative_ml: float
    true_tl: float
    found_tl: float

    @property
    def true_ml(self) -> float:
        """PSMA-TV of the truth, ml."""
        return (self.voxels.true_positive + self.voxels.false_negative) * self.voxel_ml

    @property
    def found_ml(self) -> float:
        """PSMA-TV of the result, ml."""
        return (self.voxels.true_positive + self.voxels.false_positive) * self.voxel_ml
