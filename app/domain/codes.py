"""Every coded concept that the results use, once.

Standard codes are those of PS3.16; where no standard code exists the private scheme
:data:`PRIVATE_SCHEME` has one, explained in docs/reference/measurements.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.domain.findings.findings import Site
from app.domain.study import Code
from app.domain.units import Unit

PRIVATE_SCHEME = "99PSMANODE"
"""Coding scheme designator of our own concepts (PS3.3 8.2: private designators begin with 99)."""

PRIVATE_SCHEME_NAME = "PSMA node private codes"
PRIVATE_SCHEME_VERSION = "1"

# What a segment and a measurement group are about
MORPHOLOGICALLY_ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
LESION = Code("52988006", "SCT", "Lesion")
ENTIRE_BODY = Code("38266002", "SCT", "Entire body")

# Where a lesion sits
SITES = {
    Site.BONE: Code("272673000", "SCT", "Bone"),
    Site.LYMPH_NODE: Code("59441001", "SCT", "Lymph node"),
    Site.PROSTATE: Code("41216001", "SCT", "Prostate"),
    Site.LIVER: Code("10200004", "SCT", "Liver"),
}
"""A site that no rule decides has no code: nothing is written then."""

# Measurements and how they were derived (PS3.16 TID 300, CID 7464)
VOLUME = Code("118565006", "SCT", "Volume")
SUVBW = Code("126401", "DCM", "SUVbw")
ACTIVITY_CONCENTRATION = Code("110821", "DCM", "Nuclear Medicine Tomographic Activity")
PET_ACTIVITY_CONCENTRATION = Code("ACTIVITY-CONC", PRIVATE_SCHEME, "Activity concentration in PET")
"""110821 is nuclear medicine's; for PET the Standard has none."""

NUMBER_OF_LESIONS = Code("246206008", "SCT", "Number of lesions")
PSMA_TV = Code("PSMA-TV", PRIVATE_SCHEME, "PSMA tumor volume")
TL_PSMA = Code("TL-PSMA", PRIVATE_SCHEME, "Total lesion PSMA")
LESION_ACTIVITY = Code("LESION-ACTIVITY", PRIVATE_SCHEME, "Activity in lesion")
LONGEST_DIAMETER = Code("LONGEST-DIAMETER", PRIVATE_SCHEME, "Longest distance of voxel centres in lesion")
DMAX = Code("DMAX", PRIVATE_SCHEME, "Distance of the farthest lesions")
TO_LIVER = Code("TO-LIVER", PRIVATE_SCHEME, "Mean uptake over that of the liver")
TO_LIVER_MAX = Code("TO-LIVER-MAX", PRIVATE_SCHEME, "Highest uptake over the mean of the liver")
TO_LIVER_PEAK = Code("TO-LIVER-PEAK", PRIVATE_SCHEME, "Peak uptake over the mean of the liver")
TO_PAROTID = Code("TO-PAROTID", PRIVATE_SCHEME, "Mean uptake over that of the parotid glands")
LIVER_UPTAKE = Code("LIVER-UPTAKE", PRIVATE_SCHEME, "Reference uptake of the liver")
PAROTID_UPTAKE = Code("PAROTID-UPTAKE", PRIVATE_SCHEME, "Reference uptake of the parotid glands")
PSMA_TV_CHANGE = Code("PSMA-TV-CHANGE", PRIVATE_SCHEME, "Change of PSMA tumor volume")
TL_PSMA_CHANGE = Code("TL-PSMA-CHANGE", PRIVATE_SCHEME, "Change of total lesion PSMA")
SUV_MAX_CHANGE = Code("SUVMAX-CHANGE", PRIVATE_SCHEME, "Change of highest SUVmax")
NEW_LESIONS = Code("NEW-LESIONS", PRIVATE_SCHEME, "Number of new lesions")
VANISHED_LESIONS = Code("VANISHED-LESIONS", PRIVATE_SCHEME, "Number of vanished lesions")
IMAGING_START = Code("122712", "DCM", "Imaging Start DateTime")
RADIOPHARMACEUTICAL_START = Code("123003", "DCM", "Radiopharmaceutical Start DateTime")
UPPER_UNCERTAINTY = Code("371886008", "SCT", "+, range of upper measurement uncertainty")
LOWER_UNCERTAINTY = Code("371885007", "SCT", "-, range of lower measurement uncertainty")
ABSORBED_DOSE = Code("128513", "DCM", "Absorbed Dose")
SINGLE_TIME_POINT_DOSE = Code("SINGLE-TIME-POINT", PRIVATE_SCHEME, "Single-time-point dose, research")

MAXIMUM = Code("56851009", "SCT", "Maximum")
MEAN = Code("373098007", "SCT", "Mean")
PEAK = Code("126031", "DCM", "Peak Value Within ROI")

