"""Pixels that are no image: padding to a rectangle, and bit patterns that no measurement has.

Pixel Padding Value and Range Limit are stored values, before any rescale (PS3.3 C.7.5.1.1.2). Their VR is US
or SS by Pixel Representation, and writers confuse the two: 63536 is -2000, in the attribute and in pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.pixels import get_decoder
from pydicom.tag import BaseTag

from app.dicom import header_values as header
from app.domain.refusal import Reason, RefusalCode
from app.domain.volume import AIR_HU

Stored = NDArray[Any]
Mask = NDArray[np.bool_]

HIGHEST_HU = 30710.0
"""The end of CT's extended scale: what is above is padding, or a negative value that was read as unsigned."""

TISSUE_HU = (-900.0, 4000.0)
"""Padding of a value in between might be lung, tissue or metal: it counts where it reaches a slice's edge."""

PIXEL_DATA = BaseTag(0x7FE00010)
OVERLAY_BITS = tuple(BaseTag(group << 16 | 0x0102) for group in range(0x6000, 0x6020, 2))
"""Overlay Bit Position of every overlay."""

FLOAT_PIXELS = (BaseTag(0x7FE00008), BaseTag(0x7FE00009))
DESCRIPTION = ("Rows", "Columns", "BitsStored", "BitsAllocated", "SamplesPerPixel")
GREY = ("MONOCHROME1", "MONOCHROME2")

ADVICE = "Send the image again from the scanner"


def has_spare_bits(dataset: Dataset) -> bool:
    """Whether samples of 16 bits have unused ones on top that no overlay occupies."""
    bits = header.whole(dataset, "BitsStored") or 16
    is_usual = header.whole(dataset, "BitsAllocated") == 16 and header.whole(dataset, "HighBit") == bits - 1
    return is_usual and bits < 16 and not any(tag in dataset for tag in OVERLAY_BITS)


def plain_samples(dataset: Dataset) -> Stored | None:
    """Samples of 16 bits, one a pixel, uncompressed and in full, as they lie in the file; read-only.

    ``None`` where they are not so plain, which pydicom has to look into.
    """
    raw = dataset.get_item(PIXEL_DATA)
    if not isinstance(raw, RawDataElement) or raw.VR not in (None, "OW") or not raw.is_little_endian:
        return None
    photometric = header.text(dataset, "PhotometricInterpretation")
    rows, columns, bits, *described = (header.whole(dataset, keyword) or 0 for keyword in DESCRIPTION)
    frames = 1 if "NumberOfFrames" not in dataset else header.whole(dataset, "NumberOfFrames") or 0
    signed = header.whole(dataset, "PixelRepresentation")
    shape = (rows, columns) if frames == 1 else (frames, rows, columns)
    is_plain = (
        described == [16, 1]
        and not any(tag in dataset for tag in FLOAT_PIXELS)
        and photometric in GREY
        and 0 < bits <= 16
        and signed in (0, 1)
    )
    if not is_plain or min(shape) < 1 or len(raw.value or b"") != 2 * math.prod(shape):
        return None
    return np.frombuffer(raw.value or b"", "<i2" if signed else "<u2").reshape(shape)


def with_spare_bits(dataset: Dataset) -> Stored:
    """Uncompressed pixels with the bits above Bits Stored, which pydicom drops: -2000 would become bone.

    Negative values may be written in the stored bits alone, or in all.
    """
    stored, bits = plain_samples(dataset), header.whole(dataset, "BitsStored") or 16
    if stored is None:
        syntax = dataset.file_meta.TransferSyntaxUID
        stored = np.asarray(get_decoder(syntax).as_array(dataset, correct_unused_bits=False)[0])
    if stored.dtype.kind == "i" and stored.max() >= 1 << (bits - 1):
        is_negative = (stored >= 1 << (bits - 1)) & (stored < 1 << bits)
        stored = np.where(is_negative, stored - (1 << bits), stored).astype(stored.dtype)
    return stored


