"""Lesion segmentation with nnU-Net's own predictor, loaded once and kept warm.

Preprocessing, sliding window and export are ``nnUNetPredictor``'s. Around it stand only the orientation
(:mod:`app.inference.models.channels`) and the loading of weights that run no code; on a GPU also the choice
of what fits its memory (:mod:`app.inference.running.predictor`). A mask comes with how it was computed, for
the report and the results' identity.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import Decision
from app.errors import MisconfiguredError
from app.inference.devices import CPU, choose_device
from app.inference.models.card import ModelCard, read_description
from app.inference.models.channels import NetworkInput, canonical, channels_of
from app.inference.models.network import build_network, load_weights
from app.inference.models.store import VerifiedModel
from app.inference.policy import DeviceChoice
from app.inference.running.gpu_memory import NetworkShape, in_voxels, network_shape

if TYPE_CHECKING:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from app.inference.running.predictor import FinitePredictor

LESION = "lesion"
"""What every card calls its lesions."""


@dataclass(frozen=True)
class NetworkRun:
    """A mask, and what its numbers were computed with.

    Attributes:
        mask: lesion voxels, ``(z, y, x)`` on the functional grid.
        gpu: what it ran on; empty for the CPU.
        tile, trained_tile: voxels along each axis, as it was run and as it was trained.
    """

    mask: NDArray[np.bool_]
    gpu: str = ""
    tile: tuple[int, ...] = ()
    trained_tile: tuple[int, ...] = ()

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """For the report. Nothing that differs between two runs in the same place, as free memory would."""
        if not self.gpu:
            return (Decision("segment", "the network ran on the CPU"),)
        where = Decision("segment", f"the network ran on a GPU ({self.gpu}), in half precision")
        if self.tile == self.trained_tile:
            return (where,)
        tiles = f"{in_voxels(self.tile)} instead of {in_voxels(self.trained_tile)}"
        why = "the GPU had no room for more, and outlines may differ from those of tiles as in its training"
        return where, Decision.warning("segment", f"the network saw tiles of {tiles}: {why}")

    @property
    def computed_by(self) -> str:
        """What tells its numbers from those of the CPU; empty there."""
        return "; ".join(decision.line for decision in self.decisions) if self.gpu else ""


class Segmenter:
    """One model in memory. Safe to call from any thread; calls wait for each other."""

    def __init__(self, model: VerifiedModel, device: str = DeviceChoice.AUTO) -> None:
        """Build the network and fill it.

        Args:
            model: its files, checked.
            device: as ``segment.device``; of several GPUs the first.

        Raises:
            MisconfiguredError: the device is not there, or the model's files do not fit each other.
        """
        refuse_other_input(model.card)
        self._card = model.card
        self._lesion_label = model.card.labels[LESION]
        self._lock = threading.Lock()
        self._predictor = _predictor(model, choose_device(device))

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
        properties = {"spacing": list(orientation.spacing_zyx_mm)}
        with self._lock:  # the predictor keeps state and sets PyTorch's thread count while it works
            labels = self._predictor.predict_single_npy_array(channels, properties, None, None, False)
            mask: NDArray[np.bool_] = orientation.revert(np.asarray(labels) == self._lesion_label).astype(
                np.bool_
            )
            return _described(self._predictor, mask)


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


def _predictor(model: VerifiedModel, device: torch.device) -> FinitePredictor:
    """A predictor with the model's weights, on the CPU until it is first used."""
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from app.inference.running.predictor import CudaMemory, FinitePredictor, GpuPredictor

    settings = model.card.inference
    plans, dataset = read_description(model.folder)
    network, parameters = load_networks(model, plans, dataset)
    kind = FinitePredictor if device.type == CPU else GpuPredictor
    with contextlib.redirect_stdout(io.StringIO()):  # it prints advice about CPUs
        predictor = kind(
            tile_step_size=settings.tile_step_size,
            use_gaussian=True,
            use_mirroring=bool(settings.mirroring_axes),
            perform_everything_on_device=False,
            # nnU-Net lets cuDNN try what is fastest when it gets a GPU here: then the same image
            # could give other bits the next time, in the chain of another GPU too
            device=torch.device(CPU),
            allow_tqdm=False,
        )
    predictor.device = device
    manager = PlansManager(plans)
    predictor.manual_initialization(
        network,
        manager,
        manager.get_configuration(settings.configuration),
        parameters,
        dataset,
        "PsmaSmallTrainer",
        settings.mirroring_axes or None,
    )
    if isinstance(predictor, GpuPredictor):
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        predictor.prepare(shape_of(predictor), CudaMemory(device))
    return predictor


def _described(predictor: nnUNetPredictor, mask: NDArray[np.bool_]) -> NetworkRun:
    from app.inference.running.predictor import GpuPredictor

    if not isinstance(predictor, GpuPredictor) or predictor.way is None:
        return NetworkRun(mask)
    return NetworkRun(mask, predictor.gpu_name, predictor.way.tile, predictor.trained_tile)


def shape_of(predictor: nnUNetPredictor) -> NetworkShape:
    """What the predictor's network needs memory for."""
    settings = predictor.configuration_manager
    shape = network_shape(
        settings.network_arch_init_kwargs,
        settings.patch_size,
        channels=len(settings.normalization_schemes),
        heads=predictor.label_manager.num_segmentation_heads,
        parameters=sum(weight.numel() for weight in predictor.network.parameters()),
    )
    return replace(shape, mirrored=bool(predictor.use_mirroring and predictor.allowed_mirroring_axes))


def load_networks(
    model: VerifiedModel, plans: dict[str, Any], dataset: dict[str, Any]
) -> tuple[Any, list[dict[str, Any]]]:
    """The network, and for each file of weights its state under every name that nnU-Net's predictor loads.

    Raises:
        MisconfiguredError: weights and plans do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = build_network(plans, dataset, model.card.inference.configuration)
    states = []
    for name in model.card.weights:
        try:
            load_weights(network, load_file(str(model.folder / name)))
        except (ValueError, SafetensorError) as error:
            raise MisconfiguredError(
                f"model {model.card.id}, {name}: {error}; install the model again"
            ) from error
        states.append(dict(network.state_dict()) if len(model.card.weights) == 1 else _copied(network))
    return network, states


def _copied(network: Any) -> dict[str, Any]:
    """A network's state, which the next one is not to overwrite; what has two names is copied once."""
    copies: dict[int, Any] = {}
    return {
        key: copies.setdefault(value.data_ptr(), value.clone()) for key, value in network.state_dict().items()
    }
