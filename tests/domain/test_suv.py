"""SUV and decay, against hand-made numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.quantities.administration import Administration, BodySize, SiteAdministration
from app.domain.quantities.decay import FrameTiming, decay_factor, mean_activity_offset_s
from app.domain.quantities.suv import Conversion, convert_pet
from app.domain.quantities.suv_scale import PetHeader
from app.domain.radionuclides import GA68, LU177, RADIONUCLIDES
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Code, Radiopharmaceutical

INJECTED = datetime(2026, 3, 1, 10, 0)
SCANNED = datetime(2026, 3, 1, 11, 0)
LEFT = 2.0 ** (-3600.0 / GA68.half_life_s)

GALLIUM = Radiopharmaceutical(
    radionuclide_code=GA68.codes[0],
    half_life_s=GA68.half_life_s,
    injected_activity_header=150e6,
    start_datetime=INJECTED,
)
HEADER = PetHeader(
    units="BQML",
    injection=Administration(GALLIUM, BodySize(70.0, 1.8, "M")),
    frames=(FrameTiming(SCANNED, 60.0, 120.0),) * 3,
    decay_correction="START",
    series_datetime=SCANNED,
)
ADMINISTERED = replace(
    HEADER,
    decay_correction="ADMIN",
    frames=(FrameTiming(SCANNED, 60.0, 120.0, round(2.0 ** (3660.0 / GA68.half_life_s), 4)),) * 3,
)


def with_drug(**changes: object) -> PetHeader:
    injected = replace(GALLIUM, **changes)  # type: ignore[arg-type]
    return replace(HEADER, injection=replace(HEADER.injection, injected=injected))


def converted(header: PetHeader) -> Conversion:
    found = convert_pet(header)
    assert isinstance(found, Conversion), found
    return found


def suv_factor(header: PetHeader) -> float:
    conversion = converted(header)
    assert conversion.suv_factors is not None, conversion.no_suv
    return conversion.suv_factors[0]


def no_suv(header: PetHeader) -> RefusalCode:
    """The reason, with Bq/ml kept: a volume without SUV is still reported."""
    conversion = converted(header)
    assert conversion.no_suv is not None
    assert conversion.suv_factors is None
    assert conversion.activity_factors is not None
    return conversion.no_suv.code


def told(header: PetHeader) -> str:
    return " ".join(decision.line for decision in converted(header).decisions)


def test_corrected_to_start_divides_by_what_is_left_of_the_dose() -> None:
    assert suv_factor(HEADER) == pytest.approx(70e3 / (150e6 * LEFT))


def test_corrected_to_administration_is_not_corrected_twice() -> None:
    assert suv_factor(replace(HEADER, decay_correction="ADMIN")) == pytest.approx(70e3 / 150e6)


def test_uncorrected_slices_are_brought_to_one_time_each_from_its_own() -> None:
    later = SCANNED + timedelta(minutes=10)
    frames = (FrameTiming(SCANNED, None, 120.0), FrameTiming(later, None, 120.0))
    found = converted(replace(HEADER, decay_correction="NONE", frames=frames))
    assert found.suv_factors is not None
    assert found.suv_factors[1] / found.suv_factors[0] == pytest.approx(2.0 ** (600.0 / GA68.half_life_s))
    offset_s = mean_activity_offset_s(120.0, GA68.half_life_s)
    assert found.suv_factors[0] == pytest.approx(
        70e3 / 150e6 / decay_factor(3600.0 + offset_s, GA68.half_life_s)
    )


@pytest.mark.parametrize(("bed", "shift_min"), [(3, 60), (0, -30)])
def test_uncorrected_slices_with_one_wrong_clock_have_no_suv(bed: int, shift_min: int) -> None:
    """Every slice is brought to one time by its own clock: a wrong one changed its SUV by up to 85 %."""
    times = [SCANNED + timedelta(minutes=2 * i + (shift_min if i == bed else 0)) for i in range(7)]
    frames = tuple(FrameTiming(time, None, 120.0) for time in times)
    assert no_suv(replace(HEADER, decay_correction="NONE", frames=frames)) is (
        RefusalCode.SERIES_TIME_IMPLAUSIBLE
    )


def test_an_interruption_that_frame_reference_time_confirms_is_no_wrong_clock() -> None:
    offset_s = mean_activity_offset_s(120.0, GA68.half_life_s)
    starts_s = (0.0, 120.0, 1500.0, 1620.0, 1740.0, 1860.0, 1980.0)
    frames = tuple(FrameTiming(SCANNED + timedelta(seconds=s), s + offset_s, 120.0) for s in starts_s)
    assert converted(replace(HEADER, decay_correction="NONE", frames=frames)).no_suv is None


def test_uncorrected_slices_without_times_have_no_suv() -> None:
    header = replace(HEADER, decay_correction="NONE", frames=(FrameTiming(),) * 3)
    assert no_suv(header) is RefusalCode.NOT_DECAY_CORRECTED


@given(duration_s=st.floats(1.0, 3600.0), nuclide=st.sampled_from(RADIONUCLIDES))
def test_mean_activity_time_is_where_the_activity_equals_its_mean(duration_s: float, nuclide: object) -> None:
    life_s = nuclide.half_life_s  # type: ignore[attr-defined]
    steps = 2000
    mean = sum(decay_factor((i + 0.5) * duration_s / steps, life_s) for i in range(steps)) / steps
    offset_s = mean_activity_offset_s(duration_s, life_s)
    assert decay_factor(offset_s, life_s) == pytest.approx(mean, rel=1e-6)
    assert 0.0 < offset_s <= duration_s / 2.0 + 1e-6


@given(scale=st.floats(0.33, 4.6))  # of 70 kg at 1.8 m: body mass indices of 7.1 to 99
def test_suv_scales_with_weight(scale: float) -> None:
    heavier = replace(HEADER, injection=replace(HEADER.injection, body=BodySize(70.0 * scale, 1.8, "M")))
    assert suv_factor(heavier) == pytest.approx(scale * suv_factor(HEADER))


@given(scale=st.floats(0.2, 5.0))
def test_suv_scales_against_dose(scale: float) -> None:
    more = with_drug(injected_activity_header=150e6 * scale)
    assert suv_factor(more) == pytest.approx(suv_factor(HEADER) / scale)


def test_series_time_after_acquisition_gives_way_to_the_times_of_the_frames() -> None:
    frames = (
        FrameTiming(SCANNED + timedelta(minutes=2), 120.0 + 59.8, 120.0),
        FrameTiming(SCANNED + timedelta(minutes=4), 240.0 + 59.8, 120.0),
    )
    header = replace(HEADER, series_datetime=SCANNED + timedelta(hours=1), frames=frames)
    assert suv_factor(header) == pytest.approx(suv_factor(HEADER), rel=1e-4)
    assert "FrameReferenceTime" in told(header)


def test_series_time_after_acquisition_gives_way_to_ge_private_scan_time_first() -> None:
    header = replace(HEADER, series_datetime=SCANNED + timedelta(hours=1), scanner_datetime=SCANNED)
    assert suv_factor(header) == pytest.approx(suv_factor(HEADER))
    assert "private time" in told(header)


def test_series_time_after_acquisition_falls_back_to_the_earliest_acquisition() -> None:
    frames = tuple(FrameTiming(SCANNED + timedelta(minutes=n)) for n in (5, 0, 10))
    header = replace(HEADER, series_datetime=SCANNED + timedelta(hours=1), frames=frames)
    assert suv_factor(header) == pytest.approx(suv_factor(HEADER))


@pytest.mark.parametrize(
    ("frame", "why"),
    [(FrameTiming(SCANNED), "not all frames state their times"), (FrameTiming(SCANNED, 60.0, 120.0), "")],
)
def test_the_fall_back_to_the_earliest_acquisition_says_what_is_missing(frame: FrameTiming, why: str) -> None:
    late = replace(HEADER, series_datetime=SCANNED + timedelta(hours=1), frames=(frame,) * 3)
    found = convert_pet(late)
    assert isinstance(found, Conversion)
    (told,) = [item.line for item in found.decisions if item.line.startswith("reference time is")]
    assert told.endswith(why) if why else "AcquisitionDateTime + mean-activity time" in told


def test_a_dose_of_zero_is_found_as_such() -> None:
    injected = replace(GALLIUM, injected_activity_header=0.0)
    found = convert_pet(replace(HEADER, injection=replace(HEADER.injection, injected=injected)))
    assert isinstance(found, Conversion)
    assert found.no_suv is not None
    assert (found.no_suv.code, found.no_suv.found) == (RefusalCode.DOSE_MISSING, "0")


def test_frame_times_a_little_off_the_series_time_give_a_warning() -> None:
    frames = (FrameTiming(SCANNED + timedelta(minutes=4), 60.0, 120.0),)
    assert "warning: AcquisitionTime and FrameReferenceTime" in told(replace(HEADER, frames=frames))
    assert "warning" not in told(HEADER)


def test_clocks_that_change_suv_by_more_than_five_per_cent_are_refused_unless_the_site_trusts_one() -> None:
    frames = (FrameTiming(SCANNED + timedelta(minutes=15), 60.0, 120.0),)
    header = replace(HEADER, frames=frames)
    assert no_suv(header) is RefusalCode.SERIES_TIME_IMPLAUSIBLE
    trusted = replace(header, series_time_rules=True)
    assert suv_factor(trusted) == pytest.approx(suv_factor(HEADER))
    assert "warning" in told(trusted)


def test_a_frame_reference_time_at_the_frames_start_is_no_contradiction() -> None:
    """GE writes 0 for the first of several long beds, whose mean-activity time is minutes later."""
    frames = (FrameTiming(SCANNED, 0.0, 1200.0), FrameTiming(SCANNED, 1215.0, 1200.0))
    assert "warning" not in told(replace(HEADER, frames=frames))


def test_one_slice_of_another_hour_is_refused_where_the_times_of_the_slices_count() -> None:
    early = FrameTiming(SCANNED - timedelta(hours=1), None, 120.0)
    frames = (*(FrameTiming(SCANNED, None, 120.0),) * 3, early)
    assert no_suv(replace(HEADER, frames=frames)) is RefusalCode.SERIES_TIME_IMPLAUSIBLE


def test_a_scan_in_many_beds_is_one_scan() -> None:
    frames = tuple(FrameTiming(SCANNED + timedelta(minutes=4 * n), None, 220.0) for n in range(8))
    assert suv_factor(replace(HEADER, frames=frames)) == pytest.approx(suv_factor(HEADER))


def test_two_times_of_one_injection_are_refused_unless_close() -> None:
    apart = with_drug(start_time=timedelta(hours=9))
    assert no_suv(apart) is RefusalCode.INJECTION_TIME_IMPLAUSIBLE
    close = with_drug(start_time=timedelta(hours=9, minutes=58))
    assert suv_factor(close) == pytest.approx(suv_factor(HEADER))
    assert "the former is used" in told(close)


def test_midnight_with_a_full_date_and_time_is_a_placeholder() -> None:
    assert suv_factor(with_drug(start_time=timedelta(0))) == pytest.approx(suv_factor(HEADER))


def test_a_date_that_an_anonymiser_left_behind_gives_way_to_the_scans() -> None:
    shifted = with_drug(start_datetime=INJECTED - timedelta(days=400), start_time=timedelta(hours=10))
    assert suv_factor(shifted) == pytest.approx(suv_factor(HEADER))
    assert "taken on the scan's date" in told(shifted)


def test_an_injection_at_the_very_instant_of_the_scan_is_refused() -> None:
    assert no_suv(with_drug(start_datetime=SCANNED)) is RefusalCode.INJECTION_TIME_IMPLAUSIBLE


@pytest.mark.parametrize(("units", "factor"), [("GML", None), ("CNTS", 0.0005)])
def test_suv_without_decay_correction_is_refused(units: str, factor: float | None) -> None:
    header = replace(HEADER, units=units, decay_correction="NONE", philips_suv_factor=factor)
    found = convert_pet(header)
    assert isinstance(found, Reason)
    assert found.code is RefusalCode.NOT_DECAY_CORRECTED


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (BodySize(70.0, None, "M"), RefusalCode.HEIGHT_MISSING),
        (BodySize(70.0, 5.9, "M"), RefusalCode.BODY_IMPLAUSIBLE),
        (BodySize(200.0, 1.5, "F"), RefusalCode.BODY_IMPLAUSIBLE),
        (BodySize(None, 1.8, "M"), RefusalCode.WEIGHT_MISSING),
        (BodySize(70.0, 1.8, ""), RefusalCode.BODY_IMPLAUSIBLE),
        (BodySize(70.0, 1.8, "X"), RefusalCode.BODY_IMPLAUSIBLE),
    ],
)
def test_suv_by_lean_mass_of_an_impossible_body_is_refused(body: BodySize, code: RefusalCode) -> None:
    """James' lean mass of 200 kg on 1.5 m is negative: a property test of the formula found it."""
    header = replace(HEADER, units="GML", suv_type="LBM", injection=replace(HEADER.injection, body=body))
    found = convert_pet(header)
    assert isinstance(found, Reason)
    assert found.code is code