def outside(dataset: Dataset, stored: Stored, is_ct: bool) -> Mask | Reason | None:
    """Which pixels lie outside the image, of the shape of ``stored``: ``(y, x)``, or ``(z, y, x)`` of frames.

    ``None`` when all are image; a reason when pixels contradict their own description.
    """
    planes = stored.reshape(-1, math.prod(stored.shape[-2:]))
    low, high = planes.min(axis=1), planes.max(axis=1)
    ends = low.min(), high.max()
    findings = [_stated(dataset, stored, is_ct), _beyond_bits(dataset, stored, ends, is_ct)]
    findings += (
        [_unsigned(dataset, stored, ends[1]), _above_the_scale(dataset, stored, ends[1])] if is_ct else []
    )
    masks = []
    for found in findings:
        if isinstance(found, Reason):
            return found
        if found is not None and found.any():
            masks.append(found)
    if not masks:
        return _unstated(dataset, stored, (low, high), is_ct)
    return np.asarray(np.logical_or.reduce(masks))


def _stated(dataset: Dataset, stored: Stored, is_ct: bool) -> Mask | None:
    """What Pixel Padding Value, and the range to its limit, say."""
    value = header.whole(dataset, "PixelPaddingValue")
    if value is None or stored.dtype.kind not in "iu":
        return None
    limit = header.whole(dataset, "PixelPaddingRangeLimit")
    ends = sorted(_read_as(each, stored.dtype) for each in (value, value if limit is None else limit))
    if ends[1] - ends[0] > 0x7FFF:  # negative values in an unsigned VR
        ends = sorted(_read_as(each, np.dtype(np.int16)) for each in ends)
    padded = _within(stored, ends, 16 if stored.dtype.itemsize <= 2 else 32)
    if not padded.any() and has_spare_bits(dataset):  # the writer kept the stored bits alone
        padded = _within(stored, ends, int(dataset.BitsStored))
    if not padded.any():
        return None
    return _at_edges(padded) if _may_be_tissue(dataset, stored[padded], is_ct) else padded


def _read_as(value: int, dtype: np.dtype[Any]) -> int:
    """A value of 16 bits, whose sign is the writer's guess, as the pixels are read."""
    if dtype.kind == "u":
        return value % 0x10000 if dtype.itemsize <= 2 else value
    return value - 0x10000 if 0x7FFF < value <= 0xFFFF else value


def _within(stored: Stored, ends: list[int], bits: int) -> Mask:
    """Values from one end to the other, in arithmetic of so many bits: 63536 and -2000 are one."""
    modulus = 1 << bits
    if stored.dtype.itemsize == 2 and stored.dtype.isnative and ends[1] - ends[0] < modulus <= 0x10000:
        above = stored.view(np.uint16) - np.uint16(ends[0] % 0x10000)  # wraps round as 16 bits do
        if bits < 16:
            above &= np.uint16(modulus - 1)
        return np.asarray(above <= ends[1] - ends[0])
    return np.asarray((stored.astype(np.int64) - ends[0]) % modulus <= ends[1] - ends[0], dtype=np.bool_)


def _may_be_tissue(dataset: Dataset, values: Stored, is_ct: bool) -> bool:
    if not is_ct:
        return bool(values.max() > 0)
    low, high = (_hu(dataset, float(value)) for value in (values.min(), values.max()))
    return low < TISSUE_HU[1] and high > TISSUE_HU[0]


def _hu(dataset: Dataset, stored: float) -> float:
    slope, intercept = header.number(dataset, "RescaleSlope"), header.number(dataset, "RescaleIntercept")
    return stored * (1.0 if slope is None else slope) + (intercept or 0.0)


