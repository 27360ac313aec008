"""What stands between stored values and counts, Bq/ml or SUVbw: mappings, rescales, vendors' own scales.

A real-world value mapping is for stored values, before any rescale (PS3.3 C.7.6.16.2.11).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from app.domain.refusal import Reason, RefusalCode

BQML_PER_UNIT = {
    f"{prefix}Bq/{millilitre}": factor
    for prefix, factor in (("", 1.0), ("k", 1e3), ("M", 1e6))
    for millilitre in ("ml", "mL", "cm3")
}
"""UCUM codes of Measurement Units Code Sequence (0040,08EA)."""

SUV_UNITS = ("g/ml{SUVbw}", "{SUVbw}g/ml", "g/mL{SUVbw}", "{SUVbw}g/mL")

COUNT_UNITS = ("{counts}", "counts", "{count}", "CNTS")

NO_UNIT = ("1", "")
"""Counts where the mapping changes nothing; where it does, nothing says into what."""

SAME_SCALE = 1e-3
"""Relative: one scale written in two units, with the digits that a header has."""

LARGEST_OFFSET = 1e-3
"""Of a stored step: an intercept below it is the rounding of who wrote it."""

MAPPING = "RealWorldValueMappingSequence"


class Kind(IntEnum):
    """What a mapping leads to, the most useful first."""

    ACTIVITY = 0
    SUV = 1
    COUNTS = 2
    OTHER = 3


@dataclass(frozen=True)
class RealWorldMapping:
    """One item of Real World Value Mapping Sequence (0040,9096), for stored values first to last."""

    slope: float | None
    intercept: float | None
    unit: str
    first_value: float | None = None
    last_value: float | None = None
    has_table: bool = False
    """Real World Value LUT Data (0040,9212) in place of a slope."""

    @property
    def kind(self) -> Kind:
        """By its unit."""
        if self.unit in BQML_PER_UNIT:
            return Kind.ACTIVITY
        if self.unit in SUV_UNITS:
            return Kind.SUV
        changes_nothing = self.slope == 1.0 and not self.intercept
        is_counts = self.unit in COUNT_UNITS or (self.unit in NO_UNIT and changes_nothing)
        return Kind.COUNTS if is_counts else Kind.OTHER


@dataclass(frozen=True)
class Scale:
    """Counts are stored values x slope + offset, as one attribute has it.

    Attributes:
        attribute: its keyword; of a private one group, element and name.
        slope: ``None`` where it is no single number.
        offset: 0 where :func:`is_no_offset`.
        is_understood: False for a vendor's factor of which only the name is known.
    """

    attribute: str
    slope: float | None
    offset: float = 0.0
    is_understood: bool = True


def is_no_offset(offset: float | None, slope: float | None) -> bool:
    """Whether an intercept is 0, but for the rounding of who wrote it."""
    return abs(offset or 0.0) <= LARGEST_OFFSET * abs(slope or 0.0)


def best_mapping(mappings: Sequence[RealWorldMapping]) -> RealWorldMapping | None:
    """The one of the most useful kind, ``None`` without any."""
    return min(mappings, key=lambda item: item.kind, default=None)


def chosen_mapping(
    mappings: Sequence[RealWorldMapping], stored: tuple[float, float]
) -> RealWorldMapping | Reason | None:
    """The mapping to go by, ``None`` without any; ``stored`` are the least and the largest stored value."""
    mapping = best_mapping(mappings)
    if mapping is None:
        return None
    if mapping.kind is Kind.OTHER:
        found = f"{mapping.unit or 'a mapping without unit'}, slope {mapping.slope}"
        expected = "Bq/ml, kBq/ml, MBq/ml, g/ml{SUVbw}, or {counts}"
        return Reason(RefusalCode.UNITS_UNSUPPORTED, "MeasurementUnitsCodeSequence", found, expected)
    rivals = [item for item in mappings if item.kind is mapping.kind]
    return _unusable(mapping, rivals) or _out_of_range(rivals, stored) or mapping


def _unusable(mapping: RealWorldMapping, rivals: Sequence[RealWorldMapping]) -> Reason | None:
    """Why a mapping can't be taken: a table, another that contradicts it, its slope or its intercept."""
    if any(item.has_table for item in rivals):
        attribute, found = "RealWorldValueLUTData", "a table of values"
        return Reason(RefusalCode.RESCALE_MISSING, attribute, found, "RealWorldValueSlope")
    if not all(same_scale(item, mapping) for item in rivals):
        found, expected = f"{len(rivals)} mappings that contradict each other", "one"
        return Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, MAPPING, found, expected)
    if not mapping.slope or mapping.slope <= 0:
        found = f"slope {mapping.slope}"
        return Reason(RefusalCode.RESCALE_MISSING, MAPPING, found, "a positive RealWorldValueSlope")
    if not is_no_offset(mapping.intercept, mapping.slope):
        found = f"RealWorldValueIntercept {mapping.intercept:g}"
        return Reason(RefusalCode.RESCALE_INTERCEPT, MAPPING, found, "0")
    return None


