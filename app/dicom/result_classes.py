"""SOP classes that the node makes, by kind of result: what a destination has to accept."""

from __future__ import annotations

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from app.dicom.uids import NoticeKind, ResultKind
from app.dicom.write_policy import SegType, SrClass

LABEL_MAP_SEGMENTATION_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Not in pydicom's dictionary of names yet."""

SEG_CLASSES = {SegType.BINARY: SegmentationStorage, SegType.LABELMAP: LABEL_MAP_SEGMENTATION_STORAGE}
SR_CLASSES = {
    SrClass.COMPREHENSIVE_3D: Comprehensive3DSRStorage,
    SrClass.COMPREHENSIVE: ComprehensiveSRStorage,
}

RESULT_CLASSES: dict[ResultKind | NoticeKind, tuple[str, ...]] = {
    ResultKind.SEG: tuple(SEG_CLASSES.values()),
    ResultKind.SR: tuple(SR_CLASSES.values()),
    ResultKind.PAGE: (SecondaryCaptureImageStorage,),
    ResultKind.RTSTRUCT: (RTStructureSetStorage,),
    NoticeKind.SR: tuple(SR_CLASSES.values()),
    NoticeKind.PAGE: (SecondaryCaptureImageStorage,),
}
"""The first of each is the default."""
