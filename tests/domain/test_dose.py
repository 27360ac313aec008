"""The single-time-point dose: off by default, 177Lu alone, within its hours."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.analysis import Loaded
from app.domain.dose import (
    EFFECTIVE_HALF_LIVES_H,
    dose_range,
    single_time_point_dose_gy,
    with_activity_at_scan_start,
    with_dose,
)
from app.domain.findings.findings import DoseEstimate, Findings
from app.domain.findings.measurements import measure
from app.domain.findings.policy import QuantifyPolicy
from app.domain.radionuclides import LU177
from tests.dicom.results import sources

ON = QuantifyPolicy(single_time_point_dose=True)
GIVEN = datetime(2026, 3, 1, 9, 0)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Findings, Loaded]:
    quantified = sources.spect(tmp_path_factory.mktemp("spect"))
    loaded = quantified.segmented.aligned.loaded
    return measure(quantified.segmented.labels, loaded.uptake, loaded.activity), loaded


def scanned_after(loaded: Loaded, hours: float, reference_h: float | None = None) -> Loaded:
    """The scan at ``hours``; its activities are decay corrected to ``reference_h``, or to the scan."""
    at = GIVEN + timedelta(hours=hours)
    functional = replace(loaded.selection.functional, acquired_at=at)
    reference = at if reference_h is None else GIVEN + timedelta(hours=reference_h)
    quantification = replace(loaded.quantification, administered_at=GIVEN, reference_datetime=reference)
    selection = replace(loaded.selection, functional=functional)
    return replace(loaded, selection=selection, quantification=quantification)


def test_a_reconstruction_a_day_later_changes_no_dose(scan: tuple[Findings, Loaded]) -> None:
    """Series Time is the workstation's: taken for the scan's it made 12.0 Gy 16.1 Gy."""
    findings, loaded = scan
    at_72 = scanned_after(loaded, 72)
    functional = replace(
        at_72.selection.functional, series_datetime=GIVEN + timedelta(hours=95), acquired_at=None
    )
    for acquired_at in (GIVEN + timedelta(hours=72), None):
        selection = replace(at_72.selection, functional=replace(functional, acquired_at=acquired_at))
        processed = with_dose(findings, replace(at_72, selection=selection), ON)
        assert processed == with_dose(findings, at_72, ON)


@pytest.mark.parametrize("reference_h", [71.8, 72.0, 72.5])
def test_dose_and_activity_count_from_one_start(scan: tuple[Findings, Loaded], reference_h: float) -> None:
    findings, loaded = scan
    timed = scanned_after(loaded, 72, reference_h)
    dose = with_dose(findings, timed, ON).dose
    instant = with_activity_at_scan_start(findings, timed).activity_instant
    assert dose is not None
    assert dose.hours_after_administration is not None
    assert instant is not None
    assert instant.at == GIVEN + timedelta(hours=dose.hours_after_administration)


def test_an_injection_is_no_time_of_a_scan(scan: tuple[Findings, Loaded]) -> None:
    findings, loaded = scan
    corrected = scanned_after(loaded, 72, reference_h=0.0)
    functional = replace(corrected.selection.functional, acquired_at=None)
    undated = replace(corrected, selection=replace(corrected.selection, functional=functional))
    dose = with_dose(findings, undated, ON).dose
    assert dose == DoseEstimate(None, "the time from administration to the scan is unknown")


def test_it_is_off_unless_the_site_asks(scan: tuple[Findings, Loaded]) -> None:
    findings, loaded = scan
    assert with_dose(findings, scanned_after(loaded, 72), QuantifyPolicy()) == findings


def test_it_is_a_quarter_of_concentration_times_hours(scan: tuple[Findings, Loaded]) -> None:
    findings, loaded = scan
    dosed = with_dose(findings, scanned_after(loaded, 72), ON)
    assert dosed.dose is not None
    assert (dosed.dose.hours_after_administration, dosed.dose.refused_because) == (72.0, "")
    for lesion in dosed.lesions:
        assert lesion.concentration_mean_bqml is not None
        assert lesion.absorbed_dose_gy == pytest.approx(0.25 * lesion.concentration_mean_bqml / 1e6 * 72)


def test_activity_corrected_to_administration_is_brought_to_the_scan_first(
    scan: tuple[Findings, Loaded],
) -> None:
    findings, loaded = scan
    at_scan = with_dose(findings, scanned_after(loaded, 96), ON)
    corrected = with_dose(findings, scanned_after(loaded, 96, reference_h=0.0), ON)
    decay = 2 ** (-96 * 3600 / LU177.half_life_s)
    for lesion, other in zip(at_scan.lesions, corrected.lesions, strict=True):
        assert lesion.absorbed_dose_gy is not None
        assert other.absorbed_dose_gy == pytest.approx(lesion.absorbed_dose_gy * decay, rel=1e-6)


@pytest.mark.parametrize("hours", [1.0, 24.0, 47.9, 120.1, 168.0])
def test_outside_its_hours_it_is_refused_with_the_hours(scan: tuple[Findings, Loaded], hours: float) -> None:
    findings, loaded = scan
    refused = with_dose(findings, scanned_after(loaded, hours), ON)
    assert refused.dose is not None
    assert refused.dose.refused_because.startswith(f"scanned {hours:.1f} h after administration")
    assert all(lesion.absorbed_dose_gy is None for lesion in refused.lesions)


def test_without_the_time_of_administration_it_is_refused(scan: tuple[Findings, Loaded]) -> None:
    findings, loaded = scan
    timed = scanned_after(loaded, 72)
    undated = replace(timed, quantification=replace(timed.quantification, administered_at=None))
    refused = with_dose(findings, undated, ON)
    assert refused.dose == DoseEstimate(None, "the time from administration to the scan is unknown")


@pytest.mark.parametrize(
    ("hours", "percent_low", "percent_high"), [(48, -7, 43), (72, -7, 13), (96, -7, 41), (120, -7, 97)]
)
def test_its_range_is_that_of_the_documented_half_lives(
    hours: float, percent_low: int, percent_high: int
) -> None:
    lowest, highest = dose_range(hours)
    assert (round(100 * lowest - 100), round(100 * highest - 100)) == (percent_low, percent_high)


@given(half_life_h=st.floats(*EFFECTIVE_HALF_LIVES_H), hours=st.floats(48.0, 120.0))
def test_the_exact_integral_lies_in_the_range(half_life_h: float, hours: float) -> None:
    """Summed decay by decay, without the formula: 0.1479 MeV each."""
    times_h = np.linspace(0.0, 40.0 * half_life_h, 200_001)
    concentration_bq_per_g = 1e6 * 2.0 ** ((hours - times_h) / half_life_h)
    decays = float(np.trapezoid(concentration_bq_per_g, times_h * 3600.0))
    exact_gy = decays * 0.1479 * 1.602176634e-13 / 1e-3
    lowest, highest = (share * single_time_point_dose_gy(1.0, hours) for share in dose_range(hours))
    assert 0.999 * lowest <= exact_gy <= 1.001 * highest


def test_a_pet_is_never_dosed(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    loaded = quantified.segmented.aligned.loaded
    assert with_dose(quantified.findings, scanned_after(loaded, 72), ON).dose is None


@pytest.mark.parametrize(
    ("effective_h", "hours", "error_percent"),
    [(50, 24, -30), (50, 48, -1), (50, 96, 3), (80, 48, -19), (80, 120, 8), (30, 96, -29)],
)
def test_its_error_is_what_the_documentation_says(
    effective_h: float, hours: float, error_percent: float
) -> None:
    """Against the integral of a mono-exponential with 177Lu's 0.1479 MeV an electron and decay."""
    gy_g_per_mbq_h = 0.1479 * 1.602176634e-13 * 1e6 * 3600 * 1000
    concentration = 1.0
    exact = gy_g_per_mbq_h * concentration * effective_h / np.log(2)
    estimate = single_time_point_dose_gy(concentration * 2 ** (-hours / effective_h), hours)
    assert 100 * (estimate / exact - 1) == pytest.approx(error_percent, abs=3)
