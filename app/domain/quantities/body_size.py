"""Ideal weight, lean mass and surface of a body: other SUVs become SUVbw, and SUVbw becomes them.

Formulas as collected in PS3.3 C.8.9.1.1.14 (SUV Type) and the IBSI report on SUV computation.
Weight in kg, height in m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from app.domain.refusal import Reason, RefusalCode
from app.domain.units import Unit

HEIGHT_IN_CM_ABOVE_M = 3.0
"""Nobody is taller than 3 m: such a Patient's Size is in cm."""

HEIGHT_RANGE_M = (0.5, 2.5)
"""Outside it Patient's Size is in feet, or a typing error."""

NORMALISER_RANGE = (0.25, 1.6)
"""Of the weight: lean and ideal masses of people between starved and very obese. James' formula turns
negative beyond a BMI of 50, where it has no meaning."""

SURFACE_RANGE_CM2 = (5e3, 4e4)
"""From a child of three to 250 kg."""

Formula = Callable[[float, float, bool], float]
"""(weight_kg, height_m, is_male) → kg, or cm² for the surface."""


def _ideal_kg(weight_kg: float, height_m: float, is_male: bool) -> float:
    """Sugawara et al., Radiology 1999;213:521."""
    above_cm = 100.0 * height_m - 152.0
    return 48.0 + 1.06 * above_cm if is_male else 45.5 + 0.91 * above_cm


def _lean_kg(male_multiplier: float) -> Formula:
    """James 1976 (128) and Morgan 1994 (120): they differ in the men's multiplier alone."""

    def formula(weight_kg: float, height_m: float, is_male: bool) -> float:
        ratio = (weight_kg / (100.0 * height_m)) ** 2
        return 1.10 * weight_kg - male_multiplier * ratio if is_male else 1.07 * weight_kg - 148.0 * ratio

    return formula


def _lean_janmahasatian_kg(weight_kg: float, height_m: float, is_male: bool) -> float:
    """Janmahasatian et al., Clin Pharmacokinet 2005;44:1051."""
    bmi = weight_kg / height_m**2
    return 9270.0 * weight_kg / ((6680.0 + 216.0 * bmi) if is_male else (8780.0 + 244.0 * bmi))


def _surface_cm2(weight_kg: float, height_m: float, is_male: bool) -> float:
    """Du Bois 1916; the same for men and women."""
    return 71.84 * math.pow(weight_kg, 0.425) * math.pow(100.0 * height_m, 0.725)


NORMALISATIONS: dict[str, tuple[Formula, float]] = {
    "IBW": (_ideal_kg, 1000.0),
    "LBM": (_lean_kg(120.0), 1000.0),
    "LBMJAMES128": (_lean_kg(128.0), 1000.0),
    "LBMJANMA": (_lean_janmahasatian_kg, 1000.0),
    "BSA": (_surface_cm2, 1.0),
}
"""SUV Type (0054,1006): formula, and its factor to the SUV's own numerator (g, or cm²)."""


@dataclass(frozen=True)
class Body:
    """A person's weight, kg, height, m, and sex, ``M``, ``F`` or another letter."""

    weight_kg: float
    height_m: float
    sex: str


def height_m(stated: float | None) -> float | Reason:
    """Patient's Size in m; cm are seen as such."""
    expected = f"{HEIGHT_RANGE_M[0]} to {HEIGHT_RANGE_M[1]} m"
    if not stated:
        found = "nothing" if stated is None else "0"
        return Reason(RefusalCode.HEIGHT_MISSING, "PatientSize", found, expected)
    metres = stated / 100.0 if stated > HEIGHT_IN_CM_ABOVE_M else stated
    if HEIGHT_RANGE_M[0] <= metres <= HEIGHT_RANGE_M[1]:
        return metres
    return Reason(RefusalCode.BODY_IMPLAUSIBLE, "PatientSize", f"{stated:g}", expected)


class OtherSuvKind(StrEnum):
    """SUVs that can be given in addition to SUVbw."""

    SUL = "SUL"
    """By lean body mass, Janmahasatian's formula."""
    SUVBSA = "SUVbsa"
    """By body surface area, Du Bois' formula."""


@dataclass(frozen=True)
class OtherSuv:
    """Another SUV than SUVbw that the site asks for: SUVbw times ``per_suvbw`` is in ``unit``."""

    unit: Unit
    per_suvbw: float


_KINDS = {OtherSuvKind.SUL: ("LBMJANMA", Unit.SUL), OtherSuvKind.SUVBSA: ("BSA", Unit.SUVBSA)}


def other_suv(
    kind: OtherSuvKind, weight_kg: float, stated_height_m: float | None, sex: str
) -> OtherSuv | Reason:
    """SUVbw to another SUV; lean mass is refused for a sex that its formula doesn't know."""
    height = height_m(stated_height_m)
    if isinstance(height, Reason):
        return height
    if kind is OtherSuvKind.SUL and sex not in ("M", "F"):
        code = RefusalCode.BODY_IMPLAUSIBLE
        return Reason(code, "PatientSex", sex or "nothing", "M or F, as lean body mass depends on it")
    suv_type, unit = _KINDS[kind]
    factor = suvbw_per(suv_type, Body(weight_kg, height, sex))
    return factor if isinstance(factor, Reason) else OtherSuv(unit, 1.0 / factor)


def suvbw_per(suv_type: str, body: Body) -> float | Reason:
    """Factor from an SUV of ``suv_type`` to SUVbw; divide by it to go the other way.

    For a sex other than M and F it is by the mean of both formulas.

    Raises:
        KeyError: ``suv_type`` is not one of :data:`NORMALISATIONS`.
    """
    formula, factor = NORMALISATIONS[suv_type]
    sexes = {"M": (True,), "F": (False,)}.get(body.sex, (True, False))
    numerator = sum(formula(body.weight_kg, body.height_m, is_male) for is_male in sexes) / len(sexes)
    low, high = NORMALISER_RANGE
    if suv_type == "BSA":
        plausible = SURFACE_RANGE_CM2[0] <= numerator <= SURFACE_RANGE_CM2[1]
    else:
        plausible = low * body.weight_kg <= numerator <= high * body.weight_kg
    if plausible:
        return 1000.0 * body.weight_kg / (factor * numerator)
    found = f"{body.weight_kg:g} kg and {body.height_m:g} m, which make {numerator:.1f} for SUV {suv_type}"
    code, expected = RefusalCode.BODY_IMPLAUSIBLE, "a weight and a height that the formula is made for"
    return Reason(code, "PatientWeight, PatientSize", found, expected)
