"""nnU-Net's trainer: stock for its own plans, and changed only as far as two CPU cores require.

Deviations of the small one from stock ``nnUNetTrainer`` are in :data:`DEVIATIONS`, which the model card
repeats; everything not named there (loss, deep supervision, sampling, patch extraction, form of the schedule)
is nnU-Net's own. The classes have their own names, so that their checkpoints do not claim to be stock.
"""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from app.inference.devices import has_bfloat16

log = logging.getLogger(__name__)

DEVIATIONS = (
    "AdamW, learning rate 2e-3 with nnU-Net's polynomial decay, instead of SGD at 1e-2",
    "on CPUs channels-last memory, and bfloat16 autocast where they have it",
    "rotation up to 11 degrees",
    "mirroring left to right only",
    "half of the patches contain a lesion (stock: a third)",
    "small patch, batch and network (see plans.json); final weights, not the best pseudo-Dice",
)

LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4
ROTATION_RAD = 0.2
PATCH_MARGIN = 1.15
"""Read patches this much larger than trained on: rotation and scaling need something at their corners."""

LEFT_RIGHT_AXIS = 2
"""The axis of ``(z, y, x)`` along which a mirror image is still anatomy (except for the liver and others)."""

GRADIENT_LIMIT = 12.0
"""nnU-Net's own gradient clipping."""


SAVE_EVERY = 5
"""Epochs; the stock trainer saves every 50. A power cut costs minutes of a GPU, not hours."""

SAVE_EVERY_SMALL = 1
"""The small network's checkpoint is 8 MB, written in no time."""


class PsmaTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net has no type information
    """Stock nnU-Net of a settable length, which logs the time left and can be repeated.

    Every epoch begins with random numbers of its own, so a training that was killed and goes on from a
    checkpoint ends with the same weights as one that was not (with one process; nnU-Net's helper processes on
    a GPU draw in an order of their own).
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device,
    ) -> None:
        # same parameters as stock: nnU-Net looks them up by this signature to keep them in its checkpoints
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.seed = 0
        self.save_every = SAVE_EVERY
        self.label = self.plans_manager.dataset_name
        self._started_s = 0.0
        self._first_epoch = 0
        self.deviate()

    def deviate(self) -> None:
        """What a subclass sets otherwise than stock; the last step of ``__init__``."""

    def set_length(self, epochs: int, iterations_per_epoch: int) -> None:
        """Epochs, and optimiser steps of each; the learning rate falls to 0 over exactly these."""
        self.num_epochs = epochs
        self.num_iterations_per_epoch = iterations_per_epoch

    def plot_network_architecture(self) -> None:
        """Draw nothing: the stock trainer tries a package that is not installed."""

    def on_train_start(self) -> None:
        """Stock, with a clock."""
        super().on_train_start()
        self._started_s = time.monotonic()
        self._first_epoch = self.current_epoch

    def on_epoch_start(self) -> None:
        """Stock, with random numbers that depend on the epoch alone."""
        super().on_epoch_start()
        own = np.random.SeedSequence((self.seed, self.current_epoch)).generate_state(1)[0]
        np.random.seed(own)  # nnU-Net draws patches from numpy's global generator
        torch.manual_seed(int(own))
        random.seed(int(own))

    def on_epoch_end(self) -> None:
        """Stock, then one line of progress with the time left."""
        super().on_epoch_end()
        done, total = self.current_epoch, self.num_epochs
        per_epoch_s = (time.monotonic() - self._started_s) / max(1, done - self._first_epoch)
        log.info(
            "%s: iteration %d of %d, loss %.3f, %.2f s an iteration, %.0f min left",
            self.label,
            done * self.num_iterations_per_epoch,
            total * self.num_iterations_per_epoch,
            float(np.mean(self.logger.get_value("train_losses", step=-1))),
            per_epoch_s / self.num_iterations_per_epoch,
            (total - done) * per_epoch_s / 60.0,
        )

    def save_checkpoint(self, filename: str) -> None:
        """Whole or not at all: a kill in the middle must leave the checkpoint before it.

        Not the "best" one: what a pseudo-Dice on a few patches of held-out patients chose would leak into
        their validation.
        """
        if filename.endswith("checkpoint_best.pth"):
            return
        temporary = f"{filename}.part"
        super().save_checkpoint(temporary)
        Path(temporary).replace(filename)


class PsmaSmallTrainer(PsmaTrainer):
    """A short training on a CPU (or GPU) of the small network."""

    def deviate(self) -> None:
        """Shorter validation, more patches with a lesion, AdamW's rate, a checkpoint every epoch."""
        self.num_val_iterations_per_epoch = 2
        self.oversample_foreground_percent = 0.5
        self.initial_lr = LEARNING_RATE
        self.weight_decay = WEIGHT_DECAY
        self.save_every = SAVE_EVERY_SMALL
        self.low_precision = self.device.type == "cpu" and has_bfloat16()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW with nnU-Net's polynomial decay."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802  # nnU-Net's name
        self,
    ) -> tuple[tuple[float, float], bool, list[int], tuple[int, ...]]:
        """Small rotations, left-right mirroring, a small margin."""
        super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = (LEFT_RIGHT_AXIS,)
        patch = [int(size * PATCH_MARGIN) for size in self.configuration_manager.patch_size]
        return (-ROTATION_RAD, ROTATION_RAD), False, patch, (LEFT_RIGHT_AXIS,)

    def on_train_start(self) -> None:
        """Stock, then bring the weights to the memory layout the CPU convolutions like."""
        super().on_train_start()
        if self.device.type == "cpu":
            self.network.to(memory_format=torch.channels_last_3d)  # in place

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Stock on a GPU; on a CPU channels-last, and where it can in bfloat16 but for loss and optimiser."""
        if self.device.type != "cpu":
            return dict(super().train_step(batch))
        data = batch["data"].contiguous(memory_format=torch.channels_last_3d)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low_precision):
            outputs = self.network(data)
        loss = self.loss([output.float() for output in outputs], batch["target"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_LIMIT)
        self.optimizer.step()
        return {"loss": loss.detach().numpy()}
