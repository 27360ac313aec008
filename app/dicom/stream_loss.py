"""Whether a compressed image has lost something, as its own stream tells.

Lossy Image Compression (0028,2110) is due then (PS3.3 C.7.6.1.1.5), yet gateways that compress leave it out.
The transfer syntaxes that allow loss allow its absence too, so they tell nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import get_nr_frames

from app.dicom.stream_precision import FRAME_HEADERS, JPEG, JPEG_2000, SIZ

LOSSLESS_FRAMES = {0xC3, 0xC7, 0xCB, 0xCF}
"""SOF markers of JPEG's lossless processes (ITU-T T.81 table B.1)."""

JPEG_LS_FRAME = 0xF7
"""SOF55 of ITU-T T.87, which may lose as much as its scan says."""

START_OF_SCAN = 0xDA

CODING_STYLE = 0x52
"""COD of ITU-T T.800 A.6.1."""

TRANSFORMATION_AT = 11
"""The wavelet in COD, from its length on: 0 is 9-7, which rounds; 1 is 5-3, which is undone (table A.20)."""

START_OF_TILE = 0x90


def loss_in_stream(dataset: Dataset) -> str:
    """What any frame's stream loses, in words; empty where none does, or its syntax has no loss.

    A JPEG 2000 stream that was cut to a size after a reversible wavelet tells nothing.

    Raises:
        ValueError, LookupError: a stream that ends before it has told.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    if syntax not in JPEG and syntax not in JPEG_2000:
        return ""
    told = _jpeg_loss if syntax in JPEG else _jpeg_2000_loss
    frames = generate_frames(dataset.PixelData, number_of_frames=get_nr_frames(dataset, warn=False))
    return next(filter(None, map(told, frames)), "")


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
