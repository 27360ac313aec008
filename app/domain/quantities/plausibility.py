"""Numbers that can be true but rarely are, and clocks that contradict each other.

They become warnings, which change no number; weight and height that no patient explains are refused. Usual
activities and times are those of the EANM/SNMMI guidelines (:mod:`app.domain.radionuclides`), widened to what
clinics do; docs/reference/quantities.md has the measured margins.
"""

from __future__ import annotations

from datetime import datetime

from app.domain.clocks import Clocks, lag_s
from app.domain.decision import Decision
from app.domain.quantities.body_size import height_m
from app.domain.quantities.decay import LARGEST_CLOCK_EFFECT, decay_factor
from app.domain.radionuclides import LU177, Emission, Radionuclide
from app.domain.refusal import Reason, RefusalCode

SMALL_BODY_KG = 50.0
"""Below it the usual activity's lower end shrinks with the weight: children get less."""

MBQ_PER_MCI = 37.0

USUAL_BMI = (12.0, 45.0)
"""kg/m². Few adults lie above; a normal weight in pounds (a BMI of 20.5 and more) does."""

POSSIBLE_BMI = (7.0, 100.0)
"""kg/m². Outside it weight or height is wrong."""

LB_PER_KG = 2.2046

LARGEST_USUAL_KG = 130.0
"""Without a height to go by. One adult in twenty or fewer is heavier; 59 kg in pounds reads 130."""

LEAST_SHARE, LARGEST_SHARE = 0.2, 1.05
"""Of the injected activity, decay apart. A whole body without its legs keeps well over half of a PSMA ligand
or FDG; more than all of it is a calibration, dose, time or slope that is wrong. Real whole body: 0.66."""

WHOLE_BODY_MM = 700.0
"""A scan this long shows the trunk; shorter ones may show little of the activity."""

MOST_RETAINED = ((72.0, 0.7), (20.0, 0.85))
"""Hours after the injection, and the largest share of a 177Lu-PSMA therapy still in the body: half is usual
after a day, four fifths with a very large tumour burden."""

LEAST_RETAINED, LEAST_RETAINED_UNTIL_H = 0.08, 72.0
"""Share that a scan of the trunk shows in the first three days: usual patients keep a fifth and more."""

CT_WITHIN_S = 3600.0
"""The CT of a hybrid scan is taken minutes before or after; a diagnostic one after a whole body
within the hour."""

HALF_A_DAY_S = 43200.0
"""Of Series Time, where there is an Acquisition Time, only the date is judged:
:func:`app.domain.quantities.scan_start.scan_start`."""


def activity_warnings(nuclide: Radionuclide | None, activity_bq: float, kg: float) -> tuple[Decision, ...]:
    """Whether this much of the radionuclide is usually injected."""
    if nuclide is None or nuclide.usual_activity_mbq is None:
        return ()
    low, high = nuclide.usual_activity_mbq
    low *= min(kg / SMALL_BODY_KG, 1.0)
    mbq = activity_bq / 1e6
    if low <= mbq <= high:
        return ()
    text = f"injected activity {mbq:.5g} MBq is unusual for {nuclide.key} ({low:.0f} to {high:.0f} MBq)"
    if low <= mbq * MBQ_PER_MCI <= high:
        text = f"{text}; is it in mCi ({mbq * MBQ_PER_MCI:.0f} MBq)?"
    return _warned(f"{text}; SUV hangs on it")


def is_rather_mci(nuclide: Radionuclide | None, number: float) -> bool:
    """Whether a number without a sure unit is a usual activity in mCi, and not in MBq."""
    if nuclide is None or nuclide.usual_activity_mbq is None:
        return False
    low, high = nuclide.usual_activity_mbq
    return not low <= number <= high and low <= number * MBQ_PER_MCI <= high


def uptake_warnings(nuclide: Radionuclide | None, uptake_s: float | None) -> tuple[Decision, ...]:
    """Whether the radionuclide is usually imaged this long after the injection."""
    if nuclide is None or nuclide.usual_uptake_s is None or uptake_s is None:
        return ()
    low, high = nuclide.usual_uptake_s
    if low <= uptake_s <= high:
        return ()
    unit, name = (60.0, "min") if high < 86400.0 else (3600.0, "h")
    usual = f"{low / unit:g} to {high / unit:g} {name}"
    text = f"uptake time {uptake_s / unit:.4g} {name} is unusual for {nuclide.key} ({usual})"
    return _warned(f"{text}; are the times of injection and scan right?")


def body_doubts(kg: float, stated_height_m: float | None, by_site: bool) -> Reason | tuple[Decision, ...]:
    """Weight against height, by itself without one; what the site entered is never refused for it."""
    metres = height_m(stated_height_m)
    if isinstance(metres, Reason):
        return _unchecked(kg, metres)
    bmi = kg / metres**2
    found = f"{kg:g} kg and {metres:g} m, a BMI of {bmi:.0f}"
    if not POSSIBLE_BMI[0] <= bmi <= POSSIBLE_BMI[1] and not by_site:
        expected = f"a BMI of {POSSIBLE_BMI[0]:g} to {POSSIBLE_BMI[1]:g}"
        advice = "Correct weight or height, or add the study's weight to load.administrations"
        code, attribute = RefusalCode.WEIGHT_IMPLAUSIBLE, "PatientWeight, PatientSize"
        return Reason(code, attribute, f"{found}{_in_pounds(bmi, kg)}", expected, advice)
    if USUAL_BMI[0] <= bmi <= USUAL_BMI[1]:
        return ()
    return _warned(f"weight and height are {found}{_in_pounds(bmi, kg)}; SUV is proportional to the weight")


