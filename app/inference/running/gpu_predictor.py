"""The sliding window on a GPU, as its memory allows.

It is coded for CUDA and tested with stand-ins for device and memory; it has not run on a GPU yet.

``nnUNetPredictor`` 2.8 copies tiles in a thread of its own: when the GPU has no room for a copy, that thread
ends and the loop waits for it for ever. Where the sums don't fit, it starts again with another placement
without saying so. Here one thread makes the sums (:mod:`app.inference.running.sliding_window`), and the
program chooses each way that is tried and says which one it was. While image and sums are on the GPU, no
tile is copied from or to main memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from app.errors import MisconfiguredError, RetryLaterError, StartOverError
from app.inference.devices import CPU, compute_something
from app.inference.policy import Precision
from app.inference.running.gpu_memory import NetworkShape, Way, first_fitting, in_voxels, ways
from app.inference.running.preprocessing import Prepared
from app.inference.running.sliding_window import Computed, Predictor, Tiles

_log = logging.getLogger(__name__)

SAYS_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED", "unable to find an engine")
"""What errors of CUDA, cuDNN and cuBLAS say that are no ``torch.OutOfMemoryError``."""

ERROR_LETTERS = 200
"""How much of CUDA's own explanation a message quotes."""


class GpuMemory(Protocol):
    """One GPU's memory; tests put a stand-in here."""

    @property
    def name(self) -> str:
        """Maker and type."""

    def measure(self) -> tuple[int, int]:
        """Bytes that are free for us, and all that there are."""

    def computes(self) -> bool:
        """Whether it still does anything for this process."""


@dataclass(frozen=True)
class CudaMemory:
    """A CUDA device's memory, as its driver counts it."""

    device: torch.device

    @property
    def name(self) -> str:
        """As CUDA calls it."""
        return str(torch.cuda.get_device_name(self.device))

    def measure(self) -> tuple[int, int]:
        """What PyTorch holds without using it is given back first."""
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        return int(free), int(total)

    def computes(self) -> bool:
        """An error of a kernel, or of the GPU itself, spoils CUDA for the whole process, for good."""
        try:
            compute_something(self.device)
        except RuntimeError:
            return False
        return True


_LOCKS: dict[str, threading.Lock] = {}


def lock_of(device: str) -> threading.Lock:
    """One for each GPU: two chains that measured its free memory at once would both count on it."""
    return _LOCKS.setdefault(device, threading.Lock())  # one step: two threads are given the same


class GpuPredictor(Predictor):
    """Runs a model on a GPU; :meth:`prepare` says what network and whose memory it works with."""

    def prepare(self, device: torch.device, shape: NetworkShape, memory: GpuMemory) -> None:
        """Must be called once, before the first image."""
        self.device = device
        self._shape = shape
        self._memory = memory
        self.way: Way | None = None

    def _adapt(self) -> None:
        """CUDA's own kernels need no help."""

    def differences(self, prepared: Prepared) -> tuple[torch.Tensor, Computed]:
        """As on the CPU; ``way`` says how they were made.

        Raises:
            RetryLaterError: the GPU has too little room at the moment.
            StartOverError: the GPU computes nothing for this process any more.
            MisconfiguredError: it would be too small if it were empty.
        """
        with lock_of(str(self.device)):
            try:
                return self._fitted(prepared)
            except RuntimeError as error:
                self._refuse_spoilt(error)
                raise

    def _fitted(self, prepared: Prepared) -> tuple[torch.Tensor, Computed]:
        """The outputs by the first way that the GPU has room for."""
        free, total = self._free()
        found = ways(self._shape, prepared.image.shape[1:])
        for way in found[first_fitting(found, free) :]:
            outputs = self._tried(way, prepared)
            if outputs is not None:
                number = self._number_here
                return outputs, Computed(number, way.tile, self._shape.tile, gpu=self._memory.name)
        self._leave()
        raise _no_room(self._memory.name, found, free, total)

    @property
    def _number_here(self) -> torch.dtype:
        """Half precision, which every GPU of the last ten years has."""
        half = self.device.type == "cuda" and self.precision is not Precision.FP32
        return torch.half if half else torch.float32

    def _free(self) -> tuple[int, int]:
        """Free and total bytes; our own weights are counted in every way, so here they count as free."""
        free, total = self._memory.measure()
        resident = next(self.network.parameters()).device.type == self.device.type == "cuda"
        return free + (self._shape.parameters * self._shape.number_bytes if resident else 0), total

    def _leave(self) -> None:
        """Take the weights off the GPU."""
        self._in_network = ()
        self.network.to_empty(device="meta")

    def _tried(self, way: Way, prepared: Prepared) -> torch.Tensor | None:
        """The outputs, on the CPU; ``None`` when the GPU's memory ran out on the way there."""
        self.way = way
        facts = {"tile": list(way.tile), "sums_on_gpu": way.sums_on_gpu, "estimated_bytes": way.bytes_needed}
        _log.info("segmenting on %s: %s", self._memory.name, facts)
        try:
            tiles = Tiles.of(prepared, way.tile, self.networks.step)
            return self._sums(tiles, self._place_of_sums(), self._number_here).to(CPU)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = type(error).__name__
        # here, when the error has let go of what it held
        self._memory.measure()
        _log.warning("GPU memory ran out (%s) although the estimate had it fit: %s", reason, facts)
        return None

    def _refuse_spoilt(self, error: RuntimeError) -> None:
        if self._memory.computes():
            return
        first_line = str(error).partition("\n")[0][:ERROR_LETTERS]
        raise StartOverError(
            f"{self._memory.name} failed ({first_line}) and computes nothing for this process any more: "
            "start it again. If that comes again, look at nvidia-smi and the host's kernel log (Xid)"
        ) from error

    def _place_of_sums(self) -> torch.device:
        return self.device if self.way is not None and self.way.sums_on_gpu else torch.device(CPU)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the GPU's memory ran out, in the words of PyTorch, CUDA, cuDNN or cuBLAS."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in SAYS_NO_MEMORY)


def _no_room(name: str, found: Sequence[Way], free: int, total: int) -> Exception:
    smallest = min(found, key=lambda way: way.bytes_needed)
    needed = (
        f"the network needs about {_gb(smallest.bytes_needed)} of GPU memory in tiles of "
        f"{in_voxels(smallest.tile)}, its smallest; {name} has {_gb(free)} free of {_gb(total)}"
    )
    if smallest.bytes_needed > total:
        return MisconfiguredError(f"{needed}; use a larger GPU, or set segment.device to cpu")
    return RetryLaterError(f"{needed}; end what else uses it (nvidia-smi), or set segment.device to cpu")


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
