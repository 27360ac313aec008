"""Defects of a PET: units, rescale, decay, dose, body, injection, times."""

# ruff: noqa: E501  one defect a line, so that the table reads as one

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from pydicom.valuerep import DSfloat

from app.domain.refusal import RefusalCode as Code
from tests.defects.damage import Damage, Defect, both, copied, every, injected, one, padded
from tests.defects.studies import Images
from tests.dicom.reading import tiny

DECAY = "DecayCorrection, DecayFactor, CorrectedImage"
UNDECAYED = ["ATTN", "SCAT"]
RPIS = "RadiopharmaceuticalInformationSequence"
FDG = tiny.code_item("35321007", "SCT")


def second_injection(**changes: object) -> Damage:
    def damage(images: Images) -> None:
        for each in images.functional:
            item = tiny.psma_injection()
            item.RadiopharmaceuticalStartTime = "100000"
            for keyword, value in changes.items():
                setattr(item, keyword, value)
            each.RadiopharmaceuticalInformationSequence = [each.RadiopharmaceuticalInformationSequence[0], item]

    return damage


def empty_end(images: Images) -> None:
    images.functional[0].PixelData = bytes(len(images.functional[0].PixelData))


def slope_0_at_end(images: Images) -> None:
    images.functional[0].RescaleSlope = 0


def over_midnight(images: Images) -> None:
    """Injected at 23:45, scanned at 00:45; no date with the injection's time."""
    for each in images.functional:
        each.SeriesTime = each.AcquisitionTime = "004500"
    injected(RadiopharmaceuticalStartDateTime=None, RadiopharmaceuticalStartTime="234500")(images)


def by_lean_mass(height_m: float | None, weight_kg: float = 70.0, sex: str = "M") -> Damage:
    return every(Units="GML", SUVType="LBM", PatientSize=height_m, PatientWeight=weight_kg, PatientSex=sex)


def mapped(slope: float) -> Damage:
    """A mapping to Bq/ml of its own, beside Rescale Slope 1."""

    def damage(images: Images) -> None:
        for each in images.functional:
            item, unit = Dataset(), Dataset()
            unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "Bq/ml", "UCUM", "Bq/ml"
            item.RealWorldValueSlope, item.RealWorldValueIntercept = slope * float(each.RescaleSlope), 0.0
            item.MeasurementUnitsCodeSequence = [unit]
            each.RealWorldValueMappingSequence = [item]

    return damage


def philips(**changes: object) -> Damage:
    """Counts with both private factors, which give the undamaged numbers."""

    def damage(images: Images) -> None:
        for each in images.functional:
            each.Units, each.Manufacturer = "CNTS", "Philips Medical Systems"
            block = each.private_block(0x7053, "Philips PET Private Group", create=True)
            to_suv = 70e3 / (150e6 * 2.0 ** (-3600.0 / 4062.6))
            block.add_new(0x09, "DS", str(changes.get("bqml", "1")))
            block.add_new(0x00, "DS", str(changes.get("suv", f"{to_suv:.6e}")))

    return damage


def wrapped(images: Images) -> None:
    """Unsigned values above 32767, called signed."""
    for each in images.functional:
        values = np.linspace(0, 65000, each.Rows * each.Columns).astype(np.uint16)
        each.PixelData, each.PixelRepresentation = values.tobytes(), 1


def is_one_time_later(dataset: Dataset, index: int) -> Dataset:
    return copied(dataset, f"1.2.3.1.9{index}", AcquisitionTime="110500", FrameReferenceTime=359800)


def dynamic(images: Images) -> None:
    images.functional += [is_one_time_later(each, i) for i, each in enumerate(images.functional)]
    every(SeriesType=["DYNAMIC", "IMAGE"], NumberOfTimeSlices=2)(images)


def at(moment: str) -> Damage:
    """Injected then, by both attributes."""
    return injected(RadiopharmaceuticalStartDateTime=moment, RadiopharmaceuticalStartTime=moment[8:])


def beds(wrong: int, shift_min: int, **changes: object) -> Damage:
    """Each slice a bed position of 2 min, from 11:00 on; the time of one of them ``shift_min`` off."""

    def damage(images: Images) -> None:
        for index, each in enumerate(images.functional):
            minutes = 11 * 60 + 2 * index + (shift_min if index == wrong else 0)
            each.AcquisitionTime = f"{minutes // 60:02d}{minutes % 60:02d}00"
        every(**changes)(images)

    return damage


def named(**texts: str) -> Damage:
    """Only text says what was injected."""
    return both(injected(RadiopharmaceuticalCodeSequence=None), every(**texts))


def nuclide(value: str, scheme: str, meaning: str) -> Damage:
    return injected(RadionuclideCodeSequence=[tiny.code_item(value, scheme, meaning)])


