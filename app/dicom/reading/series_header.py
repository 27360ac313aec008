"""How many images a series says that it has, so that a stack that ends too early is seen.

What a header says of the injection: Radiopharmaceutical Information Sequence (0054,0016).

What a header says of when its image was made, beside the times that its numbers hang on.

Real World Value Mapping Sequence (0040,9096): what stored values mean, beside or instead of a rescale.

What a series' headers say about the order of its slices, beside their positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pydicom import Dataset

from app.dicom import header_values as header
from app.domain.clocks import Clocks, LoneOffset, lag_s
from app.domain.quantities.calibration import RealWorldMapping
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.screening import CT_IMAGE, NM_IMAGE, PET_IMAGE
from app.domain.stack.slice_order import Numbering, by_bed
from app.domain.study import Radiopharmaceutical

KEYWORDS = ("NumberOfSlices", "NumberOfTimeSlices", "ImagesInAcquisition", "AcquisitionNumber", "SeriesType")
"""What :func:`announcement` looks at."""


@dataclass(frozen=True)
class Announcement:
    """One image's word on its series.

    Attributes:
        images: in the series; ``None`` when it says nothing.
        acquisition: the part of the series that it speaks of; images of one series may be of several.
    """

    images: int | None = None
    acquisition: str = ""


def announcement(dataset: Dataset) -> Announcement:
    """From a header.

    PET: Number of Slices (0054,0081) is the most slices that the series may have (PS3.3 C.8.9.1); a DYNAMIC
    one has Number of Time Slices (0054,0101) of each, elsewhere GE counts bed positions in it. CT: Images in
    Acquisition (0020,1002). NM: a reconstructed image is one multi-frame instance.
    """
    sop_class = header.uid(dataset, "SOPClassUID")
    if sop_class == PET_IMAGE:
        return Announcement(_positive(_pet_images(dataset)))
    if sop_class == CT_IMAGE:
        count = _positive(header.whole(dataset, "ImagesInAcquisition"))
        return Announcement(count, header.text(dataset, "AcquisitionNumber"))
    if sop_class == NM_IMAGE and (header.whole(dataset, "NumberOfFrames") or 0) > 1:
        return Announcement(1)
    return Announcement()


def announced_images(announcements: Sequence[Announcement]) -> int | None:
    """The series' number of images, where every image says the same of one acquisition."""
    different = set(announcements)
    return different.pop().images if len(different) == 1 else None


def _pet_images(dataset: Dataset) -> int | None:
    kind = next(iter(header.codes_upper(dataset, "SeriesType")), "")
    slices = header.whole(dataset, "NumberOfSlices")
    if slices is None or kind == "GATED":
        return None
    times = header.whole(dataset, "NumberOfTimeSlices") if kind == "DYNAMIC" else 1
    return None if times is None else slices * times


def _positive(count: int | None) -> int | None:
    return count if count is not None and count > 0 else None


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


def clocks(dataset: Dataset) -> Clocks:
    """Dates and times of study, series, acquisition, content and instance."""
    acquired = header.acquired_at(dataset)
    content = header.date_and_time(dataset, "ContentDate", "ContentTime")
    created = header.date_and_time(dataset, "InstanceCreationDate", "InstanceCreationTime")
    return Clocks(
        acquired_at=acquired,
        study=header.date_and_time(dataset, "StudyDate", "StudyTime"),
        series=header.date_and_time(dataset, "SeriesDate", "SeriesTime"),
        content_lag_s=lag_s(acquired, content),
        creation_lag_s=lag_s(acquired, created),
    )


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


NUMBERS = ("InstanceNumber", "ImageIndex", "SliceLocation")

BED_TIME = "FrameReferenceTime"


def slice_numbers(headers: Sequence[Dataset]) -> Mapping[str, Numbering]:
    """Numberings by keyword, in the order of ``headers``; bed positions where their times betray a swap."""
    found: dict[str, Numbering] = {
        keyword: tuple(header.number(dataset, keyword) for dataset in headers) for keyword in NUMBERS
    }
    swapped = by_bed(tuple(header.number(dataset, BED_TIME) for dataset in headers))
    return {**found, BED_TIME: swapped} if swapped else found
