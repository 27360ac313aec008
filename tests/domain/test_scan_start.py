"""The instant that START refers to, from headers as scanners write them; SUV against the analytic decay."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from app.domain.quantities.administration import Administration, BodySize, SiteAdministration
from app.domain.quantities.decay import FrameTiming
from app.domain.quantities.suv import Conversion, convert_pet
from app.domain.quantities.suv_scale import PetHeader
from app.domain.radionuclides import CU64, F18, GA68, LU177, ZR89, Radionuclide
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Radiopharmaceutical

INJECTED, SCANNED = datetime(2026, 3, 1, 10, 0), datetime(2026, 3, 1, 11, 0)
LATER = datetime(2026, 3, 1, 16, 0)
"""Of a later processing."""

KG, BQ = 70.0, 150e6


def after(seconds: float) -> datetime:
    return SCANNED + timedelta(seconds=seconds)


def mean_s(duration_s: float, nuclide: Radionuclide = GA68) -> float:
    """By sums over the frame: the instant at which the activity is its mean."""
    steps, life_s = 4000, nuclide.half_life_s
    mean = sum(2.0 ** (-(i + 0.5) * duration_s / steps / life_s) for i in range(steps)) / steps
    return -life_s * math.log2(mean)


def bed(begun_s: float, duration_s: float, middle: bool = False, nuclide: Radionuclide = GA68) -> FrameTiming:
    """As a scanner writes it: acquired when it began, decay factor to the scan's start at ``SCANNED``."""
    until_s = begun_s + mean_s(duration_s, nuclide)
    factor = round(2.0 ** (until_s / nuclide.half_life_s), 5)
    return FrameTiming(after(begun_s), until_s if middle else begun_s, duration_s, factor)


def wide(*frames: FrameTiming) -> tuple[FrameTiming, ...]:
    """With the scan's own Acquisition Time everywhere, as GE and Philips write it."""
    return tuple(replace(frame, acquired_at=SCANNED) for frame in frames)


def bare(*frames: FrameTiming) -> tuple[FrameTiming, ...]:
    return tuple(replace(frame, decay_factor=None) for frame in frames)


def header(*frames: FrameTiming, nuclide: Radionuclide = GA68, **changes: object) -> PetHeader:
    injected = Radiopharmaceutical(
        radionuclide_code=nuclide.codes[0],
        half_life_s=nuclide.half_life_s,
        injected_activity_header=BQ,
        start_datetime=INJECTED,
    )
    made = PetHeader("BQML", Administration(injected, BodySize(KG, 1.8, "M")), frames)
    changes = {"series_datetime": LATER, "decay_correction": "START", **changes}
    return replace(made, **changes)  # type: ignore[arg-type]


def injected(made: PetHeader, **changes: object) -> PetHeader:
    drug = replace(made.injection.injected, **changes)  # type: ignore[arg-type]
    return replace(made, injection=replace(made.injection, injected=drug))


def expected(seconds: float, nuclide: Radionuclide = GA68) -> float:
    """SUV of 1 Bq/ml as it was so long after the injection."""
    return KG * 1e3 / (BQ * 2.0 ** (-seconds / nuclide.half_life_s))


def converted(made: PetHeader) -> Conversion:
    found = convert_pet(made)
    assert isinstance(found, Conversion), found
    return found


def told(made: PetHeader) -> str:
    return " ".join(decision.line for decision in converted(made).decisions)


def refused(made: PetHeader) -> Reason:
    reason = converted(made).no_suv
    assert reason is not None
    return reason


BEDS = tuple(bed(183.0 * n, 180.0) for n in range(8))
LAST = BEDS[-1]
CPS = tuple(replace(one, reference_s=0.0) for one in BEDS)

NEGATIVE = {
    "one bed": bare(replace(bed(0.0, 120.0), reference_s=-600.0)),
    "every bed the same": bare(*(replace(one, reference_s=-600.0) for one in BEDS)),
    "every bed earlier by 25 min": bare(
        *(replace(one, reference_s=183.0 * n - 1500.0) for n, one in enumerate(BEDS))
    ),
    "with decay factors": tuple(replace(one, reference_s=-600.0) for one in BEDS),
}
"""Frame Reference Times before the reference that they count from."""


