"""How much GPU memory a study needs, from nnU-Net's plans, before anything is put there; and what fits.

Pure arithmetic, no PyTorch. What is counted, for one image and one network:

* **weights**: every parameter once, in half precision (or single, where ``segment.precision`` asks for it).
* **tile**: the feature maps that live at the same time while the network looks at one tile, in that
  precision, by the forward passes of ``dynamic_network_architectures`` 0.4 (:func:`live_features`); the tile
  itself, its copy in the order of memory that convolutions like, its outputs also in single precision; with
  mirroring a flipped tile and a second output; and a workspace for the convolutions.
* **sums**: what :mod:`app.inference.running.sliding_window` keeps over all tiles, in single precision: the
  image, the summed outputs of every label but background, the summed weights of the tiles, the tile's
  Gaussian weights, and the answer to a tile of air.

What is assumed, not known: a convolution's workspace is at most as large as its input and output together
(cuDNN copies both when it changes their layout); fragmentation takes a tenth; :data:`RESERVE_BYTES` are for
what CUDA loads as it goes. These three have not been measured on a GPU. A wrong guess ends in the next
smaller way, never in another result (:mod:`app.inference.running.gpu_predictor`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

HALF_BYTES, SINGLE_BYTES = 2, 4
RESERVE_BYTES = 512 * 2**20
"""Kernels that CUDA loads as they are first called, and other programs' small changes."""
FRAGMENTATION = 1.1
"""PyTorch's allocator can't use every gap between blocks."""
SMALLEST_BOTTLENECK = 2
"""Voxels along each axis: at one voxel nothing is left to normalise over."""


@dataclass(frozen=True)
class NetworkShape:
    """A U-Net as nnU-Net plans it, so far as memory is concerned.

    Attributes:
        parameters: how many numbers its weights are.
        channels, heads: of its input and its output.
        features, strides: of each stage of the encoder, from the finest; a stride for each axis.
        residual: ResidualEncoderUNet; else PlainConvUNet.
        decoder_convolutions: of each stage of the decoder, from the coarsest.
        tile: what it looks at in one pass, voxels along each axis, as trained.
        mirrored: whether outputs of mirrored tiles are averaged.
        number_bytes: of a number in weights and feature maps.
    """

    parameters: int
    channels: int
    heads: int
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    residual: bool
    decoder_convolutions: tuple[int, ...]
    tile: tuple[int, ...]
    mirrored: bool = False
    number_bytes: int = HALF_BYTES

    @cached_property
    def total_stride(self) -> tuple[int, ...]:
        """Voxels of the tile for one of the bottleneck, along each axis."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))


@dataclass(frozen=True)
class Way:
    """One way to run a network on an image.

    Attributes:
        tile: voxels along each axis.
        sums_on_gpu: whether image and summed outputs are on the GPU; else they are in main memory.
        bytes_needed: at the peak, on the GPU, the reserve included.
    """

    tile: tuple[int, ...]
    sums_on_gpu: bool
    bytes_needed: int


def network_shape(
    architecture: dict[str, Any], tile: Sequence[int], channels: int, heads: int, parameters: int
) -> NetworkShape:
    """From the network's arguments as plans.json has them (``arch_kwargs``)."""
    stages = int(architecture["n_stages"])
    axes = len(tile)
    blocks = "n_blocks_per_stage"
    return NetworkShape(
        parameters=parameters,
        channels=channels,
        heads=heads,
        features=_of_each(architecture["features_per_stage"], stages),
        strides=tuple(_of_each(stride, axes) for stride in _listed(architecture["strides"], stages)),
        residual=blocks in architecture,
        decoder_convolutions=_of_each(architecture["n_conv_per_stage_decoder"], stages - 1),
        tile=tuple(int(length) for length in tile),
    )


def ways(network: NetworkShape, image: Sequence[int]) -> tuple[Way, ...]:
    """Every way to run ``network`` on ``image``, in order of preference.

    As trained with everything on the GPU; then with the sums in main memory (the same tiles); then with the
    tile halved along its longest axis, again and again (:func:`_halved`).

    ``image``: voxels along each axis after nnU-Net's cropping and resampling.
    """
    found = [Way(network.tile, True, bytes_needed(network, image, sums_on_gpu=True))]
    smaller: NetworkShape | None = network
    while smaller is not None:
        found.append(Way(smaller.tile, False, bytes_needed(smaller, image, sums_on_gpu=False)))
        smaller = _halved(smaller)
    return tuple(found)


def first_fitting(found: Sequence[Way], free_bytes: int) -> int:
    """Number of the first way that needs no more than ``free_bytes``; ``len(found)`` when none does."""
    return next((n for n, way in enumerate(found) if way.bytes_needed <= free_bytes), len(found))


