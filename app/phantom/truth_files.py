"""True lesions as files of every form that a reader may bring: SEG, RTSTRUCT, NIfTI."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from app.imaging.resampling import to_image
from app.phantom.dicom_header import Examination, save
from app.phantom.truth_contours import truth_structure_set
from app.phantom.truth_writer import truth_segmentation


class TruthFileForm(StrEnum):
    """What the simulated reader saves."""

    SEG = "seg"
    RTSTRUCT = "rtstruct"
    NIFTI = "nifti"


def write_truth(
    exam: Examination, functional: list[Dataset], form: TruthFileForm, folder: Path
) -> Path | None:
    """Write the lesions of a scan; ``None`` when there is none to see.

    A NIfTI is named after the functional image's Series Instance UID, for it holds no reference.

    Args:
        functional: the image as written: one dataset a slice in grid order, or one multi-frame.
    """
    truth = exam.acquisition.truth
    if truth.count == 0:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if form is TruthFileForm.NIFTI:
        import SimpleITK as sitk  # noqa: N813 - its own documentation's name

        path = folder / f"{functional[0].SeriesInstanceUID}.nii.gz"
        sitk.WriteImage(to_image(np.asarray(truth.array), truth.grid), str(path), useCompression=True)
        return path
    writer = truth_segmentation if form is TruthFileForm.SEG else truth_structure_set
    dataset = writer(exam, functional)
    if dataset is None:
        raise RuntimeError("a scan with lesions gave no truth")
    return save(dataset, folder / f"truth_{exam.modality.value}.dcm")
