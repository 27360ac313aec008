"""What was injected, when, and into whom: from header or site entry; refused when implausible."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from app.domain.clocks import LoneOffset, spelled, zone_offset
from app.domain.decision import Decision
from app.domain.quantities.decay import LARGEST_CLOCK_EFFECT, decay_factor
from app.domain.quantities.plausibility import body_doubts, is_rather_mci
from app.domain.quantities.scan_start import SHORTEST_WAIT_S
from app.domain.radionuclides import (
    RADIONUCLIDES,
    Radionuclide,
    half_life_agrees,
    radionuclide_decaying,
    radionuclide_named,
    radionuclide_of,
)
from app.domain.ranges import Range, Ranged
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Radiopharmaceutical

WEIGHT_RANGE_KG = (20.0, 400.0)
"""Outside it the number is grams, pounds of a typing error, or a phantom's placeholder."""

ANY_ACTIVITY_MBQ = (5.0, 20000.0)
"""For a radionuclide that isn't in the table: from a low PET dose to a therapy."""

CLOCK_TOLERANCE_S = 60.0
"""Date and time attributes of one instant are rounded to minutes."""

ZONE_ERROR_S = 3600.0
"""What a wrong time zone is off by at least, nearly everywhere."""

MOST_HALF_LIVES = 6.0
"""After six half-lives less than 2 % is left: nothing to image, so one of the two times is wrong."""

DAY_S = 86400.0


@dataclass(frozen=True)
class BodySize:
    """Patient's Weight (kg), Size (m) and Sex, as found."""

    weight_kg: float | None = None
    height_m: float | None = None
    sex: str = ""