def given_along(name: str, first: bool = False, **changes: object) -> Damage:
    """Furosemide, say, as a second item, or as the first."""

    def damage(images: Images) -> None:
        for each in images.functional:
            item = Dataset()
            item.Radiopharmaceutical = name
            for keyword, value in changes.items():
                setattr(item, keyword, value)
            each.RadiopharmaceuticalInformationSequence.insert(0 if first else 1, item)

    return damage


def scanned(moment: str, group: int = 0x0009, creator: str = "GEMS_PETD_01", element: int = 0x0D) -> Damage:
    """The scanner's private time, GE's scan or Siemens' decay correction."""

    def damage(images: Images) -> None:
        for each in images.functional:
            each.private_block(group, creator, create=True).add_new(element, "DT", moment)

    return damage


def timed_beds(pause_s: int = 0, **changes: object) -> Damage:
    """Each slice a bed position of 2 min from 11:00 on, timed by its start and its acquisition."""

    def damage(images: Images) -> None:
        for index, each in enumerate(images.functional):
            seconds = 120 * index + (pause_s if index > 2 else 0)
            each.FrameReferenceTime = 1000 * seconds
            each.AcquisitionTime = f"11{seconds // 60:02d}00"
        every(**changes)(images)

    return damage


def beds_over_midnight(date_is_kept: bool) -> Damage:
    """A scan from 23:56 on, with the series' date in every bed or the right one; injected at 22:56."""

    def damage(images: Images) -> None:
        for index, each in enumerate(images.functional):
            minutes = 23 * 60 + 56 + 2 * index
            is_next = minutes >= 1440
            each.FrameReferenceTime = 120000 * index + 59800
            each.SeriesTime, each.AcquisitionTime = "235600", f"{minutes // 60 % 24:02d}{minutes % 60:02d}00"
            each.AcquisitionDate = "20260302" if is_next and not date_is_kept else "20260301"
        for each in images.ct:
            each.AcquisitionTime = "235000"
        at("20260301225600")(images)

    return damage


def unchanged(images: Images) -> None:
    """The numbers are those of the undamaged study."""


LATER = every(SeriesTime="153000")
CROPPED = every(FrameReferenceTime=1215000, DecayFactor=1.24305)
"""The bed that was measured 1215 s after the scan began, at 11:00 by its Acquisition Time."""

ADMIN = every(DecayCorrection="ADMIN")
UNTIMED = both(ADMIN, injected(RadiopharmaceuticalStartDateTime=None, RadiopharmaceuticalStartTime=None))
NOTHING = padded(0, False)
"""The same columns without activity."""

STAYS = "activities stay as at the injection"