def test_suv_by_ideal_weight_of_another_sex_is_by_the_mean_of_both_formulas_and_warned_of() -> None:
    other = replace(HEADER.injection, body=BodySize(70.0, 1.8, "O"))
    header = replace(HEADER, units="GML", suv_type="IBW", injection=other)
    found = convert_pet(header)
    assert isinstance(found, Conversion)
    ideal_kg = ((48.0 + 1.06 * 28.0) + (45.5 + 0.91 * 28.0)) / 2.0
    assert suv_factor(header) == pytest.approx(70.0 / ideal_kg)
    warned = [told.line for told in found.decisions if told.line.startswith("warning:")]
    assert ["PatientSex is O" in text for text in warned] == [True]


def test_suv_by_surface_needs_no_sex() -> None:
    unknown = replace(HEADER.injection, body=BodySize(70.0, 1.8, ""))
    header = replace(HEADER, units="CM2ML", suv_type="BSA")
    assert suv_factor(replace(header, injection=unknown)) == pytest.approx(suv_factor(header))


def test_a_height_in_centimetres_is_seen() -> None:
    in_cm = replace(HEADER.injection, body=BodySize(70.0, 180.0, "M"))
    header = replace(HEADER, units="CM2ML", suv_type="BSA")
    assert suv_factor(replace(header, injection=in_cm)) == pytest.approx(suv_factor(header))


