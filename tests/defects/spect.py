"""Defects of a 177Lu SPECT in one multi-frame NM image."""

# ruff: noqa: E501  one defect a line, so that the table reads as one

from __future__ import annotations

import copy

import numpy as np
from pydicom import Dataset

from app.domain.refusal import RefusalCode as Code
from tests.defects.damage import Damage, Defect, both, copied, every, injected, lost
from tests.defects.studies import Images
from tests.dicom.reading import tiny

SCALE = "Units, RescaleSlope, RadionuclideTotalDose"
MAPPING = "RealWorldValueMappingSequence"


def mapping(**changes: object) -> Damage:
    return every(**{f"{MAPPING}__{keyword}": value for keyword, value in changes.items()})


def unit(code: str, slope: float = 2000.0) -> Damage:
    return mapping(MeasurementUnitsCodeSequence=[tiny.code_item(code, "UCUM")], RealWorldValueSlope=slope)


def second_mapping(code: str, slope: float) -> Damage:
    def damage(images: Images) -> None:
        again = copy.deepcopy(images.functional[0].RealWorldValueMappingSequence[0])
        again.RealWorldValueSlope, again.LUTLabel = slope, "OTHER"
        again.MeasurementUnitsCodeSequence = [tiny.code_item(code, "UCUM")]
        images.functional[0].RealWorldValueMappingSequence.insert(0, again)

    return damage


def mapped_values(first: int, last: int) -> Damage:
    def damage(images: Images) -> None:
        item = images.functional[0].RealWorldValueMappingSequence[0]
        item.add_new("RealWorldValueFirstValueMapped", "SS", first)
        item.add_new("RealWorldValueLastValueMapped", "SS", last)

    return damage


def frames_in(order: list[int], numbered: bool) -> Damage:
    """Frames in another order; with a Slice Vector that says so, or not."""

    def damage(images: Images) -> None:
        image = images.functional[0]
        frames = np.frombuffer(image.PixelData, "<i2").reshape(6, 4, 5)[order]
        image.PixelData = frames.tobytes()
        if numbered:
            image.SliceVector = [number + 1 for number in order]

    return damage


def from_above(images: Images) -> None:
    """Frames from the highest down, as negative spacing says."""
    frames_in([5, 4, 3, 2, 1, 0], numbered=False)(images)
    image = images.functional[0]
    x, y, z = image.DetectorInformationSequence[0].ImagePositionPatient
    image.DetectorInformationSequence[0].ImagePositionPatient = [x, y, z + 250.0]
    image.SpacingBetweenSlices = -50.0


def detector(**changes: object) -> Damage:
    return every(**{f"DetectorInformationSequence__{keyword}": value for keyword, value in changes.items()})


def thick(thickness_mm: float) -> Damage:
    """Cubic voxels of 50 mm, with a Slice Thickness."""
    return every(PixelSpacing=[50, 50], SliceThickness=thickness_mm)


def detectors(**changes: object) -> Damage:
    """A second detector, which says the same but for ``changes``."""

    def damage(images: Images) -> None:
        sequence = images.functional[0].DetectorInformationSequence
        sequence.append(copy.deepcopy(sequence[0]))
        for keyword, value in changes.items():
            setattr(sequence[1], keyword, value)

    return damage


def energy_window(low_kev: float, high_kev: float) -> Damage:
    limits, window = Dataset(), Dataset()
    limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit = low_kev, high_kev
    window.EnergyWindowRangeSequence = [limits]
    return every(EnergyWindowInformationSequence=[window])


def second_image(images: Images) -> None:
    images.functional.append(copied(images.functional[0], "1.2.3.1.77"))


def second_energy_window(images: Images) -> None:
    for each in images.functional:
        each.FrameIncrementPointer = [0x00540010, 0x00540080]
        each.EnergyWindowVector = [1, 1, 1, 2, 2, 2]


def isotope(key: str) -> list[Dataset]:
    return [tiny.code_item(key, "SCT")]


