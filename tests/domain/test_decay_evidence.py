"""Decay Correction, Corrected Image and Decay Factor as three witnesses of one thing."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.quantities.decay import DecayCorrection, FrameTiming, decay_factor, mean_activity_offset_s
from app.domain.quantities.decay_evidence import DecayClaim, doubts, without_effect
from app.domain.radionuclides import F18, GA68, LU177, Radionuclide
from app.domain.refusal import Reason, RefusalCode

NONE, START, ADMIN = DecayCorrection.NONE, DecayCorrection.START, DecayCorrection.ADMIN
SCANNED = datetime(2026, 3, 1, 11, 0)
UPTAKE_S = 3600.0
BED_S = 150.0
CORRECTED = ("DECY", "ATTN", "SCAT")


def claim(truth: DecayCorrection, stated: DecayCorrection, nuclide: Radionuclide = GA68) -> DecayClaim:
    """Six beds whose decay factors are those of ``truth``."""
    life_s = nuclide.half_life_s
    offset_s = mean_activity_offset_s(BED_S, life_s)
    before_s = {NONE: None, START: 0.0, ADMIN: UPTAKE_S}[truth]
    frames = []
    for bed in range(6):
        begun_s = bed * BED_S
        factor = 1.0 if before_s is None else 1.0 / decay_factor(before_s + begun_s + offset_s, life_s)
        at = SCANNED + timedelta(seconds=begun_s)
        frames.append(FrameTiming(at, begun_s + offset_s, BED_S, round(factor, 5)))
    injected = SCANNED - timedelta(seconds=UPTAKE_S)
    return DecayClaim(stated, CORRECTED, tuple(frames), SCANNED, injected, life_s)


def with_factors(one: DecayClaim, factor: float | None) -> DecayClaim:
    return replace(one, frames=tuple(replace(frame, decay_factor=factor) for frame in one.frames))


def refused(found: Reason | tuple[object, ...]) -> bool:
    if isinstance(found, Reason):
        assert found.code is RefusalCode.DECAY_CORRECTION_CONTRADICTED
        return True
    return False


def warned(one: DecayClaim) -> str:
    found = doubts(one)
    assert not isinstance(found, Reason), found
    return " ".join(decision.line for decision in found)


@pytest.mark.parametrize("nuclide", [GA68, F18])
@pytest.mark.parametrize("truth", [START, ADMIN])
@pytest.mark.parametrize("stated", [START, ADMIN, NONE])
def test_another_correction_than_the_factors_tell_is_refused(
    nuclide: Radionuclide, truth: DecayCorrection, stated: DecayCorrection
) -> None:
    found = doubts(claim(truth, stated, nuclide))
    assert refused(found) if stated is not truth else found == ()


def test_a_refusal_names_the_right_correction_and_what_it_would_change() -> None:
    found = doubts(claim(START, ADMIN))
    assert isinstance(found, Reason)
    assert "START, which that factor means (1.85 times in SUV)" in found.expected


@pytest.mark.parametrize("truth", [START, ADMIN])
@pytest.mark.parametrize("stated", [START, ADMIN])
def test_for_lutetium_on_the_day_of_injection_the_difference_is_too_small_to_refuse(
    truth: DecayCorrection, stated: DecayCorrection
) -> None:
    assert not refused(doubts(claim(truth, stated, LU177)))


@pytest.mark.parametrize("bed", range(6))
def test_one_bed_alone_cut_out_of_a_scan_is_no_contradiction(bed: int) -> None:
    whole = claim(START, START)
    assert doubts(replace(whole, frames=whole.frames[bed : bed + 1])) == ()


def test_one_acquisition_time_for_every_bed_is_no_contradiction() -> None:
    """GE writes the scan's start everywhere; Frame Reference Time, of the bed's start, tells them apart."""
    whole = claim(START, START)
    frames = tuple(
        replace(frame, acquired_at=SCANNED, reference_s=BED_S * bed) for bed, frame in enumerate(whole.frames)
    )
    assert doubts(replace(whole, frames=frames[4:])) == ()


def test_long_beds_timed_by_their_starts_are_no_contradiction() -> None:
    """One acquisition time for all, and a bed's start as its reference time: 10 min to its middle, 10 %."""
    bed_s, life_s = 1200.0, GA68.half_life_s
    offset_s = mean_activity_offset_s(bed_s, life_s)
    frames = tuple(
        FrameTiming(SCANNED, bed * bed_s, bed_s, 1.0 / decay_factor(bed * bed_s + offset_s, life_s))
        for bed in (1, 2)
    )
    assert doubts(replace(claim(START, START), frames=frames)) == ()


def test_the_first_bed_is_the_one_that_is_compared() -> None:
    """Without times of their own the later beds can't be placed in the scan; the first can."""
    whole = claim(START, START)
    bare = tuple(replace(frame, acquired_at=SCANNED, reference_s=None) for frame in whole.frames)
    assert max(whole.factors) > 1.1
    assert doubts(replace(whole, frames=bare)) == ()


def test_the_factor_that_is_named_is_the_first_beds() -> None:
    found = doubts(claim(ADMIN, START))
    assert isinstance(found, Reason)
    assert f"a DecayFactor of {claim(ADMIN, START).factors[0]:.4g} in the first bed" in found.found


@pytest.mark.parametrize(("factors", "told"), [((1.01, 1.2), "1.2"), ((0.8, 1.01), "0.8")])
def test_the_factor_that_is_named_with_none_is_the_one_that_convicts(
    factors: tuple[float, float], told: str
) -> None:
    whole = claim(NONE, NONE)
    pairs = zip(whole.frames, factors, strict=False)
    found = doubts(replace(whole, frames=tuple(replace(frame, decay_factor=f) for frame, f in pairs)))
    assert isinstance(found, Reason)
    assert f"a DecayFactor of {told} and" in found.found


