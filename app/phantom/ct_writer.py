"""CT of a simulated examination as CT Image Storage (PS3.3 A.3)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from app.phantom.dicom_header import Examination, new_instance, set_pixels, set_plane, set_series


def ct_slices(exam: Examination) -> list[Dataset]:
    """One dataset a slice, feet first; HU with slope 1 and intercept -1024, as CTs store it."""
    volume, series_uid = exam.acquisition.ct, exam.uid("ct series")
    slices = []
    for z in range(volume.grid.shape[0]):
        header = new_instance(exam, CTImageStorage, exam.uid("ct", str(z)))
        header.SeriesInstanceUID = series_uid
        set_series(header, "CT", 2, "CT low dose", exam.protocol.ct_start)
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        header.InstanceNumber, header.AcquisitionNumber = z + 1, 1
        header.PatientPosition, header.KVP = "HFS", "120"
        header.ConvolutionKernel, header.XRayTubeCurrent = "SIMULATED", 60
        set_plane(header, volume.grid, z)
        header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "-1024", "1", "HU"
        header.WindowCenter, header.WindowWidth = "40", "400"
        set_pixels(header, (np.rint(volume.array[z]) + 1024).astype(np.uint16))
        slices.append(header)
    return slices
