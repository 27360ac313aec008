"""Which devices the chains of this program run on, and how many chains there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING

from app.inference.devices import CPU, VisibleGpus, choose_devices, visible_gpus

if TYPE_CHECKING:
    from app.settings import Settings


@dataclass(frozen=True)
class ComputePlan:
    """The site's settings, and what they mean on this machine.

    Attributes:
        devices: in PyTorch's words, at least one; GPUs alone, or the CPU alone.
        found: what PyTorch sees; empty where it was not asked.
    """

    settings: Settings
    devices: tuple[str, ...]
    found: VisibleGpus

    @property
    def workers(self) -> int:
        """Studies processed at one time: as many as the site says, or one for each GPU, or one."""
        return self.settings.node.workers or len(self.devices)

    def settings_of_chains(self) -> Iterator[Settings]:
        """The settings of one chain after another, without end: each names its one device, in turn."""
        for device in cycle(self.devices):
            yield replace(self.settings, segment=replace(self.settings.segment, device=device))

    def __str__(self) -> str:
        if self.devices != (CPU,):
            used = ", ".join(f"{device} ({self._name(device)})" for device in self.devices)
            return f"the networks run on {used}, {self.workers} worker(s)"
        why = f"; {self.found}" if self.found.pytorch else ""
        return f"the networks run on the CPU (segment.device is {self.settings.segment.device}{why})"

    def _name(self, device: str) -> str:
        return self.found.names[int(device.partition(":")[2])]


def compute_plan(settings: Settings) -> ComputePlan:
    """What ``segment.device`` and ``node.workers`` mean on this machine.

    Raises:
        MisconfiguredError: a GPU is demanded that is not there, or one that is there does not compute.
    """
    wanted = settings.segment.device
    devices = choose_devices(wanted)
    return ComputePlan(settings, devices, VisibleGpus() if wanted == CPU else visible_gpus())


def device_cautions(settings: Settings) -> tuple[str, ...]:
    """Where a package asks its host for GPUs (``resources.gpu``) and ``segment.device`` goes on without."""
    wanted, asked = settings.segment.device, settings.resources.gpu
    if wanted == "auto" and asked and not (found := visible_gpus()).names:
        return (
            f"resources.gpu asks for {asked} GPU(s), but found {found}; the networks run on the CPU, as "
            f"segment.device auto allows. To have a GPU: {found.advice}; to refuse the CPU: set it to cuda",
        )
    return ()