def test_a_factor_of_one_bed_is_testimony_and_one_that_is_rounded_to_one_is_none() -> None:
    one_bed = replace(claim(START, START), corrected_image=("ATTN",))
    one_bed = replace(one_bed, frames=one_bed.frames[:1])
    assert one_bed.factors[0] == pytest.approx(1.013, abs=1e-3)
    assert "bears out" in warned(one_bed)
    assert "without DECY" in warned(with_factors(one_bed, 1.00005))


def test_the_last_bed_tells_what_a_filled_in_factor_should_have_been() -> None:
    """GE writes the scan's start in every bed; Frame Reference Time alone tells the last from the first."""
    whole = with_factors(replace(claim(START, START), corrected_image=("ATTN",)), 1.0)
    frames = tuple(replace(frame, acquired_at=SCANNED) for frame in whole.frames)
    assert refused(doubts(replace(whole, frames=frames)))
    assert "without DECY" in warned(replace(whole, frames=frames[:1]))


@pytest.mark.parametrize("found", [claim(ADMIN, START), with_factors(claim(ADMIN, ADMIN), 1.0)])
def test_of_an_image_that_is_suv_already_nothing_is_a_warning(found: DecayClaim) -> None:
    assert isinstance(doubts(found), Reason) or "warning:" in warned(found)
    (told,) = without_effect(doubts(found))
    assert "warning" not in told.line
    assert told.line.endswith("no effect, as the image is SUV already")


@pytest.mark.parametrize("factor", [None, 1.0])
def test_uncorrected_with_decy_without_a_factor_gets_a_warning_and_is_read(factor: float | None) -> None:
    """The reference objects carry one CorrectedImage, whatever their correction: refusing would lose them."""
    assert "warning: DecayCorrection is NONE, yet CorrectedImage names DECY" in warned(
        with_factors(claim(NONE, NONE), factor)
    )
    assert doubts(replace(with_factors(claim(NONE, NONE), factor), corrected_image=("ATTN",))) == ()


def test_uncorrected_by_two_witnesses_overrules_a_factor() -> None:
    assert "warning" in warned(replace(claim(START, NONE), corrected_image=("ATTN",)))


def test_corrected_without_decy_is_refused_only_when_the_factors_are_one_too() -> None:
    admin = replace(claim(ADMIN, ADMIN), corrected_image=("ATTN",))
    assert "bears out" in warned(admin)
    assert "without DECY" in warned(with_factors(admin, None))
    assert refused(doubts(with_factors(admin, 1.0)))


def test_a_factor_of_one_says_nothing_alone_but_gives_a_warning_for_admin() -> None:
    assert "warning: DecayFactor 1 doesn't bear out" in warned(with_factors(claim(ADMIN, ADMIN), 1.0))
    small = warned(with_factors(claim(ADMIN, ADMIN, LU177), 1.0))
    assert small.startswith("DecayFactor 1 doesn't bear out")
    assert doubts(with_factors(claim(START, START), 1.0)) == ()


def test_less_evidence_for_admin_gives_no_fewer_warnings() -> None:
    assert "warning: no DecayFactor bears out" in warned(with_factors(claim(ADMIN, ADMIN), None))
    assert warned(with_factors(claim(ADMIN, ADMIN, LU177), None)).startswith("no DecayFactor bears out")
    unknown = replace(with_factors(claim(ADMIN, ADMIN), None), injected_at=None)
    assert "warning: no DecayFactor bears out" in warned(unknown)
    assert doubts(with_factors(claim(START, START), None)) == ()


def test_without_the_time_of_injection_the_factor_can_only_warn() -> None:
    assert "warning: DecayCorrection is START" in warned(replace(claim(ADMIN, START), injected_at=None))
    assert "which is that of START" in warned(replace(claim(START, ADMIN), injected_at=None))
    assert doubts(replace(claim(ADMIN, ADMIN), injected_at=None)) == ()


@given(
    truth=st.sampled_from([START, ADMIN]),
    uptake_min=st.floats(30.0, 180.0),
    bed_s=st.floats(20.0, 600.0),
    beds=st.integers(1, 12),
    nuclide=st.sampled_from([GA68, F18]),
)
def test_a_consistent_header_gives_no_warning(
    truth: DecayCorrection, uptake_min: float, bed_s: float, beds: int, nuclide: Radionuclide
) -> None:
    life_s, before_s = nuclide.half_life_s, uptake_min * 60.0 if truth is ADMIN else 0.0
    offset_s = mean_activity_offset_s(bed_s, life_s)
    frames = tuple(
        FrameTiming(
            SCANNED + timedelta(seconds=bed * bed_s),
            bed * bed_s + offset_s,
            bed_s,
            1.0 / decay_factor(before_s + bed * bed_s + offset_s, life_s),
        )
        for bed in range(beds)
    )
    injected = SCANNED - timedelta(minutes=uptake_min)
    assert doubts(DecayClaim(truth, CORRECTED, frames, SCANNED, injected, life_s)) == ()


@given(reference_s=st.floats(-1e18, 1e18), factor=st.floats(-1e6, 1e6), days=st.integers(-4000, 4000))
def test_garbage_in_times_and_factors_is_an_answer(reference_s: float, factor: float, days: int) -> None:
    frame = FrameTiming(SCANNED + timedelta(days=days), reference_s, BED_S, factor)
    for stated in DecayCorrection:
        doubts(replace(claim(START, stated), frames=(frame,)))
