"""Simulated patients: repeatable, complete, and plausible to someone who knows the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from app.domain.volume import FloatArray, Unit, Volume
from app.phantom.acquisition import Acquisition
from app.phantom.anatomy.anatomy import REFERENCE_HEIGHT_M, build_anatomy
from app.phantom.anatomy.body import Arms
from app.phantom.anatomy.lesions import MAX_LESIONS, draw_lesions
from app.phantom.centres import CENTRES, Centre
from app.phantom.patient import RETAINED_SHARE_LIMIT, SimulatedPatient, share_in_view, simulate_patient

LIVER, THIGH, KIDNEY_SEARCH_MM = (-64.0, 6.0, 594.0), (-88.0, 10.0, 110.0), 75.0


def scans(patient: SimulatedPatient) -> tuple[Acquisition, Acquisition]:
    return patient.pet, patient.spect


def landmark(patient: SimulatedPatient, scan: Acquisition, body_mm: tuple[float, float, float]) -> FloatArray:
    """LPS of a point of the reference body."""
    scaled = np.array([*body_mm, 1.0])
    scaled[:3] *= patient.height_m / REFERENCE_HEIGHT_M
    placed: FloatArray = (scan.pose @ scaled)[:3]
    return placed


def around(volume: Volume, lps_mm: FloatArray, radius_mm: float) -> np.ndarray:
    """Voxels of a cube around a point."""
    x, y, z = np.rint(volume.grid.to_index(lps_mm)[0]).astype(int)
    dx, dy, dz = (max(1, round(radius_mm / s)) for s in volume.grid.spacing_mm)
    return volume.array[z - dz : z + dz + 1, y - dy : y + dy + 1, x - dx : x + dx + 1]


def test_the_same_number_gives_the_same_patient(patients: dict[Centre, SimulatedPatient]) -> None:
    first = patients[Centre.A]
    again = simulate_patient(first.number, Centre.A)
    assert (again.weight_kg, again.height_m) == (first.weight_kg, first.height_m)
    for one, other in zip(scans(first), scans(again), strict=True):
        assert np.array_equal(one.functional.array, other.functional.array)
        assert np.array_equal(one.ct.array, other.ct.array)
        assert np.array_equal(one.truth.array, other.truth.array)
        assert np.array_equal(one.benign, other.benign)
        assert np.array_equal(one.pose, other.pose)


def test_a_negative_number_is_no_patient() -> None:
    with pytest.raises(ValueError, match="numbered from 0"):
        simulate_patient(-1, Centre.A)


def test_volumes_are_in_suv_and_hounsfield_units(patient: SimulatedPatient) -> None:
    for scan in scans(patient):
        assert scan.functional.unit is Unit.SUVBW
        assert scan.functional.array.min() >= 0
        assert scan.ct.unit is Unit.HU
        assert scan.ct.array.min() >= -1024
        assert np.median(around(scan.ct, landmark(patient, scan, LIVER), 20)) == pytest.approx(58, abs=25)


def test_ct_is_finer_and_covers_the_functional_image(patient: SimulatedPatient) -> None:
    for scan in scans(patient):
        assert max(scan.ct.grid.spacing_mm[:2]) < scan.functional.grid.spacing_mm[0]
        outer, half = scan.ct.grid.corners_mm(), np.array(scan.ct.grid.spacing_mm) / 2
        inner = scan.functional.grid.corners_mm()
        assert (inner.min(axis=0) >= outer.min(axis=0) - half).all()
        assert (inner.max(axis=0) <= outer.max(axis=0) + half).all()


def test_organs_take_up_what_the_literature_says(patient: SimulatedPatient) -> None:
    pet = patient.pet.functional
    assert 2.0 < np.median(around(pet, landmark(patient, patient.pet, LIVER), 20)) < 11.0
    assert 0.25 < np.median(around(pet, landmark(patient, patient.pet, THIGH), 20)) < 1.4
    kidneys = around(pet, landmark(patient, patient.pet, (0, 50, 500)), KIDNEY_SEARCH_MM)
    assert 15.0 < np.percentile(kidneys, 99) < 110.0


def test_spect_shows_less_and_blurs_more_than_pet(patient: SimulatedPatient) -> None:
    liver = [np.median(around(s.functional, landmark(patient, s, LIVER), 20)) for s in scans(patient)]
    assert liver[1] < liver[0]


def test_no_more_activity_is_seen_than_was_injected(patient: SimulatedPatient) -> None:
    for scan in scans(patient):
        assert 0.05 < share_in_view(scan.functional, patient.weight_kg) <= RETAINED_SHARE_LIMIT + 1e-4


def test_weight_agrees_with_the_mass_that_ct_shows(patient: SimulatedPatient) -> None:
    assert 45 < patient.weight_kg < 150
    for scan in scans(patient):
        assert 0.7 < scan.body_mass_in_view_kg / patient.weight_kg < 0.95


def test_labels_are_dense_and_every_lesion_has_a_kind(patient: SimulatedPatient) -> None:
    for scan in scans(patient):
        found = np.unique(scan.truth.array)
        assert np.array_equal(found, np.arange(scan.truth.count + 1))
        assert len(scan.kinds) == scan.truth.count
        assert not (scan.benign & scan.truth.mask).any()


def test_true_lesions_stand_out_of_muscle(patient: SimulatedPatient) -> None:
    for scan in scans(patient):
        muscle = float(np.median(around(scan.functional, landmark(patient, scan, THIGH), 20)))
        peaks = [scan.functional.array[scan.truth.array == n].max() for n in range(1, scan.truth.count + 1)]
        assert min(peaks) > 1.5 * muscle


def test_known_transform_brings_the_kidneys_from_pet_to_spect(patient: SimulatedPatient) -> None:
    places = []
    for scan in scans(patient):
        near = landmark(patient, scan, (0, 50, 500))
        index = np.argwhere(scan.functional.array > 0.4 * np.percentile(scan.functional.array, 99.95))
        lps = scan.functional.grid.to_lps(index[:, ::-1].astype(np.float64))
        places.append(lps[np.abs(lps - near).max(axis=1) < KIDNEY_SEARCH_MM].mean(axis=0))
    pet_to_spect = patient.spect.pose @ np.linalg.inv(patient.pet.pose)
    carried = (pet_to_spect @ np.array([*places[0], 1.0]))[:3]
    assert np.linalg.norm(carried - places[1]) < 15.0


def test_poses_are_rigid(patient: SimulatedPatient) -> None:
    for scan in scans(patient):
        rotation = scan.pose[:3, :3]
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        angle_deg = np.degrees(np.arccos((np.trace(rotation) - 1) / 2))
        assert angle_deg < 6.0


def test_patients_have_none_to_sixty_lesions() -> None:
    rng = np.random.default_rng(0)
    anatomy = build_anatomy(rng)
    counts = [len(draw_lesions(rng, anatomy, median_mm=13.0)) for _ in range(150)]
    assert min(counts) == 0
    assert max(counts) <= MAX_LESIONS
    assert 5 <= np.median(counts) <= 14
    assert sum(count == 0 for count in counts) < 15


def test_the_number_decides_the_body() -> None:
    heights = {build_anatomy(np.random.default_rng(number)).height_m for number in range(3)}
    assert len(heights) == 3


def test_a_patient_with_disease_has_one_lesion_fit_for_therapy() -> None:
    rng = np.random.default_rng(1)
    anatomy = build_anatomy(rng)
    for _ in range(20):
        lesions = draw_lesions(rng, anatomy, median_mm=13.0)
        if lesions:
            assert lesions[0].on_pet
            assert lesions[0].on_spect
            assert lesions[0].uptake.pet >= 10.0


def test_centre_b_differs_as_another_scanner_does() -> None:
    a, b = CENTRES[Centre.A], CENTRES[Centre.B]
    assert b.spect.arms is Arms.DOWN
    assert b.pet.arms is Arms.RAISED
    assert 15.0 <= a.spect.resolution_fwhm_mm < b.spect.resolution_fwhm_mm <= 17.0
    assert b.spect.noise > a.spect.noise
    assert b.spect.slices_descend
    assert not a.spect.slices_descend
