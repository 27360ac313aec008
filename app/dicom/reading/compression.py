"""Compressed pixels: what their streams say of depth and loss, and decoders that pydicom lacks.

A header may be wrong about its stream, so depth and loss are read from JPEG and JPEG 2000 markers. JPEG
lossless (process 14) is decoded through libjpeg-turbo in imagecodecs: pydicom itself knows only GDCM, which
ends the whole process on damaged streams, and a plugin under the GPL. The decoder of JPEG-LS can end the
process too, so it runs in a child: started for the first JPEG-LS file of a series, limited in memory and
time, and ended with the series.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import get_nr_frames
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from app.dicom import header_values as header
from app.dicom.dicom_file import read_with_pixels
from app.errors import RetryLaterError

JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")

FILE_LIMIT_S = 120.0
"""For one file, and for the child's start: a whole multi-frame takes seconds, a hung decoder forever."""

MEMORY_BYTES = 6 * 2**30
"""Address space beyond what the child's start took: the largest image, its file, and copies."""

JPEG = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes}
JPEG_2000 = set(JPEG2000TransferSyntaxes)

FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""SOF markers: ITU-T T.81 table B.1 without DHT, JPG and DAC, and T.87's SOF55."""

SIZ = b"\xff\x4f\xff\x51"
"""ITU-T T.800 A.4.1 and A.5.1: start of codestream, then image and tile size."""

SIZ_PRECISION_AT = 42
"""Ssiz of the first component, from the start of the codestream (T.800 table A.9)."""

LOSSLESS_FRAMES = {0xC3, 0xC7, 0xCB, 0xCF}
"""SOF markers of JPEG's lossless processes (ITU-T T.81 table B.1)."""

JPEG_LS_FRAME = 0xF7
"""SOF55 of ITU-T T.87, which may lose as much as its scan says."""

CODING_STYLE = 0x52
"""COD of ITU-T T.800 A.6.1."""

TRANSFORMATION_AT = 11
"""The wavelet in COD, from its length on: 0 is 9-7, which rounds; 1 is 5-3, which is undone (table A.20)."""

START_OF_SCAN, START_OF_TILE = 0xDA, 0x90

LABEL = "imagecodecs"
SYNTAXES = (JPEGLossless, JPEGLosslessSV1)
DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, ("numpy", "imagecodecs>=2024.1"))


def widest_sample_bits(dataset: Dataset) -> int | None:
    """The greatest depth that any frame's stream states; ``None`` where its syntax states none.

    A decoder fits samples into Bits Allocated without a word, and what is too wide loses its upper bits. RLE
    has no depth of its own: there the length of the stream shows the difference.

    Raises:
        ValueError: a stream that should state it doesn't.
    """
    streams = _streams(dataset)
    precision = _jpeg_precision if _is_jpeg(dataset) else _jpeg_2000_precision
    return None if streams is None else max(map(precision, streams))


def refuse_larger_streams(dataset: Dataset) -> None:
    """A decoder takes memory for the size that a stream states itself: it must not be beyond the header's.

    Raises:
        ValueError: a frame's stream is larger than Rows × Columns × Samples per Pixel, or states no size.
    """
    most = (header.whole(dataset, "Rows") or 0) * (header.whole(dataset, "Columns") or 0)
    most *= header.whole(dataset, "SamplesPerPixel") or 1
    if any(_size(stream, _is_jpeg(dataset)) > most for stream in _streams(dataset) or ()):
        raise ValueError("a stream that is larger than its image")


def loss_in_stream(dataset: Dataset) -> str:
    """What any frame's stream loses, in words; empty where none does, or its syntax has no loss.

    Lossy Image Compression (0028,2110) is due then (PS3.3 C.7.6.1.1.5), yet gateways that compress leave it
    out, and the transfer syntaxes that allow loss allow its absence too. A JPEG 2000 stream that was cut to a
    size after a reversible wavelet tells nothing.

    Raises:
        ValueError, LookupError: a stream that ends before it says.
    """
    loss = _jpeg_loss if _is_jpeg(dataset) else _jpeg_2000_loss
    return next(filter(None, map(loss, _streams(dataset) or ())), "")


def _is_jpeg(dataset: Dataset) -> bool:
    return dataset.file_meta.get("TransferSyntaxUID", "") in JPEG


def _streams(dataset: Dataset) -> Iterator[bytes] | None:
    """Each frame's JPEG or JPEG 2000 stream; ``None`` for another transfer syntax."""
    if not _is_jpeg(dataset) and dataset.file_meta.get("TransferSyntaxUID", "") not in JPEG_2000:
        return None
    count = get_nr_frames(dataset, warn=False)
    streams: Iterator[bytes] = generate_frames(dataset.PixelData, number_of_frames=count)
    return streams


