"""Where the lesions that a model found lie: one layout for experiments, the node's evaluation and reports."""

from __future__ import annotations

from pathlib import Path

from app.cohort.manifest import prefix
from app.cohort.nifti import SUFFIX
from app.domain.decision import ModelRole
from app.domain.scores import Validation
from app.domain.study import StudyKind

PREDICTIONS_FOLDER = "predictions"


def prediction_file(
    predictions: Path, validation: Validation, model: ModelRole, patient: str, kind: StudyKind
) -> Path:
    """``<validation>/<model>/<patient>_<pet|spect>.nii.gz``, a label map in the cohort's orientation.

    Args:
        predictions: the folder of all predictions.
        validation: how the scan relates to the training.
        model: the one that ran.
        patient: its id in the cohort.
        kind: which scan.
    """
    return predictions / validation.value / model.value / f"{patient}_{prefix(kind)}{SUFFIX}"
