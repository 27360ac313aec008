"""What compressed streams say of their own loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSNearLossless

from app.dicom.reading.compression import SIZ, IsolatedDecoder, loss_in_stream, refuse_larger_streams
from app.dicom.reading.pixels import decoded

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


def as_jpeg_2000(side: int) -> bytes:
    """A stream of 64 × 64 whose header says another size."""
    stream = bytes(imagecodecs.jpeg2k_encode(RAMP, codecformat="j2k", reversible=True))
    at = stream.index(SIZ) + 8
    return stream[:at] + side.to_bytes(4, "big") * 2 + stream[at + 8 :]


def as_jpeg(side: int) -> bytes:
    stream = lossless()
    at = stream.index(b"\xff\xc3") + 5
    return stream[:at] + side.to_bytes(2, "big") * 2 + stream[at + 4 :]


@pytest.mark.parametrize(
    ("stream_of", "syntax"), [(as_jpeg, JPEGLosslessSV1), (as_jpeg_2000, JPEG2000Lossless)]
)
def test_a_stream_larger_than_its_image_is_not_decoded(
    stream_of: Callable[[int], bytes], syntax: UID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "pixel_array", property(lambda _: pytest.fail("it was decoded")))
    for side in (65, 60_000):
        image = compressed(stream_of(side), syntax)
        image.Rows = image.Columns = 64
        with IsolatedDecoder() as decoder, pytest.raises(ValueError, match="larger than its image"):
            decoded(image, Path("image.dcm"), decoder)
    image = compressed(stream_of(64), syntax)
    image.Rows = image.Columns = 64
    refuse_larger_streams(image)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEG2000Lossless])
def test_a_stream_of_more_components_than_its_image_is_larger(syntax: UID) -> None:
    if syntax == JPEGLosslessSV1:
        stream = bytearray(as_jpeg(64))
        stream[stream.index(b"\xff\xc3") + 9] = 255
    else:
        stream = bytearray(as_jpeg_2000(64))
        at = stream.index(SIZ) + 40
        stream[at : at + 2] = (16_384).to_bytes(2, "big")
    image = compressed(bytes(stream), syntax)
    image.Rows = image.Columns = 64
    with pytest.raises(ValueError, match="larger than its image"):
        refuse_larger_streams(image)


def test_a_jpeg_2000_stream_without_its_size_says_so() -> None:
    image = compressed(as_jpeg_2000(64).replace(SIZ, b"\xff\x4f\xff\x52"), JPEG2000Lossless)
    image.Rows = image.Columns = 64
    with pytest.raises(ValueError, match="without its size"):
        refuse_larger_streams(image)
