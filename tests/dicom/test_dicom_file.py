"""Files as they are read here, element by element as pydicom's own reader gives them: the oracle."""

from __future__ import annotations

import os
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import numpy as np
import pydicom.data
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from app.dicom import dicom_file
from app.dicom import header_values as header
from app.dicom.dicom_file import is_headerless, read_header, read_with_pixels
from app.dicom.reading.padding import plain_samples
from app.dicom.reading.series_header import KEYWORDS
from tests.dicom.reading import tiny


def of_pydicom() -> list[Path]:
    """Its own test files: every syntax, undefined lengths, odd VRs, damage."""
    return sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))


def elements(dataset: Dataset) -> list[object]:
    """As they were read, nothing converted."""
    found: list[object] = []
    for tag in sorted(dataset.keys()):
        element = dataset.get_item(tag, keep_deferred=True)
        if isinstance(element, RawDataElement):
            found.append(tuple(element))
            continue
        items = [item(each) for each in element.value] if element.VR == "SQ" else element.value
        found.append((element.tag, element.VR, items, element.file_tell, element.is_undefined_length))
    return found


def item(dataset: Dataset) -> tuple[object, ...]:
    return (
        elements(dataset), dataset.original_encoding, dataset.original_character_set,
        dataset.is_undefined_length_sequence_item, dataset.seq_item_tell, dataset.file_tell,
    )  # fmt: skip


def everything(dataset: Dataset) -> tuple[object, ...]:
    meta = [(element.tag, element.VR, element.value) for element in dataset.file_meta]
    return (
        elements(dataset), meta, dataset.original_encoding, dataset.original_character_set, dataset.filename,
        getattr(dataset, "preamble", None),
    )  # fmt: skip


def reading(read: Callable[[], Dataset]) -> tuple[object, ...]:
    """What is read, or the kind of error."""
    try:
        return everything(read())
    except header.READ_ERRORS as error:
        return (type(error),)


def assert_read_as_pydicom_does(path: Path) -> None:
    with header.tolerant():
        assert reading(lambda: read_with_pixels(path)) == reading(lambda: dcmread(path))
        for keywords in (None, KEYWORDS):
            tags = list(keywords or ()) or None
            expected = reading(partial(dcmread, path, stop_before_pixels=True, specific_tags=tags))
            assert reading(partial(read_header, path, keywords)) == expected


@pytest.mark.parametrize("path", of_pydicom(), ids=lambda path: path.stem)
def test_files_of_every_kind_are_read_as_pydicom_reads_them(path: Path) -> None:
    if not is_headerless(path):
        assert_read_as_pydicom_does(path)


def test_hostile_and_real_files_are_read_as_pydicom_reads_them(samples: Path) -> None:
    hostile = [path for path in (samples / "hostile").rglob("*.dcm") if not is_headerless(path)]
    real = [next((samples / name).rglob("*.dcm")) for name in ("pet-ge-sts001/pet", "spect-lu177", "suv-dro")]
    assert len(hostile) > 50
    for path in (*hostile, *real):
        assert_read_as_pydicom_does(path)


def write_private(folder: Path, syntax: UID) -> Path:
    """A PET with sequences in private and public elements, with lengths and without, one in the other."""
    (path, *_) = tiny.write_pet(folder, tiny.Scan(tiny.ramp(1, 6, 10)))
    dataset = dcmread(path)
    dataset["RadiopharmaceuticalInformationSequence"].is_undefined_length = True
    for group, is_undefined in ((0x0009, False), (0x0011, True), (0x0059, True)):
        inner = tiny.code_item("1", "99X", "\xe9")
        inner.is_undefined_length_sequence_item = is_undefined
        block = inner.private_block(group, "TINY", create=True)
        block.add_new(1, "LO", "a text")
        outer = Dataset()
        outer.add_new(0x00081032, "SQ", [inner, Dataset()])
        outer[0x00081032].is_undefined_length = is_undefined
        block = dataset.private_block(group, "TINY", create=True)
        block.add_new(1, "SQ", [outer, tiny.code_item("2", "99X")])
        block.add_new(2, "SQ", [])
        block.add_new(3, "OB", bytes(0x4141 + 1))
        block.add_new(4, "UN", b"ZZ")
        for number in (1, 2):
            dataset[group, 0x1000 + number].is_undefined_length = is_undefined
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax.is_encapsulated:
        dataset.PixelData = encapsulate([dataset.PixelData])
    dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    return path


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless], ids=lambda syntax: syntax.name
)
def test_an_ordinary_file_is_read_without_pydicoms_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: UID
) -> None:
    path = write_private(tmp_path, syntax)
    assert_read_as_pydicom_does(path)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("read by pydicom")

    monkeypatch.setattr(dicom_file, "dcmread", refuse)
    assert read_header(path).original_encoding == (syntax.is_implicit_VR, True)
    assert "PixelData" in read_with_pixels(path)
    assert list(read_header(path, ["PatientID"]).keys()) == [0x00100020]


def test_a_damaged_transfer_syntax_is_read_as_pydicom_reads_it(tmp_path: Path) -> None:
    """Two values, which no table of syntaxes can be asked for."""
    (path, *_) = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(1)))
    syntax = dcmread(path).file_meta.TransferSyntaxUID.encode()
    path.write_bytes(path.read_bytes().replace(syntax, syntax.replace(b".1.2", b".1\\2")))
    assert_read_as_pydicom_does(path)


