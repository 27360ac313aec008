"""Which of several usable images goes first, what the others are called, and what a report says of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.radionuclides import F18, LU177
from app.domain.refusal import RefusalCode
from app.domain.selection.pair import Selection, verdicts_after_loading
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.ranking import Rule, decided_by, ranked, uptake_min
from app.domain.selection.selection import SelectionResult
from app.domain.study import Code, Instance, Series
from tests.domain.test_selection import DEFAULT, ct, drug, only, pet, reason, selected, slices, spect

INJECTED = datetime(2026, 3, 1, 9)


def scanned(uid: str, minutes: float, **changes: object) -> Series:
    """A 68Ga-PSMA-11 PET so many minutes after its injection."""
    changes = {"radiopharmaceutical": replace(drug(), start_datetime=INJECTED), **changes}
    return pet(uid, acquired_at=INJECTED + timedelta(minutes=minutes), **changes)


def at(uid: str, minutes: float, **changes: object) -> Series:
    """A CT so many minutes after that injection."""
    return ct(uid, acquired_at=INJECTED + timedelta(minutes=minutes), **changes)


def taken(result: SelectionResult) -> tuple[str, str]:
    functional, ct_uid = only(result).roles
    return functional, ct_uid


def lines(selection: Selection) -> list[str]:
    return [item.line for item in selection.decisions]


@pytest.mark.parametrize("uids", [("1.1", "1.5"), ("1.5", "1.1")])
def test_the_time_point_nearest_to_the_tracers_usual_one_is_taken(uids: tuple[str, str]) -> None:
    early, late = uids
    result = selected(scanned(early, 62), scanned(late, 180), ct())
    assert taken(result)[0] == early
    assert reason(result, late).found == "another time point, 180 min after injection"
    told = lines(only(result))[1]
    assert told.startswith(f"series {late} is not taken, another time point, 180 min after injection")


def test_a_site_can_want_another_time_point() -> None:
    policy = SelectionPolicy(preferred_uptake_min=180.0)
    assert taken(selected(scanned("1.1", 62), scanned("1.5", 180), ct(), policy=policy))[0] == "1.5"


def test_usual_times_differ_by_tracer() -> None:
    psma_1007 = replace(drug(F18, Code("126758", "DCM")), start_datetime=INJECTED)
    early, late = (scanned(uid, m, radiopharmaceutical=psma_1007) for uid, m in (("1.1", 60), ("1.5", 95)))
    assert taken(selected(early, late, ct()))[0] == "1.5"
    lutetium = replace(drug(LU177, None), start_datetime=INJECTED)
    day = [
        spect(uid, radiopharmaceutical=lutetium, acquired_at=INJECTED + timedelta(hours=hours))
        for uid, hours in (("1.3", 4), ("1.4", 24), ("1.5", 96))
    ]
    result = selected(*day, ct())
    assert taken(result)[0] == "1.4"
    assert reason(result, "1.3").found == "another time point, 240 min after injection"


def test_the_time_after_the_injection_is_known_without_its_date_on_the_same_day_alone() -> None:
    clock = timedelta(hours=23, minutes=30)
    past_midnight = pet(
        radiopharmaceutical=replace(drug(), start_time=clock), acquired_at=datetime(2026, 3, 2, 0, 30)
    )
    assert uptake_min(past_midnight) == 60.0
    lutetium = replace(drug(LU177, None), start_time=clock)
    assert uptake_min(replace(past_midnight, radiopharmaceutical=lutetium)) is None


def test_a_late_part_is_no_rival_of_the_whole_body() -> None:
    pelvis = scanned("1.0", 60, instances=slices("1.0", 10))
    result = selected(pelvis, scanned("1.5", 180), ct())
    assert taken(result)[0] == "1.5"
    assert reason(result, "1.0").found == "another time point, 60 min after injection, a shorter stack, 5 cm"


def test_a_named_reconstruction_goes_first_and_without_a_rule_the_report_warns() -> None:
    methods = (("1.1", "OSEM 3i"), ("1.5", "PSF+TOF 2i21s"))
    two = [scanned(uid, 60, reconstruction_method=method) for uid, method in methods]
    undecided = selected(*two, ct())
    assert taken(undecided)[0] == "1.1"
    told = lines(only(undecided))[1]
    assert told.startswith("warning: series 1.5 is not taken, another reconstruction, PSF+TOF 2i21s")
    assert "no rule of section select decides" in told
    assert reason(undecided, "1.5").found == "another reconstruction, PSF+TOF 2i21s"
    ruled = selected(*two, ct(), policy=SelectionPolicy(preferred_reconstructions=("psf", "osem")))
    assert taken(ruled)[0] == "1.5"
    assert not any(line.startswith("warning:") for line in lines(only(ruled)))
    assert "select.preferred_reconstructions" in reason(ruled, "1.1").expected


def zoomed(uid: str, size: int, mm: float, start_mm: float) -> tuple[Instance, ...]:
    return tuple(
        replace(
            one, rows=size, columns=size, pixel_spacing_mm=(mm, mm),
            image_position_mm=(start_mm, start_mm, 5.0 * index),
        )
        for index, one in enumerate(slices(uid))
    )  # fmt: skip


@pytest.mark.parametrize("uid", ["1.0", "1.7"])
def test_the_whole_body_goes_before_a_zoomed_reconstruction_of_finer_voxels(uid: str) -> None:
    whole = {"instances": zoomed("1.5", 144, 4.0, -288.0)}
    policy = SelectionPolicy(preferred_reconstructions=("zoom",))
    zoom = scanned(uid, 60, instances=zoomed(uid, 150, 2.0, -150.0), reconstruction_method="zoom")
    for rules in (DEFAULT, policy):
        result = selected(scanned("1.5", 60, **whole, reconstruction_method="zoom"), zoom, ct(), policy=rules)
        assert taken(result)[0] == "1.5"
        assert reason(result, uid).found == "a smaller field of view, 300 mm, other voxels, 2 x 2 x 5 mm"
        assert reason(result, uid).expected == "series 1.5: the widest field of view"


def test_a_field_that_holds_the_body_is_wide_enough() -> None:
    wide, fine = zoomed("1.0", 200, 4.0, -400.0), zoomed("1.5", 250, 2.0, -250.0)
    two = (scanned("1.0", 60, instances=wide), scanned("1.5", 60, instances=fine))
    assert taken(selected(*two, ct()))[0] == "1.5"


def test_a_ct_of_the_body_goes_before_a_thinner_zoomed_one() -> None:
    lung = replace(ct("1.0"), instances=zoomed("1.0", 50, 2.0, -50.0))
    result = selected(scanned("1.1", 60), lung, ct("1.2"))
    assert taken(result)[1] == "1.2"
    assert reason(result, "1.0").found == "a smaller field of view, 100 mm"


def test_a_series_so_like_another_is_told_by_its_minutes_or_its_description() -> None:
    later = selected(scanned("1.1", 60), scanned("1.5", 64), ct())
    assert reason(later, "1.5").found == "begun 4 min later"
    named = selected(scanned("1.1", 60, description="AC"), scanned("1.5", 60, description="AC 3i"), ct())
    assert reason(named, "1.5").found == "another series, described as 'AC 3i'"
    cts = selected(scanned("1.1", 60), ct("1.2", description="WB"), ct("1.3", description="LUNG"))
    assert reason(cts, "1.3").found == "another series, described as 'LUNG'"


def test_a_ct_of_the_images_own_time_goes_before_a_thinner_one_of_another_hour() -> None:
    thin = at("1.0", 118, instances=slices("1.0", 100, 2.0))
    result = selected(scanned("1.1", 60), thin, at("1.2", 58))
    assert taken(result)[1] == "1.2"
    assert reason(result, "1.0").found.startswith("a CT of another time, 58 min after the image")
    assert taken(selected(scanned("1.1", 120), thin, at("1.2", 58)))[1] == "1.0"
    wider = SelectionPolicy(ct_within_min=90.0)
    assert taken(selected(scanned("1.1", 60), thin, at("1.2", 58), policy=wider))[1] == "1.0"


def test_of_cts_of_its_time_the_nearest_is_taken_where_all_else_is_equal() -> None:
    result = selected(scanned("1.1", 60), at("1.0", 85), at("1.2", 58), at("1.4", 40))
    assert taken(result)[1] == "1.2"
    assert reason(result, "1.0").expected == "series 1.2: nearest in time"


def test_a_named_kernel_goes_first_and_without_a_rule_the_report_names_the_others() -> None:
    kernels = [ct(f"1.{n}", convolution_kernel=name) for n, name in ((2, "B60f"), (3, "B31f"), (4, "LUNG"))]
    undecided = selected(pet(), *kernels)
    assert taken(undecided)[1] == "1.2"
    told = [line for line in lines(only(undecided)) if "another convolution kernel" in line]
    assert len(told) == 2
    assert all(line.startswith("warning:") for line in told)
    ruled = selected(pet(), *kernels, policy=SelectionPolicy(preferred_kernels=("STANDARD", "b31")))
    assert taken(ruled)[1] == "1.3"
    assert reason(ruled, "1.2").found == "another convolution kernel, B60f"
    assert lines(only(ruled))[1:] == []


def test_the_window_at_208_kev_goes_before_that_at_113_kev() -> None:
    low = spect("1.3", energy_windows_kev=((101.7, 124.3),))
    high = spect("1.4", energy_windows_kev=((187.2, 228.8),))
    result = selected(low, high, ct())
    assert taken(result)[0] == "1.4"
    assert reason(result, "1.3").found == "another energy window, 101.7 to 124.3 keV"
    site = SelectionPolicy(preferred_energies_kev=(113.0,))
    assert taken(selected(low, high, ct(), policy=site))[0] == "1.3"


def test_every_other_pair_of_a_region_is_an_alternative_best_first() -> None:
    thin = ct("1.2", instances=slices("1.2", 100, 2.0))
    selection = only(selected(scanned("1.5", 60), scanned("1.1", 180), thin, ct("1.0")))
    order = [tuple(pair.roles) for pair in (selection, *selection.alternatives)]
    assert order == [("1.5", "1.2"), ("1.5", "1.0"), ("1.1", "1.2"), ("1.1", "1.0")]


def test_another_session_is_no_alternative() -> None:
    second = pet("1.5", frame_of_reference_uid="1.8")
    result = selected(pet(), ct(), second, ct("1.6", frame_of_reference_uid="1.8"))
    assert [pair.alternatives for pair in result.selections] == [(), ()]


def test_a_series_that_failed_bears_its_reason_and_the_one_in_its_place_its_role() -> None:
    result = selected(pet("1.1"), pet("1.5"), ct())
    failed = pet("1.1").reason(RefusalCode.DOSE_MISSING, "RadionuclideTotalDose", "nothing", "Bq")
    used = replace(only(result).alternatives[0], failed=(failed,))
    settled = verdicts_after_loading(result.verdicts, [used], ())
    assert [(item.role, item.reason) for item in settled] == [("", failed), ("CT", None), ("PET", None)]


@pytest.mark.parametrize("name", ["preferred_kernels", "preferred_reconstructions"])
def test_a_preference_that_is_no_expression_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"select\.{name}.*no regular expression"):
        SelectionPolicy(**{name: ("(",)})  # type: ignore[arg-type]


@given(values=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 20)), min_size=1, max_size=6, unique=True))
def test_the_first_is_within_the_tolerance_of_the_best_by_each_rule(values: list[tuple[int, float]]) -> None:
    rules = (Rule("a", lambda item: float(item[0])), Rule("b", lambda item: item[1], 5.0))
    first = ranked(values, rules, str)[0]
    assert first[0] == min(item[0] for item in values)
    assert first[1] <= min(item[1] for item in values if item[0] == first[0]) + 5.0
    assert sorted(ranked(values, rules, str)) == sorted(values)
    assert decided_by(first, first, rules) == ""


def test_nothing_is_said_where_there_is_no_choice() -> None:
    assert only(selected(pet(), ct())).alternatives == ()
    assert lines(only(selected(pet(), ct(), policy=DEFAULT)))[1:] == []
