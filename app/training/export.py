"""A finished training as a model: ``<id>/`` with weights, plans, data set description and card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from app import __version__
from app.cohort.manifest import CohortManifest
from app.domain.analysis import KINDS
from app.domain.decision import ModelRole
from app.inference.models.card import (
    DATASET_FILE,
    REQUIRED_FILES,
    WEIGHTS_FILE,
    InferenceSettings,
    InputChannel,
    ModelCard,
    write_card,
    write_description,
)
from app.inference.models.channels import ENCODING, FUNCTIONAL, PRIOR_NAME, channels_of
from app.inference.models.plans_check import NORMALISATIONS
from app.inference.models.store import sha256_of
from app.training.dataset import LABELS, patient_of
from app.training.experiment_settings import ExperimentSettings, PriorMask, is_on_all
from app.training.model_training import ModelTraining
from app.training.planning import CONFIGURATION, TrainingPlans, is_own
from app.training.priors import DEFECT_PROBABILITY

TILE_STEP_SIZE: dict[str, float] = {TrainingPlans.SMALL: 0.75}
"""Windows overlap by a quarter: half the time of nnU-Net's default 0.5, which two cores need."""

DEMONSTRATION = (
    "Demonstration and software tests only. Trained on simulated patients: its results on real "
    "patients mean nothing, and it must not be used for them."
)
RESEARCH = (
    "Research on patients like those it was trained on. Not for the care of patients before the site has "
    "validated it on its own."
)


NOT_IN_COMMAND = ("cohort", "cohort_sha256", "simulated", "device", "parallel", "threads")
"""Settings that a card states elsewhere, or that do not influence the weights."""

COHORT_PLACEHOLDER = "COHORT"
"""Stands for a cohort's folder in a command, so that a card does not reveal the folder."""


def model_id(settings: ExperimentSettings, role: ModelRole) -> str:
    """The id, and folder name, of a model."""
    return f"psma-{role.value.lower()}-{settings.name}"


def export_model(training: ModelTraining, manifest: CohortManifest) -> Path:
    """Write the model's folder and return it; the evaluation adds metrics to the card."""
    identifier = model_id(training.settings, training.role)
    folder = training.place.models(training.split) / identifier
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(training.weights, folder / WEIGHTS_FILE)
    write_description(folder, training.plans, training.dataset)
    write_card(_card(training, manifest, folder), folder)
    return folder


def _card(training: ModelTraining, manifest: CohortManifest, folder: Path) -> ModelCard:
    settings, role = training.settings, training.role
    return ModelCard(
        id=folder.name,
        role=role,
        version=__version__,
        tracers=_tracers(training, manifest),
        channels=_channels(training),
        labels=LABELS,
        training_data=_training_data(training),
        training_command=command(settings),
        deviations=_deviations(settings.plans),
        inference=InferenceSettings(
            configuration=CONFIGURATION, tile_step_size=TILE_STEP_SIZE.get(settings.plans, 0.5)
        ),
        licence="Apache-2.0" if settings.simulated else "of the clinic that trained it",
        intended_use=DEMONSTRATION if settings.simulated else RESEARCH,
        demonstration_only=settings.simulated,
        files={name: sha256_of(folder / name) for name in REQUIRED_FILES},
    )


def _deviations(plans: str) -> tuple[str, ...]:
    from app.training.trainer import DEVIATIONS

    if plans == TrainingPlans.SMALL:
        return DEVIATIONS
    own = (f"spacing, patch, batch and network of the plans in {plans}",) if is_own(plans) else ()
    return ("random numbers are seeded anew in every epoch", *own)


def command(settings: ExperimentSettings, cohort: str = COHORT_PLACEHOLDER) -> str:
    """The command that trains these models again; the placeholder stands for the folder of a cohort."""
    shown = settings.model_dump(mode="json", exclude=set(NOT_IN_COMMAND))
    shown["models"] = ",".join(shown["models"])
    words = " ".join(f"--set {key}={value}" for key, value in shown.items())
    return f"psma-node experiment --cohort {cohort} {words}"


def _tracers(training: ModelTraining, manifest: CohortManifest) -> tuple[str, ...]:
    """The tracers that the training's patients were given."""
    centre = training.settings.internal_centre
    scans = (scan for patient in manifest.of_centre(centre) for scan in patient.scans)
    return tuple(sorted({scan.tracer for scan in scans if scan.kind in KINDS[training.role]}))


def _channels(training: ModelTraining) -> tuple[InputChannel, ...]:
    """The channels as the plans normalise them, so that the card can't hide a mistake."""
    schemes = training.plans["configurations"][CONFIGURATION]["normalization_schemes"]
    channels = zip(channels_of(training.role), schemes, strict=True)
    return tuple(
        InputChannel(name=name, unit=unit, normalisation=_in_words(name, scheme))
        for (name, unit), scheme in channels
    )


def _in_words(channel: str, scheme: str) -> str:
    words = NORMALISATIONS[scheme]
    return f"{words}; {ENCODING}" if channel == PRIOR_NAME else words


def _training_data(training: ModelTraining) -> str:
    settings, role = training.settings, training.role
    patients = len({patient_of(case) for case in _cases(training)})
    kind = "simulated patients" if settings.simulated else "patients"
    text = f"{patients} {kind} of centre {settings.internal_centre}"
    if not is_on_all(training.split):
        text += f" (all but fold {training.split} of {settings.folds})"
    trained = f"{settings.iterations} iterations, one training, seed {training.seed}"
    return f"{text}, {_input(settings, role)}. {trained}."


def _input(settings: ExperimentSettings, role: ModelRole) -> str:
    if role is ModelRole.M3:
        return "PET with CT and SPECT with CT as cases of their own"
    if role is not ModelRole.M4:
        return f"{FUNCTIONAL[role]} with CT"
    whose = "the readers'" if settings.prior is PriorMask.TRUTH else "M1's held-out"
    text = f"SPECT with CT and {whose} PET lesions as prior"
    if settings.varied_priors:
        text += f"; each again with a disturbed prior, {DEFECT_PROBABILITY:.0%} of these empty or far off"
    return text


def _cases(training: ModelTraining) -> list[str]:
    """The cases that were trained on."""
    home = training.place.preprocessed(training.role)
    if is_on_all(training.split):
        return list(json.loads((home / DATASET_FILE).read_text())["dataset"])
    split: list[str] = json.loads((home / "splits_final.json").read_text())[int(training.split)]["train"]
    return split
