"""The sliding window: a model's networks over the tiles of an image, on the CPU or on a GPU.

Ours in place of ``nnUNetPredictor`` 2.8, with its tiles, weights of tiles, mirroring and folds
(docs/decisions/0014-our-own-sliding-window.md). What differs: sums are in single precision (nnU-Net: half)
and of differences to background alone; a tile that says nothing about the body is left out; a CPU with
bfloat16 uses it where its answers agree. On a GPU: :mod:`app.inference.running.gpu_predictor`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, compress
from math import prod
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from numpy.typing import NDArray

from app.errors import MisconfiguredError
from app.inference.devices import CPU, has_bfloat16
from app.inference.policy import Precision
from app.inference.running.cpu_network import adapt_to_cpu
from app.inference.running.preprocessing import Prepared, Preprocessing
from app.inference.running.tiles import (
    NEGLIGIBLE,
    Window,
    Windows,
    largest_share,
    needless_windows,
    spread,
    tile_windows,
)
from app.inference.running.workers import give_back_memory, in_order, keep_freed_memory

_log = logging.getLogger(__name__)

GAUSSIAN = {"sigma_scale": 1.0 / 8, "value_scaling_factor": 10}
"""nnU-Net's own."""

SAME_CONTENT = 1e-3
"""Largest difference of two tiles of air that are answered alike, in normalised units: rounding is 1e-6."""

SMALL_TILE = 2**18
"""Voxels of a tile that are few enough for a tile in each thread; the maps of a larger one fill memory."""

MOST_THREADS = 8
"""PyTorch's threads in one process: nnU-Net lowers them to as many while it predicts."""

ALLOWED_CHANGES, FEW_VOXELS = 0.001, 2
"""Voxels of a tile whose label may change in bfloat16: this share of both masks, or so many of small ones."""


@dataclass(frozen=True)
class Networks:
    """A model's networks: one, and its weights for each fold.

    Attributes:
        network: built by nnU-Net; its own weights are not used.
        folds: each fold's weights, every weight under one name.
        tile: voxels along the axes it looks at.
        step: distance of tiles as a share of the tile.
        mirrored: axes of the tile along which it is mirrored too.
    """

    network: torch.nn.Module
    folds: tuple[dict[str, torch.Tensor], ...]
    tile: tuple[int, ...]
    step: float
    mirrored: tuple[int, ...] = ()

    @property
    def mirrors(self) -> tuple[tuple[int, ...], ...]:
        """Every combination of the mirrored axes, in nnU-Net's order."""
        counts = range(1, len(self.mirrored) + 1)
        return tuple(axes for count in counts for axes in combinations(self.mirrored, count))


@dataclass(frozen=True)
class Computed:
    """How the outputs of one image were computed.

    Attributes:
        gpu: what they were computed on; empty for the CPU.
        number: ``torch.float32``, or what the convolutions' numbers were.
        tile, trained_tile: voxels along each axis, as it was run and as it was trained.
        refused: why numbers of half the size were not used although the processor has them.
    """

    number: torch.dtype
    tile: tuple[int, ...]
    trained_tile: tuple[int, ...]
    gpu: str = ""
    refused: str = ""