@pytest.mark.parametrize("first", [0x4141, 0x5A5A, 0x4140, 0x5B41])
def test_an_implicit_length_that_looks_like_a_vr_is_read_as_pydicom_reads_it(
    tmp_path: Path, first: int
) -> None:
    """In the first element it makes pydicom take the file for explicit; in a later one it says nothing."""
    path = write_private(tmp_path, ImplicitVRLittleEndian)
    content = path.read_bytes()
    at = content.index(b"\x08\x00", 132 + 12 + int(dcmread(path).file_meta.FileMetaInformationGroupLength))
    element = struct.pack("<HHL", 0x0008, 0x0001, first) + bytes(first)
    path.write_bytes(content[:at] + element + content[at:])
    assert_read_as_pydicom_does(path)
    element = struct.pack("<HHL", 0x7FDF, 0x0010, first) + bytes(first)
    at = content.rindex(b"\xe0\x7f\x10\x00")
    path.write_bytes(content[:at] + element + content[at:])
    assert_read_as_pydicom_does(path)


@pytest.mark.parametrize(("syntax", "step"), [(ExplicitVRLittleEndian, 3), (ImplicitVRLittleEndian, 7)])
def test_a_header_longer_than_the_start_is_read_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: UID, step: int
) -> None:
    """Wherever the first read ends: in a tag, a length, a value, a sequence of undefined length."""
    (path, *_) = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(1, 6, 10)))
    dataset = dcmread(path)
    dataset["RadiopharmaceuticalInformationSequence"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    for start_bytes in range(300, len(path.read_bytes()), step):
        monkeypatch.setattr(dicom_file, "START_BYTES", start_bytes)
        assert_read_as_pydicom_does(path)


@pytest.mark.parametrize("header_bytes", [1 << 16, 1 << 19, 1 << 22])
@pytest.mark.parametrize("in_items", [False, True])
def test_no_pixels_are_read_for_a_header_however_long_it_is(
    tmp_path: Path, header_bytes: int, in_items: bool
) -> None:
    """An image of many frames: its header is read as pydicom reads it, in memory of the header's order."""
    (path, *_) = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(1, 6, 10)))
    dataset = dcmread(path)
    block = dataset.private_block(0x0009, "TINY", create=True)
    block.add_new(1, "OB", bytes(header_bytes))
    if in_items:
        dataset.PerFrameFunctionalGroupsSequence = [tiny.code_item("1", "99X") for _ in range(20)]
        dataset["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    dataset.save_as(path)
    os.truncate(path, 1 << 27)  # the pixels of many frames
    for keywords in (None, ("PatientID",), ()):
        tracemalloc.start()
        found = read_header(path, keywords)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 1 << 25
        tags = None if keywords is None else ["SpecificCharacterSet", *keywords]
        assert everything(found) == everything(dcmread(path, stop_before_pixels=True, specific_tags=tags))


def test_a_misspelt_keyword_is_a_fault_of_ours_and_none_of_the_files(tmp_path: Path) -> None:
    (path, *_) = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(1)))
    with pytest.raises(AssertionError, match="PatientIdentity"):
        read_header(path, ("PatientID", "PatientIdentity"))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_no_keywords_are_no_attributes_whoever_reads(tmp_path: Path, syntax: UID) -> None:
    (path, *_) = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(1)))
    dataset = dcmread(path)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    assert list(read_header(path, ()).keys()) == [0x00080005]


def test_what_slices_share_is_converted_by_their_own_character_set(tmp_path: Path) -> None:
    """One description in bytes that two character sets spell differently."""
    (path, *_) = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(1)))
    found = []
    for character_set in ("ISO_IR 100", "ISO_IR 144"):
        dataset = dcmread(path)
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.SeriesDescription = "\xc0\xe9"
        dataset.save_as(path)
        content = path.read_bytes().replace(b"ISO_IR 100", character_set.encode())
        path.write_bytes(content)
        found.append(header.text(read_header(path), "SeriesDescription"))
    assert found == ["\xc0\xe9", b"\xc0\xe9".decode("iso8859_5")]


@pytest.mark.parametrize("path", of_pydicom(), ids=lambda path: path.stem)
def test_plain_samples_are_those_that_pydicom_decodes(path: Path) -> None:
    with header.tolerant():
        dataset = dcmread(path, force=True)
        plain = plain_samples(dataset) if "PixelData" in dataset else None
        if plain is None:
            return
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
        expected, _ = decoder.as_array(dataset, correct_unused_bits=False)
    assert plain.dtype == expected.dtype
    assert np.array_equal(plain, expected)


def test_threads_that_read_at_once_leave_the_warnings_as_they_were() -> None:
    before = list(warnings.filters)
    inside = Barrier(2)

    def first() -> None:
        with header.tolerant():
            inside.wait()

    with ThreadPoolExecutor(1) as beside, header.tolerant():
        reading = beside.submit(first)
        inside.wait()
        reading.result()
        warnings.warn("as pydicom does", UserWarning, stacklevel=1)
    assert warnings.filters == before
