"""A results folder as nnU-Net leaves one, with networks too small to be of use, and the zip it exports."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from app.inference.models.network import build_network
from tests.inference.tiny_model import CONFIGURATION, DATASET, plans

TRAINING = f"Dataset999_Tiny/nnUNetTrainer__tinyPlans__{CONFIGURATION}"
CHECKPOINT = "checkpoint_final.pth"

CARD = """
tracers: [177Lu-PSMA-617]
channels:
- {name: SPECT, unit: g/ml SUVbw}
- {name: CT, unit: HU}
training_data: random numbers
licence: Apache-2.0
intended_use: tests
demonstration_only: true
"""


def checkpoint(seed: int, **changes: Any) -> dict[str, Any]:
    """All that nnU-Net 2.8 keeps in a checkpoint (``nnUNetTrainer.save_checkpoint``)."""
    torch.manual_seed(seed)
    network = build_network(plans(), DATASET, CONFIGURATION)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True)
    arguments = {"plans": plans(), "configuration": CONFIGURATION, "fold": 0, "dataset_json": DATASET}
    content = {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.25)], "lrs": [0.01]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {**arguments, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    return {**content, **changes}


def write_results(
    folder: Path, folds: tuple[str, ...] = ("0",), contents: dict[str, Any] | None = None
) -> Path:
    """The results folder of one training; returns ``folder``."""
    training = folder / TRAINING
    training.mkdir(parents=True)
    (training / "plans.json").write_text(json.dumps(plans()))
    (training / "dataset.json").write_text(json.dumps({**DATASET, "dataset": {"Doe^John": {}}}))
    for number, fold in enumerate(folds):
        (training / f"fold_{fold}").mkdir()
        (training / f"fold_{fold}" / "progress.png").write_bytes(b"a picture")
        content = checkpoint(number) if contents is None else contents
        torch.save(content, training / f"fold_{fold}" / CHECKPOINT)
    return folder


def export_zip(folder: Path, out: Path) -> Path:
    """As ``nnUNetv2_export_model_to_zip`` does: paths from the results folder on, compressed."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return out


def write_card_file(folder: Path, text: str = CARD) -> Path:
    """What the user states, in a file."""
    path = folder / "card.yaml"
    path.write_text(text)
    return path


class SingleSums(nnUNetPredictor):  # type: ignore[misc]  # it has no types
    """nnU-Net's predictor, but its sums over the tiles are in single precision."""

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: torch.Tensor, slicers: Any, do_on_device: bool = True
    ) -> torch.Tensor:
        logits = torch.zeros((self.label_manager.num_segmentation_heads, *data.shape[1:]))
        weights = torch.zeros(data.shape[1:])
        tile = tuple(self.configuration_manager.patch_size)
        gaussian = compute_gaussian(tile, 1.0 / 8, 10, device=torch.device("cpu")).float()
        for window in slicers:
            outputs = self._internal_maybe_mirror_and_predict(data[window][None].contiguous())[0]
            logits[window] += outputs * gaussian
            weights[window[1:]] += gaussian
        return logits / weights
