"""From stored PET values to Bq/ml and SUVbw.

SUVbw [g/ml] = C [Bq/ml] · W [g] / (A0 [Bq] · 2^(−Δt / T½)), with Δt from the injection to the
instant to which C is decay corrected (PS3.3 C.8.9.1; QIBA's vendor-neutral pseudo-code).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from app.domain.decision import Decision
from app.domain.quantities.administration import weight_kg
from app.domain.quantities.body_size import NORMALISATIONS, Body, height_m, suvbw_per
from app.domain.quantities.decay import DecayCorrection
from app.domain.quantities.suv_scale import (
    PetHeader,
    Quantification,
    SuvScale,
    suv_scale,
    undecided_witnesses,
    uptake_of_suv,
)
from app.domain.refusal import Reason, RefusalCode

FACTOR_AGREEMENT = 0.02
"""Philips' own SUV factor and the one from dose and weight: a larger difference is worth a sentence."""

SEXES = ("M", "F", "O")
"""Patient's Sex (0010,0040), PS3.3 C.7.1.1. An empty one is not known, and between men and women lie 9 % of
ideal weight and more of lean mass."""

FACTOR_CONTRADICTION = 0.05
"""Beyond it one of the two is wrong, and nothing says which."""


NOT_QUANTIFIED = "not quantified: counts without a calibration"


class Units(StrEnum):
    """Units (0054,1001) of PET that can become SUV (PS3.3 C.8.9.1.1.3)."""

    BQML = "BQML"
    GML = "GML"
    CM2ML = "CM2ML"
    CNTS = "CNTS"


@dataclass(frozen=True)
class Conversion:
    """Factors from rescaled values (of NM: from stored ones), one a slice.

    Attributes:
        activity_factors: to Bq/ml; ``None`` when the image is SUV already.
        suv_factors: to SUVbw; ``None`` when SUV can't be had.
        no_suv: why not.
        count_factors: to counts, on any scale, where neither can be had and the site takes it so.
    """

    quantification: Quantification
    activity_factors: tuple[float, ...] | None
    suv_factors: tuple[float, ...] | None
    no_suv: Reason | None = None
    decisions: tuple[Decision, ...] = ()
    count_factors: tuple[float, ...] | None = None


def convert_pet(header: PetHeader) -> Conversion | Reason:
    """How this series' values become Bq/ml and SUVbw; a reason when not even their unit is known."""
    if header.units == Units.BQML:
        source = f"Units=BQML, DecayCorrection={header.decay_correction or 'absent'}"
        return _weighed(header, from_activity((1.0,) * len(header.frames), suv_scale(header), source))
    if header.units == Units.GML:
        return _with_uptake(header, _from_suv(header, header.suv_type or "BW"))
    if header.units == Units.CM2ML:
        return _with_uptake(header, _from_suv(header, header.suv_type or "BSA"))
    if header.units == Units.CNTS:
        return _from_philips_counts(header)
    expected = "BQML, GML, CM2ML, or CNTS with Philips' private factors"
    return Reason(RefusalCode.UNITS_UNSUPPORTED, "Units", header.units or "nothing", expected)


def pet_left_in_counts(header: PetHeader, why: Reason) -> Conversion | Reason:
    """Counts as they are, where nothing but a factor to another unit is missing: other reasons stand."""
    if header.units != Units.CNTS or why.code is not RefusalCode.UNITS_UNSUPPORTED:
        return why
    factors = (1.0,) * len(header.frames)
    return Conversion(Quantification(NOT_QUANTIFIED), None, None, why, count_factors=factors)


def _weighed(header: PetHeader, conversion: Conversion) -> Conversion:
    """With the witnesses of its time, where these are why there is no SUV."""
    if conversion.no_suv is None or conversion.no_suv.code is not RefusalCode.SERIES_TIME_IMPLAUSIBLE:
        return conversion
    used = replace(conversion.quantification, time_witnesses=undecided_witnesses(header))
    return replace(conversion, quantification=used)


def from_activity(
    bqml_factors: tuple[float, ...],
    scale: SuvScale | Reason,
    source: str,
    decisions: tuple[Decision, ...] = (),
) -> Conversion:
    """An image in Bq/ml by one factor a slice; without dose, weight or time it stays that, and says why."""
    if isinstance(scale, Reason):
        return Conversion(Quantification(source), bqml_factors, None, scale, decisions)
    suv_per_bqml = scale.quantification.suv_per_bqml or 0.0
    activity = tuple(one * other for one, other in zip(bqml_factors, scale.slice_factors, strict=True))
    return Conversion(
        replace(scale.quantification, source=source),
        activity,
        tuple(value * suv_per_bqml for value in activity),
        decisions=(*decisions, *scale.decisions),
    )


def _with_uptake(header: PetHeader, conversion: Conversion | Reason) -> Conversion | Reason:
    if isinstance(conversion, Reason):
        return conversion
    uptake_s, added = uptake_of_suv(header)
    used = replace(conversion.quantification, uptake_s=uptake_s)
    return replace(conversion, quantification=used, decisions=(*conversion.decisions, *added))


