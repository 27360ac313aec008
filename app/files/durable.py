"""Files that are either whole on disk or not there, and folders that one process at a time works in."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import MisconfiguredError, PsmaNodeError, RetryLaterError

if TYPE_CHECKING:
    from filelock import FileLock


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


def make_private(path: Path) -> None:
    """Let nobody but its owner into a folder, whatever the files in it allow, or read a file; another user's
    stays as it is.

    Raises OSError: its file system knows no such rights.
    """
    status = path.stat()
    if status.st_mode & 0o077 and status.st_uid == os.geteuid():
        path.chmod(status.st_mode & 0o700)


def open_private(path: str, flags: int) -> int:
    """An ``opener`` for a file that its owner alone can read."""
    return os.open(path, flags, 0o600)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a renamed file survives a power cut."""
    _flush(folder, os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Flush a folder with everything below it."""
    for path in folder.rglob("*"):
        _flush(path)
    sync_folder(folder)


def _flush(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_mb(folder: Path) -> float:
    """Room left on the folder's file system, in 10^6 bytes."""
    return shutil.disk_usage(folder).free / 1e6


PASSING = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT))
"""A disk that is full, or a share that does not answer: without anybody's change it may be right again."""


def may_pass(error: OSError, is_there: bool) -> bool:
    """Whether it may be right again without a change of the node's settings or rights.

    ``is_there``: what was to be written to has been made before; a file system that is read-only now has
    become that, by a fault of the disk, say.
    """
    return error.errno in PASSING or (error.errno == errno.EROFS and is_there)


def disk_error(error: OSError, place: str, advice: str, is_there: bool = False) -> PsmaNodeError:
    """A disk's error in our words: what :func:`may_pass` is tried again, for the rest a person is needed."""
    if may_pass(error, is_there):
        return RetryLaterError(f"{place} can't be written to now ({error.strerror}); try again later")
    return MisconfiguredError(f"{place} can't be made or written to ({error.strerror}); {advice}")


LOCK_FILE = ".lock"
"""Empty, and left there: the kernel's lock on it ends with the process, however that ends."""


def try_lock(path: Path) -> FileLock | None:
    """Hold the lock on ``path``, which is made when it is not there; ``None`` when another holds it.

    The process holds it until it is released or forgotten; a child process does not inherit it.

    Raises:
        OSError: the file can't be opened, or its file system knows no locks.
    """
    from filelock import FileLock, Timeout

    # thread_local: the hold would end with the thread. fallback_to_soft: that lock would outlive a crash.
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


@contextmanager
def hold_folder(folder: Path, command: str) -> Iterator[None]:
    """Hold ``folder`` alone while the block runs; it is made when it is not there.

    ``command`` names what works in the folder, for the message.

    Raises:
        MisconfiguredError: another run holds it, or it can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = try_lock(folder / LOCK_FILE)
    except OSError as error:
        raise MisconfiguredError(f"{folder}: can't be written to: {error.strerror}") from error
    if lock is None:
        raise MisconfiguredError(
            f"{folder}: another {command} is at work in this folder; wait for it, or stop it"
        )
    try:
        yield
    finally:
        lock.release()
