from __future__ import annotations

import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from app.node.records.header_scan import UnreadableHeaderError, find_uids
from tests.node.receive.images import STUDY, ct_slice, encoded

EXPECTED = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "SOPInstanceUID": f"{STUDY}.2.5",
    "StudyInstanceUID": STUDY,
    "SeriesInstanceUID": f"{STUDY}.2",
}


def stripped(found: dict[str, str]) -> dict[str, str]:
    return {keyword: value.rstrip("\0") for keyword, value in found.items()}


def nested(depth: int, undefined: bool) -> Dataset:
    image = ct_slice(5)
    inner = Dataset()
    inner.StudyInstanceUID = "9.9.9"
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedStudySequence = Sequence([inner])
        outer["ReferencedStudySequence"].is_undefined_length = undefined
        inner = outer
    image.update(inner)
    return image


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_uids_are_found_in_every_encoding_and_never_taken_from_a_sequence(
    syntax: str, undefined: bool
) -> None:
    assert stripped(find_uids(encoded(nested(3, undefined), syntax), syntax)) == EXPECTED


def test_a_data_set_that_is_implicit_although_announced_explicit_is_understood() -> None:
    data = encoded(ct_slice(5), ImplicitVRLittleEndian)
    assert stripped(find_uids(data, ExplicitVRLittleEndian)) == EXPECTED


def test_a_hundred_thousand_nested_sequences_cost_no_stack() -> None:
    opening = struct.pack("<HH2sHL", 8, 0x1110, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(UnreadableHeaderError):
        find_uids((opening + item) * 100_000, ExplicitVRLittleEndian)


def test_a_decompression_bomb_is_not_inflated() -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = packer.compress(b"\x09\x00\x01\x00UN\x00\x00\xff\xff\xff\x7f") + b"".join(
        packer.compress(bytes(2**20)) for _ in range(64)
    )
    with pytest.raises(UnreadableHeaderError):
        find_uids(bomb + packer.flush(), DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize("keyword", EXPECTED)
def test_each_missing_uid_is_named(keyword: str) -> None:
    image = ct_slice(5)
    data = encoded(image)
    delattr(image, keyword)
    if keyword.startswith("SOP"):
        # encoded() needs them for the file meta, so take the element out of the bytes
        tag = {"SOPClassUID": b"\x08\x00\x16\x00UI", "SOPInstanceUID": b"\x08\x00\x18\x00UI"}[keyword]
        at = data.index(tag)
        (length,) = struct.unpack_from("<H", data, at + 6)
        data = data[:at] + data[at + 8 + length :]
    else:
        data = encoded(image)
    with pytest.raises(UnreadableHeaderError, match=keyword):
        find_uids(data, ExplicitVRLittleEndian)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian]))
def test_any_bytes_are_either_understood_or_refused(noise: bytes, syntax: str) -> None:
    with suppress(UnreadableHeaderError):
        find_uids(noise, syntax)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_header_is_either_understood_or_refused(data: st.DataObject) -> None:
    bytes_ = bytearray(encoded(nested(2, undefined=True)))
    for _ in range(data.draw(st.integers(1, 8))):
        bytes_[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(bytes_)))
    with suppress(UnreadableHeaderError):
        find_uids(bytes(bytes_[:end]), ExplicitVRLittleEndian)
