"""Padding, stated or not, is outside: the oracle is the mask that the test padded by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from app.dicom.reading.padding import outside
from app.domain.refusal import Reason, RefusalCode

SIZE = 32
ROWS, COLUMNS = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
CORNERS = np.hypot(ROWS, COLUMNS) > SIZE / 2 - 1
BODY = np.hypot(ROWS, COLUMNS) < SIZE / 4


def described(bits: int = 16, signed: bool = True, **more: object) -> Dataset:
    dataset = Dataset()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def sliced(padding: int, signed: bool = True, body: int = 1064, air: int = 24) -> NDArray[Any]:
    """A body in noise, with corners of 16 bits."""
    noise = np.random.default_rng(1).integers(0, 20, CORNERS.shape)
    values = np.where(CORNERS, padding % 0x10000, np.where(BODY, body, air) + noise)
    return values.astype(np.uint16).view(np.int16 if signed else np.uint16)


def found_in(dataset: Dataset, stored: NDArray[Any], is_ct: bool = True) -> NDArray[np.bool_]:
    found = outside(dataset, stored, is_ct)
    assert isinstance(found, np.ndarray)
    return found


@pytest.mark.parametrize(
    ("signed", "in_pixels", "stated"),
    [
        (True, -2000, -2000),
        (True, -2000, 63536),
        (False, 63536, 63536),
        (False, 63536, -2000),
        (True, 1024, 1024),
        (False, 0, 0),
        (True, 32767, 32767),
        (False, 65535, 65535),
        (False, 65535, -1),
    ],
)
@pytest.mark.parametrize("is_ct", [True, False], ids=["CT", "PET"])
def test_a_padding_value_is_found_whatever_its_sign_is_called(
    signed: bool, in_pixels: int, stated: int, is_ct: bool
) -> None:
    dataset = described(signed=signed, PixelPaddingValue=stated)
    assert np.array_equal(found_in(dataset, sliced(in_pixels, signed), is_ct), CORNERS)


@pytest.mark.parametrize(
    ("value", "limit"),
    [(-2000, -1500), (-1500, -2000), (63536, 64036), (64036, 63536), (-2000, 5), (63536, 5)],
)
@pytest.mark.parametrize("signed", [True, False])
def test_a_range_holds_both_its_ends_and_what_lies_between(value: int, limit: int, signed: bool) -> None:
    stored = sliced(-2000, signed)
    stored[0, :3] = np.array([-1500, -1700, -2000]).astype(stored.dtype)
    stored[CORNERS & (ROWS > 0)] = 5 if limit == 5 else np.array(-1600).astype(stored.dtype)
    dataset = described(signed=signed, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    assert np.array_equal(found_in(dataset, stored), CORNERS)


def test_frames_are_padded_each_in_its_own_plane() -> None:
    frames = np.stack([sliced(1024), sliced(24 + 20), sliced(1024)])
    found = found_in(described(PixelPaddingValue=1024), frames)
    assert np.array_equal(found, np.stack([CORNERS, np.zeros_like(CORNERS), CORNERS]))


@pytest.mark.parametrize("is_ct", [True, False], ids=["CT", "PET"])
def test_tissue_that_has_the_padding_value_stays_tissue(is_ct: bool) -> None:
    stored = sliced(24)
    assert (stored[BODY] == 1070).any()
    assert outside(described(PixelPaddingValue=1070), stored, is_ct) is None


def test_a_value_that_no_tissue_has_is_padding_wherever_it_lies() -> None:
    stored = sliced(24)
    stored[SIZE // 2, SIZE // 2] = -2000
    assert found_in(described(PixelPaddingValue=-2000), stored).sum() == 1


def test_negative_values_of_a_ct_called_unsigned_are_outside_when_below_air() -> None:
    assert np.array_equal(found_in(described(signed=False), sliced(-2000, signed=False)), CORNERS)


def test_a_ct_whose_air_would_be_negative_is_refused_by_its_pixel_representation() -> None:
    stored = sliced(-1000, signed=False, body=40, air=-1000)
    reason = outside(described(signed=False, RescaleIntercept=0), stored, True)
    assert isinstance(reason, Reason)
    assert (reason.code, reason.attribute) == (RefusalCode.VALUES_IMPLAUSIBLE, "PixelRepresentation")


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("more", [{}, {"PixelPaddingValue": -3024}], ids=["not stated", "stated"])
def test_what_lies_below_the_stored_bits_is_outside(signed: bool, more: dict[str, int]) -> None:
    dataset = described(bits=12, signed=signed, **more)
    assert np.array_equal(found_in(dataset, sliced(-3024, signed)), CORNERS)


def test_padding_cut_to_the_stored_bits_is_found() -> None:
    dataset = described(bits=12, signed=False, PixelPaddingValue=-2000)
    assert np.array_equal(found_in(dataset, sliced(63536 & 0xFFF, signed=False)), CORNERS)


def test_activity_above_the_stored_bits_is_refused() -> None:
    reason = outside(described(bits=12), sliced(0, body=5000), False)
    assert isinstance(reason, Reason)
    assert reason.attribute == "BitsStored"


def test_bits_of_an_overlay_are_no_values() -> None:
    dataset = described(bits=12, signed=False)
    dataset.add_new((0x6000, 0x0102), "US", 12)
    assert outside(dataset, sliced(24, signed=False, body=5000), False) is None


@pytest.mark.parametrize(("signed", "value"), [(True, -32768), (True, 32767), (False, 65535)])
def test_padding_of_a_pet_that_nothing_names_is_known_by_its_corners(signed: bool, value: int) -> None:
    assert np.array_equal(found_in(described(signed=signed), sliced(value, signed), False), CORNERS)


@pytest.mark.parametrize(
    ("bits", "signed", "value"), [(16, True, 32767), (16, False, 32767), (16, True, 30000), (12, False, 4095)]
)
def test_padding_of_a_ct_that_nothing_names_is_the_highest_in_all_corners(
    bits: int, signed: bool, value: int
) -> None:
    assert np.array_equal(found_in(described(bits, signed), sliced(value, signed)), CORNERS)


@pytest.mark.parametrize("value", [4095, 32767])
def test_metal_is_no_padding(value: int) -> None:
    stored = sliced(0)
    stored[SIZE // 2, SIZE // 2 : SIZE // 2 + 3] = value
    assert outside(described(), stored, True) is None


@pytest.mark.parametrize("value", [0, 30])
def test_ordinary_corners_are_no_padding(value: int) -> None:
    assert outside(described(), sliced(value), False) is None
    assert outside(described(), sliced(value), True) is None