DEFECTS = (
    # units
    Defect("proportional to counts", every(Units="PROPCNTS"), Code.UNITS_UNSUPPORTED, "Units"),
    Defect("proportional to count rate", every(Units="PROPCPS"), Code.UNITS_UNSUPPORTED, "Units"),
    Defect("counts without a factor", every(Units="CNTS"), Code.UNITS_UNSUPPORTED, "Units"),
    Defect("no unit", every(Units=None), Code.UNITS_UNSUPPORTED, "Units"),
    Defect("a unit nobody defined", every(Units="BECQUEREL"), Code.UNITS_UNSUPPORTED, "Units"),
    Defect("unit in lower case", every(Units="bqml")),
    Defect("Bq/ml called SUV", every(Units="GML", SUVType="BW"), Code.VALUES_IMPLAUSIBLE, "Units, RescaleSlope, RadionuclideTotalDose"),
    Defect("Bq/ml called SUV by surface", every(Units="CM2ML"), Code.VALUES_IMPLAUSIBLE, "Units, RescaleSlope, RadionuclideTotalDose"),
    Defect("SUV by surface in g/ml", every(Units="GML", SUVType="BSA"), Code.UNITS_UNSUPPORTED, "SUVType"),
    Defect("a kind of SUV nobody defined", every(Units="GML", SUVType="XYZ"), Code.UNITS_UNSUPPORTED, "SUVType"),
    Defect("SUV by lean mass without height", by_lean_mass(None), Code.HEIGHT_MISSING, "PatientSize"),
    Defect("SUV by lean mass, sex not stated", by_lean_mass(1.8, sex=""), Code.BODY_IMPLAUSIBLE, "PatientSex"),
    Defect("SUV by lean mass, height in feet", by_lean_mass(0.059), Code.BODY_IMPLAUSIBLE, "PatientSize"),
    Defect("SUV by lean mass of 200 kg on 1.5 m", by_lean_mass(1.5, 200.0), Code.BODY_IMPLAUSIBLE, "PatientWeight, PatientSize"),
    Defect("SUV that is not decay corrected", every(Units="GML", DecayCorrection="NONE"), Code.NOT_DECAY_CORRECTED, "DecayCorrection"),
    Defect("a mapping to Bq/ml that says the same as the rescale", mapped(1.0)),
    Defect("a mapping to Bq/ml that contradicts the rescale", mapped(2.0), Code.ATTRIBUTE_INCONSISTENT, "RealWorldValueMappingSequence, RescaleSlope"),
    Defect("another unit on one slice", one(Units="CNTS"), Code.ATTRIBUTE_INCONSISTENT, "Units"),
    Defect("Philips counts with both factors", philips()),
    Defect("Philips' factors contradict each other", philips(suv="0.001"), Code.ATTRIBUTE_INCONSISTENT, "(7053,xx00), RadionuclideTotalDose, PatientWeight"),
    Defect("Philips' SUV factor alone, seven times too large", philips(suv="6.03e-3", bqml="0"), warned="times the injected activity"),
    Defect("Philips' SUV factor alone, ten times too large", philips(suv="8.62e-3", bqml="0"), Code.VALUES_IMPLAUSIBLE, "Units, RescaleSlope, RadionuclideTotalDose"),
    Defect("Philips' SUV factor alone", philips(bqml="0")),
    Defect("Philips' factor is 0", philips(suv="0", bqml="0"), Code.UNITS_UNSUPPORTED, "Units"),
    # rescale
    Defect("an intercept", every(RescaleIntercept=-10), Code.RESCALE_INTERCEPT, "RescaleIntercept"),
    Defect("an intercept on one slice", one(RescaleIntercept=5), Code.RESCALE_INTERCEPT, "RescaleIntercept"),
    Defect("slope missing on one slice", one(RescaleSlope=None), Code.RESCALE_MISSING, "RescaleSlope"),
    Defect("an intercept of 1e-7", every(RescaleIntercept=1e-7)),
    Defect("an empty end slice with slope 0", both(empty_end, slope_0_at_end), like=empty_end),
    Defect("slope 0 on one slice", one(RescaleSlope=0), Code.RESCALE_MISSING, "RescaleSlope"),
    Defect("slope negative on one slice", one(RescaleSlope=-20), Code.RESCALE_MISSING, "RescaleSlope"),
    Defect("slope not a number", one(RescaleSlope="nan"), Code.RESCALE_MISSING, "RescaleSlope"),
    Defect("slope a word", one(RescaleSlope="twenty"), Code.RESCALE_MISSING, "RescaleSlope"),
    Defect("slope a thousand times too large", every(RescaleSlope=25000), Code.VALUES_IMPLAUSIBLE, "Units, RescaleSlope, RadionuclideTotalDose"),
    Defect("slope a thousand times too small", every(RescaleSlope=0.025), Code.VALUES_IMPLAUSIBLE, "Units, RescaleSlope, RadionuclideTotalDose"),
    Defect("a rescale type that means nothing", every(RescaleType="SUV")),
    Defect("values that wrap around", wrapped, Code.VALUES_IMPLAUSIBLE, "PixelRepresentation"),
    # padding
    Defect("padded with -32768", padded(-32768, False, PixelPaddingValue=-32768), like=NOTHING),
    Defect("padded with -32768, nowhere stated", padded(-32768, False), like=NOTHING),
    Defect("padded with -2000, stated as 63536", padded(-2000, False, PixelPaddingValue=63536), like=NOTHING),
    Defect("padded with -2000 and called unsigned", padded(-2000, False, PixelPaddingValue=-2000, PixelRepresentation=0), like=NOTHING),
    Defect("padded with the highest value", padded(32767, False, PixelPaddingValue=32767), like=NOTHING),
    Defect("padded with the highest value, nowhere stated", padded(32767, False), like=NOTHING),
    Defect("padded with an ordinary value", padded(60, False, PixelPaddingValue=60), like=NOTHING),
    Defect("padded with a range of values", padded(-1500, False, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1000), like=NOTHING),
    Defect("a padding value that tissue has too", padded(0, False, columns=(), PixelPaddingValue=48)),
    Defect("values above the stored bits", both(padded(5000, False, columns=(2,)), every(BitsStored=12, HighBit=11)), Code.VALUES_IMPLAUSIBLE, "BitsStored"),
    # decay correction
    Defect("decay correction not stated", every(DecayCorrection=None), Code.DECAY_CORRECTION_UNKNOWN, "DecayCorrection"),
    Defect("decay correction of an unknown kind", every(DecayCorrection="SCAN"), Code.DECAY_CORRECTION_UNKNOWN, "DecayCorrection"),
    Defect("ADMIN written on an image corrected to the start", every(DecayCorrection="ADMIN", DecayFactor=1.01026), Code.DECAY_CORRECTION_CONTRADICTED, DECAY),
    Defect("START written on an image corrected to the administration", every(DecayFactor=1.8672), Code.DECAY_CORRECTION_CONTRADICTED, DECAY),
    Defect("NONE written on a decay corrected image", beds(0, 0, DecayCorrection="NONE", DecayFactor=1.2), Code.DECAY_CORRECTION_CONTRADICTED, DECAY),
    Defect("each bed corrected to its own start, timed by its start", timed_beds(DecayFactor=1.01026), Code.DECAY_CORRECTION_CONTRADICTED, DECAY),
    Defect("one decay factor and one frame reference time for all beds", beds(0, 0, DecayFactor=1.01026), warned="later beds may be corrected to their own start", like=unchanged),
    Defect("not decay corrected, one acquisition time for all beds", timed_beds(DecayCorrection="NONE", AcquisitionTime="110000"), warned="CorrectedImage names DECY", like=timed_beds(DecayCorrection="NONE")),
    Defect("NONE beside DECY, no decay factor", every(DecayCorrection="NONE"), warned="CorrectedImage names DECY"),
    Defect("NONE beside DECY, decay factor 1", every(DecayCorrection="NONE", DecayFactor=1), warned="CorrectedImage names DECY"),
    Defect("START without DECY", every(CorrectedImage=UNDECAYED), warned="without DECY"),
    Defect("START without DECY, borne out by the decay factor", every(CorrectedImage=UNDECAYED, DecayFactor=1.01026), warned="lacks DECY"),
    Defect("ADMIN without DECY", every(CorrectedImage=UNDECAYED, DecayCorrection="ADMIN"), warned="without DECY"),
    Defect("ADMIN without DECY, decay factor 1", every(CorrectedImage=UNDECAYED, DecayCorrection="ADMIN", DecayFactor=1), Code.DECAY_CORRECTION_CONTRADICTED, DECAY),
    Defect("ADMIN without a decay factor", every(DecayCorrection="ADMIN"), warned="no DecayFactor bears out DecayCorrection ADMIN"),
    Defect("ADMIN with a decay factor of 1 in every slice", every(DecayCorrection="ADMIN", DecayFactor=1), warned="doesn't bear out"),
    Defect("ADMIN, injection two hours after the scan", both(ADMIN, at("20260301130000")), warned=STAYS, like=UNTIMED),
    Defect("ADMIN, injection and scan at one instant", both(ADMIN, at("20260301110000")), warned=STAYS, like=UNTIMED),
    Defect("ADMIN, two times of injection", both(ADMIN, injected(RadiopharmaceuticalStartDateTime="20260301091500")), warned=STAYS, like=UNTIMED),
    Defect("ADMIN, injection a year before the scan", both(ADMIN, injected(RadiopharmaceuticalStartDateTime="20250301100000", RadiopharmaceuticalStartTime=None)), warned=STAYS, like=UNTIMED),
    Defect("ADMIN, injection ten years after the scan", both(ADMIN, injected(RadiopharmaceuticalStartDateTime="20360301100000", RadiopharmaceuticalStartTime=None)), warned=STAYS, like=UNTIMED),
    Defect("a decay factor that the times don't explain", every(DecayFactor=1.3), warned="don't explain"),
    Defect("decay correction differs on one slice", one(DecayCorrection="ADMIN"), Code.ATTRIBUTE_INCONSISTENT, "DecayCorrection"),
    Defect("not decay corrected, without times", every(DecayCorrection="NONE", AcquisitionTime=None), Code.NOT_DECAY_CORRECTED, "AcquisitionTime, ActualFrameDuration"),
    Defect("not decay corrected, one bed's time an hour late", beds(3, 60, DecayCorrection="NONE"), Code.SERIES_TIME_IMPLAUSIBLE, "AcquisitionTime"),
    Defect("not decay corrected, the first bed's time 30 min early", beds(0, -30, DecayCorrection="NONE"), Code.SERIES_TIME_IMPLAUSIBLE, "AcquisitionTime"),
    # dose
    Defect("no dose", injected(RadionuclideTotalDose=None), Code.DOSE_MISSING, "RadionuclideTotalDose"),
    Defect("dose 0", injected(RadionuclideTotalDose=0), Code.DOSE_MISSING, "RadionuclideTotalDose"),
    Defect("dose in MBq", injected(RadionuclideTotalDose=150)),
    Defect("dose in kBq", injected(RadionuclideTotalDose=150e3), Code.DOSE_IMPLAUSIBLE, "RadionuclideTotalDose"),
    Defect("dose in mCi", injected(RadionuclideTotalDose=4.05), Code.DOSE_IMPLAUSIBLE, "RadionuclideTotalDose"),
    Defect("dose of 10 mCi", injected(RadionuclideTotalDose=10), Code.DOSE_IMPLAUSIBLE, "RadionuclideTotalDose"),
    Defect("dose ten times too large", injected(RadionuclideTotalDose=1500e6), Code.DOSE_IMPLAUSIBLE, "RadionuclideTotalDose"),
    Defect("dose seven times too large", injected(RadionuclideTotalDose=1050e6), warned="injected activity 1050 MBq"),
    Defect("dose a fifth", injected(RadionuclideTotalDose=30e6), warned="injected activity 30 MBq"),
    Defect("slope seven times too large", every(RescaleSlope=175), warned="times the injected activity"),
    Defect("dose negative", injected(RadionuclideTotalDose=-150e6), Code.DOSE_IMPLAUSIBLE, "RadionuclideTotalDose"),
    Defect("dose in MBq of a tenth, in range", injected(RadionuclideTotalDose=12e6), Code.VALUES_IMPLAUSIBLE, "Units, RescaleSlope, RadionuclideTotalDose"),
    Defect("no half-life", injected(RadionuclideHalfLife=None)),
    Defect("half-life of 18F on 68Ga", injected(RadionuclideHalfLife=6586.2), Code.HALF_LIFE_MISMATCH, "RadionuclideHalfLife"),
    Defect("half-life of 68Ga on 18F", both(injected(RadiopharmaceuticalCodeSequence=[tiny.code_item("126758", "DCM")], RadionuclideCodeSequence=[tiny.code_item("77004003", "SCT")])), Code.HALF_LIFE_MISMATCH, "RadionuclideHalfLife"),
    Defect("half-life of 18F, radionuclide not coded", injected(RadionuclideHalfLife=6586.2, RadionuclideCodeSequence=None), Code.TRACER_UNKNOWN, "RadionuclideCodeSequence"),
    Defect("half-life in minutes", injected(RadionuclideHalfLife=67.7), Code.HALF_LIFE_MISMATCH, "RadionuclideHalfLife"),
    Defect("half-life negative", injected(RadionuclideHalfLife=-4062.6), Code.HALF_LIFE_MISMATCH, "RadionuclideHalfLife"),
    Defect("no injection at all", every(**{RPIS: None}), Code.TRACER_UNKNOWN, RPIS),
    Defect("two different injections", second_injection(RadionuclideTotalDose=75e6), Code.ATTRIBUTE_INCONSISTENT, RPIS),
    Defect("the same injection twice", second_injection()),
    Defect("another drug", injected(RadiopharmaceuticalCodeSequence=[FDG]), Code.TRACER_NOT_ALLOWED, "RadiopharmaceuticalCodeSequence"),
    Defect("a drug and a radionuclide that do not belong together", injected(RadionuclideHalfLife=6586.2, RadionuclideCodeSequence=[tiny.code_item("77004003", "SCT")]), Code.TRACER_UNKNOWN, "RadionuclideCodeSequence"),
    Defect("FDG", injected(RadiopharmaceuticalCodeSequence=[FDG], RadionuclideHalfLife=6586.2, RadionuclideCodeSequence=[tiny.code_item("77004003", "SCT")]), Code.TRACER_NOT_ALLOWED, "RadiopharmaceuticalCodeSequence"),
    # what was injected
    Defect("DOTATOC named as the drug", both(named(), injected(Radiopharmaceutical="68Ga-DOTA-TOC")), Code.TRACER_NOT_ALLOWED, "Radiopharmaceutical"),
    Defect("FAPI named by the series", named(SeriesDescription="WB Ga68 FAPI-46 (AC)"), Code.TRACER_NOT_ALLOWED, "SeriesDescription"),
    Defect("DOTANOC named by the study", named(StudyDescription="PET/CT DOTA-NOC"), Code.TRACER_NOT_ALLOWED, "StudyDescription"),
    Defect("PSMA-11 named by the series alone", named(SeriesDescription="PSMA-11"), Code.TRACER_UNKNOWN, "RadiopharmaceuticalCodeSequence"),
    Defect("PSMA-11 named as the drug, not coded", both(named(), injected(Radiopharmaceutical="[68Ga]Ga-PSMA-11"))),
    Defect("PSMA-11 coded, DOTATATE in the text of the drug", injected(Radiopharmaceutical="DOTATATE"), warned="reads as 68Ga-DOTATATE"),
    Defect("PSMA-11 coded, the series named DOTATATE", every(SeriesDescription="Dotatate WB"), warned="SeriesDescription 'Dotatate WB' reads as 68Ga-DOTATATE"),
    Defect("PSMA-11 coded, the study named for PSMA and FDG", every(StudyDescription="PSMA + FDG PET/CT")),
    Defect("radionuclide under a vendor's code", nuclide("Ga-68", "99GEMS", "Gallium 68")),
    Defect("radionuclide under a vendor's code that says nothing", nuclide("17", "99VENDOR", "isotope 17")),
    Defect("radionuclide in SNOMED RT under another designator", nuclide("C-131A3", "SNOMED", "^68^Gallium")),
    Defect("radionuclide code without a value", nuclide("", "", "")),
    Defect("a vendor's code called 18F, half-life of 68Ga", nuclide("F18", "99GEMS", "F-18"), Code.HALF_LIFE_MISMATCH, "RadionuclideHalfLife"),
    Defect("a vendor's code called 124I, half-life of 68Ga", nuclide("I124", "99GEMS", "Iodine-124"), Code.HALF_LIFE_MISMATCH, "RadionuclideHalfLife"),
    Defect("a vendor's code, no half-life", both(nuclide("17", "99VENDOR", "isotope 17"), injected(RadionuclideHalfLife=None)), Code.TRACER_UNKNOWN, "RadionuclideCodeSequence"),
    Defect("furosemide as a second item", given_along("Furosemid 20 mg")),
    Defect("furosemide as the first item", given_along("LASIX", first=True, RadionuclideTotalDose=20)),
    Defect("an oral contrast agent as a second item", given_along("Oral agent", RadiopharmaceuticalVolume=500)),
    Defect("FDG as a second item", given_along("FDG", RadionuclideTotalDose=300e6), Code.ATTRIBUTE_INCONSISTENT, RPIS),
    Defect("another dose on one slice", one(RadiopharmaceuticalInformationSequence__RadionuclideTotalDose=300e6), Code.ATTRIBUTE_INCONSISTENT, RPIS),
    # body
    Defect("no weight", every(PatientWeight=None), Code.WEIGHT_MISSING, "PatientWeight"),
    Defect("weight spelt in two ways", one(PatientWeight=DSfloat("70.00"))),
    Defect("weight 0", every(PatientWeight=0), Code.WEIGHT_MISSING, "PatientWeight"),
    Defect("weight in pounds", every(PatientWeight=154.3), warned="in pounds it would be 70 kg"),
    Defect("weight in pounds, no height", every(PatientWeight=154.3, PatientSize=None), warned="in pounds it would be 70 kg"),
    Defect("weight with a digit too many", every(PatientWeight=904), Code.WEIGHT_IMPLAUSIBLE, "PatientWeight"),
    Defect("weight in tonnes", every(PatientWeight=0.07), Code.WEIGHT_IMPLAUSIBLE, "PatientWeight"),
    Defect("weight that no body of this height has", every(PatientWeight=340), Code.WEIGHT_IMPLAUSIBLE, "PatientWeight, PatientSize"),
    Defect("weight in g", every(PatientWeight=70000), Code.WEIGHT_IMPLAUSIBLE, "PatientWeight"),
    Defect("weight negative", every(PatientWeight=-70), Code.WEIGHT_IMPLAUSIBLE, "PatientWeight"),
    Defect("weight a word", every(PatientWeight="heavy"), Code.WEIGHT_MISSING, "PatientWeight"),
    Defect("weight differs on one slice", one(PatientWeight=90), Code.ATTRIBUTE_INCONSISTENT, "PatientWeight"),
    Defect("height in cm", every(PatientSize=180)),
    # times
    Defect("injection and scan swapped", both(injected(RadiopharmaceuticalStartDateTime="20260301110000", RadiopharmaceuticalStartTime="110000"), every(SeriesTime="100000", AcquisitionTime="100000")), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection after the scan", injected(RadiopharmaceuticalStartDateTime="20260301113000", RadiopharmaceuticalStartTime="113000"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("time of injection after the scan, no date", injected(RadiopharmaceuticalStartDateTime=None, RadiopharmaceuticalStartTime="113000"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection and scan at one instant", injected(RadiopharmaceuticalStartDateTime="20260301110000", RadiopharmaceuticalStartTime="110000"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("all times set to midnight", both(injected(RadiopharmaceuticalStartDateTime="20260301000000", RadiopharmaceuticalStartTime="000000"), every(SeriesTime="000000", AcquisitionTime="000000")), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection an hour early", at("20260301090000"), warned="uptake time 120 min"),
    Defect("injection 45 min late", at("20260301104500"), warned="uptake time 15 min"),
    Defect("injection 12 hours late, p.m. for a.m.", at("20260301220000"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection 12 hours late, no date", injected(RadiopharmaceuticalStartDateTime=None, RadiopharmaceuticalStartTime="220000"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection on the next day", injected(RadiopharmaceuticalStartDateTime="20260302100000")),
    Defect("injection on the next day, one time only", injected(RadiopharmaceuticalStartDateTime="20260302100000", RadiopharmaceuticalStartTime=None), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection set to midnight", injected(RadiopharmaceuticalStartDateTime="20260301000000", RadiopharmaceuticalStartTime="000000"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection before midnight, no date", over_midnight),
    Defect("no time of injection", injected(RadiopharmaceuticalStartDateTime=None, RadiopharmaceuticalStartTime=None), Code.INJECTION_TIME_MISSING, "RadiopharmaceuticalStartDateTime"),
    Defect("time of injection without date", injected(RadiopharmaceuticalStartDateTime=None)),
    Defect("date and time of injection alone", injected(RadiopharmaceuticalStartTime=None)),
    Defect("date of injection left behind by an anonymiser", injected(RadiopharmaceuticalStartDateTime="20210517100000")),
    Defect("two times of injection", injected(RadiopharmaceuticalStartDateTime="20260301091500"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection in UTC, zone stated", both(every(TimezoneOffsetFromUTC="+0100"), injected(RadiopharmaceuticalStartDateTime="20260301090000+0000"))),
    Defect("injection in UTC, local zone not stated, local time beside it", injected(RadiopharmaceuticalStartDateTime="20260301090000+0000")),
    Defect("injection in UTC, local zone of half an hour not stated", injected(RadiopharmaceuticalStartDateTime="20260301043000+0000")),
    Defect("injection in UTC, another time beside it that no zone explains", injected(RadiopharmaceuticalStartDateTime="20260301090700+0000"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection with an offset, another time beside it", injected(RadiopharmaceuticalStartDateTime="20260301090000+0100"), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("injection in UTC, local zone not stated, no other time", injected(RadiopharmaceuticalStartDateTime="20260301090000+0000", RadiopharmaceuticalStartTime=None), Code.INJECTION_TIME_IMPLAUSIBLE, "TimezoneOffsetFromUTC"),
    Defect("injection with its local offset, zone of the scan not stated", injected(RadiopharmaceuticalStartDateTime="20260301100000+0100", RadiopharmaceuticalStartTime=None)),
    Defect("injection with an offset, zone of the scan not stated", injected(RadiopharmaceuticalStartDateTime="20260301100000+0100", RadiopharmaceuticalStartTime=None), warned="states an offset from UTC (+0100)"),
    Defect("zone stated, date and time of injection alone", both(every(TimezoneOffsetFromUTC="+0100"), injected(RadiopharmaceuticalStartTime=None))),
    Defect("zone stated, date, time and time of day of injection", every(TimezoneOffsetFromUTC="-0800")),
    Defect("zone stated, acquisition in UTC", every(TimezoneOffsetFromUTC="+0100", AcquisitionDate=None, AcquisitionTime=None, AcquisitionDateTime="20260301100000+0000")),
    Defect("zone stated, acquisition as one local date and time", every(TimezoneOffsetFromUTC="+0100", AcquisitionDate=None, AcquisitionTime=None, AcquisitionDateTime="20260301110000")),
    Defect("injection and acquisition with zones of their own", both(every(AcquisitionDate=None, AcquisitionTime=None, AcquisitionDateTime="20260301100000+0000"), injected(RadiopharmaceuticalStartDateTime="20260301100000+0100", RadiopharmaceuticalStartTime=None))),
    Defect("injection in UTC, acquisition in UTC and in local time", both(every(AcquisitionDateTime="20260301100000+0000"), injected(RadiopharmaceuticalStartDateTime="20260301090000+0000", RadiopharmaceuticalStartTime=None))),
    Defect("acquisition in UTC, zone of the injection not stated", every(AcquisitionDate=None, AcquisitionTime=None, AcquisitionDateTime="20260301100000+0000", SeriesTime=None), Code.INJECTION_TIME_IMPLAUSIBLE, "TimezoneOffsetFromUTC"),
    Defect("zone differs on one slice", both(every(TimezoneOffsetFromUTC="+0100"), one(TimezoneOffsetFromUTC="+0200")), Code.ATTRIBUTE_INCONSISTENT, "TimezoneOffsetFromUTC"),
    Defect("zone that is none on earth", every(TimezoneOffsetFromUTC="+9900")),
    Defect("series and acquisition half an hour late, made at the right time", every(SeriesTime="113000", AcquisitionTime="113000", ContentDate="20260301", ContentTime="110100"), warned="acquired 29 min after ContentDate"),
    Defect("series and acquisition half an hour late, written at the right time", every(SeriesTime="113000", AcquisitionTime="113000", InstanceCreationDate="20260301", InstanceCreationTime="110500"), warned="acquired 25 min after InstanceCreationDate"),
    Defect("series and acquisition half an hour early, before the study", every(SeriesTime="103000", AcquisitionTime="103000"), warned="acquired 30 min before StudyDate"),
    Defect("series and acquisition two hours late, CT at the right time", every(SeriesTime="130000", AcquisitionTime="130000"), warned="acquired 120 min after its CT"),
    Defect("content made years later by an anonymiser", every(ContentDate="20310517", ContentTime="120000", InstanceCreationDate="20310517", InstanceCreationTime="120000")),
    Defect("local zone with a local offset", both(every(TimezoneOffsetFromUTC="+0100"), injected(RadiopharmaceuticalStartDateTime="20260301100000+0100"))),
    Defect("series date made earlier by an anonymiser", every(SeriesDate="20210517"), Code.SERIES_TIME_IMPLAUSIBLE, "SeriesTime, FrameReferenceTime"),
    Defect("series date made later by an anonymiser", every(SeriesDate="20310517")),
    Defect("acquisition date made earlier by an anonymiser", every(AcquisitionDate="20210517")),
    Defect("lying the other way, by name", every(PatientPosition="FFP")),
    Defect("how the patient lies not stated", every(PatientPosition=None)),
    Defect("series time lost", every(SeriesTime=None)),
    Defect("series time of a later processing", every(SeriesTime="153000")),
    Defect("series time an hour early", every(SeriesTime="100100"), Code.SERIES_TIME_IMPLAUSIBLE, "SeriesTime, FrameReferenceTime"),
    Defect("series time differs on one slice", one(SeriesTime="103000"), Code.ATTRIBUTE_INCONSISTENT, "SeriesTime"),
    Defect("one slice acquired hours later", one(AcquisitionTime="170000"), Code.SERIES_TIME_IMPLAUSIBLE, "AcquisitionTime"),
    Defect("one bed acquired an hour late", beds(3, 60), Code.SERIES_TIME_IMPLAUSIBLE, "AcquisitionTime"),
    Defect("the first bed acquired 30 min early", beds(0, -30), Code.SERIES_TIME_IMPLAUSIBLE, "AcquisitionTime"),
    Defect("frame reference time of the bed's start, series time of a later processing", both(LATER, every(FrameReferenceTime=0))),
    Defect("frame reference time of a bed of 20 min, series time of a later processing", both(LATER, every(FrameReferenceTime=0, ActualFrameDuration=1200000))),
    Defect("frame reference times of the beds' starts, series time of a later processing", timed_beds(SeriesTime="153000")),
    Defect("beds over midnight", beds_over_midnight(False)),
    Defect("beds over midnight, with the date of the series", beds_over_midnight(True)),
    Defect("an interrupted scan, as all its times say", timed_beds(1800)),
    Defect("frame reference time 0 in every bed, series time of a later processing", beds(0, 0, SeriesTime="153000", FrameReferenceTime=0)),
    Defect("a part of a scan, with the acquisition and series time of the whole", CROPPED),
    Defect("a part of a scan, series time of a later processing, GE's private time", both(CROPPED, LATER, every(StudyTime=None), scanned("20260301110000.00"))),
    Defect("a part of a scan, series time of a later processing, Siemens' private time", both(CROPPED, LATER, every(StudyTime=None), scanned("20260301110000.000000", 0x0071, "SIEMENS MED PT", 0x22))),
    Defect("a part of a scan, private time with a date that an anonymiser left behind", both(CROPPED, LATER, every(StudyTime=None), scanned("20210517110000"))),
    Defect("a part of a scan, series time of a later processing", both(CROPPED, LATER)),
    Defect("a part of a scan by GE, of whose start nothing tells", both(CROPPED, LATER, every(StudyTime=None, Manufacturer="GE MEDICAL SYSTEMS")), Code.SERIES_TIME_IMPLAUSIBLE, "AcquisitionTime, FrameReferenceTime"),
    Defect("a part of a scan, of whose start nothing tells", both(CROPPED, LATER, every(StudyTime=None)), warned="it is taken as the bed's own"),
    Defect("acquisition time alone half an hour late", both(scanned("20260301110000"), every(AcquisitionTime="113000")), warned="with which the scanner's private time agrees", like=unchanged),
    Defect("acquisition time alone half an hour early", both(scanned("20260301110000"), every(AcquisitionTime="103000")), warned="with which the scanner's private time agrees"),
    Defect("series time an hour early, private time right", both(scanned("20260301110000"), every(SeriesTime="100100")), warned="reference time is the scanner's private time", like=unchanged),
    Defect("private time an hour early", scanned("20260301100100"), warned="away from SeriesDateTime", like=unchanged),
    Defect("series, private time and frames an hour apart each", both(scanned("20260301100000"), every(SeriesTime="103000")), Code.SERIES_TIME_IMPLAUSIBLE, "SeriesTime, FrameReferenceTime"),
    Defect("decay factor and frame reference time imply two starts", both(LATER, every(DecayFactor=1.3)), Code.SERIES_TIME_IMPLAUSIBLE, "DecayFactor, FrameReferenceTime"),
    Defect("no frame duration, series time of a later processing", both(LATER, every(FrameReferenceTime=1215000, ActualFrameDuration=None)), Code.SERIES_TIME_MISSING, "ActualFrameDuration"),
    Defect("a static image from list mode that began with the injection", both(at("20260301110000"), every(FrameReferenceTime=3600000, ActualFrameDuration=1200000)), warned="static image from list mode"),
    Defect("a part of a scan, all times set to midnight", both(CROPPED, at("20260301000000"), every(SeriesTime="000000", AcquisitionTime="000000")), Code.INJECTION_TIME_IMPLAUSIBLE, "RadiopharmaceuticalStartDateTime"),
    Defect("frame reference time negative, series time of a later processing", both(LATER, every(FrameReferenceTime=-600000)), warned="FrameReferenceTime is -600 s"),
    Defect("frame reference time in seconds", every(FrameReferenceTime=59.8)),
    Defect("dates and times removed", every(SeriesDate=None, AcquisitionDate=None), Code.SERIES_TIME_MISSING, "SeriesTime, AcquisitionTime"),
    Defect("acquisition time lost", every(AcquisitionTime=None)),
    Defect("a dynamic scan", dynamic, Code.DUPLICATE_SLICE, "ImagePositionPatient"),
)
