"""Opening DICOM files: ordinary ones fast, old and odd ones as pydicom does it, bombs not at all.

A whole-body study is hundreds of files of a hundred elements, which pydicom reads from the disk one by one.
An ordinary file is read at once here and walked by offsets. What comes out are pydicom's own raw elements, as
its reader gives them; whatever is out of the ordinary (another encoding, elements out of order, a value that
ends beyond the file) is left to that reader.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, MutableSequence, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

from pydicom import DataElement, Dataset, dcmread
from pydicom.charset import convert_encodings
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import data_element_generator, read_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    PrivateTransferSyntaxes,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR
from pydicom.values import convert_string

from app.dicom.header_values import READ_ERRORS

MOST_INFLATED_BYTES = 256 * 2**20
"""A deflated file that grows beyond this is a bomb: an image of this size isn't sent deflated."""

START_BYTES = 1 << 15
"""Read at first where a header is wanted: more than most headers of one image have."""

_LONGER = (1, 8, 64)
"""Times that, tried in turn. A header that is still longer, as those of many frames are, is left to pydicom's
reader, which stops ahead of the pixels: the pixels of a large file are never read for its header."""

_PREAMBLE_BYTES = 128
_META_AT = _PREAMBLE_BYTES + len(b"DICM")
_CHARACTER_SET = BaseTag(0x00080005)
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_META_GROUP = b"\x02\x00"
_DATA_SET = range(0x00080000, 0xFFFD0000)
"""Tags at the top of a data set: no command, no file meta information, no delimiter."""

_NOT_ORDINARY = frozenset({DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, *PrivateTransferSyntaxes})
_UNDEFINED = 0xFFFFFFFF

_VRS = {vr.value.encode(): vr.value for vr in VR if len(vr.value) == 2}
_LONG_LENGTH = frozenset(vr.value for vr in EXPLICIT_VR_LENGTH_32)
_EXPLICIT, _IMPLICIT, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<HHL"), struct.Struct("<L")

_HEADERLESS_BYTES = 4096
_HEADERLESS_ELEMENTS = 3

_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}

_Element: TypeAlias = RawDataElement | DataElement
_Elements = dict[BaseTag, _Element]
_Encoding: TypeAlias = str | MutableSequence[str]


class _UnusualError(Exception):
    """pydicom's reader knows what to make of it."""


class _ShortError(_UnusualError):
    """The bytes end before the data set does."""


def read_header(path: Path, keywords: Sequence[str] | None = None) -> Dataset:
    """The data set of a file without its pixels; ``keywords`` limit it to these attributes.

    Raises:
        one of :data:`app.dicom.header_values.READ_ERRORS`.
    """
    wanted = None if keywords is None else _tags(tuple(keywords))
    found = _ordinary(path, wanted, with_pixels=False)
    if found is not None:
        return found
    return _opened(path, stop_before_pixels=True, specific_tags=None if wanted is None else sorted(wanted))


def read_with_pixels(path: Path) -> Dataset:
    """The whole data set.

    Raises:
        one of :data:`app.dicom.header_values.READ_ERRORS`.
    """
    found = _ordinary(path, None, with_pixels=True)
    return _opened(path) if found is None else found


@lru_cache(maxsize=16)
def _tags(keywords: tuple[str, ...]) -> frozenset[int]:
    """Specific Character Set is always among them, as in pydicom.

    Raises:
        AssertionError: a keyword that DICOM doesn't know: a slip of ours, and no fault of the file's.
    """
    found = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    if unknown := [keyword for keyword, tag in found.items() if tag is None]:
        raise AssertionError(f"found no attribute of the name {', '.join(unknown)}")
    return frozenset({_CHARACTER_SET, *(tag for tag in found.values() if tag is not None)})


