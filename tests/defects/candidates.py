"""Defects of studies with more than one image that could be taken: what is taken, and what is told of the rest."""

# ruff: noqa: E501  one defect a line, so that the table reads as one

from __future__ import annotations

from pydicom import Dataset

from app.domain.refusal import RefusalCode as Code
from tests.defects.ct import second_ct
from tests.defects.damage import Damage, Defect, both, copied, one_ct, put
from tests.defects.studies import Images

EVERY = slice(None)
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
CORONAL = [1, 0, 0, 0, 0, -1]


def unchanged(images: Images) -> None:
    """The numbers are the undamaged study's."""


def first_by_uid(**changes: object) -> Damage:
    """Another functional series of half the values, before the right one in order of UIDs."""

    def damage(images: Images) -> None:
        uid = "1.2.3.0"
        for index, each in enumerate(list(images.functional)):
            other = copied(each, f"{uid}.{index}", SeriesInstanceUID=uid, **changes)
            if changes.get("RescaleSlope", "") is not None and "RescaleSlope" in other:
                other.RescaleSlope = float(other.RescaleSlope) / 2.0
            images.functional.append(other)

    return damage


def zoomed_first(images: Images) -> None:
    """The middle of every slice at twice the resolution, of half the values."""
    whole = images.functional[0]
    spacing = [float(mm) / 2.0 for mm in whole.PixelSpacing]
    first_by_uid(PixelSpacing=spacing)(images)
    for each in images.functional[len(images.functional) // 2 :]:
        x, y, z = (float(mm) for mm in each.ImagePositionPatient)
        each.ImagePositionPatient = [x + whole.Columns * spacing[1] / 2.0, y + whole.Rows * spacing[0] / 2.0, z]


def with_window(images: Images, low: float, high: float) -> None:
    """Energy window of each NM image."""
    for each in images.functional:
        limits, window = Dataset(), Dataset()
        limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit = low, high
        window.EnergyWindowRangeSequence = [limits]
        each.EnergyWindowInformationSequence = [window]


def second_window(low: float, high: float, **changes: object) -> Damage:
    """A series of another window of the same SPECT, first by UID; the right one is of 208 keV."""

    def damage(images: Images) -> None:
        with_window(images, low, high)
        first_by_uid(RealWorldValueMappingSequence__RealWorldValueSlope=1000.0, **changes)(images)
        with_window(Images(images.functional[:1], []), 187.2, 228.8)

    return damage


def injected_otherwise(keyword: str, value: object) -> Damage:
    """The first series alone lacks, or has wrong, an attribute of its injection."""

    def damage(images: Images) -> None:
        first_by_uid()(images)
        for each in images.functional[len(images.functional) // 2 :]:
            put(each, f"RadiopharmaceuticalInformationSequence.{keyword}", value)

    return damage


def among_the_ct(**changes: object) -> Damage:
    """An object of another kind under the CT's own Series Instance UID."""
    return lambda images: images.ct.append(copied(images.ct[0], "1.2.3.2.900", **changes))


def under_the_pets_uid(**changes: object) -> Damage:
    """The PET once more under its own Series Instance UID, of half the values."""

    def damage(images: Images) -> None:
        first_by_uid(**changes)(images)
        for each in images.functional:
            each.SeriesInstanceUID = images.functional[0].SeriesInstanceUID

    return damage


def issuer_of(in_ct: bool, issuer: str) -> Damage:
    """IssuerOfPatientID in one of both series."""

    def damage(images: Images) -> None:
        for each in images.ct if in_ct else images.functional:
            each.IssuerOfPatientID = issuer

    return damage


def capture_of(patient_id: str) -> Damage:
    """A capture in the study, under a patient's number."""

    def damage(images: Images) -> None:
        changes = {"SOPClassUID": CAPTURE, "Modality": "OT", "SeriesInstanceUID": "1.2.3.8"}
        images.ct.append(copied(images.ct[0], "1.2.3.8.1", PatientID=patient_id, **changes))

    return damage


def _failed(name: str, damage: Damage, code: Code) -> Defect:
    told = "went first and can't be used"
    return Defect(name, damage, beside=code, warned=told, like=unchanged)


PET = (
    Defect("a late PET that is first by UID", first_by_uid(SeriesTime="130000", AcquisitionTime="130000"), beside=Code.BETTER_SERIES_CHOSEN),
    Defect("an early PET that is first by UID", first_by_uid(SeriesTime="102000", AcquisitionTime="102000"), beside=Code.BETTER_SERIES_CHOSEN),
    Defect("a late PET whose injection has no date", both(first_by_uid(SeriesTime="130000", AcquisitionTime="130000", RadiopharmaceuticalInformationSequence__RadiopharmaceuticalStartDateTime=None)), beside=Code.BETTER_SERIES_CHOSEN),
    Defect("another reconstruction, and no rule which goes first", first_by_uid(ReconstructionMethod="OSEM 3i"), beside=Code.BETTER_SERIES_CHOSEN, warned="no rule of section select decides"),
    Defect("a zoomed reconstruction of finer voxels that is first by UID", zoomed_first, beside=Code.BETTER_SERIES_CHOSEN),
    _failed("first a PET in PROPCNTS", first_by_uid(Units="PROPCNTS"), Code.UNITS_UNSUPPORTED),
    _failed("first a PET without dose", injected_otherwise("RadionuclideTotalDose", None), Code.DOSE_MISSING),
    _failed("first a PET without weight", first_by_uid(PatientWeight=None), Code.WEIGHT_MISSING),
    _failed("first a PET without slope", first_by_uid(RescaleSlope=None), Code.RESCALE_MISSING),
    _failed("first a PET whose pixels are cut off", first_by_uid(PixelData=b"\0\0"), Code.PIXEL_DATA_MISSING),
    Defect("a CT of another hour that is first by UID", second_ct(EVERY, AcquisitionTime="130000", RescaleIntercept=-1000), beside=Code.BETTER_SERIES_CHOSEN),
    Defect("a CT twenty minutes later that is first by UID", second_ct(EVERY, AcquisitionTime="112000", RescaleIntercept=-1000), beside=Code.BETTER_SERIES_CHOSEN),
    Defect("another CT kernel, and no rule which goes first", second_ct(EVERY, ConvolutionKernel="B60f"), beside=Code.BETTER_SERIES_CHOSEN, warned="another convolution kernel"),
    _failed("first a CT whose pixels are cut off", second_ct(EVERY, PixelData=b"\0\0"), Code.PIXEL_DATA_MISSING),
    Defect("a localizer under the CT's UID", among_the_ct(ImageType=LOCALIZER, ImageOrientationPatient=CORONAL)),
    Defect("a localizer of another size under the CT's UID", among_the_ct(ImageType=LOCALIZER, Rows=2, Columns=10)),
    Defect("a dose page under the CT's UID", among_the_ct(SOPClassUID=CAPTURE, Modality="OT", ImageType=["DERIVED", "SECONDARY"], FrameOfReferenceUID=None, ImagePositionPatient=None)),
    Defect("a dose page without a place under the CT's UID", among_the_ct(ImageType=["DERIVED", "SECONDARY", "DOSE_INFO"], ImagePositionPatient=None, ImageOrientationPatient=None)),
    Defect("a slice of the CT called a localizer", one_ct(ImageType=LOCALIZER), Code.ATTRIBUTE_INCONSISTENT, "ImageType"),
    Defect("an uncorrected PET under the corrected one's UID", under_the_pets_uid(CorrectedImage=["DECY"])),
    Defect("an uncorrected PET in another unit under the corrected one's UID", under_the_pets_uid(CorrectedImage=["DECY"], Units="PROPCPS")),
    Defect("a second corrected PET under one UID", under_the_pets_uid(), Code.DUPLICATE_SLICE, "ImagePositionPatient"),
    Defect("an issuer in the CT alone", issuer_of(True, "HOSPITAL")),
    Defect("an issuer in the PET alone", issuer_of(False, "HOSPITAL")),
    Defect("two issuers", both(issuer_of(True, "HOSPITAL"), issuer_of(False, "CLINIC")), Code.ATTRIBUTE_INCONSISTENT, "PatientID"),
    Defect("a capture under another patient's number", capture_of("Q"), beside=Code.NOT_PRIMARY),
    _failed("first a CT in another unit", second_ct(EVERY, RescaleType="MGML"), Code.UNITS_UNSUPPORTED),
)  # fmt: skip

SPECT = (
    Defect("the window at 113 keV first by UID", second_window(101.7, 124.3), beside=Code.BETTER_SERIES_CHOSEN),
    _failed("first a SPECT in counts without calibration", first_by_uid(RealWorldValueMappingSequence=None), Code.CALIBRATION_MISSING),
)  # fmt: skip
