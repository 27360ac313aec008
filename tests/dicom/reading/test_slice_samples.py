"""Real slices: none is refused or warned of as it is; a wrong slope or an exchanged position is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.dicom.reading.loading import read_ct, read_functional
from app.dicom.reading.pixels import SliceStack, read_stack, rescale_factors
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.series_header import slice_numbers
from app.dicom.reading.studies import read_study
from app.domain.refusal import Reason
from app.domain.stack.slice_consistency import check_scales
from app.domain.stack.slice_order import check_order
from app.domain.study import Series
from app.domain.volume import AIR_HU, Grid, Unit, Volume

PET = ("pet-ge-sts001/pet", "pet-ge-sts001/pet-suv-cropped", "spect-lu177/SCAN_001/image")
OBJECTS = tuple(f"suv-dro/DRO_{n}/PT" for n in ("0_0", "1_0", "2_0", "2_2", "2_4", "3_0", "3_2", "4_0"))


def series_of(folder: Path) -> Series:
    study = read_study(path for path in folder.rglob("*.dcm"))
    return next(item for item in study.series if item.modality in ("PT", "CT"))


@pytest.fixture(scope="module", params=PET)
def pet(samples: Path, request: pytest.FixtureRequest) -> tuple[SliceStack, NDArray[np.float64], Volume]:
    series = series_of(samples / request.param)
    slices = read_stack(series)
    slopes, _ = rescale_factors(series, slices)
    array = (slices.stored * slopes[:, None, None]).astype(np.float32)
    return slices, slopes, Volume(array, slices.stack.grid, Unit.BQML)


@pytest.mark.parametrize("name", (*PET, *OBJECTS))
def test_the_slices_of_a_sample_give_no_warning(samples: Path, name: str) -> None:
    told = [decision.line for decision in read_functional(series_of(samples / name), LoadPolicy()).decisions]
    assert not [text for text in told if "(along the normal)" in text]


def test_the_slices_of_the_real_ct_are_in_order(samples: Path) -> None:
    assert read_ct(series_of(samples / "pet-ge-sts001" / "ct-cropped")).array.shape[0] == 59


@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0, 3.0, 10.0])
@pytest.mark.parametrize("length", [1, 2, 11])
def test_a_wrong_slope_anywhere_within_is_refused(
    pet: tuple[SliceStack, NDArray[np.float64], Volume], factor: float, length: int
) -> None:
    _, slopes, volume = pet
    for first in np.linspace(2, len(slopes) - length - 2, 3).astype(int):
        wrong, array = slopes.copy(), volume.array.copy()
        wrong[first : first + length] *= factor
        array[first : first + length] *= np.float32(factor)
        reason = check_scales(Volume(array, volume.grid, volume.unit), wrong)
        assert isinstance(reason, Reason), (first, reason)
        assert reason.attribute == "RescaleSlope"


@pytest.fixture(scope="module")
def whole_body(samples: Path) -> Volume:
    series = series_of(samples / "pet-ge-sts001/pet")
    slices = read_stack(series)
    slopes, _ = rescale_factors(series, slices)
    return Volume((slices.stored * slopes[:, None, None]).astype(np.float32), slices.stack.grid, Unit.BQML)


@pytest.mark.parametrize(("thickness", "first"), [(1, 30), (1, 60), (1, 90), (1, 150), (1, 180), (2, 30)])
def test_an_organs_edge_in_a_small_crop_is_no_jump(whole_body: Volume, thickness: int, first: int) -> None:
    """12 cm wide: the median goes up and down by 1.2 to 1.43 times, as the parts of a slice disagree."""
    array = whole_body.array[first : first + 60 : thickness, 26:52, 21:47]
    x, y, z = whole_body.grid.spacing_mm
    part = Volume(array, Grid.axis_aligned(array.shape, (x, y, z * thickness), (0, 0, 0)), Unit.BQML)
    assert check_scales(part, np.linspace(1.0, 2.0, len(array))) == ()
    if first in (60, 90, 180):  # elsewhere too little of a body is in the crop to be judged at that slice
        wrong = array.copy()
        wrong[9:] *= np.float32(2.0)
        assert isinstance(check_scales(Volume(wrong, part.grid, part.unit), np.ones(len(array))), Reason)


@pytest.mark.parametrize(("factor", "is_refused"), [(0.56, True), (0.8, False), (1.3, False), (2.0, True)])
@pytest.mark.parametrize("length", [1, 10])
def test_a_wrong_slope_in_a_whole_body_is_told(
    whole_body: Volume, factor: float, is_refused: bool, length: int
) -> None:
    array = whole_body.array[80:120].copy()
    array[20 : 20 + length] *= np.float32(factor)
    part = Volume(array, type(whole_body.grid)(array.shape, whole_body.grid.affine), Unit.BQML)
    told = check_scales(part, np.linspace(1.0, 2.0, len(array)))
    assert told
    assert isinstance(told, Reason) is is_refused


@pytest.mark.parametrize("apart", [2, 5, 20])
def test_exchanged_positions_anywhere_are_refused(
    pet: tuple[SliceStack, NDArray[np.float64], Volume], apart: int
) -> None:
    slices, _, volume = pet
    for first in np.linspace(0, len(volume.array) - apart - 1, 4).astype(int):
        order = np.arange(len(volume.array))
        order[[first, first + apart]] = order[[first + apart, first]]
        numbers = slice_numbers([slices.headers[k] for k in order])
        assert isinstance(check_order(volume.array[order], numbers), Reason), first


def test_neighbours_that_are_misnumbered_anywhere_refuse_no_position(
    pet: tuple[SliceStack, NDArray[np.float64], Volume],
) -> None:
    """At a bed joint a slice may be more like the next but one: 0.93 of the difference there."""
    array = pet[2].array
    for first in range(len(array) - 1):
        begin = max(0, first - 3)
        part = array[begin : first + 5]
        numbers = np.arange(len(part))
        numbers[[first - begin, first - begin + 1]] = numbers[[first - begin + 1, first - begin]]
        told = check_order(part, {"InstanceNumber": numbers.tolist()})
        assert not isinstance(told, Reason), (first, told)


def test_exchanged_positions_of_a_ct_are_refused(samples: Path) -> None:
    series = series_of(samples / "pet-ge-sts001" / "ct-cropped")
    headers, array = read_stack(series).headers, read_ct(series).array
    for one, two in ((3, 4), (10, 30), (0, 58)):
        order = np.arange(len(array))
        order[[one, two]] = order[[two, one]]
        numbers = slice_numbers([headers[k] for k in order])
        assert isinstance(check_order(array[order], numbers, AIR_HU), Reason)
