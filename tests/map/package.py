"""The built image, run as a careful host runs it: no network, nothing writable, no capabilities, uid 1000."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PODMAN = str(ROOT / "scripts" / "podman")
BASE_IMAGE = "localhost/psma-node-base:bookworm"

HARDENED = (
    "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp", "--cap-drop=all",
    "--security-opt=no-new-privileges", "--user=1000:1000",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """How a container ended."""

    code: int
    output: str
    errors: str


def podman(*words: str) -> str:
    """What Podman prints. Raises CalledProcessError."""
    return subprocess.run([PODMAN, *words], capture_output=True, check=True, text=True).stdout


@dataclass(frozen=True)
class Package:
    """An image of the node."""

    image: str

    def command(self, words: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        """The words that run it, hardened."""
        return [PODMAN, "run", "--rm", *HARDENED, *options, self.image, *words]

    def run(self, *words: str, options: Sequence[str] = ()) -> Run:
        """Run it to its end, without a network."""
        command = self.command(words, ["--network=none", *options])
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        return Run(done.returncode, done.stdout, done.stderr)

    def shell(self, script: str) -> str:
        """What a shell prints in it."""
        return podman("run", "--rm", "--network=none", "--entrypoint=/bin/sh", self.image, "-c", script)

    def inspected(self) -> dict[str, Any]:
        """What Podman knows of the image."""
        found: dict[str, Any] = json.loads(podman("image", "inspect", self.image))[0]
        return found

    def layers(self) -> list[str]:
        """Digests of its layers, the base image's first."""
        return list(self.inspected()["RootFS"]["Layers"])


def build(tag: str = "", *flags: str) -> Package:
    """Build the CPU image of the last commit as ``make map`` does, on the base image that was made here."""
    mounts = pip_mounts()
    words = ["--isolation=chroot", "--network=host", "--pull=never", *mounts, *flags]
    environment: Mapping[str, str] = {
        **os.environ,
        "MAP_ENGINE": "podman",
        "MAP_BASE_IMAGE": BASE_IMAGE,
        "MAP_BUILD_FLAGS": " ".join(words),
        **({"MAP_TORCH_INDEX": ""} if mounts else {}),
    }
    done = subprocess.run(
        [str(ROOT / "MAP" / "build"), "cpu"], env=environment, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    image = done.stdout.splitlines()[-1]
    if tag:
        podman("tag", image, tag)
    return Package(tag or image)


def pip_mounts() -> list[str]:
    """What gives the build pip's own way to packages on this machine, where it has one."""
    file = ROOT / ".cache" / "pip.conf"
    file.parent.mkdir(exist_ok=True)
    done = subprocess.run([ROOT / "scripts" / "pip-mounts", file], capture_output=True, check=True, text=True)
    return done.stdout.split()


def mount(folder: Path, place: str, read_only: bool = False) -> str:
    """The option that shows a folder to a container."""
    return f"--volume={folder}:{place}{':ro' if read_only else ''}"


def open_folder(folder: Path) -> Path:
    """A new folder that uid 1000 may write to."""
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return folder
