"""Zones of a series, and witnesses of when it was made."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from app.dicom import header_values as header
from app.dicom.reading.injections import radiopharmaceutical
from app.domain.clocks import Clocks, LoneOffset, lag_s, spelled, zone_offset
from app.domain.quantities.administration import Administration, BodySize, administered_at
from app.domain.quantities.plausibility import clock_doubts, ct_clock_doubts
from app.domain.radionuclides import F18, GA68, LU177, Radionuclide
from app.domain.refusal import Reason
from app.domain.study import Radiopharmaceutical

SCANNED = datetime(2026, 3, 1, 11, 0)
QUARTERS = st.integers(-12 * 4, 14 * 4).map(lambda count: timedelta(minutes=15 * count))


def dataset(**attributes: str) -> Dataset:
    found = Dataset()
    for keyword, value in attributes.items():
        setattr(found, keyword, value)
    return found


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def injection(nuclide: Radionuclide, **changes: object) -> Administration:
    injected = Radiopharmaceutical(radionuclide_code=nuclide.codes[0], half_life_s=nuclide.half_life_s)
    return Administration(replace(injected, **changes), BodySize(70.0))  # type: ignore[arg-type]


@given(zone=QUARTERS, own=QUARTERS, is_own=st.booleans(), uptake_min=st.integers(2, 300))
def test_the_zone_of_a_series_changes_no_uptake_time(
    zone: timedelta, own: timedelta, is_own: bool, uptake_min: int
) -> None:
    """By any zone, with the injection in that zone or in one of its own."""
    item = Dataset()
    local = SCANNED - minutes(uptake_min)
    clock, end = (local - zone + own, spelled(own)) if is_own else (local, "")
    item.RadiopharmaceuticalStartDateTime = f"{clock:%Y%m%d%H%M%S}{end}"
    found = dataset(TimezoneOffsetFromUTC=spelled(zone))
    found.RadiopharmaceuticalInformationSequence = [item]
    read = radiopharmaceutical(found)
    assert read is not None
    assert (read.start_datetime, read.lone_offset) == (local, None)


@given(zone=QUARTERS, own=QUARTERS)
def test_an_acquisition_in_any_zone_is_brought_to_that_of_the_series(zone: timedelta, own: timedelta) -> None:
    clock = f"{SCANNED - zone + own:%Y%m%d%H%M%S}{spelled(own)}"
    alone = dataset(TimezoneOffsetFromUTC=spelled(zone), AcquisitionDateTime=clock)
    assert header.acquired_at(alone) == SCANNED
    beside = dataset(AcquisitionDateTime=clock, AcquisitionDate="20260301", AcquisitionTime="110000")
    assert header.stated_zone(beside) == zone
    assert header.acquired_at(beside) == SCANNED


@pytest.mark.parametrize("offset", ["+1500", "-1300", "+0160", "0100", "+01", "Z"])
def test_an_offset_that_is_none_on_earth_is_none(offset: str) -> None:
    assert header.stated_zone(dataset(TimezoneOffsetFromUTC=offset)) is None


def test_clocks_that_no_zone_puts_apart_have_none() -> None:
    assert zone_offset(minutes(60.5)) == minutes(60)
    assert zone_offset(minutes(67)) is None
    assert zone_offset(minutes(15 * 60)) is None


@given(zone=QUARTERS, uptake_min=st.integers(2, 300))
def test_a_time_of_day_tells_the_zone_of_a_start_in_utc(zone: timedelta, uptake_min: int) -> None:
    local = SCANNED - minutes(uptake_min)
    clock = local - datetime(local.year, local.month, local.day)
    lone = LoneOffset(timedelta(0))
    told = injection(GA68, start_datetime=local - zone, start_time=clock, lone_offset=lone)
    found = administered_at(told, SCANNED)
    assert not isinstance(found, Reason)
    assert found[0] == local
    assert bool(found[1]) is bool(zone)


@pytest.mark.parametrize("is_scans", [False, True])
@pytest.mark.parametrize("nuclide", [GA68, F18])
def test_utc_on_one_side_alone_is_refused_where_an_hour_counts(nuclide: Radionuclide, is_scans: bool) -> None:
    lone = LoneOffset(timedelta(0), is_scans)
    injected = injection(nuclide, start_datetime=SCANNED - minutes(105), lone_offset=lone)
    found = administered_at(injected, SCANNED)
    assert isinstance(found, Reason)
    assert found.attribute == "TimezoneOffsetFromUTC"


@pytest.mark.parametrize(("nuclide", "offset_min"), [(LU177, 0), (GA68, 60)])
def test_an_offset_on_one_side_alone_is_warned_of(nuclide: Radionuclide, offset_min: int) -> None:
    start = SCANNED - minutes(180)
    lone = LoneOffset(minutes(offset_min))
    found = administered_at(injection(nuclide, start_datetime=start, lone_offset=lone), SCANNED)
    assert not isinstance(found, Reason)
    assert found[0] == start
    assert found[1][0].line.startswith("warning: the injection's time states an offset from UTC")


WITNESSED = Clocks(SCANNED, SCANNED - minutes(3), SCANNED, 0.0, 120.0)


def test_clocks_in_their_order_are_no_doubt() -> None:
    assert clock_doubts(WITNESSED, GA68.half_life_s) == ()
    assert clock_doubts(Clocks(), GA68.half_life_s) == ()
    late = replace(WITNESSED, study=SCANNED - timedelta(days=4), content_lag_s=5 * 86400.0)
    assert clock_doubts(late, LU177.half_life_s) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"study": SCANNED + minutes(20)}, "20 min before StudyDate"),
        ({"content_lag_s": -1200.0}, "20 min after ContentDate"),
        ({"creation_lag_s": -1200.0}, "20 min after InstanceCreationDate"),
        ({"series": SCANNED - timedelta(days=2)}, "2.0 days after SeriesDate"),
    ],
)
def test_a_witness_that_contradicts_gives_a_warning_where_it_counts(
    changes: dict[str, object], words: str
) -> None:
    one = replace(WITNESSED, **changes)  # type: ignore[arg-type]
    (told,) = clock_doubts(one, GA68.half_life_s)
    assert told.line.startswith("warning: ")
    assert words in told.line
    small = [item for item in clock_doubts(one, LU177.half_life_s) if "min" in item.line.split(";")[0]]
    assert small == []


@pytest.mark.parametrize("apart_min", [-90, 90])
def test_a_ct_of_another_hour_gives_a_warning_for_a_short_life(apart_min: int) -> None:
    at = SCANNED + minutes(apart_min)
    (told,) = ct_clock_doubts(SCANNED, at, GA68.half_life_s)
    assert f"90 min {'before' if apart_min > 0 else 'after'} its CT" in told.line
    assert ct_clock_doubts(SCANNED, SCANNED + minutes(apart_min / 2), GA68.half_life_s) == ()
    assert ct_clock_doubts(SCANNED, at, LU177.half_life_s) == ()
    assert ct_clock_doubts(SCANNED, None, GA68.half_life_s) == ()


def test_midnight_is_no_witness() -> None:
    assert lag_s(SCANNED, datetime(2026, 3, 1)) is None
    assert lag_s(SCANNED, SCANNED + minutes(1)) == 60.0
