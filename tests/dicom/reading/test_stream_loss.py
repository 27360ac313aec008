"""What compressed streams say of their own loss."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGLosslessSV1, JPEGLSNearLossless

from app.dicom.reading.compression import loss_in_stream

START_OF_SCAN = b"\xff\xda"
RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def compressed(stream: bytes, syntax: UID) -> Dataset:
    """An image as far as its loss is looked for."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = syntax
    found.NumberOfFrames, found.PixelData = 1, encapsulate([stream])
    return found


def with_point_transform(stream: bytes, bits: int) -> bytes:
    """The scan header's last byte, which libjpeg writes as 0."""
    at = stream.index(START_OF_SCAN) + 2
    last = at + int.from_bytes(stream[at : at + 2], "big") - 1
    return stream[:last] + bytes([bits]) + stream[last + 1 :]


def lossless() -> bytes:
    return bytes(imagecodecs.jpeg8_encode(RAMP, lossless=True, bitspersample=16))


def test_lossless_jpeg_has_no_loss_whatever_its_predictor() -> None:
    assert loss_in_stream(compressed(lossless(), JPEGLosslessSV1)) == ""
    assert loss_in_stream(compressed(with_point_transform(lossless(), 0), JPEGLosslessSV1)) == ""


def test_lossless_jpeg_that_drops_low_bits_before_coding_has_loss() -> None:
    told = loss_in_stream(compressed(with_point_transform(lossless(), 2), JPEGLosslessSV1))
    assert told == "2 low bits dropped before coding"


@pytest.mark.parametrize(("near", "told"), [(0, ""), (3, "JPEG-LS with values off by up to 3")])
def test_jpeg_ls_says_how_far_its_values_are_off(near: int, told: str) -> None:
    stream = bytes(imagecodecs.jpegls_encode(RAMP, level=near))
    assert loss_in_stream(compressed(stream, JPEGLSNearLossless)) == told


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSNearLossless])
def test_a_stream_that_ends_too_early_is_damaged_and_not_lossy(syntax: UID) -> None:
    whole = lossless() if syntax == JPEGLosslessSV1 else bytes(imagecodecs.jpegls_encode(RAMP))
    scan = whole.index(START_OF_SCAN)
    for end in (2, 4, scan, scan + 4, scan + 7):
        with pytest.raises((ValueError, LookupError)):
            loss_in_stream(compressed(whole[:end], syntax))