def bytes_needed(network: NetworkShape, image: Sequence[int], sums_on_gpu: bool) -> int:
    """GPU memory at the peak, reserve and fragmentation included."""
    counted = weight_bytes(network) + tile_bytes(network)
    if sums_on_gpu:
        counted += sum_bytes(network, image)
    return math.ceil(counted * FRAGMENTATION) + RESERVE_BYTES


def weight_bytes(network: NetworkShape) -> int:
    """All of one fold; those of several are put there one after the other."""
    return network.parameters * network.number_bytes


def tile_bytes(network: NetworkShape) -> int:
    """All that lives while the network looks at one tile, apart from its weights."""
    voxels = math.prod(network.tile)
    number = network.number_bytes
    tiles = network.channels * voxels * (SINGLE_BYTES + 2 * number)
    outputs = network.heads * voxels * (number + 2 * SINGLE_BYTES)  # as they come, widened, their difference
    if network.mirrored:  # the flipped tile, the sum so far, the difference turned back
        tiles += network.channels * voxels * number
        outputs += 2 * (network.heads - 1) * voxels * SINGLE_BYTES
    return tiles + outputs + (live_features(network) + largest_convolution(network)) * number


def sum_bytes(network: NetworkShape, image: Sequence[int]) -> int:
    """What the results' device keeps over all tiles; an image smaller than the tile is padded to it."""
    axes = len(network.tile)
    padded = (*image[:-axes], *map(max, image[-axes:], network.tile))
    per_voxel = network.channels + network.heads  # the sums of every label but one, and those of weights
    per_tile_voxel = network.heads  # the Gaussian, the answer to a tile of air
    return (math.prod(padded) * per_voxel + math.prod(network.tile) * per_tile_voxel) * SINGLE_BYTES


def in_voxels(tile: Sequence[int]) -> str:
    """A tile's size in words."""
    return " x ".join(map(str, tile)) + " voxels"


def live_features(network: NetworkShape) -> int:
    """Most numbers in feature maps that live at one time during a forward pass, without gradients.

    With m the size of a stage's map (features times voxels), by the forward passes as Python holds them:

    * encoder, stage s: the maps of the finer stages (skip connections), and of its own: input, convolution
      and normalised of a plain block (3 m); residual, first convolution, second and normalised of a residual
      one (4 m, and the stem's map at stage 0).
    * decoder, stage s: every skip; the coarser map it came from; upsampled and skip side by side (2 m);
      convolution and normalised (2 m); with several convolutions the one before (m).
    """
    maps = _maps(network)
    before = (0, *accumulate(maps))
    own = 4 if network.residual else 3
    stem = maps[0] if network.residual else 0
    encoder = [before[s] + own * m + (stem if s == 0 else 0) for s, m in enumerate(maps)]
    skips, last = before[-1], len(maps) - 1
    decoder = []
    for s in range(last):
        coarser = 0 if s + 1 == last else maps[s + 1]  # the bottleneck is among the skips
        several = network.decoder_convolutions[last - 1 - s] > 1
        decoder.append(skips + coarser + (5 if several else 4) * maps[s])
    return max(encoder + decoder)


def largest_convolution(network: NetworkShape) -> int:
    """Numbers in input and output of the largest convolution: what its workspace is taken to be."""
    maps = _maps(network)
    into = [3 * m for m in maps[:-1]]  # the decoder's first: two maps in, one out
    down = [finer + m for finer, m in pairwise(maps)]
    first = network.channels * math.prod(network.tile) + maps[0]
    return max(first, *into, *down) if into else first


def _maps(network: NetworkShape) -> list[int]:
    """Features times voxels of each stage's map."""
    lengths = network.tile
    sizes = []
    for features, stride in zip(network.features, network.strides, strict=True):
        lengths = tuple(math.ceil(length / step) for length, step in zip(lengths, stride, strict=True))
        sizes.append(features * math.prod(lengths))
    return sizes


def _halved(network: NetworkShape) -> NetworkShape | None:
    """The same network on a tile half as long, along the longest axis that can be; ``None`` when none can.

    A half that is no multiple of the network's strides is taken up to the next one: 160 gives 96 at 32.
    """
    tile, strides = network.tile, network.total_stride
    for axis in sorted(range(len(tile)), key=lambda number: (-tile[number], number)):
        length = math.ceil(tile[axis] / (2 * strides[axis])) * strides[axis]
        if SMALLEST_BOTTLENECK * strides[axis] <= length < tile[axis]:
            return replace(network, tile=(*tile[:axis], length, *tile[axis + 1 :]))
    return None


def _listed(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def _of_each(value: Any, count: int) -> tuple[int, ...]:
    return tuple(int(item) for item in _listed(value, count))
