"""What a file holds once it is decoded, whatever the transfer syntax: is it the same image as another file?

A PACS forwards in another syntax than the scanner sent in: implicit VR, big endian, deflated, or with pixels
that are compressed without loss. Those are other bytes and the same content. What is compared is each
attribute's value as implicit VR little endian has it, without padding (PS3.5 6.2), text by its characters,
and the decoded pixels. An empty attribute says what an absent one does; what an archive adds of its own
keeping, and what follows from the pixels, says nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.charset import TEXT_VR_DELIMS, convert_encodings, decode_bytes
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_sequence
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from app.dicom import header_values as header
from app.dicom.dicom_file import read_with_pixels
from app.dicom.reading import compression
from app.dicom.reading.compression import DecoderDiedError, IsolatedDecoder
from app.dicom.reading.pixels import MOST_VOXELS, decoded

PIXEL_DATA = 0x7FE00010
LOSSY = 0x00282110

OF_THE_ENCODING = frozenset({0x00080001, 0x00082111, 0x7FE00001, 0x7FE00002, 0x7FE00003, 0xFFFCFFFC})
"""Length to End; Derivation Description, where a compressor writes that it was there; the offset tables and
the length of encapsulated pixels; Data Set Trailing Padding."""

CHARACTER_SET = 0x00080005

OF_THE_ARCHIVE = frozenset({
    0x00080015, 0x00080054, 0x00080056, 0x00080061, 0x00080062, 0x00081190, 0x0018A001, 0x00201200,
    0x00201202, 0x00201204, 0x00201206, 0x00201208, 0x00201209, 0x0040E010, 0x0040E011, 0x00880130,
    0x00880140, 0x04000561,
})  # fmt: skip
"""Where and by whom an image is kept and was passed on: Instance Coercion DateTime, Retrieve AE Title,
Instance Availability, Modalities and SOP Classes in Study, Retrieve URL, Contributing Equipment, numbers of
related instances, Retrieve URI and Location UID, Storage Media File-set ID and UID, Original Attributes."""

OF_THE_PIXELS = frozenset({0x00280106, 0x00280107, 0x00280108, 0x00280109})
"""Smallest and Largest Pixel Value, in the image and in its series."""

OF_COLOURS = frozenset({0x00280004, 0x00280006})
"""Photometric Interpretation and Planar Configuration: colours are compared as they are decoded."""

WORD_BYTES = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OL", "OF"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
"""Of value representations that a big endian syntax turns round (PS3.5 7.3)."""

SPACES_MEAN_NOTHING = frozenset(["AE", "AS", "CS", "DA", "DT", "LO", "PN", "SH", "TM", "UC", "UI"])
NUMBERS_IN_WORDS = frozenset(("DS", "IS"))
TRAILING_SPACES_MEAN_NOTHING = frozenset(("LT", "ST", "UR", "UT"))
IN_THE_CHARACTER_SET = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))

MOST_NAMES = 8
"""Attributes named of those in which two contents differ."""

PADDING = b" \0"
FIRST_ITEM = b"\xfe\xff\x00\xe0"

Content = Mapping[int, bytes]
"""The value of each attribute of a data set, by its tag; of the pixels a digest."""


def differing_tags(one: Path, other: Path, decoder: IsolatedDecoder) -> tuple[int, ...]:
    """Tags of the attributes in which two files differ, sorted; Pixel Data where a file can't be decoded.

    Empty for files with the same content.
    """
    try:
        mine, theirs = content_of(one, decoder), content_of(other, decoder)
    except (*header.READ_ERRORS, RuntimeError, DecoderDiedError):
        return (PIXEL_DATA,)
    return tuple(sorted(tag for tag in {*mine, *theirs} if mine.get(tag) != theirs.get(tag)))


def named(tags: Sequence[int]) -> str:
    """Attributes by their keywords, the first of many."""
    names = [keyword_for_tag(tag) or str(BaseTag(tag)) for tag in tags]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def content_of(path: Path, decoder: IsolatedDecoder) -> Content:
    """What a file holds.

    Raises:
        one of :data:`app.dicom.header_values.READ_ERRORS`, RuntimeError, DecoderDiedError: it can't be read.
    """
    with header.tolerant():
        dataset = read_with_pixels(path)
        content = _values(dataset)
        if PIXEL_DATA in dataset:
            _refuse_bomb(dataset)
            compression.register()
            pixels = np.ascontiguousarray(decoded(dataset, path, decoder))
            kind = f"{pixels.dtype.newbyteorder('<').str} {pixels.shape}".encode()
            plain = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
            content[PIXEL_DATA] = hashlib.sha256(kind + plain.tobytes()).digest()
            if plain.ndim > 2 and dataset.get("SamplesPerPixel") == 3:
                content = {tag: value for tag, value in content.items() if tag not in OF_COLOURS}
    return content


def _refuse_bomb(dataset: Dataset) -> None:
    """A short stream may claim to be an image of any size; whoever sends it must not end the node with it."""
    sizes = [
        dataset.get(keyword) or 1 for keyword in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")
    ]
    if math.prod(map(int, sizes)) > MOST_VOXELS:
        raise ValueError(f"an image of more than {MOST_VOXELS} values")


def _values(dataset: Dataset, encodings: Sequence[str] = ("iso8859",)) -> dict[int, bytes]:
    """Every attribute's value, those left out that say nothing; ``encodings`` are of the data set around."""
    own = dataset.get_item(CHARACTER_SET)
    if own is not None and own.value:
        encodings = convert_encodings(dataset[CHARACTER_SET].value)
    left_out = OF_THE_ENCODING | OF_THE_ARCHIVE | OF_THE_PIXELS | {CHARACTER_SET, PIXEL_DATA}
    found = {
        int(tag): _value(dataset, tag, encodings)
        for tag in dataset.keys()  # noqa: SIM118  iterating the data set itself would convert every value
        if tag.group != 2 and tag.element != 0 and tag not in left_out
    }
    if found.get(LOSSY) == b"00":
        del found[LOSSY]  # what a compression without loss may add
    return {tag: value for tag, value in found.items() if value}


