"""Where the networks run.

The CUDA path follows nnU-Net's own (half-precision autocast inside its predictor, everything on the device);
it has not been run yet on a machine with a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.errors import MisconfiguredError
from app.inference.policy import DeviceChoice

if TYPE_CHECKING:
    import torch


def choose_device(choice: DeviceChoice) -> torch.device:
    """The device that the site's setting asks for.

    Raises:
        MisconfiguredError: CUDA is demanded, and PyTorch sees no CUDA device.
    """
    import torch

    available = torch.cuda.is_available()
    if choice is DeviceChoice.CUDA and not available:
        raise MisconfiguredError(
            "segment.device is cuda, but PyTorch finds no CUDA device; give the host or container a GPU, "
            "or set segment.device to auto or cpu"
        )
    if choice is DeviceChoice.CPU or not available:
        return torch.device("cpu")
    return torch.device("cuda")
