"""A finished training as a model: ``models/<id>/`` with weights, plans, data set description and card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from app import __version__
from app.domain.analysis import ModelRole
from app.domain.tracers import PSMA_11_GA68, PSMA_617_LU177
from app.inference.channels import FUNCTIONAL, channels_of
from app.inference.model_card import (
    DATASET_FILE,
    PLANS_FILE,
    REQUIRED_FILES,
    WEIGHTS_FILE,
    InferenceSettings,
    InputChannel,
    ModelCard,
    write_card,
)
from app.inference.model_store import sha256_of
from app.training.cohort import DEFECT_PROBABILITY, PRIORS_PER_PATIENT
from app.training.dataset import LABELS
from app.training.environment import nnunet_folders
from app.training.planning import BATCH_SIZE, CONFIGURATION, PLANS_NAME
from app.training.request import TrainingRequest

TRACERS = {
    ModelRole.M1: (PSMA_11_GA68.key,),
    ModelRole.M2: (PSMA_617_LU177.key,),
    ModelRole.M3: (PSMA_11_GA68.key, PSMA_617_LU177.key),
    ModelRole.M4: (PSMA_617_LU177.key,),
}

CLIPPED = (
    "nnU-Net CT scheme: clipped to the training lesions' 0.5 and 99.5 percentiles, fixed mean and deviation"
)

DISTANCES = "signed distance to the lesions' surface / 20 mm + 1, clipped to 0..2; 0 is far or no lesion"

TILE_STEP_SIZE = 0.75
"""Windows overlap by a quarter: half the time of nnU-Net's default 0.5, which two cores need."""


def model_id(role: ModelRole) -> str:
    """The id, and folder name, of a model trained on simulated patients."""
    return f"psma-{role.value.lower()}-simulated"


def training_output(request: TrainingRequest) -> Path:
    """Where the trainer leaves its weights."""
    from app.training.trainer import PsmaSmallTrainer

    results = nnunet_folders(request.work)["nnUNet_results"] / request.dataset_name
    return results / f"{PsmaSmallTrainer.__name__}__{PLANS_NAME}__{CONFIGURATION}"


def export_model(request: TrainingRequest, models: Path) -> Path:
    """Write ``models/<id>/`` and return it; ``psma-node evaluate --update-cards`` adds metrics."""
    source = training_output(request)
    folder = models / model_id(request.role)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "fold_0" / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    _write_json(folder / PLANS_FILE, json.loads((source / PLANS_FILE).read_text()))
    dataset = json.loads((source / DATASET_FILE).read_text())
    del dataset["dataset"]  # paths of the machine that trained
    _write_json(folder / DATASET_FILE, dataset)
    write_card(_card(request, folder), folder)
    return folder


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _card(request: TrainingRequest, folder: Path) -> ModelCard:
    from app.training.trainer import DEVIATIONS

    return ModelCard(
        id=model_id(request.role),
        role=request.role,
        version=__version__,
        tracers=TRACERS[request.role],
        channels=_channels(request.role),
        labels=LABELS,
        training_data=_training_data(request),
        training_command=(
            f"psma-node train --models {request.role.value} --patients {request.patients} "
            f"--centre {request.centre} --iterations {request.iterations} --seed {request.seed}"
        ),
        deviations=DEVIATIONS,
        inference=InferenceSettings(configuration=CONFIGURATION, tile_step_size=TILE_STEP_SIZE),
        licence="Apache-2.0",
        intended_use=(
            "Demonstration and software tests only. Trained on simulated patients: its results on real "
            "patients mean nothing, and it must not be used for them."
        ),
        demonstration_only=True,
        files={name: sha256_of(folder / name) for name in REQUIRED_FILES},
    )


def _channels(role: ModelRole) -> tuple[InputChannel, ...]:
    encodings = (CLIPPED, CLIPPED, DISTANCES)
    return tuple(
        InputChannel(name=name, unit=unit, normalisation=encoding)
        for (name, unit), encoding in zip(channels_of(role), encodings, strict=False)
    )


def _training_data(request: TrainingRequest) -> str:
    last = request.patients - 1
    text = f"{request.patients} simulated patients of centre {request.centre} (numbers 0 to {last})"
    if request.role is ModelRole.M3:
        text += ", each with two cases: PET with CT, SPECT with CT"
    elif request.role is ModelRole.M4:
        wrong = DEFECT_PROBABILITY * (PRIORS_PER_PATIENT - 1) / PRIORS_PER_PATIENT
        text += (
            f", SPECT with CT, each with {PRIORS_PER_PATIENT} priors made from the true PET lesions; "
            f"{wrong:.1%} of the cases have an empty or misplaced prior"
        )
    else:
        text += f", {FUNCTIONAL[request.role]} with CT"
    return f"{text}. {request.iterations} iterations, batch {BATCH_SIZE}, one training, seed {request.seed}."
