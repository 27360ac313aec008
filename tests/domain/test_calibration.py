"""SPECT counts to Bq/ml."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.quantities.administration import Administration, BodySize
from app.domain.quantities.calibration import Camera, CameraCalibration, NmHeader, convert_nm, left_in_counts
from app.domain.quantities.nm_checks import CameraTime
from app.domain.quantities.scales import RealWorldMapping
from app.domain.quantities.suv import Conversion
from app.domain.radionuclides import LU177
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Radiopharmaceutical

DRUG = Radiopharmaceutical(
    radionuclide_code=LU177.codes[0],
    injected_activity_header=7400.0,
    start_datetime=datetime(2026, 2, 28, 11, 0),
)
HEADER = NmHeader(
    injection=Administration(DRUG, BodySize(80.0), is_nm=True),
    camera=Camera("ACME", "Spin", "NM1", ("MEGP", "PARA")),
    mappings=(),
    acquired_at=datetime(2026, 3, 1, 11, 0),
    slices=2,
    voxel_ml=0.1,
    is_decay_corrected=True,
    time=CameraTime(20.0, 60, 2),
)
FACTOR = CameraCalibration(
    120.0, date(2026, 1, 1), date(2026, 12, 31), manufacturer="acme", collimator="MEGP"
)


def activity_factor(header: NmHeader, *calibrations: CameraCalibration) -> float:
    found = convert_nm(header, calibrations)
    assert isinstance(found, Conversion), found
    assert found.activity_factors is not None
    return found.activity_factors[0]


def refusal(header: NmHeader, *calibrations: CameraCalibration) -> RefusalCode:
    found = convert_nm(header, calibrations)
    assert isinstance(found, Reason), found
    return found.code


@given(bq_per_cps=st.floats(0.1, 1e4))
def test_any_calibration_scales_through(bq_per_cps: float) -> None:
    scaled = activity_factor(HEADER, replace(FACTOR, bq_per_cps=bq_per_cps))
    assert scaled == pytest.approx(bq_per_cps / (20.0 * 60 * 2) / 0.1)


def test_without_acquisition_time_there_is_no_suv() -> None:
    """Series Time in its place is up to 11 % of SUV a day off."""
    mapped = replace(HEADER, mappings=(RealWorldMapping(1.0, 0.0, "Bq/ml"),), acquired_at=None)
    found = convert_nm(mapped, ())
    assert isinstance(found, Conversion)
    assert found.suv_factors is None
    assert found.no_suv is not None
    assert found.no_suv.code is RefusalCode.SERIES_TIME_MISSING
    assert found.no_suv.attribute == "AcquisitionDate, AcquisitionTime"
    corrected_to_injection = convert_nm(replace(mapped, decay_correction="ADMIN"), ())
    assert isinstance(corrected_to_injection, Conversion)
    assert corrected_to_injection.suv_factors is not None


def test_counts_without_a_calibration_are_refused_never_guessed() -> None:
    assert refusal(HEADER) is RefusalCode.CALIBRATION_MISSING


def test_counts_may_stay_counts_where_nothing_but_the_calibration_is_missing() -> None:
    why = convert_nm(HEADER, ())
    assert isinstance(why, Reason)
    found = left_in_counts(HEADER, why)
    assert isinstance(found, Conversion)
    assert found.count_factors == (1.0,) * HEADER.slices
    assert (found.suv_factors, found.activity_factors) == (None, None)
    other = Reason(RefusalCode.UNITS_UNSUPPORTED, "MeasurementUnitsCodeSequence", "Gy", "Bq/ml")
    assert left_in_counts(HEADER, other) is other


@pytest.mark.parametrize(
    "change",
    [
        {"valid_to": date(2026, 2, 28)},
        {"valid_from": date(2026, 3, 2)},
        {"manufacturer": "Other"},
        {"station_name": "NM2"},
        {"collimator": "LEHR"},
        {"radionuclide": "99mTc"},
    ],
)
def test_a_calibration_of_another_camera_or_time_is_not_used(change: dict[str, object]) -> None:
    other = replace(FACTOR, **change)  # type: ignore[arg-type]
    assert refusal(HEADER, other) is RefusalCode.CALIBRATION_MISSING
    assert activity_factor(HEADER, other, FACTOR) == activity_factor(HEADER, FACTOR)


def test_two_calibrations_that_fit_are_refused() -> None:
    assert refusal(HEADER, FACTOR, replace(FACTOR, bq_per_cps=130.0)) is RefusalCode.CALIBRATION_MISSING


@pytest.mark.parametrize("name", ["frame_duration_s", "projections", "detectors"])
def test_counts_without_their_time_are_refused(name: str) -> None:
    header = replace(HEADER, time=replace(HEADER.time, **{name: None}))  # type: ignore[arg-type]
    assert refusal(header, FACTOR) is RefusalCode.CALIBRATION_MISSING


@pytest.mark.parametrize(
    ("unit", "factor"), [("Bq/ml", 1.0), ("kBq/mL", 1e3), ("MBq/ml", 1e6), ("kBq/cm3", 1e3)]
)
def test_a_real_world_mapping_goes_before_any_calibration(unit: str, factor: float) -> None:
    header = replace(HEADER, mappings=(RealWorldMapping(2.0, 0.0, unit),))
    assert activity_factor(header, FACTOR) == pytest.approx(2.0 * factor)


def test_a_mapping_with_an_intercept_is_refused() -> None:
    header = replace(HEADER, mappings=(RealWorldMapping(2.0, 5.0, "Bq/ml"),))
    assert refusal(header) is RefusalCode.RESCALE_INTERCEPT


def test_a_mapping_to_another_unit_is_no_calibration() -> None:
    header = replace(HEADER, mappings=(RealWorldMapping(2.0, 0.0, "{counts}"),))
    assert refusal(header) is RefusalCode.CALIBRATION_MISSING


def test_suv_follows_from_dose_in_mbq_and_the_day_between() -> None:
    header = replace(HEADER, mappings=(RealWorldMapping(1.0, 0.0, "Bq/ml"),))
    found = convert_nm(header, ())
    assert isinstance(found, Conversion)
    left = 2.0 ** (-86400.0 / LU177.half_life_s)
    assert found.suv_factors == pytest.approx((80e3 / (7400e6 * left),) * 2)
    assert found.quantification.reference_datetime == datetime(2026, 3, 1, 11, 0)


def test_without_decay_correction_the_activity_is_that_of_mid_acquisition() -> None:
    header = replace(HEADER, mappings=(RealWorldMapping(1.0, 0.0, "Bq/ml"),), is_decay_corrected=False)
    found = convert_nm(header, ())
    assert isinstance(found, Conversion)
    assert found.quantification.reference_datetime == datetime(2026, 3, 1, 11, 10)


def test_a_calibration_that_ends_before_it_begins_is_a_wrong_setting() -> None:
    with pytest.raises(ValueError, match="valid_to"):
        replace(FACTOR, valid_to=date(2025, 1, 1))


@pytest.mark.parametrize("name", ["frame_duration_s", "projections", "detectors"])
def test_a_camera_time_of_nothing_is_a_wrong_setting(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(FACTOR, **{name: 0})  # type: ignore[arg-type]


def test_the_sites_camera_time_overrules_the_header_and_is_told() -> None:
    header = replace(HEADER, time=CameraTime(30.0, 1, 1))
    assert refusal(header, FACTOR) is RefusalCode.CAMERA_TIME_IMPLAUSIBLE
    assert refusal(header, replace(FACTOR, projections=30)) is RefusalCode.CAMERA_TIME_IMPLAUSIBLE
    found = convert_nm(header, (replace(FACTOR, projections=30, detectors=2),))
    assert isinstance(found, Conversion)
    assert found.activity_factors == pytest.approx((120.0 / (30.0 * 30 * 2) / 0.1,) * 2)
    assert "camera time by the site: projections 30, detectors 2" in [item.text for item in found.decisions]


def test_a_duration_of_days_is_none_for_the_middle_of_the_acquisition() -> None:
    """Half of it would be decay of a day."""
    mapped = replace(HEADER, mappings=(RealWorldMapping(1.0, 0.0, "Bq/ml"),), is_decay_corrected=False)
    found = convert_nm(replace(mapped, time=CameraTime(20000.0, 60, 2)), ())
    assert isinstance(found, Conversion)
    assert found.quantification.reference_datetime == datetime(2026, 3, 1, 11, 0)
