"""Ideal weight, lean mass and surface of a body: to turn other SUVs into SUVbw.

Formulas as collected in PS3.3 C.8.9.1.1.14 (SUV Type) and the IBSI report on SUV computation.
Weight in kg, height in m. For a sex other than M and F the mean of both formulas is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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


def suvbw_per(suv_type: str, weight_kg: float, height_m: float, sex: str) -> float:
    """Factor from an SUV of ``suv_type`` to SUVbw.

    Raises:
        KeyError: ``suv_type`` is not one of :data:`NORMALISATIONS`.
    """
    formula, factor = NORMALISATIONS[suv_type]
    sexes = {"M": (True,), "F": (False,)}.get(sex, (True, False))
    numerator = sum(formula(weight_kg, height_m, is_male) for is_male in sexes) / len(sexes)
    return 1000.0 * weight_kg / (factor * numerator)