class Predictor:
    """Runs a model on the CPU."""

    def __init__(self, networks: Networks, preprocessing: Preprocessing, precision: Precision) -> None:
        self.device = torch.device(CPU)
        self.networks = networks
        self.preprocessing = preprocessing
        self.precision = precision
        self.network = networks.network.eval()
        self._norms = {
            f"{name}.{parameter}"
            for name, module in self.network.named_modules(remove_duplicate=False)
            if isinstance(module, torch.nn.modules.instancenorm._InstanceNorm)
            for parameter in ("weight", "bias", "running_mean", "running_var")
        }
        self._in_network: tuple[object, ...] = ()
        self._adapt()

    def _adapt(self) -> None:
        adapt_to_cpu(self.network)

    def run(
        self, channels: NDArray[np.float32], spacing_mm: Sequence[float]
    ) -> tuple[NDArray[np.unsignedinteger[Any]], Computed]:
        """The label of each voxel ``(z, y, x)`` of an image ``(c, z, y, x)``, and how it was computed.

        Raises:
            MisconfiguredError: an output is infinite or no number.
        """
        torch.set_num_threads(min(MOST_THREADS, torch.get_num_threads()))
        keep_freed_memory()
        try:
            return self._labels(channels, spacing_mm)
        finally:
            give_back_memory()

    def _labels(
        self, channels: NDArray[np.float32], spacing_mm: Sequence[float]
    ) -> tuple[NDArray[np.unsignedinteger[Any]], Computed]:
        prepared = self.preprocessing.prepare(channels, spacing_mm)
        with torch.inference_mode():
            differences, computed = self.differences(prepared)
            if not bool(torch.isfinite(differences.sum(dtype=torch.float64))):
                raise MisconfiguredError(
                    f"the network's outputs on {self.device} are not finite, so no lesions are made of them: "
                    "its numbers are too large or its weights are damaged; install the model again, train it "
                    "anew, or, where this was a GPU, set segment.device to cpu"
                )
            return self.preprocessing.labels(differences, prepared), computed

    def differences(self, prepared: Prepared) -> tuple[torch.Tensor, Computed]:
        """By how much each label's output exceeds background's: ``(labels - 1, z, y, x)``, on the CPU."""
        tile = self.networks.tile
        tiles = Tiles.of(prepared, tile, self.networks.step)
        refused = ""
        if self.precision is not Precision.FP32 and has_bfloat16():
            shorter = self._sums(tiles, self.device, torch.bfloat16)
            refused = self.changed_by_bfloat16(tiles.fullest(shorter))
            if not refused:
                return shorter, Computed(torch.bfloat16, tile, tile)
            del shorter
        single = self._sums(tiles, self.device, torch.float32)
        return single, Computed(torch.float32, tile, tile, refused=refused)

    def changed_by_bfloat16(self, tile: torch.Tensor) -> str:
        """What bfloat16 changes in a tile ``(c, z, y, x)``, if too much; asked of every image anew."""
        marked = []
        for number in (torch.float32, torch.bfloat16):
            answers = []
            for fold in range(len(self.networks.folds)):
                self._take(fold, number)
                answers.append(self._answer(tile, number))
            marked.append(torch.stack(answers).sum(0) > 0)
        changed = int((marked[0] != marked[1]).sum())
        both = int(marked[0].sum()) + int(marked[1].sum())
        if changed <= max(FEW_VOXELS, ALLOWED_CHANGES * both):
            return ""
        _log.warning("bfloat16 would change %d of %d voxels: single precision is used", changed, both // 2)
        return f"in bfloat16 {changed} voxels of a tile with {both // 2} would be others"

    def _sums(self, tiles: Tiles, place: torch.device, number: torch.dtype) -> torch.Tensor:
        """The weighted mean of the tiles' answers, ``(labels - 1, z, y, x)`` at ``place``."""
        image = tiles.image.to(place)
        gaussian = torch.from_numpy(tiles.weights).to(place)
        weights = torch.zeros(image.shape[1:], device=place)
        sums: torch.Tensor | None = None
        airs = self._airs(tiles, image, number)
        left_out = bool(airs) and all(air.is_background for air in airs)
        first, every = tiles.first_needless, zip(tiles.windows, tiles.needless, strict=True)
        looked = [tile for tile in every if not (tile[1] and left_out) or tile[0] == first]

        def answered(tile: tuple[Window, bool]) -> torch.Tensor:
            seen = image[(slice(None), *tile[0])]
            known = tile[1] and airs[fold].shows(seen)
            return airs[fold].answer if known else self._answer(seen, number)

        for fold in range(len(self.networks.folds)):
            self._take(fold, number)
            for (window, _), answer in zip(looked, in_order(answered, looked, self._workers), strict=True):
                if sums is None:
                    sums = torch.zeros((len(answer), *image.shape[1:]), device=place)
                sums[(slice(None), *window)] += answer.to(place) * gaussian
                weights[window] += gaussian
        if sums is None:  # not reached: there is always a tile
            raise ValueError("an image without tiles")
        sums.masked_fill_(weights == 0, -1.0)  # where no tile was looked at is air: background
        return sums.div_(weights.masked_fill_(weights == 0, 1.0))[(slice(None), *tiles.inner)]

    @property
    def _workers(self) -> int:
        """How many tiles are in work at a time."""
        side_by_side = self.device.type == CPU and prod(self.networks.tile) <= SMALL_TILE
        return torch.get_num_threads() if side_by_side else 1

    def _airs(self, tiles: Tiles, image: torch.Tensor, number: torch.dtype) -> tuple[_Air, ...]:
        """Each fold's answer to the first needless tile; none where no tile is needless.

        All are asked before any tile is left out: a mean of some of the folds would be another mask.
        """
        if tiles.first_needless is None:
            return ()
        seen, airs = image[(slice(None), *tiles.first_needless)], []
        for fold in range(len(self.networks.folds)):
            self._take(fold, number)
            airs.append(_Air.of(seen, self._answer(seen, number).to(CPU), tiles.needless_share))
        return tuple(airs)

    def _answer(self, seen: torch.Tensor, number: torch.dtype) -> torch.Tensor:
        """``(labels - 1, z, y, x)`` float32 for one tile ``(c, z, y, x)``, mirrored as the model wants it."""
        axes_seen = len(self.networks.tile)  # two of a two-dimensional network: a tile is one slice
        tile = seen.reshape(1, len(seen), *seen.shape[-axes_seen:]).to(self.device, number)
        total = self._seen_once(tile)
        mirrors = self.networks.mirrors
        for axes in mirrors:
            flipped = self._seen_once(torch.flip(tile, [axis + 2 for axis in axes]))
            total += torch.flip(flipped, [axis + 1 for axis in axes])
        return total.div_(1 + len(mirrors)).reshape(-1, *seen.shape[1:])

    def _seen_once(self, tile: torch.Tensor) -> torch.Tensor:
        last = torch.channels_last_3d if tile.ndim == 5 else torch.channels_last
        outputs = self.network(tile.contiguous(memory_format=last))[0].float()
        difference: torch.Tensor = outputs[1:] - outputs[:1]
        return difference

    def _take(self, fold: int, number: torch.dtype) -> None:
        """Fill the network with a fold's weights: by reference, unless they are moved or shortened."""
        wanted = (fold, number, self.device)
        if self._in_network == wanted:
            return
        self._in_network = ()
        state = {
            name: weight.to(self.device, torch.float32 if name in self._norms else number)
            for name, weight in self.networks.folds[fold].items()
        }
        self.network.load_state_dict(state, strict=False, assign=True)
        self._in_network = wanted


@dataclass(frozen=True, eq=False)
class _Air:
    """A fold's answer to the first needless tile of an image, in main memory.

    If every fold's is background, the other tiles are left out; what is above 0 counts with the tile's share,
    for at its edges a network may be wrong. Else the model finds something where there is nothing: then each
    is looked at as nnU-Net looks at it, unless it shows the same.
    """

    seen: torch.Tensor
    answer: torch.Tensor
    is_background: bool

    @classmethod
    def of(cls, seen: torch.Tensor, answer: torch.Tensor, share: NDArray[np.float32]) -> _Air:
        return cls(seen, answer, bool((answer * torch.from_numpy(share) <= NEGLIGIBLE).all()))

    def shows(self, other: torch.Tensor) -> bool:
        """Whether another tile has the same content."""
        return bool(((self.seen - other).abs() <= SAME_CONTENT).all())


@dataclass(frozen=True, eq=False)
class Tiles:
    """An image, padded to at least one tile, and its tiles.

    Attributes:
        image: ``(c, z, y, x)``.
        weights: ``(z, y, x)``, of a tile's voxels: nnU-Net's Gaussian, as it rounds it.
        windows: where the tiles are.
        needless: for each, whether it says nothing about the body.
        needless_share: ``(z, y, x)`` of a tile, the most that a needless one says about a voxel there.
        inner: the image without its padding.
    """

    image: torch.Tensor
    weights: NDArray[np.float32]
    windows: Windows
    needless: tuple[bool, ...]
    needless_share: NDArray[np.float32]
    inner: tuple[slice, ...]

    @classmethod
    def of(cls, prepared: Prepared, tile: tuple[int, ...], step: float) -> Tiles:
        """The tiles of an image; nnU-Net pads it with zeros, half before it and half after."""
        padded, inner = pad_nd_image(prepared.image, tile, "constant", {"value": 0}, True, None)
        windows = tile_windows(padded.shape[1:], tile, step)
        gaussian = compute_gaussian(tile, **GAUSSIAN, device=torch.device(CPU)).float().numpy()
        weights = gaussian.reshape([part.stop - part.start for part in windows[0]])
        body = np.zeros(padded.shape[1:], np.bool_)
        body[tuple(inner[1:])] = spread(prepared.body, prepared.image.shape[1:], prepared.spacing_mm)
        needless = needless_windows(windows, weights, body)
        share = largest_share(windows, needless, weights, body.shape)
        return cls(padded, weights, windows, needless, share, tuple(inner[1:]))

    @property
    def first_needless(self) -> Window | None:
        """The one that the network looks at all the same."""
        return next(compress(self.windows, self.needless), None)

    def fullest(self, differences: torch.Tensor) -> torch.Tensor:
        """The tile ``(c, z, y, x)`` with the most voxels that are not background; of none, with most uptake.

        Args:
            differences: ``(labels - 1, z, y, x)``, of the image without its padding.
        """
        found = torch.zeros(self.image.shape[1:], dtype=torch.bool)
        found[self.inner] = (differences > 0).any(0)
        window = max(self.windows, key=lambda w: (int(found[w].sum()), float(self.image[(0, *w)].sum())))
        return self.image[(slice(None), *window)]
