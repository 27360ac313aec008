"""Which attributes number the slices."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pydicom import Dataset

from app.dicom.reading.series_header import BED_TIME, slice_numbers


def headers(**values: Sequence[float]) -> list[Dataset]:
    made = [Dataset() for _ in next(iter(values.values()))]
    for keyword, column in values.items():
        for dataset, number in zip(made, column, strict=True):
            setattr(dataset, keyword, number)
    return made


@pytest.mark.parametrize("keyword", ["InstanceNumber", "ImageIndex", "SliceLocation"])
def test_each_of_three_attributes_numbers_slices(keyword: str) -> None:
    found = slice_numbers(headers(**{keyword: [4, 2, 3]}))
    assert found[keyword] == (4.0, 2.0, 3.0)
    others = {name for name, numbers in found.items() if None not in numbers}
    assert others == {keyword}


def test_bed_times_number_slices_where_two_have_each_others() -> None:
    whole = [0, 0, 0, 0, 150000, 150000, 150000, 150000]
    assert BED_TIME not in slice_numbers(headers(FrameReferenceTime=whole))
    whole[1], whole[6] = whole[6], whole[1]
    assert slice_numbers(headers(FrameReferenceTime=whole))[BED_TIME] == [0, 6, 2, 3, 4, 5, 1, 7]
