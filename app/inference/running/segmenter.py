"""Lesion segmentation with nnU-Net's networks, loaded once and kept warm.

Preprocessing and sliding window are ours, equal to nnU-Net's (:mod:`app.inference.running.sliding_window`).
Around them stand the orientation (:mod:`app.inference.models.channels`) and the loading of weights that run
no code. A mask comes with how it was computed, for the report and the results' identity.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import Decision
from app.errors import MisconfiguredError
from app.inference.devices import CPU, choose_device, has_bfloat16
from app.inference.models.card import ModelCard, read_description
from app.inference.models.channels import NetworkInput, canonical, channels_of
from app.inference.models.network import build_network, refuse_misfit
from app.inference.models.store import VerifiedModel
from app.inference.policy import DeviceChoice, Precision
from app.inference.running.gpu_memory import HALF_BYTES, SINGLE_BYTES, in_voxels, network_shape

if TYPE_CHECKING:
    import torch

    from app.inference.running.sliding_window import Computed, Predictor

LESION = "lesion"
"""What every card calls its lesions."""


@dataclass(frozen=True)
class NetworkRun:
    """A mask, and what its numbers were computed with.

    Attributes:
        mask: lesion voxels, ``(z, y, x)`` on the functional grid.
        computed: how.
    """

    mask: NDArray[np.bool_]
    computed: Computed

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """For the report. Nothing that differs between two runs in the same place, as free memory would."""
        how = self.computed
        refused = f", in single precision: {how.refused}" if how.refused else ""
        place = f"a GPU ({how.gpu})" if how.gpu else "the CPU"
        where = Decision("segment", f"the network ran on {place}{self._shortened or refused}")
        if how.tile == how.trained_tile:
            return (where,)
        tiles = f"{in_voxels(how.tile)} instead of {in_voxels(how.trained_tile)}"
        why = "the GPU had no room for more, and outlines may differ from those of tiles as in its training"
        return where, Decision.warning("segment", f"the network saw tiles of {tiles}: {why}")

    @property
    def _shortened(self) -> str:
        """In words, where the numbers were not those of single precision."""
        return {"torch.float16": ", in half precision", "torch.bfloat16": ", in bfloat16"}.get(
            str(self.computed.number), ""
        )

    @property
    def computed_by(self) -> str:
        """What tells its numbers from those of the CPU in single precision; empty there."""
        other = self.computed.gpu or self._shortened
        return "; ".join(decision.line for decision in self.decisions) if other else ""


class Segmenter:
    """One model in memory. Safe to call from any thread; calls wait for each other."""

    def __init__(
        self, model: VerifiedModel, device: str = DeviceChoice.AUTO, precision: Precision = Precision.AUTO
    ) -> None:
        """Build the network and fill it.

        Args:
            model: its files, checked.
            device: as ``segment.device``; of several GPUs the first.
            precision: as ``segment.precision``.

        Raises:
            MisconfiguredError: the device is not there, or the model's files do not fit each other.
        """
        refuse_other_input(model.card)
        self._card = model.card
        self._lesion_label = model.card.labels[LESION]
        self._lock = threading.Lock()
        self._predictor = _predictor(model, choose_device(device), precision)

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._card

    def segment(self, network_input: NetworkInput) -> NDArray[np.bool_]:
        """Lesion voxels, ``(z, y, x)`` on the grid of ``network_input``; see :meth:`run`."""
        return self.run(network_input).mask

    def run(self, network_input: NetworkInput) -> NetworkRun:
        """Lesion voxels, ``(z, y, x)`` on the grid of ``network_input``, and how they were computed.

        Raises:
            ValueError: the number of channels is not the model's: a fault of the caller.
            RetryLaterError, MisconfiguredError: the GPU has no room, at the moment or at all.
            MisconfiguredError: the network's outputs are no numbers.
        """
        expected = len(self._card.channels)
        if network_input.channels.shape[0] != expected:
            found = network_input.channels.shape[0]
            raise ValueError(f"{self._card.id} takes {expected} channels, found {found}")
        channels, orientation = canonical(network_input)
        with self._lock:  # the network holds one image's maps at a time
            labels, computed = self._predictor.run(channels, orientation.spacing_zyx_mm)
        return NetworkRun(orientation.revert(labels == self._lesion_label).astype(np.bool_), computed)


def compared_numbers(model: VerifiedModel) -> str:
    """For a model that is new here: whether it marks the same in bfloat16 as in single precision; in words.

    Asked of a tile of noise, for there is no image yet; with every image it is asked again.
    """
    if not has_bfloat16():
        return "bfloat16 was not checked: this processor has none, so the node uses single precision on it"
    import torch

    predictor = _predictor(model, torch.device(CPU))
    shape = (len(model.card.channels), *predictor.networks.tile)
    with torch.inference_mode():
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        refused = predictor.changed_by_bfloat16(noise)
    if refused:
        return (
            f"warning: {refused}, so expect single precision, which is slower; every image is checked again"
        )
    return (
        "bfloat16 marks the same voxels of a tile of noise as single precision; every image is checked again"
    )


def refuse_other_input(card: ModelCard) -> None:
    """A model fed with other channels than it was trained on gives a wrong mask that looks right.

    Raises:
        MisconfiguredError: its channels or labels are not those of its role.
    """
    found = tuple((channel.name, channel.unit) for channel in card.channels)
    expected = channels_of(card.role)
    if found != expected:
        raise MisconfiguredError(
            f"model {card.id} takes {_listed(found)}; {card.role.value} is given {_listed(expected)}. "
            "Train it on these channels, or correct its card"
        )
    if LESION not in card.labels:
        raise MisconfiguredError(
            f"model {card.id} has the labels {', '.join(card.labels)}, expected one named {LESION}"
        )


def _listed(channels: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} [{unit}]" for name, unit in channels)


def _predictor(
    model: VerifiedModel, device: torch.device, precision: Precision = Precision.AUTO
) -> Predictor:
    """A predictor with the model's weights, which are in main memory until it is first used."""
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from app.inference.running.gpu_predictor import CudaMemory, GpuPredictor
    from app.inference.running.preprocessing import Preprocessing
    from app.inference.running.sliding_window import Networks, Predictor

    settings = model.card.inference
    plans, dataset = read_description(model.folder)
    network, folds = load_networks(model, plans, dataset)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(settings.configuration)
    tile = tuple(int(length) for length in configuration.patch_size)
    networks = Networks(network, folds, tile, settings.tile_step_size, settings.mirroring_axes)
    preprocessing = Preprocessing(manager, configuration)
    if device.type == CPU:
        return Predictor(networks, preprocessing, precision)
    # else cuDNN tries what is fastest: the same image could give other bits the next time
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    # else single precision is TensorFloat-32, with ten bits instead of 23, on Ampere and newer
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    predictor = GpuPredictor(networks, preprocessing, precision)
    shape = network_shape(
        configuration.network_arch_init_kwargs,
        tile,
        channels=len(configuration.normalization_schemes),
        heads=manager.get_label_manager(dataset).num_segmentation_heads,
        parameters=sum(weight.numel() for weight in folds[0].values()),
    )
    number_bytes = SINGLE_BYTES if precision is Precision.FP32 else HALF_BYTES
    shape = replace(shape, mirrored=bool(settings.mirroring_axes), number_bytes=number_bytes)
    predictor.prepare(device, shape, CudaMemory(device))
    return predictor


def load_networks(
    model: VerifiedModel, plans: dict[str, Any], dataset: dict[str, Any]
) -> tuple[Any, tuple[dict[str, Any], ...]]:
    """The network, without memory of its own, and the weights of each file.

    Raises:
        MisconfiguredError: weights and plans do not fit each other.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with torch.device("meta"):
        network = build_network(plans, dataset, model.card.inference.configuration)
    folds = []
    for name in model.card.weights:
        try:
            weights = load_file(str(model.folder / name))
            refuse_misfit(network, weights)
        except (ValueError, SafetensorError) as error:
            raise MisconfiguredError(
                f"model {model.card.id}, {name}: {error}; install the model again"
            ) from error
        folds.append({key: _channels_last(weight.float()) for key, weight in weights.items()})
    return network, tuple(folds)


def _channels_last(weight: torch.Tensor) -> torch.Tensor:
    """In the order of memory that convolutions like; its numbers are the same."""
    import torch

    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return weight.contiguous(memory_format=formats.get(weight.ndim, torch.contiguous_format))
