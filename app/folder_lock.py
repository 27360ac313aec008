"""One command at a time in a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import MisconfiguredError

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