SUM_OF_SEGMENTED_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")
SUV_BODY_WEIGHT_METHOD = Code("126410", "DCM", "SUV body weight calculation method")


@dataclass(frozen=True)
class SuvCodes:
    """How an SUV other than SUVbw is named, what its unit is called, and how it is made (CID 85, 7469)."""

    name: Code
    unit: Code
    method: Code


OTHER_SUV = {
    Unit.SUL: SuvCodes(
        Code("126405", "DCM", "SUVlbm(Janma)"),
        Code(Unit.SUL, "UCUM", "Standardized Uptake Value lean body mass (Janma)"),
        Code("126414", "DCM", "SUV lean body mass calculation Janmahasatian method"),
    ),
    Unit.SUVBSA: SuvCodes(
        Code("126403", "DCM", "SUVbsa"),
        Code(Unit.SUVBSA, "UCUM", "Standardized Uptake Value body surface area"),
        Code("126412", "DCM", "SUV body surface area calculation method"),
    ),
}

# Units (UCUM)
MILLILITRE = Code("ml", "UCUM", "milliliter")
GRAM = Code("g", "UCUM", "gram")
MEGABECQUEREL = Code("MBq", "UCUM", "megabecquerel")
BECQUEREL_PER_MILLILITRE = Code("Bq/ml", "UCUM", "becquerel per milliliter")
COUNT = Code("{1}", "UCUM", "no units")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
PERCENT = Code("%", "UCUM", "percent")
MINUTE = Code("min", "UCUM", "minute")
GRAY = Code("Gy", "UCUM", "gray")


class SuvUnitSpelling(StrEnum):
    """How the unit of SUVbw is written: CID 85 has the first, several readers look for the second."""

    CID_85 = "g/ml{SUVbw}"
    ANNOTATION_FIRST = "{SUVbw}g/ml"

    @property
    def code(self) -> Code:
        """The spelling as a UCUM code."""
        return Code(self.value, "UCUM", "Standardized Uptake Value body weight")


# The report
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
SOURCE = Code("260753009", "SCT", "Source")
MODALITY = Code("121139", "DCM", "Modality")
FRAME_OF_REFERENCE_UID = Code("112227", "DCM", "Frame of Reference UID")
UPTAKE_TIME = Code("126203", "DCM", "PET Radionuclide Incubation Time")
PROCESSED_AT = Code("111702", "DCM", "DateTime of processing")
COMMENT = Code("121106", "DCM", "Comment")
SUMMARY = Code("121111", "DCM", "Summary")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
PET_OF_WHOLE_BODY = Code("44139-4", "LN", "PET whole body")
SPECT_CT_OF_WHOLE_BODY = Code("127902", "DCM", "SPECT CT of whole body")

INTENDED_USE = Code("INTENDED-USE", PRIVATE_SCHEME, "Intended use")
DECISION = Code("DECISION", PRIVATE_SCHEME, "Decision during processing")
PRIOR = Code("PRIOR", PRIVATE_SCHEME, "Prior PET lesions")
QUANTIFICATION = Code("QUANTIFICATION", PRIVATE_SCHEME, "Quantification of the image")
REPLACES = Code("REPLACES", PRIVATE_SCHEME, "Earlier result replaced by this one")
WITHDRAWN = Code("WITHDRAWN", PRIVATE_SCHEME, "Result withdrawn")
INPUT = Code("INPUT", PRIVATE_SCHEME, "Input series")
ACTIVITY_AT = Code("ACTIVITY-AT", PRIVATE_SCHEME, "Event to which an activity is decay corrected")
SITE_REASON = Code("SITE-REASON", PRIVATE_SCHEME, "Why a lesion is said to sit where it does")
REFERENCE = Code("REFERENCE", PRIVATE_SCHEME, "Reference organ")
CHANGE = Code("CHANGE", PRIVATE_SCHEME, "Change since the previous study")
CORRESPONDENCE = Code("CORRESPONDENCE", PRIVATE_SCHEME, "Lesions that belong together in both studies")
RECIP = Code("RECIP", PRIVATE_SCHEME, "RECIP 1.0")
DOSE = Code("DOSE", PRIVATE_SCHEME, "Single-time-point dose estimate")

# Acquisition modality (CID 29)
ACQUISITION_MODALITY = {
    "PT": Code("PT", "DCM", "Positron emission tomography"),
    "NM": Code("NM", "DCM", "Nuclear Medicine"),
    "CT": Code("CT", "DCM", "Computed Tomography"),
}

# Purposes of reference (CID 7202)
SOURCE_IMAGE_FOR_PROCESSING = Code("121322", "DCM", "Source Image for Image Processing Operation")
