"""What was injected, by Radiopharmaceutical Information Sequence (0054,0016)."""

from __future__ import annotations

import re
from datetime import timedelta

from pydicom import Dataset

from app.dicom import header_values as header
from app.domain.clocks import LoneOffset
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Radiopharmaceutical

INJECTIONS = "RadiopharmaceuticalInformationSequence"

NO_RADIOPHARMACEUTICAL = re.compile(
    r"furosemid|lasix|frusemid|saline|salin|nacl|sodium chlorid|kochsalz|iohexol|iodixanol|iopamidol|iomeprol"
    r"|iopromid|omnipaque|visipaque|imeron|ultravist|contrast|kontrast|butylscopol|buscopan|hyoscin|glucagon"
    r"|midazolam|diazepam|insulin|water", re.IGNORECASE,
)  # fmt: skip
"""Names of what is given along with a tracer, for kidneys, bowel, vessels or nerves."""


def injections(dataset: Dataset) -> tuple[tuple[Dataset, ...], tuple[str, ...]]:
    """Items of Radiopharmaceutical Information Sequence (0054,0016), and the names of those set aside.

    Workflow systems write there what else was given, such as furosemide: an item by such a name, or one
    without radionuclide, half-life and activity, beside another that has them.
    """
    items = header.items(dataset, INJECTIONS)
    foreign = [_is_foreign(item) for item in items]
    if all(foreign) or not any(foreign):
        return items, ()
    named = (_name(item) for item, is_foreign in zip(items, foreign, strict=True) if is_foreign)
    kept = tuple(item for item, is_foreign in zip(items, foreign, strict=True) if not is_foreign)
    return kept, tuple(named)


def _is_foreign(item: Dataset) -> bool:
    if NO_RADIOPHARMACEUTICAL.search(_name(item)):
        return True
    keywords = ("RadionuclideHalfLife", "RadionuclideTotalDose")
    return header.code(item, "RadionuclideCodeSequence") is None and not any(
        header.number(item, keyword) for keyword in keywords
    )


def _name(item: Dataset) -> str:
    code = header.code(item, "RadiopharmaceuticalCodeSequence")
    names = (header.text(item, "Radiopharmaceutical"), code.meaning if code else "")
    return " / ".join(dict.fromkeys(name for name in names if name)) or "an item without a name"


def radiopharmaceutical(dataset: Dataset) -> Radiopharmaceutical | None:
    """The first of :func:`injections`."""
    items, set_aside = injections(dataset)
    if not items:
        return None
    item = items[0]
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
        set_aside=set_aside,
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
    items, _ = injections(dataset)
    if all(str(item) == str(items[0]) for item in items[1:]):
        return ()
    found = f"{len(items)} different items ({', '.join(_name(item) for item in items)})"
    return (Reason(RefusalCode.ATTRIBUTE_INCONSISTENT, INJECTIONS, found, "one injection"),)
