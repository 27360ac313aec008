"""Numbers that can be true but rarely are: told as warnings, and refused where no patient explains them.

Activities and times are those of the EANM/SNMMI guidelines (:mod:`app.domain.radionuclides` has them),
widened to what clinics do. A warning begins with ``warning:``; it changes no number.
"""

from __future__ import annotations

from app.domain.decision import Decision
from app.domain.quantities.body_size import height_m
from app.domain.radionuclides import Emission, Radionuclide
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
    why = (
        f"{no_height.attribute} is absent"
        if is_absent
        else f"{no_height.attribute} {no_height.found} is wrong"
    )
    text = f"{why}: the weight of {kg:g} kg could not be checked"
    if kg <= LARGEST_USUAL_KG:
        return (Decision("load", text),)
    return _warned(
        f"{text}, and is unusual (in pounds it would be {kg / LB_PER_KG:.0f} kg); "
        "SUV is proportional to the weight"
    )


def _in_pounds(bmi: float, kg: float) -> str:
    if bmi <= USUAL_BMI[1]:
        return ""
    return f" (in pounds it would be {kg / LB_PER_KG:.0f} kg, a BMI of {bmi / LB_PER_KG:.0f})"


def share_warnings(share: float, length_mm: float, nuclide: Radionuclide | None) -> tuple[Decision, ...]:
    """Share of the injected activity that the image shows, decay apart.

    Too little is told of a long PET alone: a short one may show a hand, a therapy is half excreted in hours.
    """
    is_positron = nuclide is not None and nuclide.emission is Emission.POSITRON
    if share > LARGEST_SHARE:
        text = f"the image shows {share:.2f} times the injected activity"
    elif share < LEAST_SHARE and is_positron and length_mm >= WHOLE_BODY_MM:
        text = f"the image shows {share:.2f} of the injected activity in {length_mm:.0f} mm of the body"
    else:
        return ()
    return _warned(f"{text}; check dose, injection time, unit, slope and the scanner's calibration")


def _warned(text: str) -> tuple[Decision, ...]:
    return (Decision.warning("load", text),)
