"""nnU-Net's predictor: it makes no mask of outputs that are no numbers, and runs on a GPU as memory allows.

It is coded for CUDA and tested with stand-ins for device and memory; it has not run on a GPU yet.

Two things of ``nnUNetPredictor`` 2.8 are replaced on a GPU. Its loop over the tiles copies them in a thread
of its own: when the GPU has no room for a copy, that thread ends and the loop waits for it for ever; when the
loop fails instead, the thread stays and keeps the image on the GPU. And where the sums don't fit, it starts
again with another placement without saying so. Here the same sums are made in one thread, and the program
chooses each way that is tried and says which one it was. Preprocessing, windows, mirroring and export stay
nnU-Net's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from app.errors import MisconfiguredError, RetryLaterError, StartOverError
from app.inference.devices import compute_something
from app.inference.running.gpu_memory import SINGLE_BYTES, NetworkShape, Way, first_fitting, in_voxels, ways


class FinitePredictor(nnUNetPredictor):  # type: ignore[misc]  # nnU-Net has no types
    """nnU-Net itself refuses infinite outputs alone; the largest of NaN is its first label, background."""

    device: torch.device

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # PyTorch's decorator has no types
    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """Outputs for ``data`` ``(channels, z, y, x)``, on the CPU: nnU-Net's own, unchanged.

        Raises:
            MisconfiguredError: an output is infinite or no number.
        """
        logits: torch.Tensor = super().predict_logits_from_preprocessed_data(data)
        if not bool(torch.isfinite(logits.sum(dtype=torch.float64))):
            raise MisconfiguredError(
                f"the network's outputs on {self.device} are not finite, so no lesions are made of them: its "
                "numbers are too large or its weights are damaged; install the model again, train it anew, "
                "or, where this was a GPU, set segment.device to cpu"
            )
        return logits


_log = logging.getLogger(__name__)

SAYS_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED", "unable to find an engine")
"""What errors of CUDA, cuDNN and cuBLAS say that are no ``torch.OutOfMemoryError``."""

ERROR_LETTERS = 200
"""How much of CUDA's own explanation a message quotes."""

GAUSSIAN = {"sigma_scale": 1.0 / 8, "value_scaling_factor": 10}
"""nnU-Net's own."""


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


class GpuPredictor(FinitePredictor):
    """nnU-Net's predictor; :meth:`prepare` says what network and whose memory it works with."""

    configuration_manager: Any
    network: Any

    def prepare(self, shape: NetworkShape, memory: GpuMemory) -> None:
        """Must be called once, after ``manual_initialization``."""
        self._shape = shape
        self._memory = memory
        self._trained = self.configuration_manager
        # ours chooses where the sums are; with True nnU-Net would try both by itself
        self.perform_everything_on_device = False
        self.way: Way | None = None

    @property
    def gpu_name(self) -> str:
        """Maker and type of the GPU."""
        return self._memory.name

    @property
    def trained_tile(self) -> tuple[int, ...]:
        """What the network was trained on, voxels along each axis."""
        return self._shape.tile

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # PyTorch's decorator has no types
    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """Outputs for ``data`` ``(channels, z, y, x)``, on the CPU; ``way`` says how they were made.

        Raises:
            RetryLaterError: the GPU has too little room at the moment.
            StartOverError: the GPU computes nothing for this process any more.
            MisconfiguredError: it would be too small if it were empty, or the outputs are no numbers.
        """
        with lock_of(str(self.device)):
            try:
                return self._fitted(data)
            except RuntimeError as error:
                self._refuse_spoilt(error)
                raise

    def _fitted(self, data: torch.Tensor) -> torch.Tensor:
        """The outputs by the first way that the GPU has room for."""
        free, total = self._free()
        found = ways(self._shape, data.shape[1:])
        for way in found[first_fitting(found, free) :]:
            logits = self._tried(way, data)
            if logits is not None:
                return logits
        self.network = self.network.to("cpu")  # leave no half-moved network behind
        raise _no_room(self._memory.name, found, free, total)

    def _free(self) -> tuple[int, int]:
        """Free and total bytes; our own weights are counted in every way, so here they count as free.

        In single precision alone: autocast's copies are gone since the last image.
        """
        free, total = self._memory.measure()
        resident = next(self.network.parameters()).device.type == self.device.type == "cuda"
        return free + (self._shape.parameters * SINGLE_BYTES if resident else 0), total

    def _tried(self, way: Way, data: torch.Tensor) -> torch.Tensor | None:
        """The outputs; ``None`` when the GPU's memory ran out on the way there."""
        self.way = way
        patch = {"patch_size": list(way.tile)}
        self.configuration_manager = ConfigurationManager({**self._trained.configuration, **patch})
        facts = {"tile": list(way.tile), "sums_on_gpu": way.sums_on_gpu, "estimated_bytes": way.bytes_needed}
        _log.info("segmenting on %s: %s", self._memory.name, facts)
        threads = torch.get_num_threads()
        try:
            outputs: torch.Tensor = super().predict_logits_from_preprocessed_data(data)
            return outputs
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = type(error).__name__
        finally:
            self.configuration_manager = self._trained
            torch.set_num_threads(threads)  # nnU-Net lowers it, and leaves it so when it fails
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
        return self.device if self.way is not None and self.way.sums_on_gpu else torch.device("cpu")

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # as above
    def _internal_predict_sliding_window_return_logits(
        self, data: torch.Tensor, slicers: Sequence[Any], do_on_device: bool = True
    ) -> torch.Tensor:
        """nnU-Net's sums over the windows, in one thread, at the place that the way names."""
        place = self._place_of_sums()
        data = data.to(place)
        heads = self.label_manager.num_segmentation_heads
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half, device=place)
        weights = torch.zeros(data.shape[1:], dtype=torch.half, device=place)
        tile = tuple(self.configuration_manager.patch_size)
        gaussian = compute_gaussian(tile, **GAUSSIAN, device=place)
        for window in slicers:
            seen = torch.clone(data[window][None], memory_format=torch.contiguous_format).to(self.device)
            output = self._internal_maybe_mirror_and_predict(seen)[0].to(place)
            output *= gaussian
            logits[window] += output
            weights[window[1:]] += gaussian
        return torch.div(logits, weights, out=logits)


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
