"""Slices of simulated patients, PET and SPECT, against the limits for a jump of scale."""

from __future__ import annotations

import numpy as np
import pytest

from app.domain.refusal import Reason
from app.domain.stack.slice_consistency import check_scales, scale_jumps
from app.domain.volume import FloatArray, Volume
from app.phantom.patient import SimulatedPatient

USUAL, USUAL_AT_END = 1.10, 1.30
"""What an undamaged patient stays under: docs/reference/quantities.md."""


def slopes(volume: Volume) -> FloatArray:
    found: FloatArray = np.linspace(1.0, 2.0, len(volume.array))
    return found


@pytest.fixture(params=["pet", "spect"])
def volume(patient: SimulatedPatient, request: pytest.FixtureRequest) -> Volume:
    found: Volume = getattr(patient, request.param).functional
    return found


def test_slices_of_a_patient_are_far_below_the_limits(volume: Volume) -> None:
    assert check_scales(volume, slopes(volume)) == ()
    for jump in scale_jumps(volume):
        assert jump.size < (USUAL_AT_END if jump.is_end else USUAL), jump


@pytest.mark.parametrize("part", [np.s_[40:140], np.s_[100:130], np.s_[-60:]])
def test_crops_of_a_patient_are_not_refused(volume: Volume, part: slice) -> None:
    crop = volume.array[part, 10:-10, 20:-20]
    grid = type(volume.grid)(crop.shape, volume.grid.affine)
    assert check_scales(Volume(crop, grid, volume.unit), np.linspace(1.0, 2.0, len(crop))) == ()


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_a_wrong_slope_is_refused(volume: Volume, factor: float, length: int) -> None:
    for first in np.linspace(3, len(volume.array) - length - 3, 3).astype(int):
        array = volume.array.copy()
        array[first : first + length] *= np.float32(factor)
        found = check_scales(Volume(array, volume.grid, volume.unit), slopes(volume))
        assert isinstance(found, Reason), (first, found)
