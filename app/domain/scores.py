"""One model on one scan compared with the truth, per voxel and per lesion.

Every table and figure of a validation derives from :class:`ScanScore`. A number that is not defined (a share
of nothing) is ``None``, never 0 or 1: a patient without lesions in whom none is found has no Dice
coefficient.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import ModelRole
from app.domain.study import StudyKind


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels found and true, found and false, missed."""

    true_positive: int
    false_positive: int
    false_negative: int

    @property
    def dice(self) -> float | None:
        """Dice similarity coefficient, 2 TP / (2 TP + FP + FN)."""
        return _share(
            2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative
        )

    @property
    def ppv(self) -> float | None:
        """Positive predictive value, TP / (TP + FP)."""
        return _share(self.true_positive, self.true_positive + self.false_positive)

    @property
    def sensitivity(self) -> float | None:
        """TP / (TP + FN)."""
        return _share(self.true_positive, self.true_positive + self.false_negative)


@dataclass(frozen=True)
class LesionCounts:
    """Lesions by overlap: a single shared voxel counts as found, as in autoPET.

    Attributes:
        true: lesions in the truth; ``detected`` of them overlap the result.
        found: components of the result; ``correct`` of them overlap the truth.
    """

    true: int
    detected: int
    found: int
    correct: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the true lesions that were detected."""
        return _share(self.detected, self.true)

    @property
    def ppv(self) -> float | None:
        """Share of the found components that are correct."""
        return _share(self.correct, self.found)

    @property
    def false_positives(self) -> int:
        """Components that overlap no lesion."""
        return self.found - self.correct


def count_voxels(result: NDArray[np.bool_], truth: NDArray[np.bool_]) -> VoxelCounts:
    """Compare two masks of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(result, truth)
    shared = int(np.count_nonzero(result & truth))
    return VoxelCounts(shared, int(np.count_nonzero(result)) - shared, int(np.count_nonzero(truth)) - shared)


def count_lesions(result: NDArray[np.integer], truth: NDArray[np.integer]) -> LesionCounts:
    """Compare two label maps of the same shape (0 background, every other value one lesion).

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(result, truth)
    shared = (result > 0) & (truth > 0)
    return LesionCounts(
        true=_labels(truth),
        detected=_labels(truth[shared]),
        found=_labels(result),
        correct=_labels(result[shared]),
    )


def _labels(array: NDArray[np.integer]) -> int:
    return int(np.count_nonzero(np.unique(array)))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _same_shape(result: NDArray[np.generic], truth: NDArray[np.generic]) -> None:
    if result.shape != truth.shape:
        raise ValueError(f"a result {result.shape} can't be compared with a truth {truth.shape}")


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
