"""Files as they are read here, element by element as pydicom's own reader gives them: the oracle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.pixels import get_decoder

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
        is_raw = isinstance(element, RawDataElement)
        found.append(
            tuple(element) if is_raw else (element.tag, element.VR, element.value, element.file_tell)
        )
    return found


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


def test_a_header_longer_than_the_start_is_read_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the first read ends: in a tag, a length, a value, a sequence of undefined length."""
    (path, *_) = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(1, 6, 10)))
    dataset = dcmread(path)
    dataset["RadiopharmaceuticalInformationSequence"].is_undefined_length = True
    dataset.save_as(path)
    for start_bytes in range(300, len(path.read_bytes()), 3):
        monkeypatch.setattr(dicom_file, "START_BYTES", start_bytes)
        assert_read_as_pydicom_does(path)


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