def _ordinary(path: Path, wanted: Collection[int] | None, with_pixels: bool) -> Dataset | None:
    """The data set of an ordinary file, of the ``wanted`` tags; ``None`` of another one.

    Raises:
        OSError: the file can't be read.
    """
    content = b""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for times in _LONGER:
            content += file.readall() if with_pixels else file.read(START_BYTES * times - len(content))
            if content[_PREAMBLE_BYTES:_META_AT] != b"DICM":
                return None
            is_whole = with_pixels or len(content) >= size
            try:
                return _data_set(path, _Walk(content, is_whole, wanted, with_pixels))
            except _ShortError:
                if is_whole:
                    return None
            except (_UnusualError, *READ_ERRORS):  # damaged: pydicom's reader says what it makes of it
                return None
    return None


def _data_set(path: Path, walk: _Walk) -> FileDataset:
    """Raises _UnusualError: a file that is not ordinary."""
    meta, at = walk.file_meta()
    file_meta = FileMetaDataset(meta)
    file_meta.set_original_encoding(False, True, "iso8859")
    syntax = file_meta.get("TransferSyntaxUID")
    if not syntax or syntax in _NOT_ORDINARY:
        raise _UnusualError
    is_implicit = bool(syntax == ImplicitVRLittleEndian)
    elements, encoding = walk.data_set(at, is_implicit)
    dataset = FileDataset(str(path), elements, walk.content[:_PREAMBLE_BYTES], file_meta, is_implicit, True)
    dataset.set_original_encoding(is_implicit, True, encoding)
    dataset.get(_CHARACTER_SET)  # the one element that pydicom's reader converts
    return dataset


@dataclass(frozen=True)
class _Walk:
    """A walk over the elements at the top of a file; ``is_whole`` says whether its bytes are all here."""

    content: bytes
    is_whole: bool
    wanted: Collection[int] | None
    with_pixels: bool

    def file_meta(self) -> tuple[_Elements, int]:
        """File meta information (PS3.10 7.1), and where the data set starts."""
        found: _Elements = {}
        at = _META_AT
        while self.content[at : at + 2] == _META_GROUP:
            tag, vr, length, value_at = self._head(at, False)
            at = value_at + length
            found[BaseTag(tag)] = self._raw(tag, vr, value_at, at)
        return found, at

    def data_set(self, at: int, is_implicit: bool) -> tuple[_Elements, _Encoding]:
        """The elements of the data set, and its character encodings."""
        found: _Elements = {}
        encoding: _Encoding = "iso8859"
        last = 0
        looks_explicit = self.content[at + 4 : at + 6]
        if is_implicit and looks_explicit.isalpha() and looks_explicit.isupper():
            raise _UnusualError
        while at + 8 <= len(self.content):
            tag, vr, length, value_at = self._head(at, is_implicit)
            if tag <= last or tag not in _DATA_SET:
                raise _UnusualError
            if tag in _PIXELS and not self.with_pixels:
                return found, encoding
            last, is_wanted = tag, self.wanted is None or tag in self.wanted
            if length == _UNDEFINED:
                element, at = self._undefined(at, is_implicit, encoding)
                if is_wanted:
                    found[element.tag] = element
                continue
            at = value_at + length
            if is_wanted:
                found[BaseTag(tag)] = raw = self._raw(tag, vr, value_at, at)
                encoding = _encodings(raw.value or b"") if tag == _CHARACTER_SET else encoding
        if not last or not self.is_whole or at > len(self.content):
            raise _ShortError
        return found, encoding

    def _head(self, at: int, is_implicit: bool) -> tuple[int, str | None, int, int]:
        """An element's tag, VR and length, and where its value starts."""
        try:
            if is_implicit:
                group, number, length = _IMPLICIT.unpack_from(self.content, at)
                return group << 16 | number, None, length, at + 8
            group, number, code, length = _EXPLICIT.unpack_from(self.content, at)
            vr = _VRS[code]
            if vr not in _LONG_LENGTH:
                return group << 16 | number, vr, length, at + 8
            return group << 16 | number, vr, _LENGTH.unpack_from(self.content, at + 8)[0], at + 12
        except KeyError as error:
            raise _UnusualError from error
        except struct.error as error:
            raise _ShortError from error

    def _raw(self, tag: int, vr: str | None, start: int, end: int) -> RawDataElement:
        if end > len(self.content):
            raise _ShortError
        value = self.content[start:end] if end > start else empty_value_for_VR(vr, raw=True)
        return RawDataElement(BaseTag(tag), vr, end - start, value, start, vr is None, True)

    def _undefined(
        self, at: int, is_implicit: bool, encoding: _Encoding
    ) -> tuple[RawDataElement | DataElement, int]:
        """An element of undefined length, by pydicom's reader, and where it ends."""
        file = BytesIO(self.content)
        file.seek(at)
        try:
            element = next(data_element_generator(file, is_implicit, True, encoding=encoding))
        except READ_ERRORS as error:
            raise _ShortError from error
        if file.tell() >= len(self.content) and not self.is_whole:
            raise _ShortError
        return element, file.tell()


