"""How many images a series says it has."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset

from app.dicom.reading.studies import read_study
from tests.dicom.reading import tiny


def expected(folder: Path, write: object, **changes: object) -> int | None:
    def change(dataset: Dataset, index: int) -> None:
        for keyword, value in changes.items():
            setattr(dataset, keyword, value(index) if callable(value) else value)

    write(folder, tiny.Scan(tiny.ramp(), change=change))  # type: ignore[operator]
    return read_study(folder).series[0].expected_instance_count


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"NumberOfSlices": 267}, 267),
        ({}, None),
        ({"NumberOfSlices": 0}, None),
        # GE numbers bed positions with it
        ({"NumberOfSlices": 267, "NumberOfTimeSlices": lambda index: index + 1}, 267),
        ({"NumberOfSlices": 20, "SeriesType": ["DYNAMIC", "IMAGE"], "NumberOfTimeSlices": 5}, 100),
        ({"NumberOfSlices": 20, "SeriesType": ["DYNAMIC", "IMAGE"]}, None),
        ({"NumberOfSlices": 20, "SeriesType": ["GATED", "IMAGE"]}, None),
        ({"NumberOfSlices": lambda index: 6 + index}, None),
    ],
)
def test_a_pet_announces_its_slices(tmp_path: Path, changes: dict[str, object], count: int | None) -> None:
    assert expected(tmp_path, tiny.write_pet, **changes) == count


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"ImagesInAcquisition": 300}, 300),
        ({"ImagesInAcquisition": 300, "AcquisitionNumber": lambda index: index % 2}, None),
        ({}, None),
    ],
)
def test_a_ct_of_one_acquisition_announces_its_images(
    tmp_path: Path, changes: dict[str, object], count: int | None
) -> None:
    assert expected(tmp_path, tiny.write_ct, **changes) == count


def test_a_spect_is_one_image(tmp_path: Path) -> None:
    tiny.write_nm(tmp_path, tiny.Scan(tiny.ramp()), 5.0)
    assert read_study(tmp_path).series[0].expected_instance_count == 1
