"""A PACS for demo and tests: Orthanc where it is installed, else a small archive of our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from app.demo.archive import SmallArchive
from app.demo.orthanc import Orthanc, orthanc_program
from app.demo.processes import free_port

PACS_AE_TITLE = "DEMO_PACS"


class Pacs(Protocol):
    """An archive on the loopback that stores, and answers C-FIND and C-GET."""

    name: str
    ae_title: str
    port: int

    def start(self) -> None:
        """Listen; what was stored before is there again."""

    def stop(self) -> None:
        """Stop listening; harmless when it doesn't."""


def choose_pacs(folder: Path, peers: dict[str, int]) -> Pacs:
    """A PACS, not started yet, with its files in ``folder``; it talks to ``peers`` (AE title to port)."""
    if orthanc_program():
        return Orthanc(folder, PACS_AE_TITLE, free_port(), peers)
    return SmallArchive(folder, PACS_AE_TITLE, free_port())


@contextmanager
def running(pacs: Pacs) -> Iterator[Pacs]:
    """The PACS, started, and stopped at the end of the block."""
    try:
        pacs.start()
        yield pacs
    finally:
        pacs.stop()
