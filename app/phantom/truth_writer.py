"""True lesions as DICOM SEG on the functional image's grid (PS3.3 A.51)."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import DA, TM

from app.domain.codes import ARTIFICIAL_INTELLIGENCE, MORPHOLOGICALLY_ABNORMAL_STRUCTURE, NEOPLASM
from app.domain.study import Code
from app.phantom.centres import Modality
from app.phantom.dicom_header import SOFTWARE_VERSION, Examination, decimal, position
from app.phantom.lesions import LesionKind

METASTASIS = Code("14799000", "SCT", "Metastasis")
REGION = {
    LesionKind.BONE: Code("272673000", "SCT", "Bone"),
    LesionKind.NODE: Code("59441001", "SCT", "Lymph node"),
    LesionKind.PROSTATE: Code("41216001", "SCT", "Prostate"),
    LesionKind.LIVER: Code("10200004", "SCT", "Liver"),
}


def truth_segmentation(exam: Examination, sources: list[Dataset]) -> Dataset | None:
    """The SEG of the truth, one segment a lesion; None when there is no lesion to see.

    Args:
        sources: the functional image as written: one dataset a slice in grid order, or one multi-frame.
    """
    truth = exam.acquisition.truth
    if truth.count == 0:
        return None
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
            name="Truth of the simulation",
            family=_concept(ARTIFICIAL_INTELLIGENCE),
            version=SOFTWARE_VERSION,
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
