"""True lesions as files of every form that a reader may bring.

SEG on the functional image's grid (PS3.3 A.51), RT Structure Set with one ROI a lesion and contours along the
voxels' edges (PS3.3 A.19), or NIfTI.
"""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RTStructureSetStorage
from pydicom.valuerep import DA, TM

from app.dicom.contours import outlines
from app.domain.codes import ARTIFICIAL_INTELLIGENCE, MORPHOLOGICALLY_ABNORMAL_STRUCTURE, NEOPLASM
from app.domain.study import Code
from app.imaging.nifti import SUFFIX, write_array
from app.phantom.anatomy.lesions import LesionKind
from app.phantom.centres import Modality, TruthFileForm
from app.phantom.dicom.header import (
    SOFTWARE_VERSION,
    Examination,
    decimal,
    new_instance,
    position,
    save,
    set_series,
)

METASTASIS = Code("14799000", "SCT", "Metastasis")

REGION = {
    LesionKind.BONE: Code("272673000", "SCT", "Bone"),
    LesionKind.NODE: Code("59441001", "SCT", "Lymph node"),
    LesionKind.PROSTATE: Code("41216001", "SCT", "Prostate"),
    LesionKind.LIVER: Code("10200004", "SCT", "Liver"),
}


def truth_segmentation(exam: Examination, sources: list[Dataset]) -> Dataset:
    """The SEG of the truth, one segment a lesion; see :func:`write_truth`."""
    truth = exam.acquisition.truth
    labels = truth.array
    if exam.modality is Modality.SPECT:
        descend = exam.acquisition.scanner.slices_descend
        sources, labels = [_placed_multi_frame(exam, sources[0])], labels[::-1] if descend else labels
    segmentation = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=np.ascontiguousarray(labels),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(exam, number) for number in range(1, truth.count + 1)],
        series_instance_uid=exam.uid("truth series"),
        series_number=100,
        sop_instance_uid=exam.uid("truth"),
        instance_number=1,
        manufacturer=exam.acquisition.scanner.manufacturer,
        manufacturer_model_name="PSMA phantom",
        software_versions=SOFTWARE_VERSION,
        device_serial_number="0",
        omit_empty_frames=True,
        content_label="TRUTH",
        content_description="True lesions of a simulated patient",
        series_description="Truth (simulated)",
    )
    _make_repeatable(segmentation, exam)
    return segmentation


def _segment(exam: Examination, number: int) -> hd.seg.SegmentDescription:
    kind = LesionKind(exam.acquisition.kinds[number - 1])
    finding = NEOPLASM if kind is LesionKind.PROSTATE else METASTASIS
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"Lesion {number} ({kind.value})",
        segmented_property_category=_concept(MORPHOLOGICALLY_ABNORMAL_STRUCTURE),
        segmented_property_type=_concept(finding),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="Truth of the simulation", family=_concept(ARTIFICIAL_INTELLIGENCE), version=SOFTWARE_VERSION
        ),
        tracking_uid=exam.uid("lesion", str(number)),
        tracking_id=f"Lesion {number}",
        anatomic_regions=[_concept(REGION[kind])],
    )


def _concept(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _placed_multi_frame(exam: Examination, header: Dataset) -> Dataset:
    """A copy of an NM header that says where each frame lies, which highdicom wants."""
    grid, source = exam.acquisition.functional.grid, Dataset()
    source.update(header)  # copy.copy() would share the elements
    del source.PixelData
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = header.PixelSpacing, header.SliceThickness
    measures.SpacingBetweenSlices = decimal(grid.spacing_mm[2])
    orientation.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    source.SharedFunctionalGroupsSequence = Sequence([shared])
    order = range(grid.shape[0])
    frames = []
    for z in reversed(order) if exam.acquisition.scanner.slices_descend else order:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = position(grid, z)
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    source.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return source


def _make_repeatable(segmentation: Dataset, exam: Examination) -> None:
    """Replace what highdicom took from the clock or drew at random."""
    begun = exam.protocol.scan_start
    date, time = DA(begun.date()), TM(begun.time())
    segmentation.SeriesDate, segmentation.SeriesTime = date, time
    segmentation.ContentDate, segmentation.ContentTime = date, time
    segmentation.InstanceCreationDate, segmentation.InstanceCreationTime = date, time
    for item in segmentation.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    uid = exam.uid("dimension organization")
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Retired, and still what RT Referenced Study Sequence names a study by (PS3.3 C.8.8.5)."""


def truth_structure_set(exam: Examination, sources: list[Dataset]) -> Dataset:
    """The RTSTRUCT of the truth, one ROI a lesion; see :func:`write_truth`."""
    structures = new_instance(exam, RTStructureSetStorage, exam.uid("truth structures"))
    structures.SeriesInstanceUID = exam.uid("truth structures series")
    set_series(structures, "RTSTRUCT", 101, "Truth (simulated)", exam.protocol.scan_start)
    structures.StructureSetLabel, structures.OperatorsName = "TRUTH", ""
    structures.StructureSetDate, structures.StructureSetTime = structures.SeriesDate, structures.SeriesTime
    structures.ReferencedFrameOfReferenceSequence = Sequence([_frame(exam, sources)])
    numbers = range(1, exam.acquisition.truth.count + 1)
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


def write_truth(
    exam: Examination, functional: list[Dataset], form: TruthFileForm, folder: Path
) -> Path | None:
    """Write the lesions of a scan; ``None`` when there is no lesion to see.

    A NIfTI is named after the functional image's Series Instance UID, for it holds no reference.

    Args:
        functional: the image as written: one dataset a slice in grid order, or one multi-frame.
    """
    truth = exam.acquisition.truth
    if truth.count == 0:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if form is TruthFileForm.NIFTI:
        path = folder / f"{functional[0].SeriesInstanceUID}{SUFFIX}"
        write_array(path, truth.array, truth.grid)
        return path
    writer = truth_segmentation if form is TruthFileForm.SEG else truth_structure_set
    return save(writer(exam, functional), folder / f"truth_{exam.modality.value}.dcm")
