"""Files in ``slots/`` whose names are on the disk before an instance comes: to keep it costs one write.

A slot is filled as the data set arrives, then sealed (:func:`~app.node.records.instances.seal`) and written
through to the disk. A slot without a seal was never acknowledged.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from app.files.durable import free_mb, open_private, sync_folder
from app.node.records.instances import (
    PREAMBLE_BYTES,
    InstanceIdentity,
    KeptInstance,
    StoreCommand,
    identity_in,
    seal,
)

SPARE_SLOTS = 800
SPARE_BYTES = 512 * 2**20
"""Kept ready while the node listens, at most, for each class of instance and for all of them: enough for two
whole-body studies of PET and CT one right after the other."""

MAX_FILL_BYTES = 2**20
"""Longer instances are few, and their own time hides that of the journal."""

MADE_AT_ONCE = 32

QUIET_S = 0.3
"""Slots are filled once nothing has come for so long: the disk is the instances' first."""

RETRY_S = 2.0
"""How soon making slots is tried again after a failure, or for want of room."""

_BLOCK_BYTES = 4096


class Slot:
    """A file that is being filled with one instance; removed on :meth:`close` unless it was kept."""

    def __init__(self, path: Path, command: StoreCommand) -> None:
        self.path = path
        self.command = command
        self.is_kept = False
        self._is_sealed = False
        self._meta = command.file_meta()
        self._start = PREAMBLE_BYTES + len(self._meta)
        self._size = self._start
        self._digest = hashlib.sha256()
        self._file = os.open(path, os.O_RDWR)

    @classmethod
    def found(cls, path: Path, instance: KeptInstance) -> Slot:
        """One that holds an instance already, after a stop. Raises OSError."""
        slot = cls(path, instance.identity.command)
        slot.is_kept = slot._is_sealed = True
        slot._size = instance.file_bytes
        return slot

    @property
    def size(self) -> int:
        """Of the file, in bytes, once all of the data set has been written."""
        return self._size

    def write(self, fragment: bytes | memoryview) -> None:
        """Add to the data set. Raises OSError."""
        rest = memoryview(fragment)
        self._digest.update(rest)
        while rest.nbytes:
            count = os.pwrite(self._file, rest, self._size)
            self._size += count
            rest = rest[count:]

    def identity(self) -> InstanceIdentity:
        """Whose the data set is. Raises as :func:`~app.node.records.instances.identity_of`."""
        length = self._size - self._start
        return identity_in(self._file, self._start, length, self.command, self._digest.hexdigest())

    def trim(self) -> None:
        """Cut off what its zeros are longer. Raises OSError."""
        os.ftruncate(self._file, self._size)

    def seal(self) -> None:
        """Make it a DICOM file. Raises OSError."""
        if self._is_sealed:
            return
        header = seal(self._meta, self._size - self._start, self._digest.digest()) + self._meta
        if os.pwrite(self._file, header, 0) != len(header):
            raise OSError("the file meta information could not be written whole")

    def keep(self) -> None:
        """Write it through to the disk; after this it is an instance, whatever happens. Raises OSError."""
        os.fdatasync(self._file)
        if not os.fstat(self._file).st_nlink:  # nobody would find what was written
            raise FileNotFoundError(errno.ENOENT, "someone has removed the slot")
        self.is_kept = True

    def close(self) -> None:
        """Done with it; its file is removed unless it was kept."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if not self.is_kept:
            self.path.unlink(missing_ok=True)


class SlotPool:
    """Makes slots ahead of time, many at once. Threads may share it.

    In quiet times they are filled with zeros, for each SOP class as long as its longest instance was: to
    write over blocks that a file has already needs no entry in the file system's journal, which takes as long
    as the data. A longer instance makes its slot longer, at that price; what a shorter one leaves is cut off
    when it is named. When those of a class are used up, bare names serve, which are made at any time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready: dict[int, deque[Path]] = {0: deque()}
        """By their length; 0 for bare names."""
        self._lengths: dict[str, int] = {}
        """By SOP class."""
        self._making = threading.Lock()
        self._needed = threading.Event()
        self._pause_s: float | None = 0.0
        self._is_full = False
        self._taken_at_s = -QUIET_S

    def take(self, command: StoreCommand) -> Slot:
        """A slot for one instance; made now when none is ready. Raises OSError."""
        self._taken_at_s = time.monotonic()
        filled = self._ready[self._lengths.get(command.sop_class_uid, 0)]
        while True:
            ready = filled or self._ready[0]
            path = self._next(ready)
            if self._is_full or len(self._ready[0]) < MADE_AT_ONCE // 2:
                self._needed.set()
            try:
                return Slot(path, command)
            except FileNotFoundError:
                continue  # someone has removed it
            except OSError:
                ready.append(path)
                raise

    def expect(self, sop_class_uid: str, size: int) -> None:
        """Make the next ones of a class for instances of so many bytes; very long ones get bare names."""
        if self._lengths.get(sop_class_uid, 0) < size <= MAX_FILL_BYTES:
            # up to a sixteenth more: the headers of a series differ by some digits
            step = max(_BLOCK_BYTES, 1 << (size.bit_length() - 5))
            length = -(-size // step) * step
            self._ready.setdefault(length, deque())
            self._lengths[sop_class_uid] = length

    def refill(self, min_free_mb: float = 0.0) -> None:
        """Make up for some of what was used; :meth:`wait` until there may be more to make. Raises OSError.

        None are filled while instances come, and none made where they would take the room below which no
        instance is taken.
        """
        self._pause_s = RETRY_S
        if free_mb(self._folder) < min_free_mb + SPARE_BYTES / 1e6:
            return
        if len(self._ready[0]) < MADE_AT_ONCE // 2:
            with self._making:
                self._make(MADE_AT_ONCE, 0)
        quiet_s = time.monotonic() - self._taken_at_s
        if quiet_s < QUIET_S:
            self._pause_s = QUIET_S - quiet_s
            return
        room, lengths = SPARE_BYTES, sorted(set(self._lengths.values()))
        self._remove({*self._ready} - {0, *lengths})
        for length in lengths:
            wanted = min(SPARE_SLOTS, room // length)
            room -= wanted * length
            missing = wanted - len(self._ready[length])
            if missing > 0:
                self._make(min(missing, MADE_AT_ONCE), length)
                self._pause_s = 0.0
                return
        self._pause_s, self._is_full = None, True

    def wait(self) -> None:
        """Until there may be slots to make."""
        self._needed.wait(self._pause_s)
        self._needed.clear()
        self._is_full = False

    def wake(self) -> None:
        """End the :meth:`wait`."""
        self._needed.set()

    def clear(self) -> None:
        """Remove those that are ready."""
        self._remove(self._ready)

    def _remove(self, lengths: Iterable[int]) -> None:
        for ready in (self._ready[length] for length in lengths):
            while ready:
                ready.popleft().unlink(missing_ok=True)

    def _next(self, ready: deque[Path]) -> Path:
        """One that is ready. Who waited for others to make some takes of theirs. Raises OSError."""
        while True:
            with suppress(IndexError):
                return (ready or self._ready[0]).popleft()
            with self._making:
                if not self._ready[0]:
                    self._make(MADE_AT_ONCE, 0)

    def _make(self, count: int, length: int) -> None:
        """All are begun before the first is waited for: one entry in the journal has them all."""
        with ExitStack() as files:
            paths = [self._folder / f"{uuid.uuid4().hex}.part" for _ in range(count)]
            files.push(partial(_remove_after_failure, paths))
            made = [files.enter_context(open(path, "xb", buffering=0, opener=open_private)) for path in paths]
            for file in made if length else ():
                file.write(bytes(length))
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for file in made if length else ():
                os.fdatasync(file.fileno())
            sync_folder(self._folder)
            self._ready[length].extend(paths)


def _remove_after_failure(paths: Sequence[Path], failure: object, *_: object) -> None:
    """Leave nothing on a disk that is full."""
    if failure is not None:
        for path in paths:
            path.unlink(missing_ok=True)


def finish(named: Mapping[Path, tuple[int, datetime]]) -> None:
    """Make of slots that have their names what every version writes: no longer than their instances, no seal.

    Without the seal its length counts, so that comes to the disk first, for all of them in one entry of the
    journal. It is all the same when the zeros in the place of the seal do: a file is whole with it and
    without. Raises OSError.

    Args:
        named: how many bytes belong to each instance, and when it was received, by this
            host's clock as every time of a file.
    """
    cut = {path for path, (size, _) in named.items() if path.stat().st_size != size}
    for path in cut:
        os.truncate(path, named[path][0])
    for path, (_, received_at) in named.items():
        with path.open("r+b", buffering=0) as file:
            if path in cut:
                os.fdatasync(file.fileno())
            os.pwrite(file.fileno(), bytes(PREAMBLE_BYTES), 0)
            os.utime(file.fileno(), (received_at.timestamp(),) * 2)


def has_seal(path: Path) -> bool:
    """Whether its seal, which is written last, was begun. Raises OSError."""
    with path.open("rb") as file:
        return any(file.read(PREAMBLE_BYTES))


def is_unused(path: Path) -> bool:
    """Whether nothing has been written to a slot."""
    with path.open("rb") as file:
        return not any(file.read(_BLOCK_BYTES))