DEFECTS = (
    # places
    Defect("frames from above, spacing negative", from_above),
    Defect("frames in any order, slice vector says so", frames_in([3, 0, 5, 1, 4, 2], numbered=True)),
    Defect("no slice vector, frames in order", every(SliceVector=None)),
    Defect("spacing lost", every(SpacingBetweenSlices=None), Code.GEOMETRY_MISSING, "SpacingBetweenSlices"),
    Defect("spacing 0", every(SpacingBetweenSlices=0), Code.GEOMETRY_MISSING, "SpacingBetweenSlices"),
    Defect("a slice twice in the slice vector", every(SliceVector=[1, 2, 2, 4, 5, 6]), Code.GEOMETRY_INCONSISTENT, "SliceVector"),
    Defect("slice vector too short", every(SliceVector=[1, 2, 3]), Code.GEOMETRY_INCONSISTENT, "SliceVector"),
    Defect("position lost", detector(ImagePositionPatient=None), Code.GEOMETRY_MISSING, "ImagePositionPatient"),
    Defect("orientation lost", detector(ImageOrientationPatient=None), Code.GEOMETRY_MISSING, "ImageOrientationPatient"),
    Defect("frames counted by energy window", second_energy_window, Code.GEOMETRY_INCONSISTENT, "FrameIncrementPointer"),
    Defect("SPECT in two images", second_image, Code.GEOMETRY_INCONSISTENT, "NumberOfFrames"),
    Defect("more rows than pixels", every(Rows=5), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("fewer frames than slices announced", every(NumberOfSlices=7), Code.INCOMPLETE_SERIES, "NumberOfSlices"),
    Defect("as many frames as slices announced", every(NumberOfSlices=6)),
    Defect("spacing half of thickness and pixels", both(thick(50), every(SpacingBetweenSlices=25)), Code.GEOMETRY_INCONSISTENT, "SpacingBetweenSlices, SliceThickness"),
    Defect("spacing and thickness differ by a tenth", both(thick(50), every(SpacingBetweenSlices=55)), warned="SpacingBetweenSlices, SliceThickness: 55 mm and 50 mm"),
    Defect("thickness half of spacing and pixels", thick(25), warned="SpacingBetweenSlices, SliceThickness: 50 mm and 25 mm"),
    Defect("two detectors that agree", detectors()),
    Defect("two detectors at two places", detectors(ImagePositionPatient=[0.0, 0.0, 0.0]), Code.GEOMETRY_INCONSISTENT, "DetectorInformationSequence"),
    Defect("two detectors of two orientations", detectors(ImageOrientationPatient=[-1, 0, 0, 0, 1, 0]), Code.GEOMETRY_INCONSISTENT, "DetectorInformationSequence"),
    # units
    Defect("no mapping, no calibration", every(**{MAPPING: None}), Code.CALIBRATION_MISSING, MAPPING),
    Defect("mapping to counts, no calibration", unit("{counts}"), Code.CALIBRATION_MISSING, MAPPING),
    Defect("mapping to Gy", unit("Gy"), Code.UNITS_UNSUPPORTED, "MeasurementUnitsCodeSequence"),
    Defect("mapping to kBq/ml", unit("kBq/ml", 2.0)),
    Defect("mapping to MBq/ml", unit("MBq/ml", 0.002)),
    Defect("Bq/ml called MBq/ml", unit("MBq/ml"), Code.VALUES_IMPLAUSIBLE, SCALE),
    Defect("kBq/ml called Bq/ml", mapping(RealWorldValueSlope=2.0), Code.VALUES_IMPLAUSIBLE, SCALE),
    Defect("mapping with another label", mapping(LUTLabel="WHATEVER")),
    Defect("mapping with an intercept", mapping(RealWorldValueIntercept=10.0), Code.RESCALE_INTERCEPT, MAPPING),
    Defect("mapping with slope 0", mapping(RealWorldValueSlope=0.0), Code.RESCALE_MISSING, MAPPING),
    Defect("mapping without slope", mapping(RealWorldValueSlope=None), Code.RESCALE_MISSING, MAPPING),
    Defect("two mappings to Bq/ml that differ", second_mapping("Bq/ml", 500.0), Code.ATTRIBUTE_INCONSISTENT, MAPPING),
    # found by damaging studies twice: the two were compared only where they named one unit
    Defect("a second mapping, to kBq/ml, that contradicts", second_mapping("kBq/ml", 7.0), Code.ATTRIBUTE_INCONSISTENT, MAPPING),
    Defect("a second mapping, to kBq/ml, that agrees", second_mapping("kBq/ml", 2.0)),
    Defect("a second mapping, to counts", second_mapping("{counts}", 1.0)),
    Defect("a second mapping, to SUV", second_mapping("g/ml{SUVbw}", 0.0210135)),
    Defect("mapping for fewer values than there are", mapped_values(0, 100), Code.VALUES_IMPLAUSIBLE, "RealWorldValueFirstValueMapped, RealWorldValueLastValueMapped"),
    Defect("mapping for all values", mapped_values(0, 32767)),
    Defect("a rescale slope beside the mapping", every(RescaleSlope=3)),
    Defect("a rescale slope of 0 beside the mapping", every(RescaleSlope=0)),
    Defect("a rescale intercept beside the mapping", every(RescaleIntercept=-1)),
    Defect("a rescale slope of 0 to Bq/ml", every(RescaleSlope=0, Units="BQML"), Code.RESCALE_MISSING, "RescaleSlope"),
    Defect("a rescale intercept to Bq/ml", every(RescaleSlope=2000, RescaleIntercept=-100, Units="BQML"), Code.RESCALE_INTERCEPT, "RescaleIntercept"),
    # what was injected
    Defect("dose in Bq", injected(RadionuclideTotalDose=7400e6)),
    Defect("dose in mCi", injected(RadionuclideTotalDose=200), Code.VALUES_IMPLAUSIBLE, SCALE),
    Defect("dose ten times too large", injected(RadionuclideTotalDose=74000), Code.DOSE_IMPLAUSIBLE, "RadionuclideTotalDose"),
    Defect("dose twice", injected(RadionuclideTotalDose=14800), warned="injected activity 14800 MBq"),
    Defect("injected an hour before the scan, a day late", injected(RadiopharmaceuticalStartDateTime="20260301100000"), warned="uptake time 1.167 h"),
    Defect("injection nine days before the scan", injected(RadiopharmaceuticalStartDateTime="20260220110000"), warned="uptake time 216.2 h"),
    Defect("weight in pounds", every(PatientWeight=154.3), warned="in pounds it would be 70 kg"),
    Defect("weight with a digit too many", every(PatientWeight=904), Code.WEIGHT_IMPLAUSIBLE, "PatientWeight"),
    Defect("dose in GBq", injected(RadionuclideTotalDose=7.4), Code.DOSE_IMPLAUSIBLE, "RadionuclideTotalDose"),
    Defect("time of injection without date", injected(RadiopharmaceuticalStartDateTime=None, RadiopharmaceuticalStartTime="110000"), Code.INJECTION_TIME_MISSING, "RadiopharmaceuticalStartDateTime"),
    Defect("injection after the scan", injected(RadiopharmaceuticalStartDateTime="20260302110000"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection of an earlier cycle", injected(RadiopharmaceuticalStartDateTime="20251228110000"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("no weight", every(PatientWeight=None), Code.WEIGHT_MISSING, "PatientWeight"),
    Defect("date of the scan lost", every(AcquisitionDate=None, SeriesDate=None), Code.SERIES_TIME_MISSING, "AcquisitionDate, AcquisitionTime"),
    Defect("acquisition time lost, series time of a later processing", every(AcquisitionTime=None, SeriesDate="20260302"), Code.SERIES_TIME_MISSING, "AcquisitionDate, AcquisitionTime"),
    Defect("acquisition as one date and time", every(AcquisitionDate=None, AcquisitionTime=None, AcquisitionDateTime="20260301110000", SeriesDate="20260302")),
    Defect("zone stated, east", every(TimezoneOffsetFromUTC="+0900")),
    Defect("zone stated, west", every(TimezoneOffsetFromUTC="-0800")),
    Defect("zone stated, acquisition in UTC", every(TimezoneOffsetFromUTC="+0900", AcquisitionDate=None, AcquisitionTime=None, AcquisitionDateTime="20260301020000+0000")),
    Defect("injection in UTC, local zone not stated", injected(RadiopharmaceuticalStartDateTime="20260228110000+0000"), warned="states an offset from UTC (+0000)"),
    Defect("acquisition a day late, series on the right one", every(AcquisitionDate="20260302"), warned="after SeriesDate"),
    Defect("acquisition a day late, content made on the right one", every(AcquisitionDate="20260302", SeriesDate="20260302", ContentDate="20260301", ContentTime="120000"), warned="after ContentDate"),
    Defect("series time of a later processing", every(SeriesDate="20260302")),
    Defect("decay correction ADMIN", every(DecayCorrection="ADMIN"), warned="DecayCorrection ADMIN in an NM image"),
    Defect("window of 177Lu at 208 keV", energy_window(187.2, 228.8)),
    Defect("window of 177Lu at 113 keV", energy_window(101.7, 124.3)),
    Defect("window of 131I", energy_window(328, 400), Code.ATTRIBUTE_INCONSISTENT, "EnergyWindowInformationSequence"),
    Defect("window of 99mTc", energy_window(126, 154), Code.ATTRIBUTE_INCONSISTENT, "EnergyWindowInformationSequence"),
    Defect("another radionuclide", injected(RadionuclideCodeSequence=isotope("72454006")), Code.TRACER_UNKNOWN, "RadiopharmaceuticalCodeSequence"),
    Defect("PSMA-I&T named by the series", every(SeriesDescription="Lu-PSMA-I&T 24h")),
    Defect("PSMA-617 named as the drug", injected(Radiopharmaceutical="177Lu-PSMA-617 (Pluvicto)")),
    Defect("PSMA named by the study", every(StudyDescription="177Lu-PSMA Therapie")),
    Defect("DOTATATE named by the series", every(SeriesDescription="SPECT DOTATATE day 1"), Code.TRACER_NOT_ALLOWED, "SeriesDescription"),
    Defect("DOTATATE named by the study, as oxodotreotide", every(StudyDescription="Lutetium oxodotréotide"), Code.TRACER_NOT_ALLOWED, "StudyDescription"),
    Defect("PRRT named by the protocol", every(ProtocolName="PRRT SPECT/CT"), Code.TRACER_NOT_ALLOWED, "ProtocolName"),
    Defect("FAP-2286 named as the drug", injected(Radiopharmaceutical="177Lu-FAP-2286"), Code.TRACER_NOT_ALLOWED, "Radiopharmaceutical"),
    Defect("EDTMP named by the radionuclide's meaning", injected(RadionuclideCodeSequence=[tiny.code_item("447553000", "SCT", "Lu-177 EDTMP")]), Code.TRACER_NOT_ALLOWED, "RadionuclideCodeSequence"),
    Defect("rosopatamab named by the request", every(RequestedProcedureDescription="TLX591 imaging"), Code.TRACER_NOT_ALLOWED, "RequestedProcedureDescription"),
    Defect("MIBG named by the study", every(StudyDescription="131I-MIBG"), warned="StudyDescription '131I-MIBG' reads as 131I-MIBG"),
    Defect("a drug that nobody knows", injected(Radiopharmaceutical="177Lu-XYZ-12"), Code.TRACER_UNKNOWN, "RadiopharmaceuticalCodeSequence"),
    Defect("a drug of another radionuclide", injected(Radiopharmaceutical="F-18 FDG"), Code.TRACER_NOT_ALLOWED, "Radiopharmaceutical"),
    # kinds of image
    Defect("projections", every(ImageType=["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]), Code.NOT_RECONSTRUCTED, "ImageType"),
    Defect("transmission", every(ImageType=["ORIGINAL", "PRIMARY", "RECON TOMO", "TRANSMISSION"]), Code.NOT_PRIMARY, "ImageType"),
    Defect("attenuation correction denied", every(CorrectedImage=["SCAT"]), Code.NOT_ATTENUATION_CORRECTED, "CorrectedImage"),
    Defect("compressed with loss", every(LossyImageCompression="01"), Code.LOSSY_COMPRESSION, "LossyImageCompression"),
    Defect("no SPECT", both(lost(0)), Code.NO_FUNCTIONAL_SERIES, "SOPClassUID"),
)
