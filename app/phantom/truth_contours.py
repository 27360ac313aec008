"""True lesions as RT Structure Set (PS3.3 A.19): one ROI a lesion, contours along the voxels' edges."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RTStructureSetStorage

from app.dicom.contours import outlines
from app.phantom.centres import Modality
from app.phantom.dicom_header import Examination, decimal, new_instance, set_series

STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Retired, and still what RT Referenced Study Sequence names a study by (PS3.3 C.8.8.5)."""


def truth_structure_set(exam: Examination, sources: list[Dataset]) -> Dataset | None:
    """The RTSTRUCT of the truth; None when there is no lesion to see.

    Args:
        sources: the functional image as written: one dataset a slice in grid order, or one multi-frame.
    """
    truth = exam.acquisition.truth
    if truth.count == 0:
        return None
    structures = new_instance(exam, RTStructureSetStorage, exam.uid("truth structures"))
    structures.SeriesInstanceUID = exam.uid("truth structures series")
    set_series(structures, "RTSTRUCT", 101, "Truth (simulated)", exam.protocol.scan_start)
    structures.StructureSetLabel, structures.OperatorsName = "TRUTH", ""
    structures.StructureSetDate, structures.StructureSetTime = structures.SeriesDate, structures.SeriesTime
    structures.ReferencedFrameOfReferenceSequence = Sequence([_frame(exam, sources)])
    numbers = range(1, truth.count + 1)
    structures.StructureSetROISequence = Sequence([_region(exam, number) for number in numbers])
    structures.ROIContourSequence = Sequence([_contours(exam, sources, number) for number in numbers])
    structures.RTROIObservationsSequence = Sequence([_observation(number) for number in numbers])
    structures.ApprovalStatus = "UNAPPROVED"
    return structures


def _frame(exam: Examination, sources: list[Dataset]) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = sources[0].SeriesInstanceUID
    series.ContourImageSequence = Sequence([_image(source) for source in sources])
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDY_MANAGEMENT, exam.uid("study")
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.FrameOfReferenceUID = exam.uid("frame of reference")
    frame.RTReferencedStudySequence = Sequence([study])
    return frame


def _region(exam: Examination, number: int) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ReferencedFrameOfReferenceUID = number, exam.uid("frame of reference")
    item.ROIName, item.ROIGenerationAlgorithm = f"Lesion {number}", "AUTOMATIC"
    return item


def _contours(exam: Examination, sources: list[Dataset], number: int) -> Dataset:
    truth, item = exam.acquisition.truth, Dataset()
    mask = truth.array == number
    contours = []
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        for polygon in outlines(mask[z]):
            points = truth.grid.to_lps(np.column_stack([polygon, np.full(len(polygon), float(z))]))
            contour = Dataset()
            contour.ContourImageSequence = Sequence([_image_of_slice(exam, sources, int(z))])
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(polygon)
            contour.ContourData = [decimal(round(value, 4)) for value in points.ravel()]
            contours.append(contour)
    item.ReferencedROINumber, item.ROIDisplayColor = number, [255, 0, 0]
    item.ContourSequence = Sequence(contours)
    return item


def _image_of_slice(exam: Examination, sources: list[Dataset], z: int) -> Dataset:
    if exam.modality is Modality.PET:
        return _image(sources[z])
    image, count = _image(sources[0]), exam.acquisition.truth.grid.shape[0]
    image.ReferencedFrameNumber = count - z if exam.acquisition.scanner.slices_descend else z + 1
    return image


def _image(source: Dataset) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return image


def _observation(number: int) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.RTROIInterpretedType, item.ROIInterpreter = "", ""
    return item
