"""How many images a series says that it has, so that a stack that ends too early is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

from app.dicom import header_values as header
from app.domain.selection.screening import CT_IMAGE, NM_IMAGE, PET_IMAGE

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
