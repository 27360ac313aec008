"""Where the networks run: what the site's setting asks for, compared with what PyTorch sees.

Coded for NVIDIA GPUs (CUDA) and tested without one; nobody has run it on a GPU yet (docs/reference/gpu.md).
"""

from __future__ import annotations

import importlib.util
import runpy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import MisconfiguredError

if TYPE_CHECKING:
    import torch

CPU = "cpu"
WARNING_LETTERS = 200
"""How much of PyTorch's own explanation a message quotes."""


@dataclass(frozen=True)
class VisibleGpus:
    """What PyTorch sees of this machine's GPUs.

    Attributes:
        names: of GPU 0, 1 and so on, as CUDA counts them.
        pytorch: version of PyTorch.
        cuda: the CUDA version that this PyTorch was built for; empty for a build without.
        problem: why PyTorch can't use CUDA, in its own words; empty when it says nothing.
    """

    names: tuple[str, ...] = ()
    pytorch: str = ""
    cuda: str = ""
    problem: str = ""

    def __str__(self) -> str:
        if self.names:
            listed = ", ".join(f"{number}: {name}" for number, name in enumerate(self.names))
            return f"{len(self.names)} GPU(s) ({listed})"
        if not self.cuda:
            return f"no GPU: PyTorch {self.pytorch} is a build without CUDA"
        why = f" ({self.problem})" if self.problem else ""
        return f"no GPU: PyTorch {self.pytorch}, built for CUDA {self.cuda}, sees none{why}"

    @property
    def advice(self) -> str:
        """How to have a GPU seen."""
        if not self.cuda:
            return (
                "in a container take the image whose tag ends in -cuda, without one "
                "install PyTorch's CUDA build (docs/reference/gpu.md)"
            )
        return (
            "give the container the GPU (Docker: --gpus all; Podman: --device nvidia.com/gpu=all; "
            "compose: compose.gpu.yaml, with Podman compose.gpu.podman.yaml; "
            "Kubernetes: nvidia.com/gpu in its limits), and look at the host's driver (nvidia-smi)"
        )


def visible_gpus() -> VisibleGpus:
    """Ask PyTorch; nothing is put on a GPU. A build for CPUs alone says so in a file: it is not loaded."""
    build = _pytorch_build()
    if not build["cuda"] and not build["hip"]:
        return VisibleGpus((), build["__version__"])
    import torch

    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = tuple(torch.cuda.get_device_name(number) for number in range(seen))
    problem = " ".join(str(warning.message) for warning in raised)[:WARNING_LETTERS]
    return VisibleGpus(names, torch.__version__, torch.version.cuda or "", problem)


def _pytorch_build() -> dict[str, Any]:
    """``torch.version``, without what ``import torch`` loads besides: seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise MisconfiguredError("found no PyTorch, expected that of requirements.txt; install its packages")
    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))


def usable_devices(wanted: str, found: VisibleGpus) -> tuple[str, ...]:
    """The devices that ``segment.device`` means on this machine, in PyTorch's words; at least one.

    Args:
        wanted: ``auto`` (every GPU, or the CPU where there is none), ``cuda`` (every GPU), ``cuda:1`` (that
            one) or ``cpu``.
        found: what is there.

    Raises:
        MisconfiguredError: a GPU is demanded that is not there.
    """
    every = tuple(f"cuda:{number}" for number in range(len(found.names)))
    if wanted == CPU or (wanted == "auto" and not every):
        return (CPU,)
    if wanted in ("auto", "cuda") and every:
        return every
    if wanted in every:
        return (wanted,)
    expected = "a GPU" if wanted == "cuda" else f"GPU {wanted.partition(':')[2]}, counted from 0"
    advice = "set it to one of " + ", ".join(every) if every else found.advice
    raise MisconfiguredError(
        f"segment.device is {wanted}: expected {expected}, found {found}; {advice}, or set segment.device to "
        "auto or cpu"
    )


def choose_devices(wanted: str) -> tuple[str, ...]:
    """:func:`usable_devices` of this machine, each tried.

    Raises:
        MisconfiguredError: a GPU is demanded that is not there, or one that is there does not compute.
    """
    return _tried(wanted)


def choose_device(wanted: str) -> torch.device:
    """The first device that the site's setting means, tried; the others are left alone.

    Raises:
        MisconfiguredError: as :func:`choose_devices`, of this one.
    """
    device = _tried(wanted, most=1)[0]
    import torch

    return torch.device(device)


def _tried(wanted: str, most: int | None = None) -> tuple[str, ...]:
    if wanted == CPU:  # without loading PyTorch
        return (CPU,)
    found = visible_gpus()
    devices = usable_devices(wanted, found)[:most]
    for device in devices:
        _refuse_broken(device, found)
    return devices


def compute_something(device: str | torch.device) -> None:
    """A small convolution in half precision, which is what the networks do.

    Where this works, cuDNN's "unable to find an engine" means memory later on.

    Raises:
        RuntimeError: the device does not compute.
        AssertionError: this PyTorch is a build without CUDA.
    """
    import torch

    numbers = torch.ones((1, 1, 4, 4, 4), dtype=torch.half, device=device)
    torch.nn.functional.conv3d(numbers, numbers[..., :3, :3, :3]).sum().item()


def _refuse_broken(device: str, found: VisibleGpus) -> None:
    """A GPU that is too old for this PyTorch, or taken by another program alone, is seen all the same."""
    if device == CPU:
        return
    try:
        compute_something(device)
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        first_line = str(error).partition("\n")[0][:WARNING_LETTERS]
        raise MisconfiguredError(
            f"{device} does not compute ({first_line}); found {found}, PyTorch {found.pytorch} for CUDA "
            f"{found.cuda}. Look at nvidia-smi, install the PyTorch that fits the GPU "
            "(docs/reference/gpu.md), or set segment.device to cpu"
        ) from error


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (else it is slower than single precision)."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
