"""A result as the bytes of its file: those that pydicom writes, in less time.

A report has thousands of small items. For each of them pydicom looks through all that it holds for values
whose VR hangs on others, once more for every level that it lies deep, and encodes each value in a buffer of
its own. Sequences, UIDs and texts in ASCII are encoded here, any other element by pydicom; so is the whole
data set where anything in it was read from a file, or is not as we make it.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

from pydicom import DataElement, Dataset, dcmwrite
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import AMBIGUOUS_VR, EXPLICIT_VR_LENGTH_32

CHARACTER_SET = 0x00080005

FIRST_OF_A_DATA_SET = 0x00080000
"""What comes before belongs to commands and file meta information (PS3.5 7.1)."""

PADDING = {**dict.fromkeys(("AE", "AS", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), " "), "UI": "\0"}
"""Of VRs whose value is one text, what it is padded with to an even length."""

WRITTEN_OTHERWISE = frozenset("\\~")
"""In ASCII, but other characters in some sets: a yen sign, an overline."""

LONGEST_SHORT = 0xFFFE

_SHORT, _LONG, _ITEM = struct.Struct("<HH2sH"), struct.Struct("<HH2sxxL"), struct.Struct("<HHL")


class _UnusualError(Exception):
    """What pydicom alone knows how to write."""


def file_bytes(dataset: Dataset) -> bytes:
    """``dcmwrite(…, enforce_file_format=True)`` of a result in Explicit VR Little Endian, not compressed."""
    try:
        if dataset.file_meta.get("TransferSyntaxUID") != ExplicitVRLittleEndian or _was_read(dataset):
            raise _UnusualError
        return _preface(dataset) + _encoded(dataset, "iso8859", is_root=True)
    except _UnusualError:
        return written_by_pydicom(dataset)


def _was_read(dataset: Dataset) -> bool:
    implicit, little = dataset.original_encoding
    return implicit is not None or little is not None


def written_by_pydicom(dataset: Dataset) -> bytes:
    """The file of any data set; what is still as it was read is copied."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _preface(dataset: Dataset) -> bytes:
    """Preamble and file meta information (PS3.10 7.1)."""
    alone = Dataset()
    alone.file_meta = dataset.file_meta
    alone.preamble = getattr(dataset, "preamble", None)
    alone.SOPClassUID, alone.SOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    content = written_by_pydicom(alone)
    return content[: 144 + int.from_bytes(content[140:144], "little")]


def _encoded(dataset: Dataset, encodings: Any, is_root: bool = False) -> bytes:
    """The elements of a data set, or of an item; text in ``encodings``, unless it names others itself.

    Raises:
        _UnusualError: there is something that only pydicom writes.
    """
    parts: list[bytes] = []
    for tag in sorted(dataset.keys(), key=int):
        number = int(tag)
        if number < FIRST_OF_A_DATA_SET or not number & 0xFFFF:  # group lengths are retired (PS3.5 7.2)
            raise _UnusualError
        element = dataset.get_item(tag)
        if not isinstance(element, DataElement):  # pydicom copies what is still as it was read
            raise _UnusualError
        if element.VR in AMBIGUOUS_VR:
            if not is_root:  # it may hang on what stands around the item
                raise _UnusualError
            correct_ambiguous_vr_element(element, dataset, True)
        if number == CHARACTER_SET:
            encodings = element.value
        parts += _element(element, number, encodings)
    return b"".join(parts)


def _element(element: DataElement, number: int, encodings: Any) -> tuple[bytes, ...]:
    value, vr, tag = element.value, element.VR, (number >> 16, number & 0xFFFF)
    if element.is_undefined_length:
        raise _UnusualError
    if vr == "SQ":
        items = [part for item in value for part in _item(item, encodings)]
        return _LONG.pack(*tag, b"SQ", sum(map(len, items))), *items
    if vr not in PADDING or not isinstance(value, str) or not value.isascii():
        return (_other(element, encodings),)
    if len(value) > LONGEST_SHORT or not WRITTEN_OTHERWISE.isdisjoint(value):
        return (_other(element, encodings),)
    content = (value + PADDING[vr] if len(value) % 2 else value).encode("ascii")
    head = _LONG if vr in EXPLICIT_VR_LENGTH_32 else _SHORT
    return head.pack(*tag, vr.encode("ascii"), len(content)), content


def _item(item: Dataset, encodings: Any) -> tuple[bytes, bytes]:
    if getattr(item, "is_undefined_length_sequence_item", False):
        raise _UnusualError
    content = _encoded(item, encodings)
    return _ITEM.pack(0xFFFE, 0xE000, len(content)), content


def _other(element: DataElement, encodings: Any) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_data_element(buffer, element, encodings)
    content: bytes = buffer.getvalue()
    return content
