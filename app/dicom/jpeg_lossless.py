"""JPEG lossless (process 14) for pydicom, through libjpeg-turbo in imagecodecs.

pydicom finds decoders for RLE, JPEG-LS and JPEG 2000 in what is installed here; for JPEG lossless it knows
only GDCM, which ends the whole process on damaged streams, and a plugin under the GPL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.pixels import get_decoder
from pydicom.uid import UID, JPEGLossless, JPEGLosslessSV1

LABEL = "imagecodecs"

SYNTAXES = (JPEGLossless, JPEGLosslessSV1)

DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, ("numpy", "imagecodecs>=2024.1"))


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


def register() -> None:
    """Make pydicom use :func:`decode_frame`; calling it again does nothing."""
    for syntax in SYNTAXES:
        decoder = get_decoder(syntax)
        if LABEL not in decoder.available_plugins:
            decoder.add_plugin(LABEL, (__name__, "decode_frame"))