def _jpeg_precision(stream: bytes) -> int:
    return _frame_header(stream)[2]


def _frame_header(stream: bytes) -> bytes:
    """T.81 B.2.2: two bytes of length, precision, lines and samples a line (two bytes each), components."""
    for marker, segment in _segments(stream, 2):
        if marker in FRAME_HEADERS and len(segment) > 7:
            return segment
    raise ValueError("a JPEG stream without a frame header")


def _jpeg_2000_header(stream: bytes) -> bytes:
    """From :data:`SIZ` on, up to the depth of the first component at least."""
    start = stream.find(SIZ)
    if start < 0 or start + SIZ_PRECISION_AT >= len(stream):
        raise ValueError("a JPEG 2000 stream without its size")
    return stream[start:]


def _jpeg_2000_precision(stream: bytes) -> int:
    return (_jpeg_2000_header(stream)[SIZ_PRECISION_AT] & 0x7F) + 1


def _size(stream: bytes, is_jpeg: bool) -> int:
    """Samples of all components; of JPEG 2000 the reference grid less its offset (T.800 A.5.1)."""
    if is_jpeg:
        frame = _frame_header(stream)
        return int.from_bytes(frame[3:5], "big") * int.from_bytes(frame[5:7], "big") * frame[7]
    size = _jpeg_2000_header(stream)
    wide, high, left, top = (int.from_bytes(size[at : at + 4], "big") for at in range(8, 24, 4))
    return (wide - left) * (high - top) * int.from_bytes(size[SIZ_PRECISION_AT - 2 : SIZ_PRECISION_AT], "big")


def _jpeg_loss(stream: bytes) -> str:
    segments = dict(_segments(stream, 2))
    frame = next((marker for marker in segments if marker in FRAME_HEADERS), None)
    if frame is None:
        raise ValueError("a JPEG stream without a frame header")
    if frame not in {*LOSSLESS_FRAMES, JPEG_LS_FRAME}:
        return "JPEG by cosines"
    scan = segments[START_OF_SCAN]
    # T.81 B.2.3, T.87 C.2.3: after two bytes for each component. NEAR of JPEG-LS is JPEG's predictor
    near, _, approximation = scan[3 + 2 * scan[2] :][:3]
    if frame == JPEG_LS_FRAME and near:
        return f"JPEG-LS with values off by up to {near}"
    dropped = approximation & 0x0F  # T.81 A.4 and H.1.2.1: the point transform
    return f"{dropped} low bits dropped before coding" if dropped else ""


def _jpeg_2000_loss(stream: bytes) -> str:
    for marker, segment in _segments(stream, stream.find(SIZ) + 2):
        if marker == CODING_STYLE:
            return "" if segment[TRANSFORMATION_AT] == 1 else "JPEG 2000 by the irreversible wavelet"
        if marker == START_OF_TILE:
            break
    return ""


def _segments(stream: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Marker segments from ``at`` to the first coded data; each begins with its two bytes of length."""
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        yield marker, stream[at + 2 : at + 2 + length]
        if marker == START_OF_SCAN:
            return
        at += 2 + length


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

    def __exit__(self, *_: object) -> None:
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
        return np.ascontiguousarray(read_with_pixels(path).pixel_array)


def is_available(uid: UID) -> bool:
    """Whether this module decodes a transfer syntax (pydicom's plugin protocol)."""
    return uid in SYNTAXES


def decode_frame(src: bytes, runner: Any) -> bytearray:
    """One frame, as pydicom wants it: row by row, in the bytes of Bits Allocated.

    Raises:
        ValueError: the stream is damaged, or isn't of the size that the header says.
    """
    import imagecodecs  # 0.1 s, for those that get such images

    try:
        frame = imagecodecs.jpeg8_decode(src)
    except RuntimeError as error:
        raise ValueError(f"JPEG lossless stream: {error}") from error
    if frame.shape != (runner.rows, runner.columns) or runner.samples_per_pixel != 1:
        raise ValueError(f"JPEG lossless stream of shape {frame.shape}")
    wide = frame.astype(np.dtype(f"<u{runner.bits_allocated // 8}"))
    return bytearray(wide.tobytes())


_registering = Lock()


def register() -> None:
    """Make pydicom use :func:`decode_frame`; calling it again does nothing."""
    with _registering:
        for syntax in SYNTAXES:
            decoder = get_decoder(syntax)
            if LABEL not in decoder.available_plugins:
                decoder.add_plugin(LABEL, (__name__, "decode_frame"))
