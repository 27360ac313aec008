"""What a series is, by SOP class and Image Type: functional image, CT, or neither and why.

Series descriptions play no part: they differ between sites, languages and operators.
"""

from __future__ import annotations

from enum import StrEnum

from app.domain.radionuclides import Emission, radionuclide_of
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Series

PET_IMAGE = "1.2.840.10008.5.1.4.1.1.128"
NM_IMAGE = "1.2.840.10008.5.1.4.1.1.20"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"

MODALITY_OF_CLASS = {PET_IMAGE: "PT", NM_IMAGE: "NM", CT_IMAGE: "CT"}

CLASSIC_OF_ENHANCED = {
    "1.2.840.10008.5.1.4.1.1.130": PET_IMAGE,
    "1.2.840.10008.5.1.4.1.1.128.1": PET_IMAGE,
    "1.2.840.10008.5.1.4.1.1.2.1": CT_IMAGE,
    "1.2.840.10008.5.1.4.1.1.2.2": CT_IMAGE,
}
"""Enhanced and Legacy Converted Enhanced images: their frames are read as classic images (``Series`` has the
classic class, ``Instance`` its own)."""

CT_CLASSES = (CT_IMAGE, *(uid for uid, classic in CLASSIC_OF_ENHANCED.items() if classic == CT_IMAGE))

OTHER_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.4": "MR Image",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image",
    "1.2.840.10008.5.1.4.1.1.6.1": "Ultrasound Image",
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography Image",
    "1.2.840.10008.5.1.4.1.1.1.1": "Digital X-Ray Image",
    "1.2.840.10008.5.1.4.1.1.12.1": "X-Ray Angiographic Image",
}
"""Images of patients that this node does not read."""

IMAGE_CLASSES = (*MODALITY_OF_CLASS, *CLASSIC_OF_ENHANCED, *OTHER_IMAGES)
"""SOP classes that a study's analysis takes note of: to read them, or to refuse them by name. No other object
can change a result: the node keeps what else comes with a study, and analyses nothing anew because of it."""

NM_ADVICE = "If it is a reconstructed SPECT all the same: select.nm_modalities"

SECONDARY_CAPTURES = (
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.7.1",
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.7.4",
)

MADE_FROM_OTHER_IMAGES = frozenset(
    {
        "LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM", "SCANOGRAM",
        "MIP", "MINIP", "MAX_IP", "MAX IP", "MIN_IP", "MPR", "REFORMATTED", "CPR",
        "PROJECTION", "PROJECTION IMAGE", "REPROJECTION", "AVERAGE", "FUSION", "FUSED", "CAPTURE",
        "SCREEN SAVE", "VOLREN", "VOLUME", "3D", "CSA MPR", "CSA MPR THIN", "CSAPARALLEL", "DOSE_INFO",
        "SUBTRACTION", "RTDOSE", "PARAMETRIC", "MAXIMUM", "MINIMUM", "MEAN", "MEDIAN", "STD_DEVIATION",
        "ADDITION", "MULTIPLICATION", "DIVISION", "RESAMPLED", "VOLUME_RENDER", "SURFACE_RENDER",
    }
)  # fmt: skip
"""Image Type values 3 and up (PS3.3 C.7.6.1.1.2 and vendors' own) of images that are no primary volume."""


class ImageRole(StrEnum):
    """What a series can be in a pair."""

    PET = "PET"
    SPECT = "SPECT"
    CT = "CT"


def screen(series: Series) -> ImageRole | Reason:
    """The role that a series could play, from its SOP class, Image Type and Corrected Image."""
    unfit = _not_an_image_we_read(series) or (series.faults[0] if series.faults else None)
    if unfit is None:
        unfit = _not_primary(series)
    if unfit is not None:
        return unfit
    if series.sop_class_uid == CT_IMAGE:
        return ImageRole.CT
    return _not_attenuation_corrected(series) or _lossy(series) or functional_role(series)


