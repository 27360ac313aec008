"""JPEG-LS in a process of its own: its decoder can end the whole process on a damaged stream.

The child takes the damage: it is started for the first JPEG-LS file of a series, limited in memory and time,
and ended with the series.
"""

from __future__ import annotations

import resource
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.dicom import header_values as header
from app.errors import RetryLaterError

JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")

FILE_LIMIT_S = 120.0
"""For one file, and for the child's start: a whole multi-frame takes seconds, a hung decoder forever."""

MEMORY_BYTES = 6 * 2**30
"""Address space beyond what the child's start took: the largest image, its file, and copies."""


class DecoderDiedError(Exception):
    """The child ended, or was ended, before it gave the pixels."""


class IsolatedDecoder:
    """Pixels of files, decoded in one child; use it as a context, one for each series read.

    The child sends a text (type and shape, or the error's name) and then bare bytes: nothing that it sends is
    run or unpickled here.
    """

    def __init__(self, file_limit_s: float = FILE_LIMIT_S) -> None:
        self._file_limit_s = file_limit_s
        self._child: SpawnProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> IsolatedDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child.close()

    def decode(self, path: Path) -> NDArray[Any]:
        """The file's ``pixel_array``.

        Raises:
            RetryLaterError: no child could be started.
            DecoderDiedError: the child died, or took longer than the limit.
            ValueError: the decoder itself refused the stream; the message is its error's name.
        """
        connection = self._connection or self._start()
        try:
            connection.send_bytes(str(path).encode())
            kind, _, rest = self._answer(connection).decode().partition(" ")
            if kind == "error":
                raise ValueError(rest)
            pixels = np.frombuffer(self._answer(connection), np.dtype(kind))
        except (EOFError, OSError) as error:
            raise DecoderDiedError("the decoder crashed") from error
        return pixels.reshape([int(length) for length in rest.split()])

    def _start(self) -> Connection:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        child = context.Process(target=_serve, args=(theirs,), name="jpeg-ls", daemon=True)
        try:
            child.start()
        except OSError as error:
            ours.close()
            theirs.close()
            raise RetryLaterError(
                f"no process could be started to decode JPEG-LS in ({error.strerror}): let the node have "
                "more processes and memory"
            ) from error
        self._child = child  # only now: one that could not be started can't be killed either
        theirs.close()  # so that the pipe ends when the child does
        self._connection = ours
        return ours

    def _answer(self, connection: Connection) -> bytes:
        if not connection.poll(self._file_limit_s):
            raise DecoderDiedError(f"the decoder took longer than {self._file_limit_s:g} s")
        return connection.recv_bytes()


def _serve(connection: Connection) -> None:
    """The child: a path in, its pixels out, until the pipe is closed."""
    _limit_itself()
    while True:
        try:
            path = Path(connection.recv_bytes().decode())
        except EOFError:
            return
        try:
            pixels = _decoded(path)
        except (*header.READ_ERRORS, RuntimeError) as error:
            connection.send_bytes(f"error {type(error).__name__}".encode())
            continue
        connection.send_bytes(" ".join([pixels.dtype.str, *map(str, pixels.shape)]).encode())
        connection.send_bytes(pixels.tobytes())


def _limit_itself() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's image
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _decoded(path: Path) -> NDArray[Any]:
    with header.tolerant():
        return np.ascontiguousarray(header.read_with_pixels(path).pixel_array)
