"""Files that are either whole on disk or not there.

One command at a time in a folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import MisconfiguredError


def write_durably(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename, flush the folder."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder with those above it; each new one survives a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a renamed file survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder with all that is in it."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


LOCK_FILE = ".lock"
"""Empty, and left there: the kernel's lock on it ends with the process, however that ends."""


@contextmanager
def hold_folder(folder: Path, command: str) -> Iterator[None]:
    """Hold ``folder`` alone; made when it is not there.

    Args:
        folder: what two runs must not write at once.
        command: what works in it, for the message.

    Raises:
        MisconfiguredError: another run holds it, or it can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise MisconfiguredError(f"{folder}: can't be written to: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MisconfiguredError(
                f"{folder}: another {command} is at work in this folder; wait for it, or stop it"
            ) from error
        yield