AS_WRITTEN = {
    "a bed of 20 minutes, reference time 0": header(FrameTiming(SCANNED, 0.0, 1200.0)),
    "the same with its decay factor": header(bed(0.0, 1200.0)),
    "beds of 10 minutes timed by their starts": header(*(bed(603.0 * n, 600.0) for n in range(3))),
    "beds of 10 minutes timed by their middles": header(*(bed(603.0 * n, 600.0, True) for n in range(3))),
    "beds timed by their starts, no decay factor": header(*bare(*BEDS)),
    "a later bed alone, timed by its start, which its decay factor shows": header(LAST),
    "a later bed alone, timed by its middle": header(bed(1281.0, 180.0, middle=True)),
    "a later bed of GE alone, no decay factor": header(
        *bare(LAST), manufacturer="GE MEDICAL SYSTEMS", series_datetime=SCANNED
    ),
    "reference time 0 everywhere": header(*CPS),
    "reference time 0, a later bed alone": header(CPS[-1]),
    "reference time 0, a later bed alone, series time": header(CPS[-1], series_datetime=SCANNED),
    "reference times absent": header(*(replace(one, reference_s=None) for one in BEDS)),
    "reference times of garbage": header(*(replace(one, reference_s=1e18) for one in BEDS)),
    "one acquisition time, whole": header(*wide(*BEDS)),
    "one acquisition time, whole, no decay factors": header(*bare(*wide(*BEDS))),
    "one acquisition time, cropped to two beds": header(*wide(*BEDS[3:5])),
    "one acquisition time, cropped to a bed, series time": header(*wide(LAST), series_datetime=SCANNED),
    "the same, timed by its middle": header(*wide(bed(1281.0, 180.0, True)), series_datetime=SCANNED),
    "the same without a decay factor": header(*bare(*wide(LAST)), series_datetime=SCANNED),
    "one acquisition time, cropped to a bed, private time": header(*wide(LAST), scanner_datetime=SCANNED),
    "private time, whose date an anonymiser left": header(
        *wide(LAST), scanner_datetime=SCANNED - timedelta(days=1234)
    ),
    "one acquisition time, cropped to a bed, study time": header(
        *wide(LAST), study_datetime=after(-180.0), manufacturer="Philips"
    ),
    "acquisition alone half an hour late": header(
        FrameTiming(after(1800.0), 60.0, 120.0), series_datetime=SCANNED, scanner_datetime=SCANNED
    ),
    "acquisition alone half an hour early": header(
        FrameTiming(after(-1800.0), 60.0, 120.0), series_datetime=SCANNED, scanner_datetime=SCANNED
    ),
    "series time alone two minutes early": header(
        *BEDS, series_datetime=after(-120.0), scanner_datetime=SCANNED
    ),
    "series time alone an hour early": header(*BEDS, series_datetime=after(-3600), scanner_datetime=SCANNED),
    "private time alone an hour early": header(*BEDS, series_datetime=SCANNED, scanner_datetime=after(-3600)),
    "an interrupted scan": header(*(bed(180.0 * n + (3000.0 if n > 2 else 0.0), 120.0) for n in range(6))),
}  # fmt: skip


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_headers_as_scanners_write_them_have_one_reference(name: str) -> None:
    factors = converted(AS_WRITTEN[name]).suv_factors
    assert factors is not None, converted(AS_WRITTEN[name]).no_suv
    assert factors == pytest.approx([expected(3600.0)] * len(factors), rel=1e-4)


@pytest.mark.parametrize("duration_s", [60.0, 120.0, 180.0, 600.0, 1200.0])
@pytest.mark.parametrize("nuclide", [GA68, F18])
def test_half_a_bed_changes_no_suv(duration_s: float, nuclide: Radionuclide) -> None:
    made = header(*(bed(duration_s * n, duration_s, nuclide=nuclide) for n in range(3)), nuclide=nuclide)
    factors = converted(made).suv_factors
    assert factors == pytest.approx([expected(3600.0, nuclide)] * 3, rel=1e-4)


