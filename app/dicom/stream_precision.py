"""The depth of samples that a compressed image states in its own stream.

A decoder fits the stream's samples into Bits Allocated without a word, and what is too wide loses its upper
bits. RLE has no depth of its own: the length of its stream shows the difference.
"""

from __future__ import annotations

from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import get_nr_frames
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

JPEG = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes}
JPEG_2000 = set(JPEG2000TransferSyntaxes)

FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""SOF markers: ITU-T T.81 table B.1 without DHT, JPG and DAC, and T.87's SOF55."""

SIZ = b"\xff\x4f\xff\x51"
"""ITU-T T.800 A.4.1 and A.5.1: start of codestream, then image and tile size."""

SIZ_PRECISION_AT = 42
"""Ssiz of the first component, from the start of the codestream (T.800 table A.9)."""


def widest_sample_bits(dataset: Dataset) -> int | None:
    """The greatest depth that any frame's stream states; None where its syntax states none.

    Raises:
        ValueError: a stream that should state it doesn't.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    if syntax not in JPEG and syntax not in JPEG_2000:
        return None
    precision = _jpeg_precision if syntax in JPEG else _jpeg_2000_precision
    frames = generate_frames(dataset.PixelData, number_of_frames=get_nr_frames(dataset, warn=False))
    return max(precision(frame) for frame in frames)


def _jpeg_precision(stream: bytes) -> int:
    """T.81 B.2.2: after the marker two bytes of length, then the precision."""
    at = 2
    while at + 4 < len(stream):
        if stream[at] != 0xFF:
            break
        marker = stream[at + 1]
        if marker in FRAME_HEADERS:
            return stream[at + 4]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise ValueError("a JPEG stream without a frame header")


def _jpeg_2000_precision(stream: bytes) -> int:
    start = stream.find(SIZ)
    if start < 0 or start + SIZ_PRECISION_AT >= len(stream):
        raise ValueError("a JPEG 2000 stream without its size")
    return (stream[start + SIZ_PRECISION_AT] & 0x7F) + 1
