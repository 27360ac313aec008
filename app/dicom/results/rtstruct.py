"""Lesions as RT Structure Set (PS3.3 A.19) for workstations that read no SEG: one ROI a lesion.

CLOSED_PLANAR contours on the slices of the functional image, along the voxels' edges
(:mod:`app.dicom.contours`): their volume is the mask's. Each names the image it lies on; of a multi-frame
image (NM) also the frame. Not every workstation reads frames there: it then places the contours by the Frame
of Reference UID and their coordinates, which are complete.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import DSfloat

from app.dicom.contours import Polygon, outlines
from app.dicom.results.context import ResultContext, coded, finish, plain
from app.dicom.results.report.sr import in_order
from app.dicom.results.seg import LESION_RGB, is_multi_frame
from app.dicom.uids import ResultKind
from app.domain.codes import NEOPLASM
from app.domain.findings.findings import Site
from app.domain.study import Series

COORDINATE_DECIMALS = 4
"""A tenth of a micrometre, in few enough digits for DS (16 characters)."""

LONGEST_TEXT = 1024
"""Characters of an ST."""

DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Retired, and still what RT Referenced Study Sequence names a study by (PS3.3 C.8.8.5)."""


def write_structure_set(context: ResultContext) -> Dataset | None:
    """The RTSTRUCT of an analysis; ``None`` when there is no lesion."""
    labels = context.quantified.segmented.labels
    if labels.count == 0:
        return None
    structures = hd.base.SOPClass(
        study_instance_uid=context.loaded.selection.study.study_instance_uid,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **context.instance(ResultKind.RTSTRUCT, "PSMA lesion contours"),
    )
    finish(structures, context)
    for unwanted in ("ContentDate", "ContentTime"):  # attributes of images and documents
        delattr(structures, unwanted)
    structures.OperatorsName = None
    structures.FrameOfReferenceUID = context.frame_of_reference_uid
    structures.PositionReferenceIndicator = None
    structures.StructureSetLabel = "PSMA lesions"
    structures.StructureSetName = plain(f"PSMA lesions, {context.model.role.value}, research use only")[:64]
    structures.StructureSetDate, structures.StructureSetTime = structures.SeriesDate, structures.SeriesTime
    structures.ReferencedFrameOfReferenceSequence = Sequence([_referenced_frame(context)])
    numbers = range(1, labels.count + 1)
    structures.StructureSetROISequence = Sequence([_region(context, number) for number in numbers])
    structures.ROIContourSequence = Sequence([_contours(context, number) for number in numbers])
    structures.RTROIObservationsSequence = Sequence([_observation(context, number) for number in numbers])
    structures.ApprovalStatus = "UNAPPROVED"
    return structures


def _referenced_frame(context: ResultContext) -> Dataset:
    frame, study = Dataset(), Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = context.loaded.selection.study.study_instance_uid
    study.RTReferencedSeriesSequence = Sequence(map(_referenced_series, context.loaded.functional_series))
    frame.FrameOfReferenceUID = context.frame_of_reference_uid
    frame.RTReferencedStudySequence = Sequence([study])
    return frame


def _referenced_series(source: Series) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source.series_instance_uid
    images = [_image(item.sop_class_uid, item.sop_instance_uid) for item in in_order(source)]
    series.ContourImageSequence = Sequence(images)
    return series


def _region(context: ResultContext, number: int) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = context.frame_of_reference_uid
    item.ROIName, item.TrackingUID = context.tracking(number)
    item.TrackingID = item.ROIName
    item.ROIDescription = plain(_site(context, number)[0])
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = plain(f"{context.model.role.value} {context.model.model_id}")[:64]
    return item


def _contours(context: ResultContext, number: int) -> Dataset:
    labels = context.quantified.segmented.labels
    slices = np.flatnonzero((labels.array == number).any(axis=(1, 2)))
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(LESION_RGB)
    polygons = ((int(z), polygon) for z in slices for polygon in outlines(labels.array[z] == number))
    item.ContourSequence = Sequence([_contour(context, polygon, z) for z, polygon in polygons])
    for i, contour in enumerate(item.ContourSequence, start=1):
        contour.ContourNumber = i
    return item


def _contour(context: ResultContext, polygon: Polygon, z: int) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = Sequence([_image_of_slice(context, z)])
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(polygon)
    grid = context.quantified.segmented.labels.grid
    points = grid.to_lps(np.column_stack([polygon, np.full(len(polygon), float(z))]))
    rounded = np.round(points, COORDINATE_DECIMALS) + 0.0  # no -0.0
    contour.ContourData = [DSfloat(value, auto_format=True) for value in rounded.ravel().tolist()]
    return contour


def _image_of_slice(context: ResultContext, z: int) -> Dataset:
    uid = context.loaded.slice_sop_instance_uids[z]
    image = _image(str(context.header.SOPClassUID), uid)
    if is_multi_frame(context):
        image.ReferencedFrameNumber = context.loaded.slice_frame_numbers[z]
    return image


def _image(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return image


def _observation(context: ResultContext, number: int) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.ROIObservationLabel = context.tracking(number)[0]
    item.ROIObservationDescription = plain(": ".join(filter(None, _site(context, number))))[:LONGEST_TEXT]
    item.RTROIIdentificationCodeSequence = Sequence([coded(NEOPLASM)])
    item.RTROIInterpretedType = None  # no role in a plan: it's a finding, not a target
    item.ROIInterpreter = None
    return item


def _site(context: ResultContext, number: int) -> tuple[str, str]:
    """Where the lesion sits, and why. In words: the code of a bone would say that the ROI *is* the bone."""
    lesion = context.quantified.findings.lesions[number - 1]
    is_known = lesion.site is not Site.UNSPECIFIED
    return f"Lesion in {lesion.site}" if is_known else "Lesion, site unspecified", lesion.site_reason
