"""Full size: matrices of a clinic's scans, true lesions as large as ever, and objects of their own.

Parts of a scan stand for the whole, which takes a minute.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import erf

from app.domain.volume import Grid, Unit, Volume
from app.phantom import acquisition
from app.phantom.acquisition import Acquisition, acquire
from app.phantom.anatomy.anatomy import VERTEX_MM, build_anatomy
from app.phantom.anatomy.lesions import LesionKind, SimulatedLesion
from app.phantom.anatomy.shapes import Shape, Uptake
from app.phantom.centres import CENTRES, SIGMA_PER_FWHM, Centre, Modality, ScannerProfile, Size, profile_of
from app.phantom.dicom.header import Examination
from app.phantom.dicom.writer import ct_slices, pet_slices, spect_instance
from app.phantom.patient import SimulatedPatient, draw_protocols

FULL = {Modality.PET: ((403, 256, 256), 2.73, (367, 511, 511), 1.37),
        Modality.SPECT: ((250, 128, 128), 4.42, (369, 512, 512), 0.98)}  # fmt: skip
"""Matrix (z, y, x) and voxel of the functional image, then of its CT."""

CT_SLICE_MM = 3.0
RADIUS_MM, THRESHOLD = 20.0, 0.42


def scanner_of(centre: Centre, modality: Modality, size: Size) -> ScannerProfile:
    profile = profile_of(centre, size)
    return profile.pet if modality is Modality.PET else profile.spect


def grids(scanner: ScannerProfile) -> tuple[Grid, Grid]:
    """Of the functional image and of its CT."""
    functional = acquisition._grid(scanner, (scanner.voxel_mm,) * 3, cover=False)
    return functional, acquisition._grid(scanner, scanner.ct_spacing_mm, cover=True)


@pytest.mark.parametrize("modality", Modality)
def test_matrices_are_those_of_a_clinic(centre: Centre, modality: Modality) -> None:
    shape, voxel_mm, ct_shape, ct_mm = FULL[modality]
    functional, ct = grids(scanner_of(centre, modality, Size.FULL))
    assert (functional.shape, ct.shape) == (shape, ct_shape)
    assert functional.spacing_mm == pytest.approx((voxel_mm,) * 3)
    assert ct.spacing_mm == pytest.approx((ct_mm, ct_mm, CT_SLICE_MM))
    middles = [grid.corners_mm().mean(axis=0) for grid in (functional, ct)]
    assert np.allclose(*middles)
    assert np.allclose(middles[0], scanner_of(centre, modality, Size.NORMAL).fov_centre_mm)


def test_the_normal_size_is_the_centres_own(centre: Centre) -> None:
    assert profile_of(centre, Size.NORMAL) is CENTRES[centre]


def analytic_ml(fwhm_mm: float) -> float:
    """Volume above the threshold of a ball's own maximum after a Gaussian blur."""
    sigma = fwhm_mm * SIGMA_PER_FWHM

    def profile(r: float) -> float:
        low, high = (RADIUS_MM - r) / sigma, (RADIUS_MM + r) / sigma
        tails = (np.exp(-(low**2) / 2) - np.exp(-(high**2) / 2)) * sigma / (r * np.sqrt(2 * np.pi))
        return float((erf(low / np.sqrt(2)) + erf(high / np.sqrt(2))) / 2 - tails)

    peak = profile(1e-3)
    radius = brentq(lambda r: profile(r) - THRESHOLD * peak, 1e-3, 2 * RADIUS_MM)
    return 4 / 3 * np.pi * radius**3 / 1000


@pytest.mark.parametrize("size", Size)
@pytest.mark.parametrize("modality", Modality)
def test_a_true_lesion_is_as_large_as_geometry_says(
    monkeypatch: pytest.MonkeyPatch, centre: Centre, modality: Modality, size: Size
) -> None:
    """A ball in the head, in a field of view that holds little more."""
    monkeypatch.setattr(acquisition, "READER_THRESHOLDS", (THRESHOLD, THRESHOLD))
    monkeypatch.setattr(acquisition, "_smooth_noise", lambda _rng, shape, _sigma: np.zeros(shape, np.float32))
    scanner = replace(scanner_of(centre, modality, size), fov_mm=(130.0, 130.0, 180.0))
    anatomy = build_anatomy(np.random.default_rng(1))
    ball = Shape((0.0, 14.0, VERTEX_MM * anatomy.scale + 22 - 90), (RADIUS_MM,) * 3, hu=45.0)
    lesion = SimulatedLesion(LesionKind.NODE, 2 * RADIUS_MM, (ball,), Uptake(40.0, 40.0), True, True)
    scan = acquire(np.random.default_rng(2), anatomy, [lesion], scanner)
    found_ml = float(scan.truth.mask.sum()) * scan.truth.grid.voxel_ml
    assert found_ml == pytest.approx(analytic_ml(scanner.resolution_fwhm_mm), rel=0.05)


def examinations(patient: SimulatedPatient) -> list[Examination]:
    return [
        Examination(patient, modality, protocol) for modality, protocol in draw_protocols(patient).items()
    ]


def emptied(scan: Acquisition, modality: Modality, centre: Centre) -> Acquisition:
    """The lowest three slices of a full scan, of air."""
    functional, ct = (
        Volume(np.zeros((3, *grid.shape[1:]), np.float32), Grid((3, *grid.shape[1:]), grid.affine), unit)
        for grid, unit in zip(
            grids(scanner_of(centre, modality, Size.FULL)), (Unit.SUVBW, Unit.HU), strict=True
        )
    )
    return replace(scan, functional=functional, ct=ct)


def test_headers_say_the_size_and_no_uid_is_that_of_the_normal_size(
    patients: dict[Centre, SimulatedPatient], centre: Centre
) -> None:
    normal = patients[centre]
    pet, spect = (
        emptied(scan, modality, centre)
        for scan, modality in ((normal.pet, Modality.PET), (normal.spect, Modality.SPECT))
    )
    full = replace(normal, size=Size.FULL, pet=pet, spect=spect)
    for exam, other in zip(examinations(full), examinations(normal), strict=True):
        shape, voxel_mm, ct_shape, ct_mm = FULL[exam.modality]
        header = pet_slices(exam)[0] if exam.modality is Modality.PET else spect_instance(exam)
        ct = ct_slices(exam)[0]
        assert (header.Rows, header.Columns, ct.Rows, ct.Columns) == (*shape[1:], *ct_shape[1:])
        assert header.PixelSpacing == [voxel_mm, voxel_mm]
        assert (ct.PixelSpacing, ct.SliceThickness) == ([ct_mm, ct_mm], CT_SLICE_MM)
        assert header.SliceThickness == voxel_mm
        assert header.PatientID == ct.PatientID == f"SIM-{normal.name}F"
        for what in ("study", "frame of reference", "ct series"):
            assert exam.uid(what) != other.uid(what)
