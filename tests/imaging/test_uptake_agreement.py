"""Uptake as a witness of where lesions lie, on images made of spheres."""

from __future__ import annotations

import numpy as np
import pytest

from app.domain.volume import FloatArray, Grid, LabelMap, Unit, Volume
from app.imaging.registration import uptake_agreement
from app.imaging.registration.uptake_agreement import UptakeAgreement, measure_uptake_agreement

GRID = Grid.axis_aligned((60, 40, 50), (5.0, 5.0, 5.0), (0.0, 0.0, 0.0))
ORGANS = (
    ((80, 90, 150), 20, 30.0),
    ((170, 90, 155), 20, 28.0),
    ((70, 100, 220), 35, 5.0),
    ((125, 60, 40), 20, 20.0),
)
LESIONS = ((125, 110, 90), (125, 110, 190), (150, 80, 60), (95, 120, 70))


def sphere(centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    z, y, x = np.mgrid[: GRID.shape[0], : GRID.shape[1], : GRID.shape[2]] * 5.0
    cx, cy, cz = centre_mm
    return (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 <= radius_mm**2


def image(lesion_suv: float, scale: float = 1.0) -> Volume:
    suv = np.full(GRID.shape, 0.6 * scale)
    for centre, radius, value in ORGANS:
        suv[sphere(centre, radius)] = value * scale
    for centre in LESIONS:
        suv[sphere(centre, 10)] = lesion_suv * scale
    return Volume(suv, GRID, Unit.SUVBW)


def lesions(off_mm: tuple[float, float, float] = (0, 0, 0)) -> LabelMap:
    array = np.zeros(GRID.shape, np.uint16)
    for number, centre in enumerate(LESIONS, start=1):
        array[sphere((centre[0] + off_mm[0], centre[1] + off_mm[1], centre[2] + off_mm[2]), 10)] = number
    return LabelMap(array, GRID)


def shift(by_mm: tuple[float, float, float]) -> FloatArray:
    motion = np.eye(4)
    motion[:3, 3] = by_mm
    return motion


def agreement(
    pet_lesions: LabelMap, placed: LabelMap, spect: Volume, motion: FloatArray | None = None
) -> UptakeAgreement:
    return measure_uptake_agreement(
        spect, image(12.0), pet_lesions, placed, shift((0, 0, 0)) if motion is None else motion
    )


def test_lesions_at_their_place_agree_whatever_the_scale_of_the_spect() -> None:
    for scale in (0.1, 1.0, 4.0):
        found = agreement(lesions(), lesions(), image(5.0, scale))
        assert found.shift_mm == 0
        assert found.lesions_on_pet == pytest.approx(1.0)
        assert found.lesions_on_spect == pytest.approx(1.0)


def test_lesions_off_their_uptake_are_seen_on_pet_and_spect() -> None:
    off = lesions((0, 0, 40))
    found = agreement(off, off, image(5.0))
    assert found.shift_mm == 0
    assert found.lesions_on_pet < 0.5
    assert found.lesions_on_spect < 0.5


def test_lesions_on_another_grid_than_the_pet_are_judged_where_they_lie() -> None:
    off = LabelMap(lesions().array, Grid(GRID.shape, shift((0, 0, 40)) @ GRID.affine))
    assert agreement(off, lesions(), image(5.0)).lesions_on_pet < 0.5


@pytest.mark.parametrize("by_mm", [(40, 0, 0), (0, 0, -40), (0, 32, 0)])
def test_organs_show_how_far_a_pet_lies_beside_its_ct(by_mm: tuple[float, float, float]) -> None:
    found = agreement(lesions(), lesions(), image(5.0), shift(by_mm))
    assert found.shift_mm == pytest.approx(np.linalg.norm(by_mm), abs=9)


def test_lesions_that_have_gone_on_the_spect_lie_nowhere_better_than_in_organs() -> None:
    found = agreement(lesions(), lesions(), image(0.6))
    assert found.lesions_on_spect < 0.5
    assert found.lesions_on_pet == pytest.approx(1.0)


def test_no_lesion_and_no_uptake_agree_with_nothing() -> None:
    nothing = LabelMap(np.zeros(GRID.shape, np.uint16), GRID)
    cold = Volume(np.zeros(GRID.shape), GRID, Unit.SUVBW)
    found = measure_uptake_agreement(cold, cold, nothing, nothing, np.eye(4))
    assert found == UptakeAgreement(float("inf"), 0.0, 0.0)


@pytest.mark.parametrize("off_mm", [(0.0, 0.0, 0.0), (20.0, 0.0, -10.0)])
def test_looking_around_the_lesions_and_the_patient_finds_what_looking_everywhere_does(
    off_mm: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = agreement(lesions(off_mm), lesions(), image(5.0), shift(off_mm))
    monkeypatch.setattr(
        uptake_agreement, "box_of", lambda mask, margin: tuple(slice(0, n) for n in mask.shape)
    )
    everywhere = agreement(lesions(off_mm), lesions(), image(5.0), shift(off_mm))
    assert found.shift_mm == everywhere.shift_mm
    assert found.lesions_on_pet == pytest.approx(everywhere.lesions_on_pet, abs=1e-5)
    assert found.lesions_on_spect == pytest.approx(everywhere.lesions_on_spect, abs=1e-5)
