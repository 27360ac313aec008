"""nnU-Net's U-Nets on a CPU: the same numbers with less work and half of the memory.

Four things of PyTorch and ``dynamic_network_architectures`` are slow or large with one tile at a time:

* PyTorch gives a convolution of one image to oneDNN only when it is large; else it unfolds the image.
* A transposed convolution of one image is always unfolded; of two it goes to oneDNN.
* Instance normalisation copies its map, and another layout of it where channels come last.
* The decoder joins upsampled map and skip before it convolves them, and keeps all three until the stage ends.

The replacements compute the same sums in single precision; the order of additions differs, so the last digits
do. A class is exchanged in place: the weights and their names stay.
"""

from __future__ import annotations

import torch
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn

SLAB_VOXELS = 2**18
"""Voxels of the finest map that the decoder joins at one time."""


def adapt_to_cpu(network: nn.Module) -> None:
    """Exchange the parts of a three-dimensional network; of any other nothing."""
    if not any(isinstance(module, nn.Conv3d) for module in network.modules()):
        return
    for module in network.modules():
        ours = REPLACED.get(type(module))
        if ours is not None and _computes_as_stock_does(module):
            module.__class__ = ours


def _computes_as_stock_does(module: nn.Module) -> bool:
    """Whether its replacement knows what it is set to: zeros around maps, and each map's own mean."""
    if isinstance(module, nn.InstanceNorm3d):
        return not module.track_running_stats
    if isinstance(module, UNetDecoder):
        convolutions = [one for one in module.stages.modules() if isinstance(one, nn.Conv3d)]
        return all(_computes_as_stock_does(one) and _keeps_size(one) for one in convolutions)
    return not isinstance(module, nn.Conv3d) or (
        module.padding_mode == "zeros" and not isinstance(module.padding, str)
    )


def _keeps_size(layer: nn.Conv3d) -> bool:
    rims = tuple(length // 2 for length in layer.kernel_size)
    return layer.padding == rims and set(layer.stride) == {1} == set(layer.dilation)


class _Convolution(nn.Conv3d):  # type: ignore[misc]  # PyTorch is Any to mypy here
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return _convolved(self, maps, self.padding)


def _convolved(layer: nn.Conv3d, maps: torch.Tensor, padding: tuple[int, ...]) -> torch.Tensor:
    weight, bias = layer.weight, layer.bias
    if maps.dtype is not torch.float32 or not torch.backends.mkldnn.is_available():
        return nn.functional.conv3d(maps, weight, bias, layer.stride, padding, layer.dilation, layer.groups)
    result: torch.Tensor = torch.mkldnn_convolution(
        maps, weight, bias, padding, layer.stride, layer.dilation, layer.groups
    )
    return result


class _Upsampling(nn.ConvTranspose3d):  # type: ignore[misc]  # as above
    def forward(self, maps: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Its kernel is as long as its stride, so that the slices are images that don't touch each other."""
        if maps.shape[0] != 1 or self.kernel_size != self.stride:
            return super().forward(maps, output_size)
        slices = super().forward(maps.permute(2, 1, 0, 3, 4)).permute(0, 2, 3, 4, 1)
        return slices.reshape(1, -1, *slices.shape[2:]).permute(0, 4, 1, 2, 3)


class _InstanceNorm(nn.InstanceNorm3d):  # type: ignore[misc]  # as above
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """In place where channels come last: nnU-Net normalises what a convolution just made."""
        channels = maps.shape[1]
        last = maps.is_contiguous(memory_format=torch.channels_last_3d)
        if maps.shape[0] != 1 or maps.dtype is not torch.float32 or not last:
            return nn.functional.group_norm(maps, channels, self.weight, self.bias, self.eps)
        rows = maps.permute(0, 2, 3, 4, 1).reshape(maps.shape[2], -1, channels)  # a view
        count = rows.shape[0] * rows.shape[1]
        rows -= torch.matmul(rows.new_ones(1, rows.shape[1]), rows).sum((0, 1)) / count
        squares = torch.bmm(rows.transpose(1, 2), rows).sum(0).diagonal()
        scale = torch.rsqrt(squares / count + self.eps)
        if self.weight is None:
            rows *= scale
        else:
            torch.addcmul(self.bias, rows, scale * self.weight, out=rows)
        return maps


class _Decoder(UNetDecoder):  # type: ignore[misc]  # it has no types
    def forward(self, skips: list[torch.Tensor]) -> torch.Tensor:
        """The skips are taken out of the caller's list, so that each is freed when it has been used."""
        maps = skips.pop()
        for upsampling, stage in zip(self.transpconvs, self.stages, strict=True):
            maps = _stage(upsampling, stage, maps, skips.pop())
        result: torch.Tensor = self.seg_layers[-1](maps)
        return result


def _stage(upsampling: nn.Module, stage: nn.Module, coarse: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    blocks = list(stage.convs)
    first = blocks[0]
    maps = _joined_convolution(upsampling, first.conv, coarse, skip)
    del coarse, skip
    for layer in list(first.all_modules)[1:]:
        maps = layer(maps)
    for block in blocks[1:]:
        maps = block(maps)
    return maps


def _joined_convolution(
    upsampling: nn.Module, convolution: nn.Conv3d, coarse: torch.Tensor, skip: torch.Tensor
) -> torch.Tensor:
    """``convolution`` of the upsampled ``coarse`` joined with ``skip``, a slab of slices at a time."""
    features, depth, height, width = skip.shape[1:]
    rim, step = convolution.kernel_size[0] // 2, depth // coarse.shape[2]
    result = _empty(skip, convolution.out_channels, depth)
    thickness = max(1, SLAB_VOXELS // (height * width))
    for start in range(0, depth, thickness):
        stop = min(start + thickness, depth)
        low, high = max(0, start - rim), min(depth, stop + rim)
        joined = _empty(skip, 2 * features, stop - start + 2 * rim)
        inside = slice(low - start + rim, high - start + rim)
        first = low // step
        upsampled = upsampling(coarse[:, :, first : -(-high // step)])
        joined[:, :features, inside] = upsampled[:, :, low - first * step : high - first * step]
        joined[:, features:, inside] = skip[:, :, low:high]
        joined[:, :, : inside.start] = 0
        joined[:, :, inside.stop :] = 0
        padding = (0, *convolution.padding[1:])
        result[:, :, start:stop] = _convolved(convolution, joined, padding)
    return result


def _empty(like: torch.Tensor, features: int, depth: int) -> torch.Tensor:
    shape = (1, features, depth, *like.shape[3:])
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last_3d)


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv3d: _Convolution,
    nn.ConvTranspose3d: _Upsampling,
    nn.InstanceNorm3d: _InstanceNorm,
    UNetDecoder: _Decoder,
}
