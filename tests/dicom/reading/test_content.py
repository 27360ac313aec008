"""The same image in another transfer syntax is the same content; another value anywhere is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from app.dicom.reading.compression import IsolatedDecoder
from app.dicom.reading.content import PIXEL_DATA, differing_tags
from app.dicom.reading.studies import read_study
from tests.dicom.reading import tiny


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder() as found:
        yield found


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A PET slice with what syntaxes treat differently: words, nested and private sequences, empty values."""

    def fill(dataset: Dataset, index: int) -> None:
        dataset.AccessionNumber = ""
        dataset.SmallestImagePixelValue = 32
        dataset.NumberOfSlices = 32
        dataset.LossyImageCompression = "00"
        private = dataset.private_block(0x0011, "SOMEBODY 1", create=True)
        private.add_new(0x01, "FD", 4.1795)
        private.add_new(0x02, "SQ", [tiny.code_item("1", "99X")])
        private.add_new(0x03, "LO", "odd")
        dataset.ReferencedImageSequence = []

    return tiny.write_pet(tmp_path / "original", tiny.Scan(tiny.ramp(1), change=fill))[0]


def in_syntax(path: Path, syntax: UID) -> Dataset:
    """The image as a PACS might send it."""
    dataset = dcmread(path)
    values = dataset.pixel_array.astype(np.uint16)
    streams: dict[UID, Callable[[], bytes]] = {
        JPEGLosslessSV1: lambda: imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=16),
        JPEGLSLossless: lambda: imagecodecs.jpegls_encode(values),
        JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True),
    }
    if syntax in streams:
        dataset.PixelData = encapsulate([bytes(streams[syntax]())])
        dataset["PixelData"].is_undefined_length = True
    elif syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        dataset.PixelData = values.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def saved(dataset: Dataset, path: Path) -> Path:
    syntax = dataset.file_meta.TransferSyntaxUID
    written = Dataset(dataset)
    written.file_meta = dataset.file_meta
    written.save_as(
        path,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    return path


SYNTAXES = (
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
    RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless,
)  # fmt: skip


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_every_lossless_syntax_is_the_same_content(
    original: Path, tmp_path: Path, decoder: IsolatedDecoder, syntax: UID
) -> None:
    other = saved(in_syntax(original, syntax), tmp_path / "other")
    assert dcmread(other).file_meta.TransferSyntaxUID == syntax
    assert differing_tags(original, other, decoder) == ()
    (series,) = read_study([original, other]).series
    assert (len(series.instances), series.faults) == (1, ())


def test_padding_lengths_and_group_lengths_are_not_content(
    original: Path, tmp_path: Path, decoder: IsolatedDecoder
) -> None:
    other = dcmread(original)
    other["RadiopharmaceuticalInformationSequence"].is_undefined_length = True
    other.RescaleSlope = "2.00"
    other.Units = "BQML  "
    other.add_new(0x00080000, "UL", 4711)
    other.add_new(0xFFFCFFFC, "OB", bytes(8))
    other.DerivationDescription = "Lossless JPEG compression"
    del other.LossyImageCompression
    other.file_meta.SourceApplicationEntityTitle = "OTHER"
    assert differing_tags(original, saved(other, tmp_path / "other"), decoder) == ()


def named(dataset: Dataset, character_set: str | list[str], physician: str) -> Dataset:
    dataset.SpecificCharacterSet = character_set
    dataset.ReferringPhysicianName = physician
    dataset.RadiopharmaceuticalInformationSequence[0].Radiopharmaceutical = f"für {physician}"
    return dataset


@pytest.mark.parametrize(
    "other_set", ["ISO_IR 100", "ISO_IR 192", "GB18030", ["ISO 2022 IR 6", "ISO 2022 IR 100"]]
)
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda uid: uid.name)
def test_text_is_compared_by_its_characters(
    original: Path, tmp_path: Path, decoder: IsolatedDecoder, other_set: str | list[str], syntax: UID
) -> None:
    one = saved(named(dcmread(original), "ISO_IR 100", "Müller^Jörg"), tmp_path / "one")
    changed = named(dcmread(original), other_set, "Müller^Jörg")
    changed.file_meta.TransferSyntaxUID = syntax
    assert differing_tags(one, saved(changed, tmp_path / "other"), decoder) == ()
    another = saved(named(dcmread(original), other_set, "Möller^Jörg"), tmp_path / "another")
    assert differing_tags(one, another, decoder) == (0x00080090, 0x00540016)


