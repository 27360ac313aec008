"""Section ``write`` of app.yaml, and the SOP classes of each kind of result, for a destination to accept.

This module imports nothing heavy, so that reading the settings stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from app.dicom.uids import NoticeKind, ResultKind
from app.domain.codes import SuvUnitSpelling
from app.domain.ranges import Range, Ranged


class SegType(StrEnum):
    """Segmentation Type (0062,0001)."""

    BINARY = "BINARY"
    LABELMAP = "LABELMAP"
    """Label Map Segmentation Storage: one frame a slice; few viewers know it yet."""


LABELMAP_CAUTION = (
    "SEG as LABELMAP (write.seg_type): PACS and viewers that do not know Label Map Segmentation "
    "Storage (2024) may refuse the SEG, and the SR that refers to it; all of them know BINARY"
)


class SrClass(StrEnum):
    """SOP class of the report."""

    COMPREHENSIVE_3D = "COMPREHENSIVE_3D"
    COMPREHENSIVE = "COMPREHENSIVE"
    """For a PACS that refuses Comprehensive 3D SR; the content is the same."""


@dataclass(frozen=True)
class WritePolicy(Ranged):
    """How results are written."""

    seg_type: SegType = SegType.BINARY
    """BINARY or LABELMAP. Older PACS and viewers may refuse LABELMAP (docs/reference/conformance.md, 6.2)."""
    sr_class: SrClass = SrClass.COMPREHENSIVE_3D
    """COMPREHENSIVE_3D or COMPREHENSIVE."""
    rtstruct: bool = False
    """Also write the contours as RTSTRUCT, for workstations that read no SEG."""
    suv_unit: SuvUnitSpelling = SuvUnitSpelling.CID_85
    """UCUM spelling of the SUVbw unit: g/ml{SUVbw} (CID 85) or {SUVbw}g/ml."""
    first_series_number: Annotated[int, Range(1, 999_994)] = 9001
    """Series Number of the SEG; SR, page and RTSTRUCT take the next three, a notice of withdrawal the two
    after these."""
    page_lesion_rows: Annotated[int, Range(1, 24)] = 20
    """Largest number of lesions in the table of the page; it states how many more there are."""
    page_window_pet_suv: Annotated[float, Range(0, 1000, above=True)] = 15.0
    """Upper end of the grey scale on the page of a PET, SUVbw (g/ml)."""
    page_window_spect_suv: Annotated[float, Range(0, 1000, above=True)] = 7.0
    """Largest upper end on the page of a SPECT: it is fitted to the lesions, which are faint days after
    injection."""

    @property
    def classes(self) -> dict[str, str]:
        """The SOP class of each kind that is written."""
        kinds: dict[str, str] = {
            ResultKind.SEG: SEG_CLASSES[self.seg_type],
            ResultKind.SR: SR_CLASSES[self.sr_class],
            ResultKind.PAGE: SECONDARY_CAPTURE_STORAGE,
            NoticeKind.SR: SR_CLASSES[self.sr_class],
            NoticeKind.PAGE: SECONDARY_CAPTURE_STORAGE,
        }
        return kinds | ({ResultKind.RTSTRUCT: RT_STRUCTURE_SET_STORAGE} if self.rtstruct else {})

    @property
    def cautions(self) -> tuple[str, ...]:
        """Consequences of these choices that the site should know; none concerns the numbers in a result."""
        return (LABELMAP_CAUTION,) if self.seg_type is SegType.LABELMAP else ()


SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
"""Not in pydicom's dictionary of names yet."""
COMPREHENSIVE_3D_SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.33"
SECONDARY_CAPTURE_STORAGE = "1.2.840.10008.5.1.4.1.1.7"
RT_STRUCTURE_SET_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"

SEG_CLASSES = {SegType.BINARY: SEGMENTATION_STORAGE, SegType.LABELMAP: LABEL_MAP_SEGMENTATION_STORAGE}

SR_CLASSES = {
    SrClass.COMPREHENSIVE_3D: COMPREHENSIVE_3D_SR_STORAGE,
    SrClass.COMPREHENSIVE: COMPREHENSIVE_SR_STORAGE,
}

RESULT_CLASSES: dict[ResultKind | NoticeKind, tuple[str, ...]] = {
    ResultKind.SEG: tuple(SEG_CLASSES.values()),
    ResultKind.SR: tuple(SR_CLASSES.values()),
    ResultKind.PAGE: (SECONDARY_CAPTURE_STORAGE,),
    ResultKind.RTSTRUCT: (RT_STRUCTURE_SET_STORAGE,),
    NoticeKind.SR: tuple(SR_CLASSES.values()),
    NoticeKind.PAGE: (SECONDARY_CAPTURE_STORAGE,),
}
"""The first of each is the default."""
