"""Whatever a data set holds, its file is the one that pydicom writes, or both refuse it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from io import BytesIO

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from app.dicom.header_values import tolerant
from app.dicom.results.encoding import file_bytes
from tests.dicom.results.sources import as_bytes

CHARACTER_SETS = (
    "", "ISO_IR 6", "ISO_IR 13", "ISO_IR 100", "ISO_IR 126", "ISO_IR 192", "GB18030", "ISO_IR 999",
    ["", "ISO 2022 IR 87"], ["ISO 2022 IR 13", "ISO 2022 IR 87"], ["", "ISO 2022 IR 149"],
    ["ISO 2022 IR 100", "ISO 2022 IR 126"],
)  # fmt: skip
LONG = st.sampled_from([0xFFFD, 0xFFFE, 0xFFFF, 0x10000]).map(lambda length: "x" * length)
TEXT = st.one_of(
    st.text("ab 1.^=~\\\x1b\n\r\t", max_size=9), st.text("aßöΩ山田ﾔﾏ김ж€\0", max_size=6), LONG
)
NUMBERS = {
    "US": (0, 2**16 - 1), "SS": (-(2**15), 2**15 - 1), "UL": (0, 2**32 - 1), "SL": (-(2**31), 2**31 - 1),
    "UV": (0, 2**64 - 1), "SV": (-(2**63), 2**63 - 1), "AT": (0, 2**32 - 1), "IS": (-(2**31), 2**31 - 1),
}  # fmt: skip
PLAIN = {
    "AS": st.sampled_from(["065Y", "65Y"]),
    "DA": st.sampled_from(["20260304", "19000101"]),
    "DT": st.sampled_from(["20260304093000.25+0100", "2026"]),
    "TM": st.sampled_from(["093000.25", "09"]),
    "DS": st.one_of(st.floats(-1e6, 1e6).map(lambda x: f"{x:.8g}"), st.sampled_from(["1.50", " 2", "-0"])),
    "UI": st.sampled_from(["1.2", "1.2.3", "2.25.123456789", "1.2.\0", "no"]),
    "FL": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FD": st.floats(allow_nan=False, allow_infinity=False),
    **{vr: st.integers(*ends) for vr, ends in NUMBERS.items()},
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), TEXT),
}
BYTES = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
ONE_VALUE = ("LT", "ST", "UT", "UR", *BYTES)

KNOWN = (
    0x00080018, 0x00080020, 0x00080060, 0x00081030, 0x00100010, 0x00104000, 0x00180050, 0x00200013,
    0x00200032, 0x00280010, 0x00280106, 0x00280120, 0x00283002, 0x0040A160,
    0x7FE00010,
)  # fmt: skip
PIXEL_DATA = 0x7FE00010
SEQUENCES = (0x00081115, 0x00082112, 0x0040A730, 0x52009230)

Build = Callable[[], Dataset]


def values(vr: str) -> st.SearchStrategy[object]:
    if vr in BYTES:
        return st.one_of(st.none(), st.binary(max_size=9), st.just(b"\0" * 0x10001))
    one = PLAIN[vr]
    several = st.just(None) if vr in ONE_VALUE else st.lists(one, max_size=3)
    return st.one_of(st.none(), st.just(""), one, several)


@st.composite
def elements(draw: st.DrawFn) -> DataElement:
    """A known attribute with its own VR, or any VR at a tag of a private kind."""
    tag = draw(st.sampled_from(KNOWN))
    vr = dictionary_VR(tag)
    if vr not in PLAIN and vr not in BYTES:  # hangs on others
        of_pixels = tag == PIXEL_DATA
        found = draw(st.sampled_from([b"\1", b"\1\2"] if of_pixels else [7, 65_535, -5, [1, 2, 3], None]))
        return DataElement(tag, vr, found, validation_mode=IGNORE)
    if draw(st.booleans()):
        vr = draw(st.sampled_from([*PLAIN, *BYTES]))
        tag = 0x00991000 + draw(st.integers(0, 20))
    return DataElement(tag, vr, draw(values(vr)), validation_mode=IGNORE)


@st.composite
def items(draw: st.DrawFn, depth: int) -> Dataset:
    dataset = Dataset()
    for element in draw(st.lists(elements(), max_size=5)):
        dataset.add(element)
    if draw(st.booleans()):
        dataset.SpecificCharacterSet = draw(st.sampled_from(CHARACTER_SETS))
    if depth:
        for tag in draw(st.lists(st.sampled_from(SEQUENCES), max_size=2, unique=True)):
            inside = Sequence(draw(st.lists(items(depth - 1), max_size=3)))
            dataset.add(DataElement(tag, "SQ", inside))
            dataset[tag].is_undefined_length = draw(st.integers(0, 9)) == 4
            for each in inside:
                each.is_undefined_length_sequence_item = draw(st.integers(0, 9)) == 4
    return dataset


@st.composite
def results(draw: st.DrawFn) -> Dataset:
    dataset = draw(items(2))
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if draw(st.integers(0, 9)):
        dataset.BitsAllocated = draw(st.sampled_from([8, 16]))
        dataset.PixelRepresentation = draw(st.sampled_from([0, 1]))
    if draw(st.integers(0, 19)) == 11:
        dataset.add(DataElement(draw(st.sampled_from([0x00020010, 0x00080000, 0x00100000])), "UL", 8))
    if draw(st.integers(0, 5)) == 0:
        dataset.preamble = b"MZ" * 64
    return dataset


def outcome(write: Callable[[Dataset], bytes], dataset: Dataset) -> bytes | None:
    """The file, or nothing where it is refused: of several faults another may be found first."""
    try:
        return write(deepcopy(dataset))
    except Exception:  # noqa: BLE001  # pydicom has no one kind for it, and whatever refuses is looked for
        return None


@settings(max_examples=300)
@given(st.data())
def test_any_data_set_is_written_as_pydicom_writes_it(data: st.DataObject) -> None:
    with tolerant(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = data.draw(results())
        expected = outcome(as_bytes, dataset)
        assert outcome(file_bytes, dataset) == expected
        if expected is not None and data.draw(st.booleans()):  # what was read, as it is, or in another
            read = dcmread(BytesIO(expected))
            other = deepcopy(dataset)
            other.ReferencedStudySequence = [read]
            for again in (read, other):
                assert outcome(file_bytes, again) == outcome(as_bytes, again)
