"""One training: a model on the patients of one split, from preprocessed cases to weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.domain.decision import ModelRole
from app.inference.models.card import DATASET_FILE, PLANS_FILE, WEIGHTS_FILE
from app.training.experiment_settings import ALL_PATIENTS, ExperimentSettings
from app.training.planning import CONFIGURATION, TrainingPlans, plans_name, read_object
from app.training.workplace import Workplace, dataset_name

if TYPE_CHECKING:
    from app.training.trainer import PsmaTrainer

LATEST = "checkpoint_latest.pth"
FINAL = "checkpoint_final.pth"


@dataclass(frozen=True)
class ModelTraining:
    """A model, and who is held back: a fold's patients, or nobody (``all``)."""

    settings: ExperimentSettings
    role: ModelRole
    split: str
    place: Workplace

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
    torch.manual_seed(settings.seed)
    np.random.seed(settings.seed)
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
    fold: Any = training.split if training.split == ALL_PATIENTS else int(training.split)
    kind = PsmaSmallTrainer if settings.plans == TrainingPlans.SMALL else PsmaTrainer
    trainer: PsmaTrainer = kind(plans, CONFIGURATION, fold, dataset, choose_device(settings.device))
    trainer.seed = settings.seed
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