def _at_edges(mask: Mask) -> Mask:
    """The parts of a mask that reach an edge of their slice."""
    from scipy.ndimage import label  # for those that need it

    in_plane = np.zeros((3,) * mask.ndim, dtype=bool)
    in_plane[(1,) * (mask.ndim - 2)] = [[False, True, False], [True, True, True], [False, True, False]]
    parts, count = label(mask, in_plane)
    reaches = np.zeros(count + 1, dtype=bool)
    for edge in (parts[..., 0, :], parts[..., -1, :], parts[..., 0], parts[..., -1]):
        reaches[edge] = True
    reaches[0] = False
    return np.asarray(reaches[parts])


def _beyond_bits(
    dataset: Dataset, stored: Stored, ends: tuple[Any, Any], is_ct: bool
) -> Mask | Reason | None:
    """What lies below all that Bits Stored can hold. Above it a CT has metal, and nothing else has a use."""
    bits = header.whole(dataset, "BitsStored") or 16
    lowest = -(1 << (bits - 1)) if stored.dtype.kind == "i" else 0
    if stored.dtype.itemsize != 2 or lowest <= int(ends[0]) <= int(ends[1]) < 1 << bits:
        return None
    if not has_spare_bits(dataset):
        return None
    signed = stored.view(np.dtype(stored.dtype.str.replace("u", "i")))
    below = signed < lowest
    most = int(signed.max())
    if not is_ct and most >= 1 << bits:
        found, expected = f"a value of {most} in {bits} bits", "values that the stored bits can hold"
        return Reason(RefusalCode.VALUES_IMPLAUSIBLE, "BitsStored", found, expected, ADVICE)
    return np.asarray(below)


def _unsigned(dataset: Dataset, stored: Stored, most: Any) -> Mask | Reason | None:
    """Negative values of a CT that is called unsigned: below air they are padding."""
    if stored.dtype.str[1:] != "u2" or _hu(dataset, float(most)) <= HIGHEST_HU:
        return None
    slope = header.number(dataset, "RescaleSlope") or 1.0
    negative = np.asarray(stored > (HIGHEST_HU - _hu(dataset, 0.0)) / slope)
    highest = _hu(dataset, float(stored[negative].max()) - 0x10000)
    if highest > AIR_HU:
        found = f"{_hu(dataset, float(most)):.0f} HU by unsigned values, {highest:.0f} by signed ones"
        expected = "1: the pixels are signed"
        return Reason(RefusalCode.VALUES_IMPLAUSIBLE, "PixelRepresentation", found, expected, ADVICE)
    return negative


def _above_the_scale(dataset: Dataset, stored: Stored, most: Any) -> Mask | None:
    """Edges of a signed CT at what no CT measures. Inside the body it is metal that went beyond the scale."""
    if stored.dtype.kind != "i" or _hu(dataset, float(most)) <= HIGHEST_HU:
        return None
    slope = header.number(dataset, "RescaleSlope") or 1.0
    return _at_edges(np.asarray(stored > (HIGHEST_HU - _hu(dataset, 0.0)) / slope))


def _unstated(dataset: Dataset, stored: Stored, of_planes: tuple[Stored, Stored], is_ct: bool) -> Mask | None:
    """Padding that no attribute names: one extreme value in all four corners of a slice.

    Corners lie outside the ring; no measurement has its hottest, or its most negative, value in all of them,
    and no CT its densest. A CT's lowest value is air, or is taken for air. ``of_planes``: lowest and highest.
    """
    low, high = of_planes
    planes = stored.reshape(-1, *stored.shape[-2:])
    corners = planes[:, :: planes.shape[1] - 1 or 1, :: planes.shape[2] - 1 or 1].reshape(len(planes), -1)
    value = corners[:, 0]
    if is_ct:
        is_extreme = (value == high) & np.array([_hu(dataset, float(each)) > 0.0 for each in value])
    else:
        is_extreme = (value == high) & (value != 0) | (value == low) & (value < 0)
    is_padded = is_extreme & (low < high) & (corners == value[:, None]).all(axis=1)
    if not is_padded.any():
        return None
    same = (planes == value[:, None, None]) & is_padded[:, None, None]
    return _at_edges(same).reshape(stored.shape)