@pytest.mark.parametrize(
    ("frames", "changes"),
    [
        (wide(*BEDS), {}),
        (wide(*BEDS), {"series_datetime": SCANNED}),
        (wide(LAST), {"series_datetime": SCANNED}),
        (wide(LAST), {"scanner_datetime": SCANNED}),
        ((LAST,), {"series_datetime": SCANNED}),
        (BEDS, {}),
        (CPS, {}),
    ],
)
def test_an_uncorrected_slice_is_corrected_from_when_it_was_measured(
    frames: tuple[FrameTiming, ...], changes: dict[str, object]
) -> None:
    made = header(*bare(*frames), decay_correction="NONE", manufacturer="GE MEDICAL SYSTEMS", **changes)
    whole_s = [183.0 * n + mean_s(180.0) for n in range(8)]
    measured_s = whole_s if len(frames) == 8 else whole_s[-1:]
    factors = converted(made).suv_factors
    assert factors == pytest.approx([expected(3600.0 + seconds) for seconds in measured_s], rel=1e-5)


def test_an_uncorrected_crop_that_nothing_places_in_the_scan_is_refused() -> None:
    made = header(*bare(*wide(LAST)), decay_correction="NONE", manufacturer="Philips Medical Systems")
    assert refused(made).code is RefusalCode.SERIES_TIME_IMPLAUSIBLE


LIST_MODE = FrameTiming(INJECTED, 3600.0, 1200.0, 2.0 ** ((3600.0 + mean_s(1200.0)) / GA68.half_life_s))


@pytest.mark.parametrize("acquired_at", [INJECTED, SCANNED])
@pytest.mark.parametrize("series", [INJECTED, LATER])
@pytest.mark.parametrize("lead_s", [0.0, 60.0])
@pytest.mark.parametrize("stated", ["START", "ADMIN"])
def test_a_static_image_from_list_mode_counts_from_the_injection(
    acquired_at: datetime, series: datetime, lead_s: float, stated: str
) -> None:
    """The acquisition began with the injection, or a minute before."""
    begun = timedelta(seconds=lead_s)
    frame = replace(LIST_MODE, acquired_at=acquired_at - begun)
    stamp = series if series is LATER else series - begun
    made = header(frame, series_datetime=stamp, decay_correction=stated, manufacturer="GE MEDICAL SYSTEMS")
    found = converted(made)
    assert found.suv_factors == pytest.approx([expected(-lead_s if stated == "START" else 0.0)], rel=1e-4)
    if series is not LATER or stated == "START":
        assert found.quantification.uptake_s == pytest.approx(3600.0 - lead_s)


def test_an_injection_at_the_scans_own_instant_is_no_list_mode() -> None:
    at_once = injected(header(*BEDS, series_datetime=SCANNED), start_datetime=SCANNED)
    assert refused(at_once).code is RefusalCode.INJECTION_TIME_IMPLAUSIBLE
    midnight = datetime(2026, 3, 1)
    removed = replace(LAST, acquired_at=midnight)
    found = injected(header(removed, series_datetime=midnight), start_datetime=midnight)
    assert refused(found).code is RefusalCode.INJECTION_TIME_IMPLAUSIBLE


@pytest.mark.parametrize("name", ["GE MEDICAL SYSTEMS", "Philips Medical Systems", "SIEMENS"])
def test_a_later_bed_that_nothing_places_in_the_scan_is_refused_or_warned_of(name: str) -> None:
    made = header(*wide(LAST), manufacturer=name)
    if name == "SIEMENS":
        assert "warning: AcquisitionTime is one for all slices" in told(made)
    else:
        assert refused(made).code is RefusalCode.SERIES_TIME_IMPLAUSIBLE


def test_clocks_that_all_disagree_are_refused_and_small_differences_are_warned_of() -> None:
    made = header(*BEDS, series_datetime=after(-3600.0), scanner_datetime=after(-1800.0))
    assert refused(made).attribute == "SeriesTime, FrameReferenceTime"
    factor = replace(LAST, decay_factor=1.6)
    assert refused(header(factor)).attribute == "DecayFactor, FrameReferenceTime"
    near = header(*BEDS, series_datetime=after(-120.0), scanner_datetime=after(-60.0))
    assert "warning: " in told(near)


def test_a_reference_time_without_a_duration_is_refused_where_suv_hangs_on_it() -> None:
    without = replace(LAST, duration_s=None)
    assert refused(header(without)).attribute == "ActualFrameDuration"
    assert "warning: " in told(header(replace(without, reference_s=100.0)))


def test_beds_corrected_to_their_own_starts_are_refused() -> None:
    """The first bed's decay factor everywhere: the last bed would be 20 % low."""
    own = tuple(replace(one, decay_factor=BEDS[0].decay_factor) for one in BEDS)
    assert refused(header(*own, series_datetime=SCANNED)).code is RefusalCode.DECAY_CORRECTION_CONTRADICTED


