"""What several commands share: options, the devices they compute on, progress and end of long work."""

from __future__ import annotations

import logging
import os
import pwd
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from app.errors import ExitCode
from app.inference.devices import CPU, VisibleGpus, choose_devices, visible_gpus

if TYPE_CHECKING:
    from app.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The site's app.yaml. Default: $PSMA_NODE_CONFIG, ./app.yaml, the shipped one."
    ),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Override one setting (YAML or plain text); repeatable."
    ),
]


ByOption = Annotated[
    str,
    typer.Option(
        "--by", metavar="NAME", help="Who asks, for the audit log. Default: the user of the system."
    ),
]


def asked_by(named: str) -> str:
    """Who asks: as named, else the user of the operating system, and who became that user by sudo."""
    if named.strip():
        return named.strip()
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not have a name
        user = f"uid {os.getuid()}"
    person = os.environ.get("SUDO_USER", user)
    return user if person == user else f"{person} as {user}"


class CommandGroup(TyperGroup):
    """Lists commands with their first sentence, which Typer would cut at the end of the line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One paragraph a command."""
        words = [
            (name, self.commands[name].get_short_help_str(limit=1000)) for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(words)


class _StandardError(logging.StreamHandler[TextIO]):
    """Looks standard error up for every line: a progress bar stands in for it, and keeps below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


def log_to_terminal() -> None:
    """Progress with the time of day, on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[_StandardError()])
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it logs every module that it copies


def end_on_sigterm() -> None:
    """End on SIGTERM as on Ctrl-C: work under way ends with the command, no file is half written."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.TERMINATED))


@dataclass(frozen=True)
class ComputePlan:
    """The site's settings, and what they mean on this machine."""

    settings: Settings
    devices: tuple[str, ...]
    """PyTorch's names, at least one: GPUs alone, or the CPU alone."""
    found: VisibleGpus
    """The GPUs that PyTorch sees; empty where it was not asked."""

    @property
    def workers(self) -> int:
        """How many studies are processed at one time: as the site says, else one for each GPU, else one."""
        return self.settings.node.workers or len(self.devices)

    def settings_of_chains(self) -> Iterator[Settings]:
        """Settings for one chain after another, without end; they name the devices in turn."""
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
        MisconfiguredError: a demanded GPU is absent, or a GPU does not compute.
    """
    wanted = settings.segment.device
    devices = choose_devices(wanted)
    return ComputePlan(settings, devices, VisibleGpus() if wanted == CPU else visible_gpus())


def device_cautions(settings: Settings) -> tuple[str, ...]:
    """A warning where ``resources.gpu`` asks the host for GPUs, but ``segment.device`` goes on without."""
    wanted, asked = settings.segment.device, settings.resources.gpu
    if wanted == "auto" and asked and not (found := visible_gpus()).names:
        return (
            f"resources.gpu asks for {asked} GPU(s), but found {found}; the networks run on the CPU, as "
            f"segment.device auto allows. To have a GPU: {found.advice}; to refuse the CPU: set it to cuda",
        )
    return ()
