"""Landmarks, reference organs and sites on a simulated patient, whose anatomy is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from app.domain.findings.findings import Findings, Organ, Site
from app.domain.findings.measurements import measure
from app.domain.findings.site import SiteRules
from app.domain.volume import FloatArray, Grid, LabelMap, Unit, Volume
from app.imaging.anatomy import landmarks as landmarks_room
from app.imaging.anatomy import reference_organs, sites
from app.imaging.anatomy.landmarks import BodyLandmarks, find_landmarks
from app.imaging.anatomy.sites import NO_BODY, with_sites
from app.imaging.registration.working_ct import working_ct
from app.phantom.acquisition import Acquisition
from app.phantom.centres import Centre
from tests.phantom.simulated import simulated

RIGHT = {"bone": Site.BONE, "node": Site.LYMPH_NODE, "prostate": Site.PROSTATE, "liver": Site.LIVER}


@pytest.fixture(scope="module")
def scan() -> Acquisition:
    return simulated(901, Centre.A).pet


@pytest.fixture(scope="module")
def landmarks(scan: Acquisition) -> BodyLandmarks:
    return find_landmarks(working_ct(scan.ct), scan.ct)


@pytest.fixture(scope="module")
def findings(scan: Acquisition) -> Findings:
    return placed(scan.truth, scan)


def placed(labels: LabelMap, scan: Acquisition) -> Findings:
    measured = measure(labels, scan.functional, None)
    return with_sites(measured, labels, (scan.functional, scan.ct), SiteRules())


def in_body(scan: Acquisition, point_mm: tuple[float, float, float]) -> FloatArray:
    """LPS to body mm."""
    back = np.linalg.inv(scan.pose)
    moved: FloatArray = back[:3, :3] @ np.array(point_mm) + back[:3, 3]
    return moved


def ball(scan: Acquisition, body_mm: tuple[float, float, float], radius_mm: float) -> LabelMap:
    """One round lesion at a place of the body."""
    grid = scan.functional.grid
    centre = scan.pose[:3, :3] @ np.array(body_mm) + scan.pose[:3, 3]
    low, step = grid.origin_mm - centre, grid.spacing_mm
    x, y, z = (low[i] + step[i] * np.arange(grid.shape[2 - i]) for i in range(3))
    apart = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    return LabelMap((apart <= radius_mm**2).astype(np.uint16), grid)


def cut(volume: Volume, from_z: int, to_z: int) -> Volume:
    """Slices ``from_z`` to ``to_z``."""
    affine = volume.grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * from_z
    array = volume.array[from_z:to_z]
    return Volume(array, Grid(array.shape, affine), volume.unit)


def test_the_midline_and_the_symphysis_are_where_they_are(
    scan: Acquisition, landmarks: BodyLandmarks
) -> None:
    symphysis = landmarks.symphysis
    assert symphysis is not None
    x, y, z = in_body(scan, (symphysis.midline_x_mm, symphysis.front_y_mm, symphysis.lower_z_mm))
    assert abs(x) < 6
    assert -75 < y < -45
    assert 195 < z < 235


def test_both_reference_organs_are_found_in_place_with_their_uptake(
    scan: Acquisition, findings: Findings
) -> None:
    liver, parotid = findings.reference(Organ.LIVER), findings.reference(Organ.PAROTID)
    assert liver is not None
    assert parotid is not None
    assert liver.suv_mean is not None
    assert parotid.suv_mean is not None
    assert 2.0 < liver.suv_mean < parotid.suv_mean < 40.0
    x, _, z = in_body(scan, liver.centres_mm[0])
    assert -140 < x < 0
    assert 480 < z < 680
    left, right = (in_body(scan, centre) for centre in parotid.centres_mm)
    assert 42 < left[0] < 75
    assert -75 < right[0] < -42


def test_lesions_are_described_against_the_organs(findings: Findings) -> None:
    liver = findings.reference(Organ.LIVER)
    assert liver is not None
    assert liver.suv_mean is not None
    for lesion in findings.lesions:
        assert lesion.to_liver == pytest.approx(lesion.suv_mean / liver.suv_mean)


def test_no_true_lesion_gets_a_wrong_site(scan: Acquisition, findings: Findings) -> None:
    assert findings.lesions
    for lesion, kind in zip(findings.lesions, scan.kinds, strict=True):
        assert lesion.site in (RIGHT[kind], Site.UNSPECIFIED), lesion.site_reason
        assert lesion.site_reason


@pytest.mark.parametrize(
    ("place", "site"),
    [
        ((0.0, 26.0, 440.0), Site.BONE),
        ((0.0, 6.0, 222.0), Site.PROSTATE),
        ((-70.0, 6.0, 590.0), Site.LIVER),
        ((75.0, -20.0, 440.0), Site.UNSPECIFIED),
        ((0.0, 0.0, 990.0), Site.UNSPECIFIED),
    ],
    ids=["vertebra", "prostate", "liver", "gut", "brain"],
)
def test_a_ball_is_placed_by_what_surrounds_it(
    scan: Acquisition, place: tuple[float, float, float], site: Site
) -> None:
    (lesion,) = placed(ball(scan, place, 8.0), scan).lesions
    assert lesion.site is site, lesion.site_reason


def test_a_body_turned_upside_down_in_the_file_gives_the_same_sites(
    scan: Acquisition, findings: Findings
) -> None:
    def flipped(array: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
        affine = grid.affine.copy()
        affine[:3, 3] = grid.to_lps(np.array([[0.0, 0.0, grid.shape[0] - 1.0]]))[0]
        affine[:3, 2] *= -1
        return array[::-1], Grid(grid.shape, affine)

    suv, ct = scan.functional, scan.ct
    turned = replace(
        scan,
        functional=Volume(*flipped(suv.array, suv.grid), suv.unit),
        ct=Volume(*flipped(ct.array, ct.grid), Unit.HU),
        truth=LabelMap(*flipped(scan.truth.array, scan.truth.grid)),
    )
    found = placed(turned.truth, turned)
    assert [lesion.site for lesion in found.lesions] == [lesion.site for lesion in findings.lesions]
    ours, theirs = (f.reference(Organ.LIVER) for f in (found, findings))
    assert ours is not None
    assert theirs is not None
    assert ours.suv_mean == pytest.approx(theirs.suv_mean, rel=0.02)


def test_nothing_is_guessed_when_only_the_abdomen_is_in_view(scan: Acquisition) -> None:
    depth = scan.ct.grid.shape[0]
    part = replace(scan, ct=cut(scan.ct, int(depth * 0.30), int(depth * 0.42)))
    found = placed(ball(scan, (0.0, 6.0, 222.0), 8.0), part)
    assert [reference.suv_mean for reference in found.references] == [None, None]
    assert found.lesions[0].site is Site.UNSPECIFIED
    assert found.lesions[0].to_liver is None


def test_a_ct_of_air_tells_nothing(scan: Acquisition) -> None:
    x, y, z = scan.ct.grid.origin_mm.tolist()
    grid = Grid.axis_aligned((20, 30, 30), (10.0, 10.0, 10.0), (x, y, z))
    air = Volume(np.full(grid.shape, -1000.0, np.float32), grid, Unit.HU)
    found = placed(ball(scan, (0.0, 6.0, 222.0), 8.0), replace(scan, ct=air))
    assert {reference.method for reference in found.references} == {NO_BODY}
    assert found.lesions[0].site is Site.UNSPECIFIED


def plain_part(mask: NDArray[np.bool_], seed: tuple[int, ...]) -> tuple[object, NDArray[np.bool_]]:
    parts, _ = ndimage.label(mask)
    return tuple(slice(0, n) for n in mask.shape), parts == parts[seed]


def plain_blur(
    image: NDArray[np.float32], sigma: float, box: tuple[slice, ...], truncate: float = 3.0
) -> NDArray[np.float32]:
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(image, sigma, truncate=truncate)[box]
    return blurred


PLAIN: dict[str, Callable[..., object]] = {
    "near": lambda mask, reach: ndimage.distance_transform_edt(~mask) <= reach,
    "deep": lambda mask, reach: ndimage.distance_transform_edt(mask) > reach,
    "depths": ndimage.distance_transform_edt,
    "box_of": lambda mask, margin=0: tuple(slice(0, n) for n in mask.shape) if mask.any() else None,
    "filled_slices": lambda mask: np.stack([ndimage.binary_fill_holes(plane) for plane in mask]),
    "part_at": plain_part,
    "smoothed": plain_blur,
}
"""What each quick way stands for, on the whole array."""


def test_the_quick_ways_find_what_their_definitions_find_on_the_whole_array(
    scan: Acquisition, findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = set()
    for room in (landmarks_room, reference_organs, sites):
        for name in PLAIN.keys() & vars(room).keys():
            monkeypatch.setattr(room, name, PLAIN[name])
            replaced.add(name)
    assert replaced == PLAIN.keys()
    assert placed(scan.truth, scan) == findings
    assert all(reference.suv_mean for reference in findings.references)


@pytest.mark.parametrize("seed", range(4))
def test_bone_is_closed_by_a_ball_and_filled_by_slices(seed: int) -> None:
    shape = (19, 24, 27)
    hu = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2) * 800.0
    dense = hu >= sites.BONE_HU
    grown = ndimage.distance_transform_edt(~dense) <= 2.5
    closed = ndimage.distance_transform_edt(np.pad(grown, 4, mode="edge"))[4:-4, 4:-4, 4:-4] > 2.5
    expected = np.stack([ndimage.binary_fill_holes(plane) for plane in closed | dense])
    assert dense[0].any() and not expected.all()
    assert np.array_equal(sites._filled_bone(hu.astype(np.float32)), expected)


@pytest.mark.parametrize("corner", [(0, 0, 0), (9, 8, 7)])
def test_a_liver_is_closed_at_the_arrays_end_as_in_its_middle(corner: tuple[int, int, int]) -> None:
    liver = np.zeros((40, 38, 36), dtype=bool)
    z, y, x = (slice(start, start + 24) for start in corner)
    liver[z, y, x] = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(24, 24, 24)), 1.5) > 0.05
    padded = np.pad(liver, 7)
    grown = ndimage.distance_transform_edt(~padded) * 4.0 <= reference_organs.LIVER_CLOSING_MM
    closed = ndimage.distance_transform_edt(grown) * 4.0 > reference_organs.LIVER_CLOSING_MM
    expected = (closed | padded)[7:-7, 7:-7, 7:-7]
    assert expected.sum() > liver.sum()
    assert np.array_equal(reference_organs._filled(liver, 4.0), expected)