@lru_cache(maxsize=64)
def _encodings(value: bytes) -> _Encoding:
    found: _Encoding = convert_encodings(convert_string(value, True))
    return found


def _opened(path: Path, **options: Any) -> Dataset:
    try:
        _refuse_bomb(path)
        return dcmread(path, **options)
    except InvalidDicomError:
        if not is_headerless(path):
            raise
    dataset = dcmread(path, force=True, **options)
    if "TransferSyntaxUID" not in dataset.file_meta and not _is_encapsulated(dataset):
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset


def _is_encapsulated(dataset: Dataset) -> bool:
    """Compressed pixels: without a header nothing says how."""
    pixels = dataset.get_item("PixelData") if "PixelData" in dataset else None
    return pixels is not None and bool(pixels.value) and pixels.value.startswith(b"\xfe\xff\x00\xe0")


def is_headerless(path: Path) -> bool:
    """Whether a file is a data set in little endian without preamble, or without file meta information too.

    Old archives and some exports write such files, though PS3.10 7.1 demands both. The first elements have to
    be those that every data set begins with, in ascending order and of modest length.
    """
    with path.open("rb") as file:
        start = file.read(_HEADERLESS_BYTES)
    position, last, explicit = 0, (0, 0), start[4:6].isalpha()
    for _ in range(_HEADERLESS_ELEMENTS):
        if len(start) < position + 8:
            return False
        group, element, length = struct.unpack_from("<HHL", start, position)
        explicit = start[position + 4 : position + 6].isalpha() if last[0] == 2 < group else explicit
        if explicit:
            long = _VRS.get(start[position + 4 : position + 6]) in _LONG_LENGTH
            length = struct.unpack_from("<L" if long else "<H", start, position + (8 if long else 6))[0]
            position += 4 if long else 0
        if group not in (2, 8) or (group, element) <= last or length > _HEADERLESS_BYTES:
            return False
        position, last = position + 8 + length, (group, element)
    return DeflatedExplicitVRLittleEndian.encode() not in start


def archive_kind(path: Path) -> str:
    """What kind of archive a file is by its first bytes; empty for none, and for a gzipped NIfTI."""
    if path.name.lower().endswith(".nii.gz"):
        return ""
    with path.open("rb") as file:
        start = file.read(512)
    kinds = (name for magic, name in _ARCHIVES.items() if start.startswith(magic))
    return next(kinds, "tar" if start[257:262] == b"ustar" else "")


def _refuse_bomb(path: Path) -> None:
    if path.stat().st_size < MOST_INFLATED_BYTES // 1100:  # deflate can't gain more than 1032:1
        return
    meta = read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) != DeflatedExplicitVRLittleEndian:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    grown = 0
    with path.open("rb") as file:
        file.seek(144 + int(meta.FileMetaInformationGroupLength))
        while chunk := file.read(2**16):
            while chunk and not inflater.eof:
                grown += len(inflater.decompress(chunk, 2**20))
                chunk = inflater.unconsumed_tail
                if grown > MOST_INFLATED_BYTES:
                    raise ValueError(f"deflated data set of more than {MOST_INFLATED_BYTES} bytes")
