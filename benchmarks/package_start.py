"""How large the image is, and how long its commands take to start.

    python -m benchmarks.package_start psma-node:0.1.0-cpu

Prints the size of the image, then the seconds of ``show``, of ``check``, and of ``serve`` until it listens,
each the median of five, and of an empty command in the same image for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.demo.processes import free_port, start_program, stopping

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5
ENGINES = {"docker": "docker", "podman": str(ROOT / "scripts" / "podman")}


def median_s(work: Callable[[], None]) -> float:
    """Seconds, without the first time, which reads the image from disk."""
    work()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def ran(command: Sequence[str]) -> Callable[[], None]:
    """A command to its end, whatever it ends with."""
    return lambda: subprocess.run(command, capture_output=True, check=False) and None


def served(run: Sequence[str], image: str) -> float:
    """Seconds until the node listens; it is stopped afterwards."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        data.chmod(0o777)
        words = [*run, "--network=host", f"--volume={data}:/var/lib/psma-node", image, "serve"]
        command = [*words, "--set", f"receive.port={port}"]
        begun = time.perf_counter()
        with stopping(start_program("The node", command, Path(folder) / "log", os.environ)) as node:
            node.wait_for_port(port, 120.0)
            return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--engine", choices=ENGINES, default="podman")
    given = parser.parse_args()
    engine = ENGINES[given.engine]
    found = subprocess.run([engine, "image", "inspect", given.image], capture_output=True, check=True)
    print(f"size of the image: {json.loads(found.stdout)[0]['Size'] / 1e9:.2f} GB")
    run = [engine, "run", "--rm", "--read-only", "--tmpfs=/tmp", "--cap-drop=all"]
    offline = [*run, "--network=none"]
    measured = {
        "an empty command": ran([*offline, "--entrypoint=/bin/true", given.image]),
        "show": ran([*offline, given.image, "show"]),
        "check": ran([*offline, given.image, "check"]),
    }
    for name, work in measured.items():
        print(f"{name}: {median_s(work):.1f} s")
    listening = [served(run, given.image) for _ in range(1 + REPEATS)][1:]
    print(f"serve, until it listens: {statistics.median(listening):.1f} s")


if __name__ == "__main__":
    main()