def _value(dataset: Dataset, tag: BaseTag, encodings: Sequence[str]) -> bytes:
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        value = element.value or b""
        if element.VR != "SQ" and not (element.VR in (None, "UN") and value.startswith(FIRST_ITEM)):
            return _without_padding(tag, _little_endian(element, value), encodings)
        if element.VR == "SQ":
            return _items(list(dataset[tag].value), encodings)
        try:
            # implicit VR, and unknown VR that holds a sequence (PS3.5 6.2.2)
            return _items(
                list(read_sequence(BytesIO(value), True, True, len(value), "iso8859", 0)), encodings
            )
        except header.READ_ERRORS:
            return value
    if element is not None and element.VR == "SQ":
        return _items(list(element.value), encodings)
    return _without_padding(tag, _of_parsed(element), ("utf8",))


def _of_parsed(element: DataElement | None) -> bytes:
    """pydicom parses attributes that it needs as it reads a file. Text becomes UTF-8."""
    if element is None or element.is_empty:
        return b""
    buffer = DicomBytesIO()
    buffer.is_little_endian = buffer.is_implicit_VR = True
    write_data_element(buffer, element, ["utf8"])
    written: bytes = buffer.getvalue()
    return written[len("ggeellll") :]


def _items(items: list[Dataset], encodings: Sequence[str]) -> bytes:
    """Items of a sequence, each attribute by tag and length, so that no two sequences look the same."""
    nested = (sorted(_nested(item, encodings).items()) for item in items)
    return b"".join(b"item" + b"".join(_entry(tag, value) for tag, value in values) for values in nested)


def _nested(item: Dataset, encodings: Sequence[str]) -> dict[int, bytes]:
    """An icon's pixels are compared as they are."""
    icon = {PIXEL_DATA: _value(item, BaseTag(PIXEL_DATA), encodings)} if PIXEL_DATA in item else {}
    return _values(item, encodings) | icon


def _entry(tag: int, value: bytes) -> bytes:
    return tag.to_bytes(4, "big") + len(value).to_bytes(8, "big") + value


def _little_endian(element: RawDataElement, value: bytes) -> bytes:
    width = 1 if element.is_little_endian else WORD_BYTES.get(element.VR or "", 1)
    return value if width == 1 else np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()


def _without_padding(tag: BaseTag, value: bytes, encodings: Sequence[str]) -> bytes:
    """By the dictionary's VR: implicit VR knows no other, and binary values have no padding."""
    vr = "LO" if tag.is_private_creator else dictionary_VR(tag) if dictionary_has_tag(tag) else ""
    if vr in IN_THE_CHARACTER_SET:
        value = _in_utf8(value, encodings)
    if vr in TRAILING_SPACES_MEAN_NOTHING:
        return value.rstrip(PADDING)
    if vr not in SPACES_MEAN_NOTHING | NUMBERS_IN_WORDS:
        return value
    parts = [part.strip(PADDING) for part in value.split(b"\\")]
    return b"\\".join(map(_number, parts) if vr in NUMBERS_IN_WORDS else parts)


def _in_utf8(value: bytes, encodings: Sequence[str]) -> bytes:
    """Text that its character set can't have is compared by its bytes, apart from all that is text."""
    try:
        if b"\x1b" not in value:
            return value.decode(encodings[0]).encode()
        text = decode_bytes(value, list(encodings), TEXT_VR_DELIMS)
        return text.encode() if "\ufffd" not in text else b"\xff" + value
    except (UnicodeError, LookupError):
        return b"\xff" + value


def _number(part: bytes) -> bytes:
    """``1.50`` and ``1.5`` are one number."""
    try:
        return repr(float(part)).encode()
    except ValueError:
        return part
