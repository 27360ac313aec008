"""Parts of a network are exchanged where they compute what the exchanged ones do, and there only."""

from __future__ import annotations

import copy

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from app.inference.running.cpu_network import adapt_to_cpu


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    """Weights whose output hardly varies make a normalisation show the last bits of a sum."""
    torch.manual_seed(1)


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


def unet() -> nn.Module:
    """Its channels are no multiples of a vector."""
    network = PlainConvUNet(
        2, 3, [10, 12, 20], nn.Conv3d, 3, [1, (1, 2, 2), 2], 2, 3, [1, 2], conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    ).eval()  # fmt: skip
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("slab", [8 * 8 * 5, 2**18])
def test_channels_that_fill_no_vector_change_no_output(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions add channels of zeros, upsampling is a product of matrices, the decoder works in slabs."""
    monkeypatch.setattr("app.inference.running.cpu_network.SLAB_VOXELS", slab)
    torch.manual_seed(3)
    network = unet()
    tile = torch.randn(1, 2, 12, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        expected = copy.deepcopy(network).double()(tile.double())
        adapt_to_cpu(network)
        assert network.encoder.stages[0][0].convs[0].conv(tile).shape[1] == 16
        found = network(tile)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("slab", [8 * 8 * 5, 2**18])
def test_in_bfloat16_the_network_computes_the_same(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the predictor runs it on a processor that has bfloat16: norms stay in single precision."""
    monkeypatch.setattr("app.inference.running.cpu_network.SLAB_VOXELS", slab)
    torch.manual_seed(3)
    network = unet()
    tile = torch.randn(1, 2, 12, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        expected = copy.deepcopy(network)(tile)
        adapt_to_cpu(network)
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                module.to(torch.bfloat16)
        found = network(tile.to(torch.bfloat16)).float()
    assert float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt()) < 0.02


def test_what_passes_no_channel_of_zeros_keeps_convolutions_from_adding_any() -> None:
    network = nn.Sequential(nn.Conv3d(2, 10, 3, padding=1), nn.GroupNorm(5, 10)).eval()
    tile = torch.randn(1, 2, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        expected = copy.deepcopy(network)(tile)
        adapt_to_cpu(network)
        torch.testing.assert_close(network(tile), expected)
