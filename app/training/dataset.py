"""nnU-Net's view of the cohort: dataset.json with explicit paths, and splits grouped by patient."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain.analysis import ModelRole
from app.training.cohort import Case, cases_of, patient_name, patient_of
from app.training.environment import nnunet_folders
from app.training.request import TrainingRequest

LABELS = {"background": 0, "lesion": 1}

VALIDATION_EVERY = 20
"""Every 20th patient only watches the training (nnU-Net wants a validation set); it decides nothing."""


def channel_normalisation(role: ModelRole) -> dict[str, str]:
    """nnU-Net's channel names, which are its normalisations.

    "CT" clips to the lesions' percentiles over the whole data set and scales by fixed numbers: right for SUV
    too, because SUV has a meaning that must not depend on the rest of the image (as z-scores would make it).
    """
    channels = {"0": "CT", "1": "CT"}
    return {**channels, "2": "noNorm"} if role is ModelRole.M4 else channels


def cohort_cases(request: TrainingRequest) -> tuple[Case, ...]:
    """Every case of the model's cohort, in order."""
    names = [patient_name(number, request.centre) for number in range(request.patients)]
    folder = patients_folder(request.work)
    return tuple(case for name in names for case in cases_of(request.role, name, folder))


def patients_folder(work: Path) -> Path:
    """Where the patients' images lie."""
    return work / "patients"


def write_dataset(request: TrainingRequest) -> Path:
    """Write ``dataset.json`` for nnU-Net and return its folder."""
    cases = cohort_cases(request)
    home = nnunet_folders(request.work)["nnUNet_raw"] / request.dataset_name
    home.mkdir(parents=True, exist_ok=True)
    (home / "dataset.json").write_text(json.dumps(dataset_description(request.role, cases), indent=1))
    return home


def dataset_description(role: ModelRole, cases: Sequence[Case]) -> dict[str, Any]:
    """The content of ``dataset.json``."""
    return {
        "channel_names": channel_normalisation(role),
        "labels": LABELS,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "dataset": {
            case.identifier: {
                "images": [str(path.resolve()) for path in case.images],
                "label": str(case.label.resolve()),
            }
            for case in cases
        },
    }


def grouped_split(identifiers: Sequence[str]) -> dict[str, list[str]]:
    """One split in which no patient is on both sides (nnU-Net itself would split by case)."""
    patients = sorted({patient_of(identifier) for identifier in identifiers})
    watching = set(patients[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]) or {patients[-1]}
    return {
        "train": [i for i in identifiers if patient_of(i) not in watching],
        "val": [i for i in identifiers if patient_of(i) in watching],
    }
