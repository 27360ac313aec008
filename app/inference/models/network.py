"""nnU-Net's network, built from its plans, with weights that run no code on loading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.errors import MisconfiguredError

if TYPE_CHECKING:
    import torch

ARCHITECTURES = (
    "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
)
"""Networks that nnU-Net 2.8's planners choose (default and ResEnc presets)."""

LAYERS = frozenset(
    {
        "torch.nn.modules.conv.Conv2d",
        "torch.nn.modules.conv.Conv3d",
        "torch.nn.modules.instancenorm.InstanceNorm2d",
        "torch.nn.modules.instancenorm.InstanceNorm3d",
        "torch.nn.LeakyReLU",
    }
)
"""Layers that they name."""

ALIASES = ("decoder.encoder.", ".all_modules.")
"""Names under which nnU-Net's state dict repeats weights: the decoder holds the encoder, blocks a list."""


def distinct_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each weight once, contiguous, on the CPU."""
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if not any(alias in name for alias in ALIASES)
    }


def build_network(plans: dict[str, Any], dataset: dict[str, Any], configuration: str) -> torch.nn.Module:
    """The untrained network that ``plans`` describe, without deep supervision (one output)."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    _refuse_unknown_parts(
        settings.network_arch_class_name,
        settings.network_arch_init_kwargs,
        settings.network_arch_init_kwargs_req_import,
    )
    network: torch.nn.Module = get_network_from_plans(
        settings.network_arch_class_name,
        settings.network_arch_init_kwargs,
        settings.network_arch_init_kwargs_req_import,
        determine_num_input_channels(manager, settings, dataset),
        manager.get_label_manager(dataset).num_segmentation_heads,
        allow_init=True,
        deep_supervision=False,
    )
    return network


def _refuse_unknown_parts(architecture: str, arguments: dict[str, Any], imported: Sequence[str]) -> None:
    """nnU-Net imports and calls whatever plans.json names: only what its own planners write is let through.

    Raises:
        MisconfiguredError: a name that is not on the lists.
    """
    if architecture not in ARCHITECTURES:
        raise MisconfiguredError(
            f"plans.json names the network {architecture!r}, expected one of {', '.join(ARCHITECTURES)}; "
            "a model from an unknown place may not choose the code that runs"
        )
    for key in imported:
        if arguments.get(key) is not None and arguments[key] not in LAYERS:
            raise MisconfiguredError(
                f"plans.json names {arguments[key]!r} as {key}, expected a layer of nnU-Net's own planners "
                f"({', '.join(sorted(LAYERS))})"
            )


def refuse_misfit(network: Any, weights: dict[str, torch.Tensor]) -> None:
    """Whether ``weights``, as saved by :func:`distinct_weights`, are those of ``network``.

    Raises:
        ValueError: a weight is missing, unknown or of another shape.
    """
    # not through distinct_weights: a network on the meta device has shapes, but nothing to copy
    state = network.state_dict()
    expected = {n: value.shape for n, value in state.items() if not any(alias in n for alias in ALIASES)}
    wrong = {
        name
        for name in expected.keys() | weights.keys()
        if name not in expected or name not in weights or expected[name] != weights[name].shape
    }
    if wrong:
        raise ValueError(
            f"{len(wrong)} weights do not fit the network of plans.json, among them {min(wrong)}"
        )


def load_weights(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Fill ``network`` with weights saved by :func:`distinct_weights`.

    Raises:
        ValueError: as :func:`refuse_misfit`.
    """
    refuse_misfit(network, weights)
    # strict=False: the aliases are not stored; that nothing else is missing was checked above
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
