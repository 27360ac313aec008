"""Whether DecayCorrection, CorrectedImage and DecayFactor tell one story of the decay correction.

Three witnesses: Decay Correction (0054,1102) names the reference; Corrected Image (0028,0051) has DECY or
not; Decay Factor (0054,1321) is what the values were multiplied by, exp(λ · (frame's mean time − reference)),
so it is near 1 in the first bed of START and 2^(uptake / T½) in that of ADMIN (PS3.3 C.8.9.1, C.8.9.4). A
factor of exactly 1 in every slice is what a writer without one fills in: alone it testifies nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime

from app.domain.decision import Decision
from app.domain.quantities.decay import (
    FILLED_IN,
    LARGEST_CLOCK_EFFECT,
    DecayCorrection,
    FrameTiming,
    mean_activity_offset_s,
)
from app.domain.refusal import Reason, RefusalCode

OVERFLOW_HALF_LIVES = 50.0
"""Dates years apart, or a reference time of garbage, must not overflow."""

DECAY_CORRECTED = "DECY"
"""Value of Corrected Image (0028,0051)."""


@dataclass(frozen=True)
class DecayClaim:
    """What a series says of its decay correction.

    Attributes:
        stated: Decay Correction.
        corrected_image: Corrected Image; empty when absent.
        frames: one a slice, with its decay factor.
        started: start of the scan, to which START refers.
        injected_at: to which ADMIN refers; ``None`` when unknown.
        half_life_s: of the radionuclide.
    """

    stated: DecayCorrection
    corrected_image: tuple[str, ...]
    frames: tuple[FrameTiming, ...]
    started: datetime | None
    injected_at: datetime | None
    half_life_s: float

    @property
    def lacks_decy(self) -> bool:
        """CorrectedImage is there, and doesn't name decay."""
        return bool(self.corrected_image) and DECAY_CORRECTED not in self.corrected_image

    @property
    def factors(self) -> tuple[float, ...]:
        """Decay factors, where stated."""
        return tuple(frame.decay_factor for frame in self.frames if frame.decay_factor)

    @property
    def has_testimony(self) -> bool:
        """Whether the decay factors are measured ones."""
        return any(abs(factor - 1.0) > FILLED_IN for factor in self.factors)

    @property
    def uptake_factor(self) -> float | None:
        """ADMIN's value over START's: the decay from injection to the start of the scan."""
        if self.started is None or self.injected_at is None:
            return None
        return _growth((self.started - self.injected_at).total_seconds(), self.half_life_s)


def doubts(claim: DecayClaim) -> Reason | tuple[Decision, ...]:
    """A reason where evidence overrules the statement by more than 5 % of SUV; else decisions."""
    if claim.stated is DecayCorrection.NONE:
        return _uncorrected(claim)
    if claim.has_testimony:
        return _by_factor(claim)
    return _without_factor(claim)


def _uncorrected(claim: DecayClaim) -> Reason | tuple[Decision, ...]:
    """NONE: a factor other than 1 says that values were multiplied; doing it again errs by that much."""
    is_named = DECAY_CORRECTED in claim.corrected_image
    if not claim.has_testimony and not is_named:
        return ()
    if not claim.has_testimony:
        text = "DecayCorrection is NONE, yet CorrectedImage names DECY; no DecayFactor tells which is right"
        return _warned(f"{text}: the former is taken, and every slice is decay corrected here")
    furthest = max(claim.factors, key=lambda factor: abs(factor - 1.0))
    found = f"NONE, with a DecayFactor of {furthest:.4g}"
    found = f"{found} and DECY in CorrectedImage" if is_named else found
    if abs(furthest - 1.0) > LARGEST_CLOCK_EFFECT and not claim.lacks_decy:
        return _contradicted(found, "START or ADMIN, or a DecayFactor of 1")
    return _warned(f"DecayCorrection is {found}; it is taken as not decay corrected")


def _by_factor(claim: DecayClaim) -> Reason | tuple[Decision, ...]:
    """START or ADMIN against a decay factor that was measured."""
    other = DecayCorrection.START if claim.stated is DecayCorrection.ADMIN else DecayCorrection.ADMIN
    factor = min(claim.factors)
    is_borne_out = _misfit(claim, claim.stated) <= LARGEST_CLOCK_EFFECT
    if claim.stated is DecayCorrection.ADMIN and claim.uptake_factor is None:  # it can only be disproved
        is_borne_out = _misfit(claim, other) > LARGEST_CLOCK_EFFECT
    if is_borne_out:
        if unlike := _unlike_bed(claim):
            return unlike
        text = f"CorrectedImage lacks DECY, yet DecayFactor bears out DecayCorrection {claim.stated}"
        return _warned(text) if claim.lacks_decy else ()
    found = f"{claim.stated}, with a DecayFactor of {factor:.4g} in the first bed"
    if _misfit(claim, other) > LARGEST_CLOCK_EFFECT:
        return _warned(f"DecayCorrection is {found}, which the times don't explain; DecayCorrection is taken")
    if claim.uptake_factor is None:
        return _warned(f"DecayCorrection is {found}, which is that of {other}; DecayCorrection is taken")
    return _contradicted(found, f"{other}, which that factor means ({claim.uptake_factor:.3g} times in SUV)")