def _out_of_range(mappings: Sequence[RealWorldMapping], stored: tuple[float, float]) -> Reason | None:
    """A mapping holds for the stored values that it names (PS3.3 C.7.6.16.2.11.1.2)."""
    lowest, highest = stored
    for item in mappings:
        if item.first_value is None or item.last_value is None:
            continue
        if item.first_value <= max(lowest, 0.0) and highest <= item.last_value:
            continue
        mapped = f"{item.first_value:g} to {item.last_value:g}"
        found = f"stored values {lowest:g} to {highest:g}, a mapping of {mapped}"
        attribute = "RealWorldValueFirstValueMapped, RealWorldValueLastValueMapped"
        return Reason(RefusalCode.VALUES_IMPLAUSIBLE, attribute, found, "a mapping of every stored value")
    return None


def same_scale(one: RealWorldMapping, other: RealWorldMapping) -> bool:
    """Whether two mappings say the same, each in its own unit."""
    first, second = ((item.slope or 0.0) * BQML_PER_UNIT.get(item.unit, 1.0) for item in (one, other))
    offsets = [
        0.0 if is_no_offset(item.intercept, item.slope) else item.intercept or 0.0 for item in (one, other)
    ]
    return math.isclose(first, second, rel_tol=SAME_SCALE) and offsets[0] == offsets[1]


def scale_fault(scale: Scale) -> Reason | None:
    """Why a scale can't be applied."""
    if scale.slope is None or not scale.slope > 0.0 or not math.isfinite(scale.slope):
        found = "no single number" if scale.slope is None else f"{scale.slope:g}"
        expected = "a positive number, or none at all"
        return Reason(RefusalCode.RESCALE_MISSING, scale.attribute, found, expected)
    if scale.offset:
        return Reason(RefusalCode.RESCALE_INTERCEPT, scale.attribute, f"{scale.offset:g}", "0")
    return None


def counts_per_value(mapping: RealWorldMapping | None, scales: Sequence[Scale]) -> Scale | Reason:
    """The scale from stored values to counts on which all attributes agree.

    A slope of 1 says nothing where it stands in a rescale or a vendor's scale: it is what is written where
    nothing is known. A mapping to counts means it, and is for stored values, so that a vendor's factor of
    unknown meaning matters only without one.
    """
    known = [scale for scale in scales if scale.is_understood]
    fault = next((wrong for scale in known if (wrong := scale_fault(scale))), None)
    if fault is not None:
        return fault
    unknown = [scale for scale in scales if not scale.is_understood and scale.slope not in (0.0, 1.0)]
    if mapping is None and unknown:
        found = "a table" if unknown[0].slope is None else f"{unknown[0].slope:g}"
        expected = "nothing between stored values and counts but what the Standard or the vendor explains"
        advice = "Have it exported with RealWorldValueMappingSequence to {counts} or Bq/ml"
        return Reason(RefusalCode.UNITS_UNSUPPORTED, unknown[0].attribute, found, expected, advice)
    stated = [scale for scale in known if scale.slope != 1.0]
    if mapping is not None:
        stated.insert(0, Scale(MAPPING, mapping.slope))
    slopes = [scale.slope or 0.0 for scale in stated]
    if not all(math.isclose(slope, slopes[0], rel_tol=SAME_SCALE) for slope in slopes):
        attribute = ", ".join(scale.attribute for scale in stated)
        found = " and ".join(f"{slope:g}" for slope in slopes)
        return Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, attribute, found, "one scale to counts")
    return stated[0] if stated else Scale("", 1.0)