@dataclass(frozen=True)
class SiteAdministration(Ranged):
    """What the site knows of one injection; it overrules the headers."""

    study_instance_uid: str
    """Study Instance UID of the study."""
    administered_at: datetime | None = None
    """Date and time of the injection, local."""
    injected_activity_mbq: Annotated[float, Range(0, 100_000, above=True)] | None = None
    """Injected activity at that time, MBq."""
    weight_kg: Annotated[float, Range(0, 500, above=True)] | None = None
    """Weight of the patient, kg."""
    radionuclide: str = ""
    """Radionuclide, written as ``68Ga``, where the headers name none that is known."""
    tracer: str = ""
    """Tracer key, written as ``68Ga-PSMA-11``: what was injected, whatever the headers call it. It names the
    radionuclide too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tracer and not self.radionuclide:
            object.__setattr__(self, "radionuclide", self.tracer.partition("-")[0])
        if self.radionuclide and radionuclide_named(self.radionuclide) is None:
            known = ", ".join(item.key for item in RADIONUCLIDES)
            raise ValueError(
                f"load.administrations: {self.radionuclide!r} is none of the radionuclides {known}"
            )
        if self.tracer and not self.tracer.startswith(f"{self.radionuclide}-"):
            raise ValueError(f"load.administrations: {self.tracer} is not labelled with {self.radionuclide}")


@dataclass(frozen=True)
class Administration:
    """A header's radiopharmaceutical with the site's entry for the study, and whether it is an NM header."""

    injected: Radiopharmaceutical
    body: BodySize
    site: SiteAdministration | None = None
    is_nm: bool = False

    @property
    def nuclide(self) -> Radionuclide | None:
        """The radionuclide, when known."""
        return radionuclide_of(self.injected)


def half_life_s(injected: Radiopharmaceutical) -> tuple[float, tuple[Decision, ...]] | Reason:
    """The header's half-life, checked against the isotope; the isotope's own where the header has none."""
    coded, stated_s = radionuclide_of(injected), injected.half_life_s
    if stated_s and coded and not half_life_agrees(stated_s, coded):
        other = radionuclide_decaying(stated_s)
        found = f"{stated_s:g} s ({other.key})" if other else f"{stated_s:g} s"
        expected = f"{coded.half_life_s:.1f} s ({coded.key}) within 2 %"
        return Reason(RefusalCode.HALF_LIFE_MISMATCH, "RadionuclideHalfLife", found, expected)
    if stated_s and stated_s > 0.0:
        return stated_s, ()
    if coded:
        text = f"RadionuclideHalfLife is absent; {coded.half_life_s:g} s of {coded.key} is used"
        return coded.half_life_s, (Decision("load", text),)
    expected = "a half-life in s, or a known RadionuclideCodeSequence"
    return Reason(RefusalCode.HALF_LIFE_MISMATCH, "RadionuclideHalfLife", "nothing", expected)


def injected_activity_bq(injection: Administration) -> tuple[float, tuple[Decision, ...]] | Reason:
    """Radionuclide Total Dose in Bq: due in Bq in PET, in MBq in NM, and sometimes the other way round."""
    site = injection.site
    if site is not None and site.injected_activity_mbq is not None:
        text = f"injected activity {site.injected_activity_mbq:g} MBq by the site's entry for this study"
        return site.injected_activity_mbq * 1e6, (Decision("load", text),)
    stated = injection.injected.injected_activity_header
    low, high = injection.nuclide.activity_mbq if injection.nuclide else ANY_ACTIVITY_MBQ
    due, other = ("MBq", "Bq") if injection.is_nm else ("Bq", "MBq")
    expected = f"{low:g} to {high:g} MBq, in {due}"
    if not stated:
        found = "nothing" if stated is None else "0"
        return Reason(RefusalCode.DOSE_MISSING, "RadionuclideTotalDose", found, expected)
    as_bq = {"Bq": stated, "MBq": stated * 1e6}
    for unit in (due, other):
        if unit == "MBq" and unit != due and is_rather_mci(injection.nuclide, stated):
            break
        if low * 1e6 <= as_bq[unit] <= high * 1e6:
            note = f"RadionuclideTotalDose {stated:g} is taken as {unit}, though {due} is due"
            return as_bq[unit], () if unit == due else (Decision.warning("load", note),)
    return Reason(RefusalCode.DOSE_IMPLAUSIBLE, "RadionuclideTotalDose", f"{stated:g}", expected)


def administered_at(
    injection: Administration, reference: datetime
) -> tuple[datetime, tuple[Decision, ...]] | Reason:
    """When it was injected: the site's word, else start date and time, else start time with the scan's date.

    Refused: a time without a date where the injection of the day before would fit the scan too; an instant
    that is no injection of this scan; two instants that contradict each other.
    """
    life = half_life_s(injection.injected)
    if isinstance(life, Reason):
        return life
    found = _stated_time(injection, reference, life[0])
    if isinstance(found, Reason):
        return found
    instant, decisions = found
    if _fits_scan(instant, reference, life[0]):
        return instant, decisions
    elapsed_s = (reference - instant).total_seconds()
    seen = f"{instant}, {elapsed_s / 60:.0f} min before the scan's {reference}"
    expected = f"1 to {MOST_HALF_LIVES * life[0] / 60:.0f} min before"
    return _implausible(seen, expected)


def _fits_scan(instant: datetime, reference: datetime, life_s: float) -> bool:
    return SHORTEST_WAIT_S <= (reference - instant).total_seconds() <= MOST_HALF_LIVES * life_s


def _is_day_certain(instant: datetime, reference: datetime, life_s: float) -> bool:
    """Whether nothing of an injection a day earlier would be left: 18F and 68Ga, not 64Cu, 89Zr or 177Lu."""
    return not _fits_scan(instant - timedelta(days=1), reference, life_s)


def _midnight(instant: datetime) -> datetime:
    return instant.replace(hour=0, minute=0, second=0, microsecond=0)


def _implausible(seen: str, expected: str) -> Reason:
    code = RefusalCode.INJECTION_TIME_IMPLAUSIBLE
    return Reason(code, "RadiopharmaceuticalStartDateTime", seen, expected)


def _stated_time(
    injection: Administration, reference: datetime, life_s: float
) -> tuple[datetime, tuple[Decision, ...]] | Reason:
    site, injected = injection.site, injection.injected
    if site is not None and site.administered_at is not None:
        text = f"injected at {site.administered_at} by the site's entry for this study"
        return site.administered_at, (Decision("load", text),)
    clock = injected.start_time
    if injected.start_datetime is not None:
        if injected.lone_offset is not None:
            return _by_lone_offset(injected, injected.lone_offset, reference, life_s)
        return _compared(injected.start_datetime, clock, reference, life_s)
    if clock is None:
        code, attribute = RefusalCode.INJECTION_TIME_MISSING, "RadiopharmaceuticalStartDateTime"
        return Reason(code, attribute, "nothing", "date and time of the injection")
    return _without_date(clock, injected.private_start, reference, life_s)


def _without_date(
    clock: timedelta, private: datetime | None, reference: datetime, life_s: float
) -> tuple[datetime, tuple[Decision, ...]] | Reason:
    """A time of day alone: on the scan's day, where that is certain; else on that of the private time."""
    instant, decisions = _with_scan_date(clock, reference)
    if _is_day_certain(instant, reference, life_s):
        return instant, decisions
    if private is not None and _clock_apart_s(private, clock) <= CLOCK_TOLERANCE_S:
        return private, (Decision("load", "the date of RadiopharmaceuticalStartTime is GE's (0009,xx3B)"),)
    seen = "a time without a date (RadiopharmaceuticalStartTime)"
    share = 1.0 / decay_factor(DAY_S, life_s)
    expected = f"date and time: a day earlier is possible, with {share:.3g} times the SUV"
    code, attribute = RefusalCode.INJECTION_TIME_MISSING, "RadiopharmaceuticalStartDateTime"
    return Reason(code, attribute, seen, expected)


