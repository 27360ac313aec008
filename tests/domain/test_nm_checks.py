"""What an NM header says against itself."""

from __future__ import annotations

import pytest

from app.domain.quantities.nm_checks import check_detectors, check_energy, check_frames, check_spacing
from app.domain.quantities.plausibility import retention_warnings
from app.domain.radionuclides import GA68, LU177, RADIONUCLIDES
from app.domain.refusal import Reason, RefusalCode

H = 3600.0


@pytest.mark.parametrize("spacing", [2.4, 2.88, 9.6])
def test_a_spacing_far_from_a_thickness_that_is_the_pixels_is_refused(spacing: float) -> None:
    reason = check_spacing(spacing, 4.8, 4.8)
    assert isinstance(reason, Reason)
    assert (reason.code, reason.attribute) == (
        RefusalCode.GEOMETRY_INCONSISTENT, "SpacingBetweenSlices, SliceThickness",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spacing", "thickness", "pixel"), [(5.28, 4.8, 4.8), (4.8, 2.4, 4.8), (2.4, 4.8, 3.5)]
)
def test_other_contradictions_of_spacing_and_thickness_give_a_warning(
    spacing: float, thickness: float, pixel: float
) -> None:
    told = check_spacing(spacing, thickness, pixel)
    assert not isinstance(told, Reason)
    assert [item.line for item in told if item.line.startswith("warning:")]


@pytest.mark.parametrize("thickness", [4.8, 4.79523, None, 0.0])
def test_contiguous_slices_are_let_alone(thickness: float | None) -> None:
    assert check_spacing(4.8, thickness, 4.8) == ()
    assert check_spacing(4.8, thickness, 2.4) == ()


def test_fewer_frames_than_announced_are_refused() -> None:
    reason = check_frames(180, 230)
    assert reason is not None
    assert (reason.code, reason.found) == (RefusalCode.INCOMPLETE_SERIES, "180 frames")
    assert check_frames(230, 230) is None
    assert check_frames(230, None) is None


def test_detectors_that_place_the_image_twice_are_refused() -> None:
    here, there = (-261.6, -192.4, -409.6), (-211.6, -192.4, -409.6)
    axial, turned = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert check_detectors([here, here], [axial, axial]) is None
    assert check_detectors([here], [axial]) is None
    assert check_detectors([], []) is None
    for reason in (check_detectors([here, there], [axial]), check_detectors([here], [axial, turned])):
        assert reason is not None
        assert reason.attribute == "DetectorInformationSequence"


@pytest.mark.parametrize("windows", [[(126.0, 154.0)], [(328.0, 400.0)], [(126.0, 154.0), (160.0, 180.0)]])
def test_windows_of_another_radionuclide_are_refused(windows: list[tuple[float, float]]) -> None:
    reason = check_energy(windows, LU177)
    assert reason is not None
    assert reason.attribute == "EnergyWindowInformationSequence"


@pytest.mark.parametrize(
    "windows", [[], [(187.2, 228.8)], [(101.7, 124.3)], [(228.8, 187.2)], [(166.0, 187.0), (187.0, 229.0)]]
)
def test_windows_over_a_photopeak_with_scatter_or_none_are_let_alone(
    windows: list[tuple[float, float]],
) -> None:
    assert check_energy(windows, LU177) is None
    assert check_energy([(126.0, 154.0)], GA68) is None
    assert check_energy([(126.0, 154.0)], None) is None


def test_only_what_a_gamma_camera_measures_has_photopeaks_here() -> None:
    assert [nuclide.key for nuclide in RADIONUCLIDES if nuclide.photopeaks_kev] == ["177Lu"]


@pytest.mark.parametrize(
    ("share", "length_mm", "uptake_h", "is_told"),
    [
        (0.2, 1104.0, 24.0, False), (0.04, 1104.0, 24.0, True), (0.04, 390.0, 24.0, False),
        (0.04, 1104.0, 100.0, False), (0.9, 400.0, 24.0, True), (0.9, 400.0, 4.0, False),
        (0.75, 400.0, 24.0, False), (0.75, 400.0, 96.0, True),
    ],
)  # fmt: skip
def test_the_share_of_a_therapy_that_is_shown_is_judged_by_time_and_length(
    share: float, length_mm: float, uptake_h: float, is_told: bool
) -> None:
    told = retention_warnings(share, length_mm, LU177, uptake_h * H)
    assert bool(told) is is_told
    assert all(item.line.startswith("warning:") for item in told)
    assert retention_warnings(share, length_mm, GA68, uptake_h * H) == ()
    assert retention_warnings(share, length_mm, LU177, None) == ()