@pytest.mark.parametrize("nuclide", [CU64, ZR89, LU177])
@pytest.mark.parametrize("start", [None, datetime(2021, 5, 17, 10, 0)])
def test_a_day_that_could_be_another_is_never_taken_as_the_scans(
    nuclide: Radionuclide, start: datetime | None
) -> None:
    """Injected the day before, 64Cu was 3.7 times too low."""
    made = header(FrameTiming(SCANNED, 60.0, 120.0), nuclide=nuclide, series_datetime=SCANNED)
    found = refused(injected(made, start_datetime=start, start_time=timedelta(hours=10)))
    assert "load.administrations" in found.advice
    missing, implausible = RefusalCode.INJECTION_TIME_MISSING, RefusalCode.INJECTION_TIME_IMPLAUSIBLE
    assert found.code is (missing if start is None else implausible)


def test_ges_private_time_of_injection_gives_the_day() -> None:
    made = header(FrameTiming(SCANNED, 60.0, 120.0), nuclide=CU64, series_datetime=SCANNED)
    private = INJECTED - timedelta(days=1)
    made = injected(made, start_datetime=None, start_time=timedelta(hours=10), private_start=private)
    assert converted(made).suv_factors == pytest.approx([expected(25.0 * 3600.0, CU64)])
    other = injected(made, start_time=timedelta(hours=9))
    assert refused(other).code is RefusalCode.INJECTION_TIME_MISSING


def test_the_sites_entry_gives_the_day() -> None:
    made = header(FrameTiming(SCANNED, 60.0, 120.0), nuclide=CU64, series_datetime=SCANNED)
    made = injected(made, start_datetime=None, start_time=timedelta(hours=10))
    site = SiteAdministration("1.2", INJECTED - timedelta(days=1))
    entered = replace(made, injection=replace(made.injection, site=site))
    assert converted(entered).suv_factors == pytest.approx([expected(25.0 * 3600.0, CU64)])


@pytest.mark.parametrize("nuclide", [GA68, F18])
def test_of_a_short_half_life_the_day_is_the_scans(nuclide: Radionuclide) -> None:
    made = header(FrameTiming(SCANNED, 60.0, 120.0), nuclide=nuclide, series_datetime=SCANNED)
    made = injected(made, start_datetime=None, start_time=timedelta(hours=10))
    assert converted(made).suv_factors == pytest.approx([expected(3600.0, nuclide)])


def test_a_refusal_keeps_the_witnesses() -> None:
    made = header(*BEDS, series_datetime=after(-3600.0), scanner_datetime=after(-1800.0))
    lines = [one.line for one in converted(made).quantification.time_witnesses]
    assert len(lines) == 3
    assert lines[1] == "the scanner's private time: 2026-03-01 10:30:00, not borne out"


def test_every_witness_is_kept_with_what_became_of_it() -> None:
    found = converted(AS_WRITTEN["acquisition alone half an hour late"]).quantification.time_witnesses
    assert [one.remark.split(" s away")[0] for one in found] == ["taken", "agrees", "1740", "1800"]
    assert found[0].line == "SeriesDateTime: 2026-03-01 11:00:00, taken"
    late = converted(header(*BEDS)).quantification.time_witnesses
    assert [(one.name, one.remark) for one in late] == [
        ("SeriesDateTime", "18000 s away from it"),
        ("AcquisitionDateTime − FrameReferenceTime", "taken"),
    ]


@pytest.mark.parametrize("series", [SCANNED, LATER, after(600.0)], ids=["right", "later", "as frames say"])
@pytest.mark.parametrize("case", NEGATIVE)
def test_a_negative_frame_reference_time_is_not_used_and_told(case: str, series: datetime) -> None:
    found = converted(header(*NEGATIVE[case], series_datetime=series))
    assert found.suv_factors == pytest.approx([expected(3600.0)] * len(NEGATIVE[case]), rel=2e-3)
    assert "before the reference that it counts from: it is not used" in told(
        header(*NEGATIVE[case], series_datetime=series)
    )


def test_a_frame_reference_time_of_less_than_clock_rounding_is_no_fault() -> None:
    assert "is not used" not in told(header(FrameTiming(SCANNED, -3.0, 120.0)))