def _by_lone_offset(
    injected: Radiopharmaceutical, lone: LoneOffset, reference: datetime, life_s: float
) -> tuple[datetime, tuple[Decision, ...]] | Reason:
    """A start where only the injection or only the scan states its offset from UTC.

    An offset other than 0 is that of the place where it was written; one of 0 may be UTC at any place. Start
    Time has no offset either: where it repeats the start's clock that is the scan's clock, and where it is a
    time zone off UTC that zone is the scan's.
    """
    start, clock = injected.start_datetime or reference, injected.start_time
    if clock and not lone.is_scans:
        moved = None if lone.offset else _in_zone_of(clock, start, reference, life_s)
        return moved or _compared(start, clock, reference, life_s)
    side, other = ("scan's", "injection's") if lone.is_scans else ("injection's", "scan's")
    text = f"the {side} time states an offset from UTC ({lone.spelled}), the {other} none"
    if lone.offset or 1.0 - decay_factor(ZONE_ERROR_S, life_s) <= LARGEST_CLOCK_EFFECT:
        return start, (Decision.warning("load", f"{text}; both are taken as times of one zone"),)
    expected = "one zone stated for both, as an hour changes SUV by more than 5 %"
    advice = "Have scanner or archive keep TimezoneOffsetFromUTC, or add the study to load.administrations"
    code = RefusalCode.INJECTION_TIME_IMPLAUSIBLE
    return Reason(code, "TimezoneOffsetFromUTC", text, expected, advice)


def _in_zone_of(
    clock: timedelta, start: datetime, reference: datetime, life_s: float
) -> tuple[datetime, tuple[Decision, ...]] | None:
    """A start in UTC by Start Time, where a time zone explains how far both are apart."""
    apart = clock - (start - _midnight(start))
    if abs(apart) <= timedelta(seconds=CLOCK_TOLERANCE_S):
        return None
    for days in (0, 1, -1):
        moved = start + apart + timedelta(days=days)
        zone = zone_offset(moved - start)
        if zone is not None and _fits_scan(moved, reference, life_s):
            utc = "RadiopharmaceuticalStartDateTime is in UTC, and the scan's times state no zone"
            local = f"RadiopharmaceuticalStartTime is the same instant in zone {spelled(zone)}"
            return moved, (Decision.warning("load", f"{utc}; {local}, which is taken as the scan's"),)
    return None


