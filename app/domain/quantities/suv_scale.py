"""From Bq/ml to SUVbw: dose, weight, and the instant to which an image is decay corrected.

:class:`Quantification` says of every image how its stored values became numbers with a unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time

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
    LARGEST_CLOCK_EFFECT,
    DecayCorrection,
    FrameTiming,
    decay_factor,
    mean_activity_offset_s,
    scattered_times,
    torn_times,
)
from app.domain.quantities.decay_evidence import DecayClaim, doubts, without_effect
from app.domain.quantities.plausibility import activity_warnings, uptake_warnings
from app.domain.quantities.scan_clocks import ScanClocks, TimeWitness, framed_witnesses, stamps
from app.domain.quantities.scan_start import SHORTEST_WAIT_S, ScanStart, frame_beginnings, scan_start
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
        time_witnesses: what each clock says of the reference, and which was taken.
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
    time_witnesses: tuple[TimeWitness, ...] = ()


@dataclass(frozen=True)
class PetHeader:
    """What a series says of its numbers.

    Attributes:
        units, suv_type, decay_correction: (0054,1001), (0054,1006), (0054,1102).
        injection: dose, times, body.
        series_datetime: Series Date and Time.
        frames: one timing a slice, in the order of the slices.
        scanner_datetime: GE's scan time, (0009,xx0D) of "GEMS_PETD_01", or Siemens' time of decay correction,
            (0071,xx22) of "SIEMENS MED PT".
        philips_suv_factor: (7053,xx00) of "Philips PET Private Group": stored value to SUVbw.
        philips_bqml_factor: (7053,xx09): stored value to Bq/ml.
        series_time_rules: the site's word that Series Time is right where frame times contradict it.
        corrected_image: (0028,0051); empty when absent.
        study_datetime: Study Date and Time.
        manufacturer: whose habits the times follow.
        decay_corrected_to: Decay Correction Date Time (0018,9701) of an enhanced image.
    """

    units: str
    injection: Administration
    frames: tuple[FrameTiming, ...]
    suv_type: str = ""
    decay_correction: str = ""
    series_datetime: datetime | None = None
    scanner_datetime: datetime | None = None
    philips_suv_factor: float | None = None
    philips_bqml_factor: float | None = None
    series_time_rules: bool = False
    corrected_image: tuple[str, ...] = ()
    study_datetime: datetime | None = None
    manufacturer: str = ""
    decay_corrected_to: datetime | None = None

    def clocks(self, half_life_s: float) -> ScanClocks:
        """All that it says of when it was measured."""
        site, injected = self.injection.site, self.injection.injected.start_datetime
        return ScanClocks(
            self.frames,
            half_life_s,
            series=self.series_datetime,
            private=self.scanner_datetime,
            study=self.study_datetime,
            injected=(site and site.administered_at) or injected,
            manufacturer=self.manufacturer,
            series_time_rules=self.series_time_rules,
        )


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
        time_witnesses=timing.witnesses,
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
    timing = _at_administration(header, life[0])
    claim_doubts = doubts(_claim(header, timing, life[0]))
    unusual = uptake_warnings(header.injection.nuclide, timing.uptake_s)
    return timing.uptake_s, (*without_effect(claim_doubts), *unusual)


def undecided_witnesses(header: PetHeader) -> tuple[TimeWitness, ...]:
    """What each clock says of the reference, where they contradict each other."""
    life = half_life_s(header.injection.injected)
    if isinstance(life, Reason):
        return ()
    clocks = header.clocks(life[0])
    return (*stamps(clocks), *framed_witnesses(clocks))


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
    witnesses: tuple[TimeWitness, ...] = ()


def _claim(header: PetHeader, timing: _Timing, life_s: float) -> DecayClaim:
    injected = None if timing.uptake_s is None else timing.administered_at
    stated = DecayCorrection(header.decay_correction)
    return DecayClaim(stated, header.corrected_image, header.frames, timing.started, injected, life_s)


def _to_reference(header: PetHeader, life_s: float) -> _Timing | Reason:
    """The instant to which the image refers, and what is left of the dose then."""
    if header.decay_correction == DecayCorrection.ADMIN:
        return _at_administration(header, life_s)
    if header.decay_correction == DecayCorrection.START:
        start, unity = scan_start(header.clocks(life_s)), (1.0,) * len(header.frames)
        return start if isinstance(start, Reason) else _dose_at(header, start, life_s, unity)
    if header.decay_correction == DecayCorrection.NONE:
        return _undecayed(header, life_s)
    if header.decay_corrected_to is not None:
        first = header.clocks(life_s).earliest
        found = f"{header.decay_corrected_to}, and a first frame {f'of {first}' if first else 'without time'}"
        expected = "the instant of the injection, or one that is not after the first frame's"
        return Reason(RefusalCode.DECAY_CORRECTION_UNKNOWN, "DecayCorrectionDateTime", found, expected)
    found = header.decay_correction or "nothing"
    return Reason(RefusalCode.DECAY_CORRECTION_UNKNOWN, "DecayCorrection", found, "START, ADMIN or NONE")


def _at_administration(header: PetHeader, life_s: float) -> _Timing:
    """ADMIN: the whole dose, whenever it was injected.

    A time that can't be true is left out with a warning: activities would be decayed by it.
    """
    site, unity = header.injection.site, (1.0,) * len(header.frames)
    stated = (site and site.administered_at) or header.injection.injected.start_datetime
    acquired = [frame.acquired_at for frame in header.frames if frame.acquired_at is not None]
    started = min(acquired, default=header.series_datetime)
    if started is None:
        return _Timing(stated, stated, 1.0, unity)
    first = started
    if len(acquired) == len(header.frames):
        begun = frame_beginnings(header.clocks(life_s))
        first = started if isinstance(begun, Reason) else min(begun[0])
    found = _injection(header, ScanStart(started, first), life_s)
    if not isinstance(found, Reason):
        injected_at, uptake_s, decisions = found
        return _Timing(injected_at, injected_at, 1.0, unity, decisions, started, uptake_s)
    decisions = ()
    if found.code is RefusalCode.INJECTION_TIME_IMPLAUSIBLE:
        text = f"injected {found.found}; no effect on SUV with DecayCorrection ADMIN"
        decisions = (Decision.warning("load", f"{text}, and activities stay as at the injection"),)
    return _Timing(None, None, 1.0, unity, decisions, started)


def _undecayed(header: PetHeader, life_s: float) -> _Timing | Reason:
    """Without decay correction: bring every slice from its own mean-activity time to the earliest one."""
    durations_s = [frame.duration_s for frame in header.frames if frame.acquired_at and frame.duration_s]
    if len(durations_s) < len(header.frames):
        expected = "AcquisitionDateTime and ActualFrameDuration on every slice, as DecayCorrection is NONE"
        attribute = "AcquisitionTime, ActualFrameDuration"
        return Reason(RefusalCode.NOT_DECAY_CORRECTED, attribute, "slices without them", expected)
    implausible = scattered_times(header.frames, life_s) or torn_times(header.frames, life_s)
    if implausible is not None:
        return implausible
    begun = frame_beginnings(header.clocks(life_s))
    if isinstance(begun, Reason):
        return begun
    start, factors = min(begun[0]), []
    for instant, duration_s in zip(begun[0], durations_s, strict=True):
        mean_s = (instant - start).total_seconds() + mean_activity_offset_s(duration_s, life_s)
        factors.append(1.0 / decay_factor(mean_s, life_s))
    text = "DecayCorrection is NONE; every slice is decay corrected to the start of the scan"
    found = ScanStart(start, start, decisions=(Decision("load", text), *begun[1]))
    return _dose_at(header, found, life_s, tuple(factors))


def _dose_at(
    header: PetHeader, start: ScanStart, life_s: float, slice_factors: tuple[float, ...]
) -> _Timing | Reason:
    found = _injection(header, start, life_s)
    if isinstance(found, Reason):
        return found
    injected_at, uptake_s, added = found
    reference = start.reference
    left = decay_factor((reference - injected_at).total_seconds(), life_s)
    decisions = (*start.decisions, *added)
    return _Timing(
        reference, injected_at, left, slice_factors, decisions, reference, uptake_s, start.witnesses
    )


def _injection(
    header: PetHeader, start: ScanStart, life_s: float
) -> tuple[datetime, float, tuple[Decision, ...]] | Reason:
    """When it was injected, the uptake time in s, and how both were found.

    A list-mode acquisition begins with the injection, or a little before, and its static image is of later
    minutes: the reference of the decay correction is then no sign of a wrong time, if the first frame is late
    enough. Both at midnight are times that an anonymiser removed.
    """
    reference, first = start.reference, start.first_frame_at
    found = administered_at(header.injection, reference)
    if not isinstance(found, Reason):
        return found[0], (reference - found[0]).total_seconds(), found[1]
    is_late = first is not None and (first - reference).total_seconds() >= SHORTEST_WAIT_S
    if first is None or not is_late or found.code is not RefusalCode.INJECTION_TIME_IMPLAUSIBLE:
        return found
    again = administered_at(header.injection, first)
    if isinstance(again, Reason):
        return found
    lead_s = (again[0] - reference).total_seconds()
    is_early = 1.0 - decay_factor(lead_s, life_s) > LARGEST_CLOCK_EFFECT
    if is_early or time() in (again[0].time(), reference.time()):
        return found
    uptake_s = (first - again[0]).total_seconds()
    text = f"the acquisition began with the injection, its first frame {uptake_s / 60:.0f} min later"
    decision = Decision.warning("load", f"{text}: taken as a static image from list mode")
    return again[0], uptake_s, (*again[1], decision)