def test_text_under_another_character_set_is_other_text(
    original: Path, tmp_path: Path, decoder: IsolatedDecoder
) -> None:
    one = saved(named(dcmread(original), "ISO_IR 100", "Müller"), tmp_path / "one")
    mislabelled = tmp_path / "other"
    mislabelled.write_bytes(one.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 101"))
    assert differing_tags(one, mislabelled, decoder) == ()  # ü is one byte in both
    mislabelled.write_bytes(one.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 144"))
    assert 0x00080090 in differing_tags(one, mislabelled, decoder)
    mislabelled.write_bytes(one.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 192"))
    assert 0x00080090 in differing_tags(one, mislabelled, decoder)


def test_what_an_archive_adds_and_what_is_empty_is_no_content(
    original: Path, tmp_path: Path, decoder: IsolatedDecoder
) -> None:
    other = dcmread(original)
    del other.AccessionNumber, other.ReferencedImageSequence, other.SmallestImagePixelValue
    other.SpecificCharacterSet = "ISO_IR 192"
    other.PatientComments = other.RescaleType = ""
    other.RequestAttributesSequence = []
    other.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalRoute = ""
    other.SmallestImagePixelValue, other.LargestImagePixelValue = 0, 400
    other.RetrieveAETitle, other.InstanceAvailability = "PACS", "ONLINE"
    other.RetrieveURL, other.StorageMediaFileSetUID = "https://pacs/1", "1.2.3"
    other.InstanceCoercionDateTime, other.NumberOfStudyRelatedInstances = "20260301120000", "300"
    other.OriginalAttributesSequence = other.ContributingEquipmentSequence = [tiny.code_item("1", "99X")]
    assert differing_tags(original, saved(other, tmp_path / "other"), decoder) == ()
    other.InstanceCreationTime = "235959"
    assert differing_tags(original, saved(other, tmp_path / "other"), decoder) == (0x00080013,)


def test_a_study_with_two_contents_names_what_differs(original: Path, tmp_path: Path) -> None:
    other = dcmread(original)
    other.PatientWeight, other[0x00111001].value = 200, 4.1796
    (series,) = read_study([original, saved(other, tmp_path / "other")]).series
    assert [fault.found for fault in series.faults] == [
        "1 UIDs with more than one content, which differ in PatientWeight, (0011,1001)"
    ]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_one_other_voxel_is_another_content_in_every_syntax(
    original: Path, tmp_path: Path, decoder: IsolatedDecoder, syntax: UID
) -> None:
    other = dcmread(original)
    other.PixelData = other.PixelData[:-2] + b"\x99\x01"
    changed = saved(other, tmp_path / "changed")
    found = differing_tags(original, saved(in_syntax(changed, syntax), tmp_path / "other"), decoder)
    assert found == (PIXEL_DATA,)


def nested_dose(dataset: Dataset) -> None:
    dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = 151e6


def private_number(dataset: Dataset) -> None:
    dataset[0x00111001].value = 4.1796


def binary_zero(dataset: Dataset) -> None:
    """32 is a space and 0 a NUL, both of which pad text."""
    dataset.NumberOfSlices = 0


def lossy(dataset: Dataset) -> None:
    dataset.LossyImageCompression = "01"


@pytest.mark.parametrize(
    ("change", "tag"),
    [
        (nested_dose, 0x00540016),
        (private_number, 0x00111001),
        (binary_zero, 0x00540081),
        (lossy, 0x00282110),
    ],
)
def test_another_value_is_another_content_and_is_named(
    original: Path,
    tmp_path: Path,
    decoder: IsolatedDecoder,
    change: Callable[[Dataset], None],
    tag: int,
) -> None:
    other = dcmread(original)
    change(other)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        other.file_meta.TransferSyntaxUID = syntax
        assert differing_tags(original, saved(other, tmp_path / "other"), decoder) == (tag,)


def test_a_short_stream_that_claims_to_be_huge_is_not_decoded(
    original: Path, tmp_path: Path, decoder: IsolatedDecoder
) -> None:
    other = in_syntax(original, RLELossless)
    other.Rows = other.Columns = 65535
    assert differing_tags(original, saved(other, tmp_path / "other"), decoder) == (PIXEL_DATA,)


@pytest.mark.parametrize("depth", [50, 5000])
def test_sequences_nested_deeper_than_any_stack_are_another_content(
    original: Path, tmp_path: Path, decoder: IsolatedDecoder, depth: int
) -> None:
    opened = b"\x08\0\x15\x11" + b"SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4
    closed = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    before, after = original.read_bytes().split(b"\x10\0\x20\0LO", 1)
    other = tmp_path / "other"
    other.write_bytes(before + opened * depth + closed * depth + b"\x10\0\x20\0LO" + after)
    assert 0x00081115 in differing_tags(original, other, decoder) or depth > 50
    assert differing_tags(original, other, decoder) != ()


def test_what_can_not_be_decoded_is_not_the_same_as_anything(
    original: Path, tmp_path: Path, decoder: IsolatedDecoder
) -> None:
    damaged = in_syntax(original, JPEG2000Lossless)
    damaged.PixelData = encapsulate([bytes(100)])
    damaged["PixelData"].is_undefined_length = True
    other = saved(damaged, tmp_path / "damaged")
    assert differing_tags(original, other, decoder) == (PIXEL_DATA,)
    (tmp_path / "empty").touch()
    assert differing_tags(original, tmp_path / "empty", decoder) == (PIXEL_DATA,)