def _from_suv(header: PetHeader, suv_type: str) -> Conversion | Reason:
    """An image that is an SUV already; of another kind than SUVbw it is turned into that."""
    source = f"Units={header.units}, SUVType={header.suv_type or 'absent'}"
    slices = len(header.frames)
    if header.decay_correction == DecayCorrection.NONE:
        return _undecayed_suv(header)
    weight = weight_kg(header.injection)
    if suv_type == "BW" and header.units == Units.GML:
        kg, added = _weight_used(weight)
        return Conversion(Quantification(source, weight_kg=kg), None, (1.0,) * slices, decisions=added)
    if suv_type not in NORMALISATIONS or (suv_type == "BSA") is not (header.units == Units.CM2ML):
        expected = "BW, IBW, LBM, LBMJAMES128 or LBMJANMA in g/ml; BSA in cm2/ml"
        return Reason(RefusalCode.UNITS_UNSUPPORTED, "SUVType", f"{suv_type} in {header.units}", expected)
    return _renormalised(source, suv_type, header)


def _weight_used(
    weight: tuple[float, tuple[Decision, ...]] | Reason,
) -> tuple[float | None, tuple[Decision, ...]]:
    """The weight that the scanner made an SUVbw with: a warning when impossible, none when missing."""
    if not isinstance(weight, Reason):
        return weight
    if weight.code is RefusalCode.WEIGHT_MISSING:
        return None, ()
    text = f"{weight.attribute} {weight.found} is implausible, and the scanner made SUV with it"
    return None, (Decision.warning("load", text),)


def _undecayed_suv(header: PetHeader) -> Reason:
    found, expected = f"NONE in {header.units}", "START or ADMIN, as SUV can't be corrected afterwards"
    return Reason(RefusalCode.NOT_DECAY_CORRECTED, "DecayCorrection", found, expected)


def _renormalised(source: str, suv_type: str, header: PetHeader) -> Conversion | Reason:
    """SUV by lean mass, ideal weight or surface as SUVbw."""
    weight, height = weight_kg(header.injection), height_m(header.injection.body.height_m)
    if isinstance(weight, Reason):
        return weight
    if isinstance(height, Reason):
        return height
    sex = header.injection.body.sex
    if sex not in SEXES and suv_type != "BSA":
        expected = f"M, F or O, as SUV {suv_type} depends on it"
        advice = "Enter it on the scanner"
        return Reason(RefusalCode.BODY_IMPLAUSIBLE, "PatientSex", sex or "nothing", expected, advice)
    factor = suvbw_per(suv_type, Body(weight[0], height, sex))
    if isinstance(factor, Reason):
        return factor
    text = f"SUV {suv_type} is turned into SUVbw by weight, height and sex, factor {factor:.4f}"
    if sex not in ("M", "F") and suv_type != "BSA":
        decision = Decision.warning("load", f"{text}; PatientSex is O, so the mean of both formulas is taken")
    else:
        decision = Decision("load", text)
    decisions = (*weight[1], decision)
    quantification = Quantification(source, weight_kg=weight[0])
    return Conversion(quantification, None, (factor,) * len(header.frames), decisions=decisions)


def _from_philips_counts(header: PetHeader) -> Conversion | Reason:
    """Counts with Philips' factors: to Bq/ml where that one is given, else straight to SUVbw."""
    suv_factor, bqml_factor = header.philips_suv_factor, header.philips_bqml_factor
    if bqml_factor:
        source = "Units=CNTS, Philips activity factor (7053,xx09)"
        conversion = from_activity((bqml_factor,) * len(header.frames), suv_scale(header), source)
        if conversion.suv_factors is not None or not suv_factor:
            return _philips_cross_check(header, conversion)
    if suv_factor and header.decay_correction == DecayCorrection.NONE:
        return _undecayed_suv(header)
    if suv_factor:
        source = "Units=CNTS, Philips SUV factor (7053,xx00)"
        kg, added = _weight_used(weight_kg(header.injection))  # so that the share in the image is checked
        factors = (suv_factor,) * len(header.frames)
        quantification = Quantification(source, weight_kg=kg)
        return _with_uptake(header, Conversion(quantification, None, factors, decisions=added))
    expected = "BQML, GML, or Philips' private factors (7053,xx00) or (7053,xx09)"
    return Reason(RefusalCode.UNITS_UNSUPPORTED, "Units", "CNTS without a factor", expected)


def _philips_cross_check(header: PetHeader, conversion: Conversion) -> Conversion | Reason:
    """The factor from dose, weight and times against Philips' own; what the site entered overrules both."""
    suv_factor = header.philips_suv_factor
    if not suv_factor or conversion.suv_factors is None:
        return conversion
    ratio = conversion.suv_factors[0] / suv_factor
    if abs(ratio - 1.0) <= FACTOR_AGREEMENT:
        return conversion
    text = f"SUV from dose and weight is {ratio:.3f} times Philips' own (7053,xx00)"
    if abs(ratio - 1.0) > FACTOR_CONTRADICTION and header.injection.site is None:
        advice = "Correct dose, weight or times, or add the study to load.administrations"
        attribute = "(7053,xx00), RadionuclideTotalDose, PatientWeight"
        code, expected = RefusalCode.ATTRIBUTE_INCONSISTENT, f"a ratio of 1 within {FACTOR_CONTRADICTION:.0%}"
        return Reason(code, attribute, text, expected, advice)
    decision = Decision.warning("load", f"{text}; the former is used")
    return replace(conversion, decisions=(*conversion.decisions, decision))
