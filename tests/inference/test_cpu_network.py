"""Parts of a network are exchanged where they compute what the exchanged ones do, and there only."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from app.inference.running.cpu_network import adapt_to_cpu

LAYERS = {
    "zeros around": (nn.Conv3d(2, 3, 3, padding=1), True),
    "mirrored around": (nn.Conv3d(2, 3, 3, padding=1, padding_mode="reflect"), False),
    "padding by name": (nn.Conv3d(2, 3, 3, padding="same"), False),
    "own mean": (nn.InstanceNorm3d(2, affine=True), True),
    "running mean": (nn.InstanceNorm3d(2, affine=True, track_running_stats=True), False),
}


@pytest.mark.parametrize(("layer", "exchanged"), LAYERS.values(), ids=list(LAYERS))
def test_a_layer_computes_what_it_did(layer: nn.Module, exchanged: bool) -> None:
    network = nn.Sequential(nn.Conv3d(2, 2, 1), copy.deepcopy(layer)).eval()
    maps = torch.linspace(-1, 3, 2 * 5 * 6 * 7).reshape(1, 2, 5, 6, 7)
    with torch.inference_mode():
        maps = maps.contiguous(memory_format=torch.channels_last_3d)
        expected = network(maps)
        adapt_to_cpu(network)
        torch.testing.assert_close(network(maps), expected)
    assert (type(network[1]) is not type(layer)) is exchanged
