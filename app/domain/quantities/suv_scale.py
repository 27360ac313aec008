"""From Bq/ml to SUVbw: dose, weight, and the instant to which an image is decay corrected.

:class:`Quantification` says of every image how its stored values became numbers with a unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.domain.decision import Decision
from app.domain.quantities.administration import (
    Administration,
    administered_at,
    half_life_s,
    injected_activity_bq,
    weight_kg,
)
from app.domain.quantities.body_size import OtherSuv
from app.domain.quantities.decay import (
    DecayCorrection,
    FrameTiming,
    decay_factor,
    mean_activity_offset_s,
    scan_start,
    scattered_times,
    torn_times,
)
from app.domain.quantities.decay_evidence import DecayClaim, doubts, without_effect
from app.domain.quantities.plausibility import activity_warnings, uptake_warnings
from app.domain.refusal import Reason, RefusalCode

_START, _ADMIN = DecayCorrection.START, DecayCorrection.ADMIN


@dataclass(frozen=True)
class Quantification:
    """How stored values became numbers with a unit.

    Attributes:
        suv_per_bqml: factor from Bq/ml to SUVbw; ``None`` when the image already is SUV or SUV is unknown.
        reference_datetime: the instant to which the activity is decay corrected, when known.
        uptake_s: from the injection to the start of the scan, when both are known.
        injected_activity_bq, weight_kg, half_life_s: what was used; ``None`` when not needed or unknown.
        other_suv: what SUVbw is multiplied by for the other SUVs that the site asks for (``load.other_suv``).
        source: how the unit was found (``Units=BQML, DecayCorrection=START``, ``RWVM``, ...).
    """

    source: str
    suv_per_bqml: float | None = None
    injected_activity_bq: float | None = None
    administered_at: datetime | None = None
    reference_datetime: datetime | None = None
    weight_kg: float | None = None
    half_life_s: float | None = None
    other_suv: tuple[OtherSuv, ...] = ()
    uptake_s: float | None = None


@dataclass(frozen=True)
class PetHeader:
    """What a series says of its numbers.

    Attributes:
        units, suv_type, decay_correction: (0054,1001), (0054,1006), (0054,1102).
        injection: dose, times, body.
        series_datetime: Series Date and Time.
        frames: one timing a slice, in the order of the slices.
        ge_scan_datetime: (0009,xx0D) of "GEMS_PETD_01".
        philips_suv_factor: (7053,xx00) of "Philips PET Private Group": stored value to SUVbw.
        philips_bqml_factor: (7053,xx09): stored value to Bq/ml.
        series_time_rules: the site's word that Series Time is right where frame times contradict it.
        corrected_image: (0028,0051); empty when absent.
    """

    units: str
    injection: Administration
    frames: tuple[FrameTiming, ...]
    suv_type: str = ""
    decay_correction: str = ""
    series_datetime: datetime | None = None
    ge_scan_datetime: datetime | None = None
    philips_suv_factor: float | None = None
    philips_bqml_factor: float | None = None
    series_time_rules: bool = False
    corrected_image: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuvScale:
    """Bq/ml to SUVbw, and all that went into it; ``slice_factors`` bring each slice to the reference time."""

    quantification: Quantification
    slice_factors: tuple[float, ...]
    decisions: tuple[Decision, ...]


def suv_scale(header: PetHeader) -> SuvScale | Reason:
    """Bq/ml to SUVbw, for images in PET and in NM headers alike."""
    weight = weight_kg(header.injection)
    if isinstance(weight, Reason):
        return weight
    dose = injected_activity_bq(header.injection)
    if isinstance(dose, Reason):
        return dose
    life = half_life_s(header.injection.injected)
    if isinstance(life, Reason):
        return life
    (kg, of_kg), (bq, of_bq), (life_s, of_life) = weight, dose, life
    timing = _to_reference(header, life_s)
    if isinstance(timing, Reason):
        return timing
    claim_doubts = doubts(_claim(header, timing, life_s))
    if isinstance(claim_doubts, Reason):
        return claim_doubts
    quantification = Quantification(
        source=f"DecayCorrection={header.decay_correction}",
        suv_per_bqml=1000.0 * kg / (bq * timing.dose_left),
        injected_activity_bq=bq,
        administered_at=timing.administered_at,
        reference_datetime=timing.reference,
        weight_kg=kg,
        half_life_s=life_s,
        uptake_s=timing.uptake_s,
    )
    nuclide = header.injection.nuclide
    unusual = (*activity_warnings(nuclide, bq, kg), *uptake_warnings(nuclide, timing.uptake_s))
    decisions = (*of_kg, *of_bq, *of_life, *timing.decisions, *claim_doubts, *unusual)
    return SuvScale(quantification, timing.slice_factors, decisions)


def uptake_of_suv(header: PetHeader) -> tuple[float | None, tuple[Decision, ...]]:
    """Uptake time of an image that is SUV already, and how its headers contradict each other.

    Nothing is computed from it, so nothing is refused.
    """
    life = half_life_s(header.injection.injected)
    if isinstance(life, Reason) or header.decay_correction not in (_START, _ADMIN):
        return None, ()
    timing = _at_administration(header)
    claim_doubts = doubts(_claim(header, timing, life[0]))
    unusual = uptake_warnings(header.injection.nuclide, timing.uptake_s)
    return timing.uptake_s, (*without_effect(claim_doubts), *unusual)


@dataclass(frozen=True)
class _Timing:
    """``started`` is that of the scan, ``uptake_s`` from the injection to it, both where they are known."""

    reference: datetime | None
    administered_at: datetime | None
    dose_left: float
    slice_factors: tuple[float, ...]
    decisions: tuple[Decision, ...] = ()
    started: datetime | None = None
    uptake_s: float | None = None


def _claim(header: PetHeader, timing: _Timing, life_s: float) -> DecayClaim:
    injected = None if timing.uptake_s is None else timing.administered_at
    stated = DecayCorrection(header.decay_correction)
    return DecayClaim(stated, header.corrected_image, header.frames, timing.started, injected, life_s)


def _to_reference(header: PetHeader, life_s: float) -> _Timing | Reason:
    """The instant to which the image refers, and what is left of the dose then."""
    unity = (1.0,) * len(header.frames)
    if header.decay_correction == DecayCorrection.ADMIN:
        return _at_administration(header)
    if header.decay_correction == DecayCorrection.START:
        clocks = (header.series_datetime, header.frames, header.ge_scan_datetime)
        start = scan_start(*clocks, life_s, header.series_time_rules)
        return start if isinstance(start, Reason) else _dose_at(header, start[0], life_s, unity, start[1])
    if header.decay_correction == DecayCorrection.NONE:
        return _undecayed(header, life_s)
    found = header.decay_correction or "nothing"
    return Reason(RefusalCode.DECAY_CORRECTION_UNKNOWN, "DecayCorrection", found, "START, ADMIN or NONE")


def _at_administration(header: PetHeader) -> _Timing:
    """ADMIN: the whole dose, whenever it was injected.

    A time that can't be true is left out with a warning: activities would be decayed by it.
    """
    site, unity = header.injection.site, (1.0,) * len(header.frames)
    stated = (site and site.administered_at) or header.injection.injected.start_datetime
    acquired = [frame.acquired_at for frame in header.frames if frame.acquired_at is not None]
    started = min(acquired, default=header.series_datetime)
    if started is None:
        return _Timing(stated, stated, 1.0, unity)
    found = administered_at(header.injection, started)
    if not isinstance(found, Reason):
        uptake_s = (started - found[0]).total_seconds()
        return _Timing(found[0], found[0], 1.0, unity, (), started, uptake_s)
    decisions: tuple[Decision, ...] = ()
    if found.code is RefusalCode.INJECTION_TIME_IMPLAUSIBLE:
        text = f"injected {found.found}; no effect on SUV with DecayCorrection ADMIN"
        decisions = (Decision.warning("load", f"{text}, and activities stay as at the injection"),)
    return _Timing(None, None, 1.0, unity, decisions, started)


def _undecayed(header: PetHeader, life_s: float) -> _Timing | Reason:
    """Without decay correction: bring every slice from its own mean-activity time to the earliest one."""
    instants = []
    for frame in header.frames:
        if frame.acquired_at is None or not frame.duration_s:
            expected = (
                "AcquisitionDateTime and ActualFrameDuration on every slice, as DecayCorrection is NONE"
            )
            attribute = "AcquisitionTime, ActualFrameDuration"
            return Reason(RefusalCode.NOT_DECAY_CORRECTED, attribute, "slices without them", expected)
        offset_s = mean_activity_offset_s(frame.duration_s, life_s)
        instants.append((frame.acquired_at, offset_s))
    implausible = scattered_times(header.frames) or torn_times(header.frames, life_s)
    if implausible is not None:
        return implausible
    start = min(acquired for acquired, _ in instants)
    elapsed_s = [(acquired - start).total_seconds() + offset_s for acquired, offset_s in instants]
    factors = tuple(1.0 / decay_factor(seconds, life_s) for seconds in elapsed_s)
    decision = Decision(
        "load", "DecayCorrection is NONE; every slice is decay corrected to the start of the scan"
    )
    return _dose_at(header, start, life_s, factors, (decision,))


def _dose_at(
    header: PetHeader,
    reference: datetime,
    life_s: float,
    slice_factors: tuple[float, ...],
    decisions: tuple[Decision, ...],
) -> _Timing | Reason:
    injected = administered_at(header.injection, reference)
    if isinstance(injected, Reason):
        return injected
    uptake_s = (reference - injected[0]).total_seconds()
    left, all_decisions = decay_factor(uptake_s, life_s), (*decisions, *injected[1])
    return _Timing(reference, injected[0], left, slice_factors, all_decisions, reference, uptake_s)
