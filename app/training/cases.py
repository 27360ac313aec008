"""nnU-Net's cases of a cohort, and its splits: patients are never parted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.cohort.manifest import CohortPatient, image_file, prefix
from app.cohort.nifti import SUFFIX, read_labels, write_array
from app.domain.study import StudyKind


@dataclass(frozen=True)
class Case:
    """One nnU-Net case: where its images and its label lie."""

    identifier: str
    images: tuple[Path, ...]
    label: Path


def scan_case(cohort: Path, patient: CohortPatient, kind: StudyKind, masks: Path) -> Case | None:
    """A scan as a case of two channels; ``None`` when the patient doesn't have it.

    Args:
        cohort: its folder.
        patient: whose scan.
        kind: which.
        masks: folder for the truth as nnU-Net wants it, lesion or not; written when it is not there.
    """
    if patient.scan(kind) is None:
        return None
    identifier = f"{patient.id}_{prefix(kind)}"
    images = (
        image_file(cohort, patient.id, kind, "suv"),
        image_file(cohort, patient.id, kind, "ct"),
    )
    label = masks / f"{identifier}{SUFFIX}"
    if not label.exists():
        masks.mkdir(parents=True, exist_ok=True)
        truth = read_labels(image_file(cohort, patient.id, kind, "truth"))
        write_array(label, truth.mask.astype(np.uint8), truth.grid)
    return Case(identifier, images, label)


def patient_of(identifier: str) -> str:
    """The patient a case belongs to."""
    return identifier.split("_", maxsplit=1)[0]


def patient_folds(patients: Sequence[str], folds: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """The patients that each fold holds back: every patient once, sizes that differ by one at most."""
    order = np.random.default_rng(seed).permutation(sorted(patients))
    return tuple(tuple(sorted(map(str, order[fold::folds]))) for fold in range(folds))


def nnunet_splits(
    identifiers: Sequence[str], held_back: Sequence[Sequence[str]]
) -> list[dict[str, list[str]]]:
    """``splits_final.json``: cases of the same patient on the same side (nnU-Net itself splits by case)."""
    return [
        {
            "train": [name for name in identifiers if patient_of(name) not in set(fold)],
            "val": [name for name in identifiers if patient_of(name) in set(fold)],
        }
        for fold in held_back
    ]