def functional_role(series: Series) -> ImageRole:
    """PET or SPECT: the radionuclide tells, since quantitative SPECT is also stored as PET images."""
    nuclide = radionuclide_of(series.radiopharmaceutical)
    if nuclide is not None:
        return ImageRole.PET if nuclide.emission is Emission.POSITRON else ImageRole.SPECT
    return ImageRole.SPECT if series.sop_class_uid == NM_IMAGE else ImageRole.PET


def is_derived(series: Series) -> bool:
    """Image Type value 1: pixel values made from other images'."""
    return bool(series.image_type) and series.image_type[0] == "DERIVED"


def _not_an_image_we_read(series: Series) -> Reason | None:
    uid = series.sop_class_uid
    expected = "PET Image, NM Image or CT Image Storage"
    if uid in MODALITY_OF_CLASS:
        if series.modality == MODALITY_OF_CLASS[uid]:
            return None
        found = f"{series.modality or 'nothing'} in {MODALITY_OF_CLASS[uid]} images"
        advice = NM_ADVICE if uid == NM_IMAGE else ""
        return series.reason(RefusalCode.OTHER_MODALITY, "Modality", found, MODALITY_OF_CLASS[uid], advice)
    if uid in SECONDARY_CAPTURES:
        return series.reason(RefusalCode.NOT_PRIMARY, "SOPClassUID", "Secondary Capture Image", expected)
    if uid in OTHER_IMAGES:
        return series.reason(RefusalCode.OTHER_MODALITY, "SOPClassUID", OTHER_IMAGES[uid], expected)
    found = f"{uid or 'nothing'} (modality {series.modality or 'not stated'})"
    return series.reason(RefusalCode.NOT_AN_IMAGE, "SOPClassUID", found, expected)


def _not_primary(series: Series) -> Reason | None:
    values = series.image_type
    spelled = "\\".join(values)
    scanned = ("VOLUME",) if series.sop_class_uid == CT_IMAGE and not is_derived(series) else ()
    made = [value for value in values[2:] if value in MADE_FROM_OTHER_IMAGES and value not in scanned]
    if made:
        return series.reason(RefusalCode.NOT_PRIMARY, "ImageType", spelled, "an image of the scan itself")
    if series.sop_class_uid == CT_IMAGE and len(values) > 2 and not _is_axial_ct(values):
        return series.reason(RefusalCode.NOT_PRIMARY, "ImageType", spelled, "value 3 AXIAL")
    if series.sop_class_uid == NM_IMAGE:
        if len(values) < 3 or values[2] != "RECON TOMO":
            found = spelled or "nothing"
            return series.reason(RefusalCode.NOT_RECONSTRUCTED, "ImageType", found, "value 3 RECON TOMO")
        if len(values) > 3 and values[3] == "TRANSMISSION":
            return series.reason(RefusalCode.NOT_PRIMARY, "ImageType", spelled, "value 4 EMISSION")
    if len(series.series_type) > 1 and series.series_type[1] == "REPROJECTION":
        found = "\\".join(series.series_type)
        return series.reason(RefusalCode.NOT_PRIMARY, "SeriesType", found, "value 2 IMAGE")
    return None


def _is_axial_ct(image_type: tuple[str, ...]) -> bool:
    """Value 3 AXIAL (PS3.3 C.8.2.1.1.1); a scan's own may have none, or another word (HELIX, VOLUME)."""
    return image_type[2] in ("AXIAL", "") or image_type[:2] == ("ORIGINAL", "PRIMARY")


def _not_attenuation_corrected(series: Series) -> Reason | None:
    """Corrected Image (0028,0051) is type 2 in PET (PS3.3 C.8.9.1); NM may lack it: it is optional there."""
    if "ATTN" in series.corrected_image or (series.sop_class_uid == NM_IMAGE and not series.corrected_image):
        return None
    found = "\\".join(series.corrected_image) or "nothing"
    code = RefusalCode.NOT_ATTENUATION_CORRECTED
    return series.reason(code, "CorrectedImage", found, "ATTN among its values")


def _lossy(series: Series) -> Reason | None:
    if not series.is_lossy:
        return None
    found, expected = "01 (or a lossy transfer syntax)", "measured values, never compressed with loss"
    return series.reason(RefusalCode.LOSSY_COMPRESSION, "LossyImageCompression", found, expected)