def _unchecked(kg: float, no_height: Reason) -> tuple[Decision, ...]:
    is_absent = no_height.code is RefusalCode.HEIGHT_MISSING
    why = "is absent" if is_absent else f"{no_height.found} is wrong"
    text = f"{no_height.attribute} {why}: the weight of {kg:g} kg could not be checked"
    if kg <= LARGEST_USUAL_KG:
        return (Decision("load", text),)
    text = f"{text}, and is unusual (in pounds it would be {kg / LB_PER_KG:.0f} kg)"
    return _warned(f"{text}; SUV is proportional to the weight")


def _in_pounds(bmi: float, kg: float) -> str:
    if bmi <= USUAL_BMI[1]:
        return ""
    return f" (in pounds it would be {kg / LB_PER_KG:.0f} kg, a BMI of {bmi / LB_PER_KG:.0f})"


def share_warnings(share: float, length_mm: float, nuclide: Radionuclide | None) -> tuple[Decision, ...]:
    """Share of the injected activity that the image shows, decay apart.

    Only a long PET gets a warning for too little: a short one may show a hand, and half of a therapy is
    excreted within hours.
    """
    is_positron = nuclide is not None and nuclide.emission is Emission.POSITRON
    if share > LARGEST_SHARE:
        text = f"the image shows {share:.2f} times the injected activity"
    elif share < LEAST_SHARE and is_positron and length_mm >= WHOLE_BODY_MM:
        text = f"the image shows {share:.2f} of the injected activity in {length_mm:.0f} mm of the body"
    else:
        return ()
    return _warned(f"{text}; check dose, injection time, unit, slope and the scanner's calibration")


def retention_warnings(
    share: float, length_mm: float, nuclide: Radionuclide | None, uptake_s: float | None
) -> tuple[Decision, ...]:
    """Share of a 177Lu therapy that the image shows, decay apart, against what a body keeps of it.

    Wide: retention differs between patients by more than most mistakes. See docs/reference/quantities.md.
    """
    if nuclide is not LU177 or uptake_s is None:
        return ()
    most = next((share_kept for after_h, share_kept in MOST_RETAINED if uptake_s >= after_h * 3600.0), 1.0)
    is_long = length_mm >= WHOLE_BODY_MM and uptake_s <= LEAST_RETAINED_UNTIL_H * 3600.0
    if share <= most and (share >= LEAST_RETAINED or not is_long):
        return ()
    text = (
        f"the image shows {share:.2f} of the injected 177Lu, decay apart, {uptake_s / 3600.0:.0f} h after it"
    )
    usual = f"{LEAST_RETAINED:g} to {most:g} are usual"
    return _warned(f"{text} ({usual}); check mapping or calibration, dose and times")


def clock_doubts(clocks: Clocks, half_life_s: float) -> tuple[Decision, ...]:
    """Witnesses of the scan's time that contradict it by more than :data:`LARGEST_CLOCK_EFFECT` of SUV.

    A study begins before its images are acquired, and an image is made after it was measured. Nothing says
    which clock is wrong, so this is a warning.
    """
    before = ("before", ", the start of the study")
    after = ("after", ", when the image was made")
    series_lag_s = lag_s(clocks.series, clocks.acquired_at)
    is_far = series_lag_s is not None and series_lag_s > HALF_A_DAY_S
    witnesses = (
        (lag_s(clocks.study, clocks.acquired_at), *before, "StudyDate and StudyTime"),
        (clocks.content_lag_s, *after, "ContentDate and ContentTime"),
        (clocks.creation_lag_s, *after, "InstanceCreationDate and InstanceCreationTime"),
        (-series_lag_s if is_far and series_lag_s else None, *after, "SeriesDate and SeriesTime"),
    )
    return tuple(
        decision
        for lag, side, meaning, name in witnesses
        if lag is not None and lag < 0.0 and _effect(-lag, half_life_s) > LARGEST_CLOCK_EFFECT
        for decision in _wrong_clock(f"acquired {_duration(-lag)} {side} {name}{meaning}", -lag, half_life_s)
    )


def ct_clock_doubts(
    scan_at: datetime | None, ct_at: datetime | None, half_life_s: float
) -> tuple[Decision, ...]:
    """The CT that attenuation was corrected by is taken within the hour of the PET or SPECT."""
    apart_s = lag_s(ct_at, scan_at)
    if apart_s is None or abs(apart_s) <= CT_WITHIN_S:
        return ()
    if _effect(abs(apart_s), half_life_s) <= LARGEST_CLOCK_EFFECT:
        return ()
    side = "after" if apart_s > 0.0 else "before"
    return _wrong_clock(f"acquired {_duration(abs(apart_s))} {side} its CT", abs(apart_s), half_life_s)


def _effect(seconds: float, half_life_s: float) -> float:
    return 1.0 - decay_factor(seconds, half_life_s)


def _duration(seconds: float) -> str:
    if seconds < 2.0 * 86400.0:
        return f"{seconds / 60.0:.0f} min" if seconds < 3.0 * 3600.0 else f"{seconds / 3600.0:.1f} h"
    return f"{seconds / 86400.0:.1f} days"


def _wrong_clock(text: str, seconds: float, half_life_s: float) -> tuple[Decision, ...]:
    share = _effect(seconds, half_life_s)
    return _warned(f"{text}; one of these clocks is wrong, which is {share:.0%} of SUV")


def _warned(text: str) -> tuple[Decision, ...]:
    return (Decision.warning("load", text),)
