"""One model of an experiment: trained on the patients of a split, then run on those that it has not seen.

The product's segmenter runs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cohort.manifest import CohortManifest, CohortPatient, image_file
from app.domain.analysis import KINDS
from app.domain.decision import ModelRole
from app.domain.scores import Validation
from app.domain.study import StudyKind
from app.domain.volume import Unit
from app.imaging.labels import label_lesions
from app.imaging.nifti import read_volume, write_array
from app.inference.models.card import DATASET_FILE, PLANS_FILE, WEIGHTS_FILE
from app.inference.models.channels import NetworkInput, build_input
from app.inference.models.store import ModelStore
from app.inference.policy import SegmentPolicy
from app.inference.running.segmenter import Segmenter
from app.training.dataset import held_back_patients, pet_lesions
from app.training.experiment_settings import ALL_PATIENTS, ExperimentSettings, is_on_all
from app.training.planning import CONFIGURATION, TrainingPlans, plans_name, read_object
from app.training.priors import CarriedPrior, carry_prior
from app.training.workplace import Workplace, dataset_name, validation_of

if TYPE_CHECKING:
    from app.training.trainer import PsmaTrainer

LATEST = "checkpoint_latest.pth"
FINAL = "checkpoint_final.pth"


@dataclass(frozen=True)
class ModelTraining:
    """A model, and who is held back: a fold's patients, or nobody (``all``, ``all-2`` …)."""

    settings: ExperimentSettings
    role: ModelRole
    split: str
    place: Workplace

    @property
    def seed(self) -> int:
        """Of weights and sampling."""
        return self.settings.seed_of(self.split)

    @property
    def output(self) -> Path:
        """Where nnU-Net leaves plans, data set, and a folder for each fold."""
        trainer = "PsmaSmallTrainer" if self.settings.plans == TrainingPlans.SMALL else "PsmaTrainer"
        results = self.place.nnunet["nnUNet_results"] / dataset_name(self.role)
        return results / f"{trainer}__{plans_name(self.settings.plans)}__{CONFIGURATION}"

    @property
    def weights(self) -> Path:
        """The trained weights, in a format that runs no code on loading."""
        return self.output / f"fold_{self.split}" / WEIGHTS_FILE

    @property
    def plans(self) -> dict[str, Any]:
        """nnU-Net's plans."""
        return read_object(self.output / PLANS_FILE)

    @property
    def dataset(self) -> dict[str, Any]:
        """nnU-Net's description of the data set, without the paths of the machine that trained."""
        description = read_object(self.output / DATASET_FILE)
        description.pop("dataset", None)
        return description


def train(training: ModelTraining) -> None:
    """Train to the end, going on from the latest checkpoint where there is one.

    Must run in a process with :func:`~app.training.workplace.child_environment`.
    """
    import numpy as np
    import torch

    settings = training.settings
    torch.set_num_threads(settings.threads)
    torch.manual_seed(training.seed)
    np.random.seed(training.seed)
    trainer = build_trainer(training)
    output = Path(trainer.output_folder)
    if (output / FINAL).exists():
        trainer.load_checkpoint(str(output / FINAL))  # written by this training in its own folder
    else:
        if (output / LATEST).exists():
            trainer.load_checkpoint(str(output / LATEST))  # as above
        trainer.run_training()
    save_weights(trainer, training.weights)


def build_trainer(training: ModelTraining) -> PsmaTrainer:
    """The trainer itself: nnU-Net's look-up by name imports packages that break without torchvision."""
    from app.inference.devices import choose_device
    from app.training.trainer import PsmaSmallTrainer, PsmaTrainer

    settings = training.settings
    home = training.place.preprocessed(training.role)
    plans = {**read_object(home / f"{plans_name(settings.plans)}.json"), "continue_training": False}
    dataset = read_object(home / DATASET_FILE)
    fold: Any = training.split if is_on_all(training.split) else int(training.split)
    kind = PsmaSmallTrainer if settings.plans == TrainingPlans.SMALL else PsmaTrainer
    trainer: PsmaTrainer = kind(plans, CONFIGURATION, fold, dataset, choose_device(settings.device))
    if is_on_all(training.split):
        trainer.fold = ALL_PATIENTS  # whom nnU-Net trains on; its folder has the name of the split by now
    trainer.seed = training.seed
    trainer.label = f"{training.role} {training.split}"
    trainer.set_length(settings.epochs, settings.iterations_per_epoch)
    return trainer


