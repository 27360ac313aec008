"""Find the four identifying UIDs at the start of a data set, without building it.

A data set from the network may nest a thousand sequences or lie about its lengths. So it is scanned:
no recursion, nothing kept but the UIDs, and nothing read beyond Series Instance UID (0020,000E).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

DEFLATED_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
"""PS3.6 A. pydicom names them too: a command that only looks at records reads this file, and not pydicom."""

MAX_INFLATED_HEADER_BYTES = 32 * 2**20
"""A header before (0020,000E) holds at most some private blocks; more is a decompression bomb."""

_Tag = tuple[int, int]

IDENTIFYING: Mapping[_Tag, str] = {
    (0x0008, 0x0016): "SOPClassUID",
    (0x0008, 0x0018): "SOPInstanceUID",
    (0x0020, 0x000D): "StudyInstanceUID",
    (0x0020, 0x000E): "SeriesInstanceUID",
}

FILE_META: Mapping[_Tag, str] = {
    (0x0002, 0x0002): "MediaStorageSOPClassUID",
    (0x0002, 0x0003): "MediaStorageSOPInstanceUID",
    (0x0002, 0x0010): "TransferSyntaxUID",
    (0x0002, 0x0016): "SourceApplicationEntityTitle",
}

_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations with a 32-bit length (PS3.5 table 7.1-1)."""

_DELIMITERS = frozenset(((0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)))

_MAX_VALUE_BYTES = 128


class UnreadableHeaderError(ValueError):
    """The data set can't be followed as far as its Series Instance UID; the message holds no values."""


def find_uids(data_set: bytes, transfer_syntax_uid: str) -> dict[str, str]:
    """SOP Class, SOP Instance, Study and Series Instance UIDs, as written (not yet checked).

    Args:
        data_set: encoded, without file meta.
        transfer_syntax_uid: how; a data set that is implicit VR although it was announced as explicit is
            understood (some archives send such), all else must hold.

    Raises:
        UnreadableHeaderError: damaged, or one of the four is absent.
    """
    if transfer_syntax_uid == DEFLATED_EXPLICIT_LITTLE:
        data_set = _inflated_start(data_set)
    order = ">" if transfer_syntax_uid == EXPLICIT_BIG else "<"
    implicit = transfer_syntax_uid == IMPLICIT_LITTLE or not data_set[4:6].isalpha()
    found, _ = _Scan(data_set, order, implicit).collect(IDENTIFYING, (0x0020, 0x000E))
    missing = [keyword for keyword in IDENTIFYING.values() if keyword not in found]
    if missing:
        raise UnreadableHeaderError(f"{', '.join(missing)} not found in the data set")
    return found


def find_file_meta(content: bytes, start: int) -> tuple[dict[str, str], int]:
    """File meta information (PS3.10 7.1) of a file: its ``FILE_META`` values, and where its data set starts.

    The group length is not trusted: the first element beyond group 0002 is where the data set starts.

    Args:
        content: the file, or as much of it as certainly holds the meta information.
        start: where the meta information starts, after the preamble.

    Raises:
        UnreadableHeaderError: damaged.
    """
    return _Scan(content, "<", implicit=False).collect(FILE_META, (0x0002, 0xFFFF), start)


def _inflated_start(data_set: bytes) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data_set, MAX_INFLATED_HEADER_BYTES)
    except zlib.error as error:
        raise UnreadableHeaderError("the deflated data set is damaged") from error


class _Scan:
    """A walk over top-level elements; nested ones are stepped over by counting delimiters."""

    def __init__(self, data: bytes, order: str, implicit: bool) -> None:
        self._data = data
        self._implicit = implicit
        self._explicit = struct.Struct(f"{order}HH2sH")
        self._with_long = struct.Struct(f"{order}HHL")
        self._long = struct.Struct(f"{order}L")

    def collect(self, wanted: Mapping[_Tag, str], last: _Tag, start: int = 0) -> tuple[dict[str, str], int]:
        """Values of ``wanted`` by keyword, up to the tag ``last``; and the position where it stopped."""
        found: dict[str, str] = {}
        position, end, implicit = start, len(self._data), self._implicit
        try:
            while position < end:
                tag, length, value_at, of_implicit = self._element(position, implicit)
                if tag > last:
                    break
                if tag in wanted:
                    found[wanted[tag]] = self._text(tag, value_at, length)
                position = value_at + length if length != _UNDEFINED else self._end(value_at, of_implicit)
                if tag == last:
                    break
        except struct.error as error:
            raise UnreadableHeaderError("the data ends within an element") from error
        return found, position

    def _element(self, at: int, implicit: bool) -> tuple[_Tag, int, int, bool]:
        """Tag, length, where its value starts, and whether what is in it is implicit VR."""
        if not implicit:
            group, number, vr, length = self._explicit.unpack_from(self._data, at)
            if group != 0xFFFE and vr not in _LONG_VRS:
                return (group, number), length, at + 8, False
            if group != 0xFFFE:
                # an undefined length UN is a sequence in implicit VR (PS3.5 6.2.2)
                return (group, number), self._long.unpack_from(self._data, at + 8)[0], at + 12, vr == b"UN"
        group, number, length = self._with_long.unpack_from(self._data, at)
        return (group, number), length, at + 8, implicit

    def _text(self, tag: _Tag, value_at: int, length: int) -> str:
        if length > _MAX_VALUE_BYTES:
            raise UnreadableHeaderError(f"({tag[0]:04X},{tag[1]:04X}) is {length} bytes long")
        value = self._data[value_at : value_at + length]
        if len(value) < length:
            raise UnreadableHeaderError("the data ends within an element")
        return value.decode("ascii", errors="replace")

    def _end(self, position: int, implicit: bool) -> int:
        """Where the element after a sequence of undefined length starts."""
        depth = 1
        while depth:
            tag, length, position, _ = self._element(position, implicit)
            if tag in _DELIMITERS:
                depth -= 1
            elif length == _UNDEFINED:
                depth += 1
            else:
                position += length
        return position