def test_philips_two_factors_that_contradict_each_other_are_refused_unless_the_site_tells() -> None:
    own = suv_factor(replace(HEADER, units="CNTS", philips_bqml_factor=2.5))
    agreeing = replace(HEADER, units="CNTS", philips_bqml_factor=2.5, philips_suv_factor=own * 0.97)
    assert "times Philips' own" in told(agreeing)
    contrary = replace(agreeing, philips_suv_factor=own * 0.7)
    found = convert_pet(contrary)
    assert isinstance(found, Reason)
    assert found.code is RefusalCode.ATTRIBUTE_INCONSISTENT
    entered = replace(contrary.injection, site=SiteAdministration("1.2", weight_kg=70.0))
    assert suv_factor(replace(contrary, injection=entered)) == pytest.approx(own)


def test_without_any_scan_time_there_is_no_suv() -> None:
    header = replace(HEADER, series_datetime=None, frames=(FrameTiming(),))
    assert no_suv(header) is RefusalCode.SERIES_TIME_MISSING


def test_a_start_time_without_a_date_is_of_the_scan_day() -> None:
    header = with_drug(start_datetime=None, start_time=timedelta(hours=10))
    assert suv_factor(header) == pytest.approx(suv_factor(HEADER))
    assert "taken on the scan's date" in told(header)


