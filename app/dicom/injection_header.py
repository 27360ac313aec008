"""What a header says of the injection: Radiopharmaceutical Information Sequence (0054,0016)."""

from __future__ import annotations

from pydicom import Dataset

from app.dicom import header_values as header
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Radiopharmaceutical


def radiopharmaceutical(dataset: Dataset) -> Radiopharmaceutical | None:
    """The first item of Radiopharmaceutical Information Sequence (0054,0016)."""
    item = next(iter(header.items(dataset, "RadiopharmaceuticalInformationSequence")), None)
    if item is None:
        return None
    zone = header.text(dataset, "TimezoneOffsetFromUTC")
    return Radiopharmaceutical(
        name=header.text(item, "Radiopharmaceutical"),
        drug_code=header.code(item, "RadiopharmaceuticalCodeSequence"),
        radionuclide_code=header.code(item, "RadionuclideCodeSequence"),
        half_life_s=header.number(item, "RadionuclideHalfLife"),
        injected_activity_header=header.number(item, "RadionuclideTotalDose"),
        start_datetime=header.moment(item, "RadiopharmaceuticalStartDateTime", zone),
        start_time=header.time_of_day(item, "RadiopharmaceuticalStartTime"),
    )


def several_injections(dataset: Dataset) -> tuple[Reason, ...]:
    """Two injections, or two tracers, in one image: which one its values are scaled by is not said."""
    keyword = "RadiopharmaceuticalInformationSequence"
    items = header.items(dataset, keyword)
    if all(str(item) == str(items[0]) for item in items):
        return ()
    found, expected = f"{len(items)} different items", "one injection"
    return (Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, keyword, found, expected),)
