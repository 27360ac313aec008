"""Scores by hand, and a cohort of tiny images that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.cohort.manifest import image_file, prefix
from app.domain.decision import ModelRole
from app.domain.scores import LesionCounts, ScanKey, ScanScore, Validation, VoxelCounts
from app.domain.study import StudyKind
from app.domain.volume import Grid
from app.imaging.nifti import write_array

PET, SPECT = StudyKind.PET_CT, StudyKind.SPECT_CT
INTERNAL, EXTERNAL = Validation.INTERNAL, Validation.EXTERNAL
M1, M2, M3, M4 = ModelRole
NO_PRIOR = "bone overlap 0.31, expected > 0.5"

GRID = Grid.axis_aligned((12, 10, 8), (5.0, 5.0, 6.0), (-20.0, -25.0, 0.0))


def made(
    model: ModelRole,
    patient: str,
    shared: int,
    kind: StudyKind = SPECT,
    validation: Validation = INTERNAL,
    used: ModelRole | None = None,
) -> ScanScore:
    """A truth and a result of 10 voxels each, ``shared`` of them common: DSC and PPV are a tenth of that."""
    ran = used or model
    key = ScanKey(model, ran, kind, validation, patient[0], patient, "" if ran is model else NO_PRIOR)
    return ScanScore(
        key=key,
        voxels=VoxelCounts(shared, 10 - shared, 10 - shared),
        lesions=LesionCounts(true=2, detected=min(2, shared), found=3, correct=min(2, shared)),
        voxel_ml=0.15,
        false_positive_ml=0.15 * (shared < 10),
        false_negative_ml=0.15 * (shared < 2),
        true_tl=20.0,
        found_tl=20.0 + shared / 7,
    )


def empty(model: ModelRole, patient: str, kind: StudyKind = SPECT) -> ScanScore:
    """No lesion, and none found."""
    key = ScanKey(model, model, kind, INTERNAL, patient[0], patient)
    return ScanScore(key, VoxelCounts(0, 0, 0), LesionCounts(0, 0, 0, 0), 0.15, 0.0, 0.0, 0.0, 0.0)


def series(model: ModelRole, shares: Sequence[int], kind: StudyKind = SPECT) -> list[ScanScore]:
    """Patients A-0, A-1, … with these shares."""
    return [made(model, f"A-{number}", shared, kind) for number, shared in enumerate(shares)]


def whole_evaluation() -> list[ScanScore]:
    """All four models, both validations; in one patient M4's prior did not fit."""
    scores = series(M1, [8, 9, 7, 8], PET) + series(M3, [7, 9, 6, 8], PET)
    scores += series(M2, [5, 6, 4, 5]) + series(M3, [4, 6, 5, 5])
    scores += [made(M4, f"A-{number}", shared) for number, shared in enumerate([7, 8, 6])]
    scores += [made(M4, "A-3", 5, used=M2)]
    scores += [made(M2, f"B-{n}", 6, validation=EXTERNAL) for n in range(2)]
    scores += [made(M4, f"B-{n}", 7 + n, validation=EXTERNAL) for n in range(2)]
    return scores


def write_images(folder: Path, scores: Sequence[ScanScore]) -> tuple[Path, Path]:
    """The patients' images and one result for all; returns the cohort and the predictions."""
    cohort, predictions = folder / "cohort", folder / "predictions"
    truth = np.zeros(GRID.shape, np.uint16)
    truth[4:7, 4:6, 3:5] = 1
    suv = 0.5 + 9.0 * truth.astype(np.float32)
    for key in (score.key for score in scores):
        image = image_file(cohort, key.patient, key.kind, "suv")
        if not image.exists():
            image.parent.mkdir(parents=True, exist_ok=True)
            write_array(image, suv, GRID)
            write_array(image_file(cohort, key.patient, key.kind, "truth"), truth, GRID)
        place = predictions / key.validation.value / key.used.value
        place.mkdir(parents=True, exist_ok=True)
        write_array(place / f"{key.patient}_{prefix(key.kind)}.nii.gz", np.roll(truth, 1, axis=0), GRID)
    return cohort, predictions