def test_an_injection_before_midnight_is_of_the_day_before() -> None:
    header = with_drug(start_datetime=None, start_time=timedelta(hours=23, minutes=40))
    after_midnight = datetime(2026, 3, 2, 0, 40)
    header = replace(header, series_datetime=after_midnight, frames=(FrameTiming(after_midnight),))
    assert suv_factor(header) == pytest.approx(suv_factor(HEADER))
    assert "before midnight" in told(header)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"start_datetime": INJECTED - timedelta(days=1)}, RefusalCode.INJECTION_TIME_IMPLAUSIBLE),
        ({"start_datetime": SCANNED + timedelta(hours=1)}, RefusalCode.INJECTION_TIME_IMPLAUSIBLE),
        ({"start_datetime": None}, RefusalCode.INJECTION_TIME_MISSING),
        ({"injected_activity_header": None}, RefusalCode.DOSE_MISSING),
        ({"injected_activity_header": 150e3}, RefusalCode.DOSE_IMPLAUSIBLE),
        ({"half_life_s": 6586.2}, RefusalCode.HALF_LIFE_MISMATCH),
        ({"half_life_s": None, "radionuclide_code": None}, RefusalCode.HALF_LIFE_MISMATCH),
    ],
)
def test_a_dose_that_cannot_be_trusted_gives_no_suv(changes: dict[str, object], code: RefusalCode) -> None:
    assert no_suv(with_drug(**changes)) is code


@pytest.mark.parametrize(
    "header",
    [HEADER, ADMINISTERED, replace(HEADER, units="GML", suv_type="BW")],
    ids=["START", "ADMIN", "SUV"],
)
def test_an_unusual_uptake_time_is_warned_of(header: PetHeader) -> None:
    early = replace(GALLIUM, start_datetime=SCANNED - timedelta(minutes=120))
    late = replace(header, injection=replace(header.injection, injected=early))
    assert "warning: uptake time 120 min" in told(late)
    assert "warning" not in told(header)


@pytest.mark.parametrize("hours", [0, 2, 365 * 24, 10 * 365 * 24, -365 * 24, -10 * 365 * 24])
def test_a_wrong_injection_time_leaves_an_image_corrected_to_the_injection_without_times(hours: int) -> None:
    """SUV needs none of them; activities would be decayed by years."""
    wrong = with_drug(start_datetime=SCANNED + timedelta(hours=hours))
    header = replace(wrong, decay_correction="ADMIN")
    used = converted(header).quantification
    assert (used.reference_datetime, used.administered_at, used.uptake_s) == (None, None, None)
    assert suv_factor(header) == pytest.approx(70e3 / 150e6)
    assert "activities stay as at the injection" in told(header)