def _clock_apart_s(start: datetime, clock: timedelta) -> float:
    apart_s = abs((start - _midnight(start) - clock).total_seconds())
    return min(apart_s, DAY_S - apart_s)


def _compared(
    start: datetime, clock: timedelta | None, reference: datetime, life_s: float
) -> tuple[datetime, tuple[Decision, ...]] | Reason:
    """Start date and time against Start Time (where midnight is a placeholder)."""
    apart_s = _clock_apart_s(start, clock) if clock else 0.0
    if apart_s <= CLOCK_TOLERANCE_S:
        return _on_scan_date(start, clock, reference, life_s)
    names = "RadiopharmaceuticalStartDateTime and RadiopharmaceuticalStartTime"
    if 1.0 - decay_factor(apart_s, life_s) > LARGEST_CLOCK_EFFECT:
        return _implausible(f"{names} {apart_s / 60:.0f} min apart", "one time of injection")
    return start, (Decision.warning("load", f"{names} are {apart_s:.0f} s apart; the former is used"),)


def _on_scan_date(
    start: datetime, clock: timedelta | None, reference: datetime, life_s: float
) -> tuple[datetime, tuple[Decision, ...]]:
    """A start on another date than the scan's, with the same time of day in both attributes.

    Anonymisers shift dates and leave DT attributes alone. Of a short half-life the scan's date is certain.
    """
    if not clock or _fits_scan(start, reference, life_s):
        return start, ()
    moved, _ = _with_scan_date(clock, reference)
    is_certain = _fits_scan(moved, reference, life_s) and _is_day_certain(moved, reference, life_s)
    if start.date() == moved.date() or not is_certain:
        return start, ()
    text = (
        "the date in RadiopharmaceuticalStartDateTime is not this scan's; its time of day, which "
        "RadiopharmaceuticalStartTime repeats, is taken on the scan's date"
    )
    return moved, (Decision.warning("load", text),)


def _with_scan_date(clock: timedelta, reference: datetime) -> tuple[datetime, tuple[Decision, ...]]:
    """A time without a date is of the scan's day, or of the day before when it would lie after the scan."""
    instant = _midnight(reference) + clock
    names = "RadiopharmaceuticalStartDateTime is absent; RadiopharmaceuticalStartTime"
    text = f"{names} is taken on the scan's date"
    if (instant - reference).total_seconds() > CLOCK_TOLERANCE_S:
        instant -= timedelta(days=1)
        text = f"{text} less a day (the injection was before midnight)"
    return instant, (Decision("load", text),)


def weight_kg(injection: Administration) -> tuple[float, tuple[Decision, ...]] | Reason:
    """Patient's Weight."""
    site, stated = injection.site, injection.body.weight_kg
    decisions: tuple[Decision, ...] = ()
    if site is not None and site.weight_kg is not None:
        stated = site.weight_kg
        decisions = (Decision("load", f"weight {stated:g} kg by the site's entry for this study"),)
    low, high = WEIGHT_RANGE_KG
    expected = f"{low:g} to {high:g} kg"
    if not stated:
        found = "nothing" if stated is None else "0"
        return Reason(RefusalCode.WEIGHT_MISSING, "PatientWeight", found, expected)
    if not low <= stated <= high:
        return Reason(RefusalCode.WEIGHT_IMPLAUSIBLE, "PatientWeight", f"{stated:g}", expected)
    doubts = body_doubts(stated, injection.body.height_m, by_site=bool(decisions))
    return doubts if isinstance(doubts, Reason) else (stated, (*decisions, *doubts))
