"""nnU-Net's network, built from its plans, with weights that run no code on loading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

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


def load_weights(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Fill ``network`` with weights saved by :func:`distinct_weights`.

    Raises:
        ValueError: a weight is missing, unknown or of another shape.
    """
    expected = distinct_weights(network.state_dict())
    wrong = {
        name
        for name in expected.keys() | weights.keys()
        if name not in expected or name not in weights or expected[name].shape != weights[name].shape
    }
    if wrong:
        raise ValueError(
            f"{len(wrong)} weights do not fit the network of plans.json, among them {min(wrong)}"
        )
    # strict=False: the aliases are not stored; that nothing else is missing was checked above
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
