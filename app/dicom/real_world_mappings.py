"""Real World Value Mapping Sequence (0040,9096): what stored values mean, beside or instead of a rescale."""

from __future__ import annotations

from pydicom import Dataset

from app.dicom import header_values as header
from app.domain.quantities.calibration import RealWorldMapping


def real_world_mappings(dataset: Dataset) -> tuple[RealWorldMapping, ...]:
    """Every item, at the top or in the shared functional groups."""
    shared = header.items(dataset, "SharedFunctionalGroupsSequence")
    found = []
    for holder in (dataset, *shared):
        for item in header.items(holder, "RealWorldValueMappingSequence"):
            unit = header.code(item, "MeasurementUnitsCodeSequence")
            slope = header.number(item, "RealWorldValueSlope")
            intercept = header.number(item, "RealWorldValueIntercept")
            first, last = (_mapped(item, end) for end in ("First", "Last"))
            found.append(RealWorldMapping(slope, intercept, unit.value if unit else "", first, last))
    return tuple(found)


def _mapped(item: Dataset, end: str) -> float | None:
    """First or last stored value of a mapping: as integer or, for float pixels, as double."""
    keyword = f"RealWorldValue{end}ValueMapped"
    integer = header.number(item, keyword)
    return header.number(item, f"DoubleFloat{keyword}") if integer is None else integer
