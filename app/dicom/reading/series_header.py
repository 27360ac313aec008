"""What the headers of a series say: its instances, injection, clocks, number of images, and numberings.

Only values are read here; what they mean, and whether they contradict each other, others decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import Dataset

from app.dicom import header_values as header
from app.dicom.reading import enhanced
from app.dicom.reading.injections import radiopharmaceutical, several_injections
from app.domain.clocks import Clocks, lag_s
from app.domain.selection.screening import CLASSIC_OF_ENHANCED, CT_IMAGE, NM_IMAGE, PET_IMAGE
from app.domain.stack.slice_order import Numbering, by_bed
from app.domain.study import Instance, Patient, Series, Study

KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "StudyTime",
    "SeriesDate", "SeriesTime", "AccessionNumber", "Modality", "Manufacturer", "ManufacturerModelName",
    "StationName", "SeriesDescription", "PatientID", "IssuerOfPatientID", "SpacingBetweenSlices",
    "PatientName", "PatientBirthDate", "ReconstructionMethod", "ConvolutionKernel",
    "StudyInstanceUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient",
    "FrameOfReferenceUID", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "CorrectedImage",
    "RadiopharmaceuticalInformationSequence", "DetectorInformationSequence", "SliceVector", "SeriesType",
    "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "ContentDate", "ContentTime",
    "InstanceCreationDate", "InstanceCreationTime",
    "Units", "TimezoneOffsetFromUTC", "LossyImageCompression",
    "NumberOfSlices", "NumberOfTimeSlices", "ImagesInAcquisition", "AcquisitionNumber",
    "ProtocolName", "StudyDescription", "RequestedProcedureDescription", "PerformedProcedureStepDescription",
    "ProcedureCodeSequence", "RequestAttributesSequence", "EnergyWindowInformationSequence",
    "RequestedProcedurePriority", "StudyPriorityID",
    *enhanced.KEYWORDS,
)  # fmt: skip
"""All that the selection looks at."""

LOSSY_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"""JPEG baseline and extended, which have no lossless mode; the others say it in Lossy Image Compression."""

PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")

NUMBERS = ("InstanceNumber", "ImageIndex", "SliceLocation")

BED_TIME = "FrameReferenceTime"

STUDY_TEXTS = ("StudyDescription", "RequestedProcedureDescription", "PerformedProcedureStepDescription")
"""What a study or a procedure is called; they may name what was injected."""


@dataclass(frozen=True)
class Announcement:
    """One image's word on its series.

    Attributes:
        images: in the series; ``None`` when it says nothing.
        acquisition: the part of the series that it speaks of; images of one series may be of several.
    """

    images: int | None = None
    acquisition: str = ""


@dataclass(frozen=True)
class FileHeader:
    """One file: its instance, and what it says of its series, study and patient.

    Attributes:
        frames: of an Enhanced PET or CT, each as a classic image; its first one is told here.
        parts: number of instances that a concatenation is said to have; 0: it is none.
    """

    instance: Instance
    series: Series
    study: Study
    announcement: Announcement
    frames: tuple[FileHeader, ...] = ()
    parts: int = 0


def file_header(dataset: Dataset, path: Path) -> FileHeader:
    """What a file's header, read with :data:`KEYWORDS`, says."""
    if header.uid(dataset, "SOPClassUID") not in CLASSIC_OF_ENHANCED:
        return _classic_header(dataset, path)
    frames, missing = [], enhanced.missing_groups(dataset)
    for number, frame in enumerate(enhanced.classic_frames(dataset), start=1):
        one = _classic_header(frame, path)
        instance = replace(one.instance, number_of_frames=1, frame_number=number)
        series = replace(one.series, faults=(*missing, *one.series.faults))
        frames.append(replace(one, instance=instance, series=series))
    parts = header.whole(dataset, "InConcatenationTotalNumber") or 0
    return replace(frames[0], frames=tuple(frames), parts=parts)


