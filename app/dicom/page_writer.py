"""The summary page as Secondary Capture Image Storage (PS3.3 A.8.1): what any PACS shows."""

from __future__ import annotations

from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from app.dicom.result_context import ResultContext, coded, finish
from app.dicom.sr_content import evidence
from app.dicom.uids import ResultKind
from app.domain.codes import SOURCE_IMAGE_FOR_PROCESSING


def write_page(context: ResultContext, rgb: NDArray[np.uint8]) -> Dataset:
    """The page as one plain RGB frame.

    The patient's name stands in the header, as in every derived object, and not in the pixels.

    Args:
        context: the analysis.
        rgb: the drawn page, ``(rows, columns, 3)``.
    """
    study = context.loaded.selection.study.study_instance_uid
    page = secondary_capture(rgb, study, context.instance(ResultKind.PAGE, "PSMA summary page"))
    finish(page, context)
    page.DateOfSecondaryCapture, page.TimeOfSecondaryCapture = page.ContentDate, page.ContentTime
    page.DerivationDescription = "Projections with outlined lesions, and their measurements"
    page.SourceImageSequence = Sequence(_source_images(context))
    return page


def secondary_capture(
    rgb: NDArray[np.uint8], study_instance_uid: str, instance: dict[str, Any]
) -> hd.sc.SCImage:
    """One RGB frame without patient, study or dates.

    Args:
        rgb: ``(rows, columns, 3)``.
        study_instance_uid: it belongs to.
        instance: highdicom's arguments on UIDs, series and equipment.
    """
    page = hd.sc.SCImage(
        pixel_array=rgb,
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "F"),
        study_instance_uid=study_instance_uid,
        **instance,
    )
    page.PatientOrientation = None  # two views and a table: no one orientation (PS3.3 C.7.6.1.1.1)
    page.Laterality = None  # no paired body part (PS3.3 C.7.3.1.1.1)
    page.BurnedInAnnotation = "NO"
    return page


def _source_images(context: ResultContext) -> list[Dataset]:
    items = []
    for reference in evidence(context):
        if reference.SeriesInstanceUID != context.functional.series_instance_uid:
            continue
        item = Dataset()
        item.ReferencedSOPClassUID = reference.SOPClassUID
        item.ReferencedSOPInstanceUID = reference.SOPInstanceUID
        item.PurposeOfReferenceCodeSequence = Sequence([coded(SOURCE_IMAGE_FOR_PROCESSING)])
        items.append(item)
    return items
