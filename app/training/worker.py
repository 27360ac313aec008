"""A training's child process: ``python -m app.training.worker prepare|train REQUEST_JSON``.

A process of its own because nnU-Net and glibc read their settings when a process starts, see
:mod:`app.training.environment`. nnU-Net prints much: that goes to a log file, progress to standard error.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.training.environment import nnunet_folders
from app.training.planning import CONFIGURATION, load_plans, prepare
from app.training.request import TrainingRequest

if TYPE_CHECKING:
    from app.training.trainer import PsmaSmallTrainer

LATEST = "checkpoint_latest.pth"
FINAL = "checkpoint_final.pth"
WEIGHTS = "weights.safetensors"


def train(request: TrainingRequest) -> None:
    """Train to the end, going on from the latest checkpoint where there is one."""
    import numpy as np
    import torch

    torch.set_num_threads(request.threads)
    torch.manual_seed(request.seed)
    np.random.seed(request.seed)  # nnU-Net draws from numpy's global generator
    trainer = build_trainer(request)
    output = Path(trainer.output_folder)
    if (output / FINAL).exists():
        trainer.load_checkpoint(str(output / FINAL))  # written by this training in its own folder
    else:
        if (output / LATEST).exists():
            trainer.load_checkpoint(str(output / LATEST))  # as above
            np.random.seed(request.seed + trainer.current_epoch)  # not the patches of the first epoch again
            torch.manual_seed(request.seed + trainer.current_epoch)
        trainer.run_training()
    save_weights(trainer, output / WEIGHTS)


def build_trainer(request: TrainingRequest) -> PsmaSmallTrainer:
    """The trainer itself: nnU-Net's look-up by name imports packages that break without torchvision."""
    import torch

    from app.training.trainer import PsmaSmallTrainer

    home = nnunet_folders(request.work)["nnUNet_preprocessed"] / request.dataset_name
    plans = {**load_plans(home), "continue_training": False}
    dataset = json.loads((home / "dataset.json").read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = PsmaSmallTrainer(plans, CONFIGURATION, 0, dataset, device)
    trainer.num_epochs = request.epochs  # read when training starts, so the schedule ends with it
    return trainer


def save_weights(trainer: PsmaSmallTrainer, path: Path) -> None:
    """The network's weights, each once, in a format that runs no code on loading."""
    from safetensors.torch import save_file

    from app.inference.network import distinct_weights

    save_file(distinct_weights(trainer.network.state_dict()), str(path))


def main() -> None:
    """Run one step named on the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    step, text = sys.argv[1:3]
    request = TrainingRequest.from_json(text)
    {"prepare": prepare, "train": train}[step](request)


if __name__ == "__main__":
    main()