def _classic_header(dataset: Dataset, path: Path) -> FileHeader:
    instance = _instance(dataset, path)
    sop_class_uid = CLASSIC_OF_ENHANCED.get(instance.sop_class_uid, instance.sop_class_uid)
    series = Series(
        series_instance_uid=header.uid(dataset, "SeriesInstanceUID"),
        modality=header.text(dataset, "Modality").upper(),
        instances=(),
        sop_class_uid=sop_class_uid,
        frame_of_reference_uid=header.uid(dataset, "FrameOfReferenceUID"),
        image_type=header.codes_upper(dataset, "ImageType"),
        corrected_image=header.codes_upper(dataset, "CorrectedImage"),
        units=header.text(dataset, "Units").upper(),
        description=header.text(dataset, "SeriesDescription"),
        radiopharmaceutical=radiopharmaceutical(dataset),
        series_datetime=header.date_and_time(dataset, "SeriesDate", "SeriesTime"),
        acquired_at=header.acquired_at(dataset),
        manufacturer=header.text(dataset, "Manufacturer"),
        model_name=header.text(dataset, "ManufacturerModelName"),
        station_name=header.text(dataset, "StationName"),
        series_type=header.codes_upper(dataset, "SeriesType"),
        is_lossy=header.text(dataset, "LossyImageCompression") == "01"
        or instance.transfer_syntax_uid in LOSSY_SYNTAXES,
        faults=several_injections(dataset),
        timezone_offset=header.text(dataset, "TimezoneOffsetFromUTC"),
        clocks=clocks(dataset),
        protocol_name=header.text(dataset, "ProtocolName"),
        study_texts=study_texts(dataset),
        reconstruction_method=header.text(dataset, "ReconstructionMethod"),
        convolution_kernel=header.text(dataset, "ConvolutionKernel"),
        energy_windows_kev=header.energy_windows(dataset),
    )
    study = Study(
        study_instance_uid=header.uid(dataset, "StudyInstanceUID"),
        patient=Patient(*(header.text(dataset, keyword) for keyword in PATIENT)),
        series=(),
        study_datetime=header.date_and_time(dataset, "StudyDate", "StudyTime"),
        accession_number=header.text(dataset, "AccessionNumber"),
        priority=priority(dataset),
    )
    return FileHeader(instance, series, study, announcement(dataset))


def _instance(dataset: Dataset, path: Path) -> Instance:
    """Position and orientation of NM stand in Detector Information Sequence (PS3.3 C.8.4.11)."""
    plane = next(iter(header.items(dataset, "DetectorInformationSequence")), dataset)
    if not header.numbers(plane, "ImagePositionPatient"):
        plane = dataset
    position = header.numbers(plane, "ImagePositionPatient")
    orientation = header.numbers(plane, "ImageOrientationPatient")
    spacing = header.numbers(dataset, "PixelSpacing")
    frames = header.whole(dataset, "NumberOfFrames")
    return Instance(
        sop_instance_uid=header.uid(dataset, "SOPInstanceUID"),
        sop_class_uid=header.uid(dataset, "SOPClassUID"),
        path=path,
        rows=header.whole(dataset, "Rows"),
        columns=header.whole(dataset, "Columns"),
        number_of_frames=frames if frames is not None and frames > 0 else 1,
        image_position_mm=(position[0], position[1], position[2]) if len(position) == 3 else None,
        image_orientation=_six(orientation),
        pixel_spacing_mm=(spacing[0], spacing[1]) if len(spacing) == 2 else None,
        spacing_between_slices_mm=header.number(dataset, "SpacingBetweenSlices"),
        transfer_syntax_uid=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        slice_numbers=tuple(int(item) for item in header.numbers(dataset, "SliceVector")),
    )


def _six(values: Sequence[float]) -> tuple[float, float, float, float, float, float] | None:
    if len(values) != 6:
        return None
    a, b, c, d, e, f = values
    return a, b, c, d, e, f


def announcement(dataset: Dataset) -> Announcement:
    """From a header.

    PET: Number of Slices (0054,0081) is the most slices that the series may have (PS3.3 C.8.9.1); a DYNAMIC
    one has Number of Time Slices (0054,0101) of each, elsewhere GE counts bed positions in it. CT: Images in
    Acquisition (0020,1002). NM: a reconstructed image is one multi-frame instance.
    """
    uid = header.uid(dataset, "SOPClassUID")
    sop_class = CLASSIC_OF_ENHANCED.get(uid, uid)
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


def study_texts(dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """What the header calls study and procedure, by keyword; also in the request that it cites."""
    found = [(keyword, header.text(dataset, keyword)) for keyword in STUDY_TEXTS]
    for item in header.items(dataset, "RequestAttributesSequence"):
        found += [("RequestAttributesSequence", header.text(item, STUDY_TEXTS[1]))]
        found += [("RequestAttributesSequence", header.text(item, "ScheduledProcedureStepDescription"))]
    code = header.code(dataset, "ProcedureCodeSequence")
    found += [("ProcedureCodeSequence", code.meaning)] if code else []
    return tuple((keyword, text) for keyword, text in found if text)


def priority(dataset: Dataset) -> str:
    """Requested Procedure Priority (0040,1003), which the request may repeat, or the retired (0032,000C)."""
    requests = (dataset, *header.items(dataset, "RequestAttributesSequence"))
    stated = [header.text(item, "RequestedProcedurePriority") for item in requests]
    return next(filter(None, (*stated, header.text(dataset, "StudyPriorityID"))), "").upper()


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


def slice_numbers(headers: Sequence[Dataset]) -> Mapping[str, Numbering]:
    """Numberings by keyword, in the order of ``headers``; bed positions where their times betray a swap."""
    found: dict[str, Numbering] = {
        keyword: tuple(header.number(dataset, keyword) for dataset in headers) for keyword in NUMBERS
    }
    swapped = by_bed(tuple(header.number(dataset, BED_TIME) for dataset in headers))
    return {**found, BED_TIME: swapped} if swapped else found