@pytest.mark.parametrize(
    ("weight", "code"),
    [
        (None, RefusalCode.WEIGHT_MISSING),
        (0.0, RefusalCode.WEIGHT_MISSING),
        (70000.0, RefusalCode.WEIGHT_IMPLAUSIBLE),
    ],
)
def test_a_weight_that_cannot_be_trusted_gives_no_suv(weight: float | None, code: RefusalCode) -> None:
    header = replace(HEADER, injection=replace(HEADER.injection, body=BodySize(weight)))
    assert no_suv(header) is code


def test_a_dose_in_mbq_is_recognised_with_a_warning() -> None:
    header = with_drug(injected_activity_header=150.0)
    assert suv_factor(header) == pytest.approx(suv_factor(HEADER))
    assert "taken as MBq" in told(header)


def test_a_dose_in_bq_in_an_nm_header_is_recognised_with_a_warning() -> None:
    header = replace(HEADER, injection=replace(HEADER.injection, is_nm=True))
    assert suv_factor(header) == pytest.approx(70e3 / (150e6 * LEFT))
    assert "taken as Bq" in told(header)


def test_a_missing_half_life_is_the_isotopes() -> None:
    header = with_drug(half_life_s=None)
    assert suv_factor(header) == pytest.approx(suv_factor(HEADER))
    assert "RadionuclideHalfLife is absent" in told(header)


def test_a_half_life_within_two_per_cent_is_preferred_as_written() -> None:
    quantification = converted(with_drug(half_life_s=4080.0)).quantification
    assert quantification.half_life_s == 4080.0


def test_a_time_without_a_date_is_refused_for_lutetium() -> None:
    header = with_drug(
        radionuclide_code=LU177.codes[0],
        half_life_s=LU177.half_life_s,
        injected_activity_header=7.4e9,
        start_datetime=None,
        start_time=timedelta(hours=9),
    )
    assert no_suv(header) is RefusalCode.INJECTION_TIME_MISSING


def test_the_sites_entry_gives_what_the_header_lacks() -> None:
    site = SiteAdministration("1.2", INJECTED, 150.0, 70.0)
    bare = replace(GALLIUM, start_datetime=None, injected_activity_header=None)
    header = replace(HEADER, injection=Administration(bare, BodySize(), site))
    assert suv_factor(header) == pytest.approx(suv_factor(HEADER))
    assert told(header).count("by the site's entry") == 3


@pytest.mark.parametrize("units", ["PROPCNTS", "PROPCPS", "CPS", "", "CNTS"])
def test_units_without_a_factor_are_refused(units: str) -> None:
    found = convert_pet(replace(HEADER, units=units))
    assert isinstance(found, Reason)
    assert found.code is RefusalCode.UNITS_UNSUPPORTED
    assert found.attribute == "Units"


@pytest.mark.parametrize("suv_type", ["", "BW"])
def test_an_image_in_suvbw_is_taken_as_it_is(suv_type: str) -> None:
    found = converted(replace(HEADER, units="GML", suv_type=suv_type))
    assert found.suv_factors == (1.0, 1.0, 1.0)
    assert found.activity_factors is None


def test_suv_by_lean_mass_is_turned_into_suvbw() -> None:
    found = suv_factor(replace(HEADER, units="GML", suv_type="LBMJAMES128"))
    assert found == pytest.approx(70.0 / (1.10 * 70.0 - 128.0 * (70.0 / 180.0) ** 2))


def test_suv_by_surface_in_grams_is_refused() -> None:
    assert isinstance(convert_pet(replace(HEADER, units="GML", suv_type="BSA")), Reason)


def test_philips_counts_become_activity_by_their_factor() -> None:
    found = converted(replace(HEADER, units="CNTS", philips_bqml_factor=2.5))
    assert found.activity_factors == (2.5, 2.5, 2.5)
    assert found.suv_factors == pytest.approx((2.5 * suv_factor(HEADER),) * 3)


def test_philips_counts_become_suv_by_their_other_factor() -> None:
    found = converted(replace(HEADER, units="CNTS", philips_suv_factor=0.0005))
    assert found.suv_factors == (0.0005,) * 3


def test_an_unknown_isotope_code_keeps_the_headers_half_life() -> None:
    header = with_drug(radionuclide_code=Code("X", "99LOCAL"), half_life_s=9000.0)
    assert converted(header).quantification.half_life_s == 9000.0
