"""Enhanced and Legacy Converted Enhanced PET and CT, made of the classic images of a small study.

Legacy Converted ones are highdicom's; the true ones are written here from PS3.3 A.38 and A.56.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import datetime, timedelta

import highdicom.legacy
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.dicom.reading import tiny

ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
WEIGHING_S = 59.8
"""Mean-activity time of the small PET, from the start of its scan."""


def legacy(slices: Sequence[Dataset]) -> Dataset:
    """By highdicom, which needs attributes that the small study leaves out."""
    sources = [copy.deepcopy(each) for each in slices]
    for number, each in enumerate(sources, start=1):
        for keyword in ("PatientName", "PatientBirthDate", "StudyID", "AccessionNumber", "Manufacturer"):
            setattr(each, keyword, "")
        each.ReferringPhysicianName = each.PositionReferenceIndicator = ""
        each.InstanceNumber, each.SeriesNumber = number, 1
        each.ContentDate, each.ContentTime = "20260301", "110500"
    names = {"PT": "LegacyConvertedEnhancedPETImage", "CT": "LegacyConvertedEnhancedCTImage"}
    convert = getattr(highdicom.legacy, names[sources[0].Modality])
    uid = sources[0].SeriesInstanceUID
    found: Dataset = convert(sources, uid, 1, f"{uid}.77", 1)
    found.StudyInstanceUID, found.FrameOfReferenceUID = tiny.STUDY, tiny.FRAME_OF_REFERENCE
    return found


def enhanced_pet(slices: Sequence[Dataset], order: Sequence[int] | None = None, part: int = 1) -> Dataset:
    """Enhanced PET of these slices; ``order`` of its frames is theirs where not given."""
    image = _enhanced(slices, order, ENHANCED_PET, part)
    first = slices[0]
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    for keyword in ("DecayCorrected", "AttenuationCorrected", "ScatterCorrected"):
        setattr(image, keyword, "YES")
    image.DecayCorrectionDateTime = "20260301110000"
    image.PatientWeight, image.PatientSize, image.PatientSex = 70, 1.8, "M"
    injection = copy.deepcopy(first.RadiopharmaceuticalInformationSequence[0])
    del injection.RadiopharmaceuticalStartTime
    injection.RadiopharmaceuticalAgentNumber = 1
    image.RadiopharmaceuticalInformationSequence = [injection]
    usage = Dataset()
    usage.RadiopharmaceuticalAgentNumber = 1
    image.SharedFunctionalGroupsSequence[0].RadiopharmaceuticalUsageSequence = [usage]
    chosen = [slices[index] for index in order or range(len(slices))]
    for frame, source in zip(image.PerFrameFunctionalGroupsSequence, chosen, strict=True):
        content = frame.FrameContentSequence[0]
        began = datetime(2026, 3, 1, 11)
        content.FrameAcquisitionDateTime = f"{began:%Y%m%d%H%M%S}"
        content.FrameReferenceDateTime = f"{began + timedelta(seconds=WEIGHING_S):%Y%m%d%H%M%S.%f}"
        content.FrameAcquisitionDuration = 120000.0
        mapping = Dataset()
        mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = float(source.RescaleSlope), 0.0
        mapping.MeasurementUnitsCodeSequence = [tiny.code_item("Bq/ml", "UCUM")]
        frame.RealWorldValueMappingSequence = [mapping]
        frame.PixelValueTransformationSequence = [_rescale(1.0, 0.0, "US")]
        factors = Dataset()
        factors.DecayFactor = 1.01026
        frame.PETFrameCorrectionFactorsSequence = [factors]
    return image


def enhanced_ct(slices: Sequence[Dataset], order: Sequence[int] | None = None) -> Dataset:
    """Enhanced CT of these slices."""
    image = _enhanced(slices, order, ENHANCED_CT, 1)
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared = image.SharedFunctionalGroupsSequence[0]
    shared.CTImageFrameTypeSequence = [kind]
    shared.PixelValueTransformationSequence = [_rescale(1.0, -1024.0, "HU")]
    return image


def _rescale(slope: float, intercept: float, kind: str) -> Dataset:
    item = Dataset()
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = slope, intercept, kind
    return item


def _enhanced(slices: Sequence[Dataset], order: Sequence[int] | None, sop_class: str, part: int) -> Dataset:
    first, chosen = slices[0], [slices[index] for index in order or range(len(slices))]
    image = Dataset()
    image.SOPClassUID, image.Modality = sop_class, first.Modality
    image.StudyInstanceUID, image.SeriesInstanceUID = tiny.STUDY, first.SeriesInstanceUID
    image.SOPInstanceUID = f"{first.SeriesInstanceUID}.9{part}"
    image.FrameOfReferenceUID, image.PatientID = tiny.FRAME_OF_REFERENCE, "P"
    for name in ("Study", "Series", "Content"):
        setattr(image, f"{name}Date", "20260301")
        setattr(image, f"{name}Time", "110500")
    image.AcquisitionDateTime, image.InstanceNumber = "20260301110000", 1
    image.Rows, image.Columns, image.NumberOfFrames = first.Rows, first.Columns, len(chosen)
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = list(first.PixelSpacing)
    orientation.ImageOrientationPatient = list(first.ImageOrientationPatient)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [_frame(source, slices.index(source)) for source in chosen]
    image.PixelData = b"".join(np.asarray(source.pixel_array).tobytes() for source in chosen)
    image.preamble = b"\0" * 128
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = sop_class
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def _frame(source: Dataset, index: int) -> Dataset:
    place, content, frame = Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient = list(source.ImagePositionPatient)
    content.StackID, content.InStackPositionNumber = "1", index + 1
    frame.PlanePositionSequence, frame.FrameContentSequence = [place], [content]
    return frame
