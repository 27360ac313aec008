"""nnU-Net's U-Nets on a CPU: the same numbers with less work and half of the memory.

Five things of PyTorch and ``dynamic_network_architectures`` are slow or large with one tile at a time:

* PyTorch gives a convolution of one image to oneDNN only when it is large; else it unfolds the image.
* oneDNN is slow where the channels that a convolution makes are no multiple of :data:`VECTOR`.
* A transposed convolution whose kernel is as long as its stride is a product of matrices.
* Instance normalisation copies its map, and another layout of it where channels come last.
* The decoder joins upsampled map and skip before it convolves them, and keeps all three until the stage ends.

The replacements compute the same sums in single precision; the order of additions differs, so the last digits
do. A class is exchanged in place: the weights and their names stay.
"""

from __future__ import annotations

import torch
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn
from torch.nn.functional import pad

SLAB_VOXELS = 2**16
"""Voxels of the finest map that the decoder joins at one time."""

VECTOR = 8
"""Numbers in single precision that AVX2 works on at once; AVX-512's 16 are two of them."""

ELEMENTWISE = (nn.LeakyReLU, nn.ReLU, nn.Identity, nn.AvgPool3d)
"""What a channel of zeros passes as a channel of zeros."""


def adapt_to_cpu(network: nn.Module) -> None:
    """Exchange the parts of a three-dimensional network; of any other nothing."""
    if not any(isinstance(module, nn.Conv3d) for module in network.modules()):
        return
    for module in network.modules():
        ours = REPLACED.get(type(module))
        if ours is not None and _computes_as_stock_does(module):
            module.__class__ = ours
    known = (*REPLACED.values(), *ELEMENTWISE)
    if all(isinstance(module, known) for module in network.modules() if not [*module.children()]):
        for module in network.modules():
            if isinstance(module, _Convolution):
                module.widens = module.groups == 1


def _computes_as_stock_does(module: nn.Module) -> bool:
    """Whether its replacement knows what it is set to: zeros around maps, and each map's own mean."""
    if isinstance(module, nn.InstanceNorm3d):
        return not module.track_running_stats
    if isinstance(module, nn.ConvTranspose3d):
        plain = {*module.padding, *module.output_padding} == {0} and {module.groups, *module.dilation} == {1}
        return plain and module.kernel_size == module.stride
    if isinstance(module, UNetDecoder):
        convolutions = [one for one in module.stages.modules() if isinstance(one, nn.Conv3d)]
        known = all(type(one) is nn.Conv3d and _keeps_size(one) for one in convolutions)
        return known and all(map(_computes_as_stock_does, [*convolutions, *module.transpconvs]))
    return not isinstance(module, nn.Conv3d) or (
        module.padding_mode == "zeros" and not isinstance(module.padding, str)
    )


