"""nnU-Net's view of a cohort: ``dataset.json`` with explicit paths, and splits that part no patient."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.cohort.manifest import CohortManifest, CohortPatient, image_file, prefix
from app.domain.analysis import KINDS
from app.domain.decision import ModelRole
from app.domain.scores import Validation
from app.domain.study import StudyKind
from app.domain.volume import LabelMap
from app.errors import MisconfiguredError
from app.imaging.nifti import SUFFIX, read_labels, write_array
from app.training.experiment_settings import ExperimentSettings, PriorMask
from app.training.priors import carry_prior, disturbed, write_prior
from app.training.workplace import Workplace


@dataclass(frozen=True)
class TrainingCase:
    """One nnU-Net case: where its images and its label lie."""

    identifier: str
    images: tuple[Path, ...]
    label: Path


def scan_case(cohort: Path, patient: CohortPatient, kind: StudyKind, masks: Path) -> TrainingCase | None:
    """A scan as a case of two channels; ``None`` when the patient doesn't have it.

    The truth as nnU-Net wants it, lesion or not, is written to ``masks`` when it is not there.
    """
    if patient.scan(kind) is None:
        return None
    identifier = f"{patient.id}_{prefix(kind)}"
    images = (image_file(cohort, patient.id, kind, "suv"), image_file(cohort, patient.id, kind, "ct"))
    label = masks / f"{identifier}{SUFFIX}"
    if not label.exists():
        masks.mkdir(parents=True, exist_ok=True)
        truth = read_labels(image_file(cohort, patient.id, kind, "truth"))
        write_array(label, truth.mask.astype(np.uint8), truth.grid)
    return TrainingCase(identifier, images, label)


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


log = logging.getLogger(__name__)
LABELS = {"background": 0, "lesion": 1}


def write_dataset(
    settings: ExperimentSettings, manifest: CohortManifest, role: ModelRole, place: Workplace
) -> tuple[TrainingCase, ...]:
    """Write ``dataset.json`` for nnU-Net; of M4 the priors too.

    Raises:
        MisconfiguredError: no patient of the internal centre can be used.
    """
    cases = tuple(_cases(settings, manifest, role, place))
    if not cases:
        raise MisconfiguredError(
            f"{role}: no patient of centre {settings.internal_centre} can be used; their reasons are above"
        )
    home = place.raw(role)
    home.mkdir(parents=True, exist_ok=True)
    (home / "dataset.json").write_text(json.dumps(dataset_description(role, cases), indent=1))
    return cases


def write_splits(
    settings: ExperimentSettings, manifest: CohortManifest, role: ModelRole, place: Workplace
) -> None:
    """Write ``splits_final.json``: the same patients in the same folds for every model.

    Raises:
        MisconfiguredError: a fold has nobody on one side.
    """
    description = json.loads((place.raw(role) / "dataset.json").read_text())
    splits = nnunet_splits(list(description["dataset"]), held_back_patients(settings, manifest))
    for fold, split in enumerate(splits):
        if not split["train"] or not split["val"]:
            side = "to train on" if not split["train"] else "to watch the training with"
            raise MisconfiguredError(
                f"{role}: fold {fold} of {settings.folds} has no case {side} (who was left out, see above); "
                "take fewer folds, another seed, or leave the model out"
            )
    home = place.preprocessed(role)
    home.mkdir(parents=True, exist_ok=True)
    (home / "splits_final.json").write_text(json.dumps(splits, indent=1))


def held_back_patients(settings: ExperimentSettings, manifest: CohortManifest) -> tuple[tuple[str, ...], ...]:
    """The ids that each fold holds back."""
    patients = [patient.id for patient in manifest.of_centre(settings.internal_centre)]
    return patient_folds(patients, settings.folds, settings.seed)


def dataset_description(role: ModelRole, cases: Sequence[TrainingCase]) -> dict[str, Any]:
    """The content of ``dataset.json``.

    nnU-Net's channel names are its normalisations. "CT" clips to the lesions' percentiles over the whole data
    set and scales by fixed numbers: right for SUV too, because SUV has a meaning that must not depend on the
    rest of the image (as z-scores would make it).
    """
    return {
        "channel_names": {"0": "CT", "1": "CT"} | ({"2": "noNorm"} if role is ModelRole.M4 else {}),
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


def pet_lesions(
    settings: ExperimentSettings, place: Workplace, patient: CohortPatient, validation: Validation
) -> LabelMap:
    """The PET lesions that become M4's prior: the reader's, or M1's on a patient it has not seen."""
    if settings.prior is PriorMask.TRUTH:
        return read_labels(image_file(settings.cohort_folder, patient.id, StudyKind.PET_CT, "truth"))
    return read_labels(place.prediction(validation, ModelRole.M1, patient.id, StudyKind.PET_CT))


def _cases(
    settings: ExperimentSettings, manifest: CohortManifest, role: ModelRole, place: Workplace
) -> Iterator[TrainingCase]:
    for patient in manifest.of_centre(settings.internal_centre):
        for kind in KINDS[role]:
            case = scan_case(settings.cohort_folder, patient, kind, place.masks)
            if case is None:
                continue
            if role is ModelRole.M4:
                yield from _with_priors(settings, place, patient, case)
            else:
                yield case


def _with_priors(
    settings: ExperimentSettings, place: Workplace, patient: CohortPatient, case: TrainingCase
) -> Iterator[TrainingCase]:
    """The SPECT with its prior, and with a disturbed one; nothing where the node would not use a prior."""
    if patient.scan(StudyKind.PET_CT) is None:
        log.info("M4: %s is not used: no PET", patient.id)
        return
    cohort = settings.cohort_folder
    carried = carry_prior(cohort, patient, pet_lesions(settings, place, patient, Validation.INTERNAL))
    if carried.lesions is None or not carried.usable:
        log.info("M4: %s is not used: %s", patient.id, "; ".join(carried.reasons))
        return
    place.priors.mkdir(parents=True, exist_ok=True)
    masks = [carried.lesions.mask]
    if settings.varied_priors:
        # numbers of the id's characters: a string's hash() differs from process to process
        rng = np.random.default_rng((settings.seed, *patient.id.encode()))
        masks.append(disturbed(carried.lesions, rng))
    for number, mask in enumerate(masks):
        path = place.priors / f"{patient.id}_{number}.nii.gz"
        if not path.exists():
            write_prior(cohort, patient, mask, path)
        yield TrainingCase(f"{patient.id}_prior{number}", (*case.images, path), case.label)