def _unlike_bed(claim: DecayClaim) -> Reason | tuple[Decision, ...]:
    """A bed whose times tell it from the others, and whose decay factor they don't explain.

    Values that were corrected to each bed's own start carry the first bed's factor everywhere, and a later
    bed is low by its whole delay. Where Frame Reference Time is one for all beds too, it may be so, or both
    are filled in.
    """
    is_timed = len({frame.reference_s for frame in claim.frames}) > 1
    is_placed = is_timed or len({frame.acquired_at for frame in claim.frames}) > 1
    if not is_placed or (claim.stated is DecayCorrection.ADMIN and claim.uptake_factor is None):
        return ()
    for frame in claim.frames:
        due = _expected(claim, claim.stated, frame if is_timed else replace(frame, reference_s=None))
        factor = frame.decay_factor or due[0]
        if min(abs(factor / other - 1.0) for other in due) <= LARGEST_CLOCK_EFFECT:
            continue
        found = f"{claim.stated}, with a DecayFactor of {factor:.4g} where a bed's times mean {due[0]:.4g}"
        if is_timed:
            return _contradicted(found, "decay factors of one reference in all beds")
        text = f"DecayCorrection is {found}; FrameReferenceTime does not tell the beds apart either"
        return _warned(f"{text}: later beds may be corrected to their own start, and too low by as much")
    return ()


def _without_factor(claim: DecayClaim) -> Reason | tuple[Decision, ...]:
    """START or ADMIN; no decay factor, or 1 in every slice.

    ADMIN changes SUV by the whole decay since the injection, so it isn't taken in silence.
    """
    effect = largest_factor(claim) - 1.0
    if claim.lacks_decy:
        found = f"{claim.stated}, without DECY in CorrectedImage"
        if claim.factors and effect > LARGEST_CLOCK_EFFECT:
            return _contradicted(f"{found} and with a DecayFactor of 1 in every slice", "NONE, or DECY")
        return _warned(f"DecayCorrection is {found}; it is taken as decay corrected")
    if claim.stated is not DecayCorrection.ADMIN:
        return ()
    found = "DecayFactor 1 doesn't bear" if claim.factors else "no DecayFactor bears"
    text = f"{found} out DecayCorrection ADMIN; START would change SUV by"
    if claim.uptake_factor is None:
        return _warned(f"{text} the decay since the injection, whose time is unknown")
    share = claim.uptake_factor - 1.0
    text = f"{text} {share:.1%}"
    return _warned(text) if share > LARGEST_CLOCK_EFFECT else (Decision("load", text),)


def largest_factor(claim: DecayClaim) -> float:
    """The largest decay factor that the statement means, by the times of the last frame."""
    return max((_expected(claim, claim.stated, frame)[-1] for frame in claim.frames), default=1.0)


def _misfit(claim: DecayClaim, hypothesis: DecayCorrection) -> float:
    """Relative distance of the smallest decay factor from what ``hypothesis`` makes of that frame's times."""
    stated = [(frame.decay_factor, frame) for frame in claim.frames if frame.decay_factor]
    factor, frame = min(stated, key=lambda each: each[0])
    return min(abs(factor / expected - 1.0) for expected in _expected(claim, hypothesis, frame))


def _expected(claim: DecayClaim, hypothesis: DecayCorrection, frame: FrameTiming) -> tuple[float, ...]:
    """Decay factors that are possible, smallest first.

    The frame's place in the scan is by its acquisition time or by its Frame Reference Time: some scanners
    write one acquisition time for every bed, some the start of the frame as its reference time.
    """
    offset_s = mean_activity_offset_s(frame.duration_s or 0.0, claim.half_life_s)
    elapsed_s = [offset_s]
    if claim.started is not None and frame.acquired_at is not None:
        elapsed_s = [(frame.acquired_at - claim.started).total_seconds() + offset_s]
    if frame.reference_s is not None:
        elapsed_s += [frame.reference_s, frame.reference_s + offset_s]
    whole = (claim.uptake_factor or 1.0) if hypothesis is DecayCorrection.ADMIN else 1.0
    return tuple(sorted(whole * _growth(seconds, claim.half_life_s) for seconds in elapsed_s))


def _growth(elapsed_s: float, half_life_s: float) -> float:
    """Decay factor of ``elapsed_s``; times that are no scan's stay finite."""
    return math.exp2(max(-OVERFLOW_HALF_LIVES, min(elapsed_s / half_life_s, OVERFLOW_HALF_LIVES)))


def without_effect(found: Reason | tuple[Decision, ...]) -> tuple[Decision, ...]:
    """The same of an image that is SUV already: whatever it was corrected to, nothing is computed from it."""
    end = "no effect, as the image is SUV already"
    if isinstance(found, Reason):
        return (Decision("load", f"DecayCorrection is {found.found}; {end}"),)
    return tuple(Decision(decision.stage, f"{decision.text}; {end}") for decision in found)


def _warned(text: str) -> tuple[Decision, ...]:
    return (Decision.warning("load", text),)


def _contradicted(found: str, expected: str) -> Reason:
    attribute = "DecayCorrection, DecayFactor, CorrectedImage"
    return Reason(RefusalCode.DECAY_CORRECTION_CONTRADICTED, attribute, found, expected)