def _keeps_size(layer: nn.Conv3d) -> bool:
    rims = tuple(length // 2 for length in layer.kernel_size)
    return layer.padding == rims and set(layer.stride) == {1} == set(layer.dilation)


class _Convolution(nn.Conv3d):  # type: ignore[misc]  # PyTorch is Any to mypy here
    widens = False
    """Whether it may add channels of zeros, which everything after it in the network takes and passes on."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return _convolved(self, maps, self.padding)


def _convolved(layer: nn.Conv3d, maps: torch.Tensor, padding: tuple[int, ...]) -> torch.Tensor:
    weight, bias = layer.weight, layer.bias
    if maps.dtype is not torch.float32 or not torch.backends.mkldnn.is_available():
        return nn.functional.conv3d(maps, weight, bias, layer.stride, padding, layer.dilation, layer.groups)
    if layer.widens:
        more, made = maps.shape[1] - layer.in_channels, _widened(layer) - layer.out_channels
        if more or made:
            weight = pad(weight, (0, 0, 0, 0, 0, 0, 0, more, 0, made))
            bias = None if bias is None else pad(bias, (0, made))
    result: torch.Tensor = torch.mkldnn_convolution(
        maps, weight, bias, padding, layer.stride, layer.dilation, layer.groups
    )
    return result


def _widened(layer: nn.Conv3d) -> int:
    """The channels that it makes; an output of few labels is not worth more."""
    made: int = layer.out_channels
    return -(-made // VECTOR) * VECTOR if layer.widens and made > VECTOR else made


class _Upsampling(nn.ConvTranspose3d):  # type: ignore[misc]  # as above
    def forward(self, maps: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        if maps.shape[0] != 1:
            return super().forward(maps[:, : self.in_channels], output_size)
        return self.blocks(maps).flatten(4, 5).flatten(2, 3).flatten(0, 1)[None].permute(0, 4, 1, 2, 3)

    def blocks(self, maps: torch.Tensor) -> torch.Tensor:
        """Each voxel becomes a block of its own: ``(z, block z, y, block y, x, block x, c)``, not contiguous.

        A row of numbers, the voxel's channels, times a matrix.
        """
        depth, height, width = maps.shape[2:]
        rows = maps.permute(0, 2, 3, 4, 1).reshape(depth * height * width, -1)[:, : self.in_channels]
        matrix = self.weight.permute(0, 2, 3, 4, 1).reshape(self.in_channels, -1)
        made = rows @ matrix
        if self.bias is not None:
            made += self.bias.repeat(len(matrix[0]) // self.out_channels)
        sizes = (depth, height, width, *self.kernel_size, self.out_channels)
        return made.reshape(sizes).permute(0, 3, 1, 4, 2, 5, 6)


class _InstanceNorm(nn.InstanceNorm3d):  # type: ignore[misc]  # as above
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """In place where channels come last: nnU-Net normalises what a convolution just made.

        A row of voxels with all of its channels is worked on as so many channels of one voxel, for PyTorch is
        slow with few; mean and variance of a channel are then put together in double precision.
        """
        weight, bias = (_longer(found, maps.shape[1]) for found in (self.weight, self.bias))
        last = maps.is_contiguous(memory_format=torch.channels_last_3d)
        if maps.shape[0] != 1 or maps.dtype is not torch.float32 or not last:
            return nn.functional.group_norm(maps, maps.shape[1], weight, bias, self.eps)
        _, channels, depth, height, width = maps.shape
        rows = maps.permute(0, 2, 3, 4, 1).reshape(1, depth, height, width * channels)  # a view
        found = torch.batch_norm_update_stats(rows.permute(0, 3, 1, 2), None, None, 0.0)
        means, variances = (one.reshape(width, channels).double() for one in found)
        mean = means.mean(0)
        scale = torch.rsqrt((variances + (means - mean).square_()).mean(0) + self.eps)
        shift = -mean * scale
        if weight is not None:
            scale, shift = scale * weight, shift * weight + bias
        rows.mul_(scale.float().repeat(width)).add_(shift.float().repeat(width))
        return maps


def _longer(numbers: torch.Tensor | None, channels: int) -> torch.Tensor | None:
    """A layer's numbers, and zeros for the channels of zeros behind its own."""
    return (
        numbers if numbers is None or len(numbers) == channels else pad(numbers, (0, channels - len(numbers)))
    )


class _Decoder(UNetDecoder):  # type: ignore[misc]  # it has no types
    def forward(self, skips: list[torch.Tensor]) -> torch.Tensor:
        """The skips are taken out of the caller's list, so that each is freed when it has been used."""
        maps = skips.pop()
        for upsampling, stage in zip(self.transpconvs, self.stages, strict=True):
            maps = _stage(upsampling, stage, maps, skips.pop())
        head = self.seg_layers[-1]
        result: torch.Tensor = head(maps)[:, : head.out_channels]
        return result


def _stage(
    upsampling: _Upsampling, stage: nn.Module, coarse: torch.Tensor, skip: torch.Tensor
) -> torch.Tensor:
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
    upsampling: _Upsampling, convolution: _Convolution, coarse: torch.Tensor, skip: torch.Tensor
) -> torch.Tensor:
    """``convolution`` of the upsampled ``coarse`` joined with ``skip``, a slab of slices at a time."""
    depth, height, width = skip.shape[2:]
    rim, thickness = convolution.kernel_size[0] // 2, max(1, SLAB_VOXELS // (height * width))
    padding = (0, *convolution.padding[1:])
    if thickness >= depth:
        return _convolved(convolution, _joined(upsampling, coarse, skip, (-rim, depth + rim)), padding)
    result = None
    for start in range(0, depth, thickness):
        stop = min(start + thickness, depth)
        slab = _joined(upsampling, coarse, skip, (start - rim, stop + rim))
        made = _convolved(convolution, slab, padding)
        if result is None:  # in bfloat16 a convolution adds no channels
            result = _empty(skip, made.shape[1], depth)
        result[:, :, start:stop] = made
    return result


def _joined(
    upsampling: _Upsampling, coarse: torch.Tensor, skip: torch.Tensor, wanted: tuple[int, int]
) -> torch.Tensor:
    """Slices ``wanted`` (from, to) of the upsampled ``coarse`` with ``skip``; zeros outside of the tile."""
    start, stop = wanted
    step, features = upsampling.kernel_size[0], upsampling.out_channels
    low, high = max(0, start), min(skip.shape[2], stop)
    first, last = low // step, -(-high // step)  # whole blocks
    before, after = max(0, first * step - start), max(0, stop - last * step)
    joined = _empty(skip, 2 * features, before + (last - first) * step + after)
    voxels = joined.permute(0, 2, 3, 4, 1)[0]
    inside = voxels[before : len(voxels) - after]
    blocks = upsampling.blocks(coarse[:, :, first:last])
    inside[..., :features].view(blocks.shape).copy_(blocks)
    inside[..., features:] = skip.permute(0, 2, 3, 4, 1)[0, first * step : last * step, ..., :features]
    voxels[:before] = 0
    voxels[len(voxels) - after :] = 0
    begin = start - (first * step - before)
    return joined[:, :, begin : begin + stop - start]


def _empty(like: torch.Tensor, features: int, depth: int) -> torch.Tensor:
    shape = (1, features, depth, *like.shape[3:])
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last_3d)


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv3d: _Convolution,
    nn.ConvTranspose3d: _Upsampling,
    nn.InstanceNorm3d: _InstanceNorm,
    UNetDecoder: _Decoder,
}