def save_weights(trainer: PsmaTrainer, path: Path) -> None:
    """The network's weights, each once, whole or not at all."""
    from safetensors.torch import save_file

    from app.inference.models.network import distinct_weights

    temporary = path.with_suffix(".part")
    save_file(distinct_weights(trainer.network.state_dict()), str(temporary))
    temporary.replace(path)


def held_out(settings: ExperimentSettings, manifest: CohortManifest, split: str) -> tuple[CohortPatient, ...]:
    """The patients that a split's training did not see: a fold's, or those of the external centre."""
    if is_on_all(split):
        return manifest.of_centre(settings.external_centre)
    names = set(held_back_patients(settings, manifest)[int(split)])
    return tuple(p for p in manifest.of_centre(settings.internal_centre) if p.id in names)


def predict_held_out(training: ModelTraining, manifest: CohortManifest) -> None:
    """Segment every held-out scan that the model serves; what is there already is kept."""
    settings, results = training.settings, training.place.results(training.split)
    validation = validation_of(training.split)
    scans = [
        (patient, kind, results.prediction(validation, training.role, patient.id, kind))
        for patient in held_out(settings, manifest, training.split)
        for kind in KINDS[training.role]
        if patient.scan(kind) is not None
    ]
    missing = [scan for scan in scans if not scan[2].exists()]
    if not missing:
        return
    models = ModelStore(training.place.models(training.split))
    segmenter = Segmenter(models.load(training.role), settings.device)
    for patient, kind, path in missing:
        network_input = _input(training, patient, kind)
        if network_input is not None:
            # components below the product's smallest lesion are dropped as the product does
            mask = segmenter.segment(network_input)
            lesions = label_lesions(mask, network_input.grid, SegmentPolicy().minimum_lesion_ml).labels
            path.parent.mkdir(parents=True, exist_ok=True)
            write_array(path, lesions.array, lesions.grid)


def _input(training: ModelTraining, patient: CohortPatient, kind: StudyKind) -> NetworkInput | None:
    """The model's channels; ``None`` for M4 where the node would give it no prior."""
    cohort = training.settings.cohort_folder
    suv = read_volume(image_file(cohort, patient.id, kind, "suv"), Unit.SUVBW)
    ct = read_volume(image_file(cohort, patient.id, kind, "ct"), Unit.HU)
    if training.role is not ModelRole.M4:
        return build_input(training.role, suv, ct)
    prior = _prior(training, patient)
    if prior.lesions is None or not prior.usable:
        results = training.place.results(training.split)
        path = results.no_prior(validation_of(training.split), patient.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"reasons": prior.reasons}))
        return None
    return build_input(training.role, suv, ct, prior.lesions.mask)


def _prior(training: ModelTraining, patient: CohortPatient) -> CarriedPrior:
    if patient.scan(StudyKind.PET_CT) is None:
        return CarriedPrior(None, ("no PET of this patient",))
    validation = validation_of(training.split)
    lesions = pet_lesions(training.settings, training.place, patient, validation)
    return carry_prior(training.settings.cohort_folder, patient, lesions)


def no_prior_reasons(place: Workplace, validation: Validation, patient: str) -> tuple[str, ...]:
    """Why M4 did not run on a held-out SPECT; empty when it did."""
    path = place.no_prior(validation, patient)
    return tuple(json.loads(path.read_text())["reasons"]) if path.exists() else ()


def every_held_out(
    settings: ExperimentSettings, manifest: CohortManifest
) -> Iterator[tuple[str, CohortPatient]]:
    """Each split with each patient that it holds back."""
    return ((split, patient) for split in settings.splits for patient in held_out(settings, manifest, split))
