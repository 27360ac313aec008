"""What a header says of the injection: Radiopharmaceutical Information Sequence (0054,0016)."""

from __future__ import annotations

from datetime import timedelta

from pydicom import Dataset

from app.dicom import header_values as header
from app.domain.clocks import LoneOffset
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Radiopharmaceutical


def radiopharmaceutical(dataset: Dataset) -> Radiopharmaceutical | None:
    """The first item of Radiopharmaceutical Information Sequence (0054,0016)."""
    item = next(iter(header.items(dataset, "RadiopharmaceuticalInformationSequence")), None)
    if item is None:
        return None
    zone = header.stated_zone(dataset)
    return Radiopharmaceutical(
        name=header.text(item, "Radiopharmaceutical"),
        drug_code=header.code(item, "RadiopharmaceuticalCodeSequence"),
        radionuclide_code=header.code(item, "RadionuclideCodeSequence"),
        half_life_s=header.number(item, "RadionuclideHalfLife"),
        injected_activity_header=header.number(item, "RadionuclideTotalDose"),
        start_datetime=header.moment(item, "RadiopharmaceuticalStartDateTime", zone),
        start_time=header.time_of_day(item, "RadiopharmaceuticalStartTime"),
        lone_offset=_lone_offset(dataset, item, zone),
    )


def _lone_offset(dataset: Dataset, item: Dataset, zone: timedelta | None) -> LoneOffset | None:
    """An offset from UTC that the injection alone states, or Acquisition DateTime alone."""
    own = header.own_offset(item, "RadiopharmaceuticalStartDateTime")
    if zone is None:
        return None if own is None else LoneOffset(own)
    is_scans = (
        header.own_offset(dataset, "AcquisitionDateTime") is not None
        and not header.text(dataset, "TimezoneOffsetFromUTC")
        and header.date_and_time(dataset, "AcquisitionDate", "AcquisitionTime") is None
    )
    return LoneOffset(zone, is_scans=True) if is_scans and own is None else None


def several_injections(dataset: Dataset) -> tuple[Reason, ...]:
    """Two injections, or two tracers, in one image: which one its values are scaled by is not said."""
    keyword = "RadiopharmaceuticalInformationSequence"
    items = header.items(dataset, keyword)
    if all(str(item) == str(items[0]) for item in items):
        return ()
    found, expected = f"{len(items)} different items", "one injection"
    return (Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, keyword, found, expected),)
