"""What a series' headers say about the order of its slices, beside their positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydicom import Dataset

from app.dicom import header_values as header
from app.domain.stack.slice_order import Numbering, by_bed

NUMBERS = ("InstanceNumber", "ImageIndex", "SliceLocation")
BED_TIME = "FrameReferenceTime"


def slice_numbers(headers: Sequence[Dataset]) -> Mapping[str, Numbering]:
    """Numberings by keyword, in the order of ``headers``; bed positions where their times betray a swap."""
    found: dict[str, Numbering] = {
        keyword: tuple(header.number(dataset, keyword) for dataset in headers) for keyword in NUMBERS
    }
    swapped = by_bed(tuple(header.number(dataset, BED_TIME) for dataset in headers))
    return {**found, BED_TIME: swapped} if swapped else found
