"""Attributes that all objects of a simulated patient share, and how they are saved.

Nothing depends on the clock or on chance: a patient that is written twice gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, DT, TM, format_number_as_ds

from app.dicom.uids import derived_uid
from app.domain.study import Code
from app.domain.volume import Grid
from app.phantom.acquisition import Acquisition
from app.phantom.centres import Modality
from app.phantom.patient import VERSION, Protocol, SimulatedPatient

IMPLEMENTATION_VERSION = "PSMA_PHANTOM_1"
SOFTWARE_VERSION = f"phantom {VERSION}"
ISSUER = "PSMA-NODE-SIMULATION"
SUPINE = Code("40199007", "SCT", "Supine")
RECUMBENT = Code("102538003", "SCT", "Recumbent")
HEADFIRST = Code("102540008", "SCT", "Headfirst")
INTRAVENOUS = Code("47625008", "SCT", "Intravenous route")


@dataclass(frozen=True, eq=False)
class Examination:
    """One scan of a patient on its way to DICOM."""

    patient: SimulatedPatient
    modality: Modality
    protocol: Protocol

    @property
    def acquisition(self) -> Acquisition:
        """The arrays."""
        return self.patient.pet if self.modality is Modality.PET else self.patient.spect

    def uid(self, *what: str) -> str:
        """A UID that depends on patient, scan and ``what`` alone."""
        return derived_uid("phantom", str(VERSION), self.patient.name, self.modality.value, *what)


def coded_item(code: Code) -> Dataset:
    """A code sequence item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2 DS), free of float noise."""
    return str(format_number_as_ds(round(float(value), 9) + 0.0))


def new_instance(exam: Examination, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """A dataset with patient, study, equipment and frame of reference."""
    patient, header = exam.patient, Dataset()
    header.SOPClassUID, header.SOPInstanceUID = sop_class_uid, sop_instance_uid
    header.PatientName, header.PatientID = f"SIMULATED^{patient.name}", f"SIM-{patient.name}"
    header.IssuerOfPatientID = ISSUER
    header.PatientBirthDate, header.PatientSex = f"{1940 + patient.number % 25}0101", "M"
    header.PatientSize, header.PatientWeight = decimal(patient.height_m), decimal(patient.weight_kg)
    header.PatientComments = "Simulated. Not a person."
    header.StudyInstanceUID = exam.uid("study")
    _date(header, "Study", exam.protocol.ct_start)
    header.StudyID, header.ReferringPhysicianName = exam.modality.value.upper(), ""
    header.AccessionNumber = f"SIM{patient.name}{exam.modality.value[0].upper()}"
    pet = exam.modality is Modality.PET
    header.StudyDescription = "68Ga-PSMA PET/CT" if pet else "177Lu-PSMA SPECT/CT"
    header.Manufacturer = exam.acquisition.scanner.manufacturer
    header.ManufacturerModelName = exam.acquisition.scanner.model
    header.InstitutionName = f"Simulated centre {patient.centre.value}"
    header.StationName, header.DeviceSerialNumber = f"SIM{exam.modality.value.upper()}", "0"
    header.SoftwareVersions = SOFTWARE_VERSION
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = exam.uid("frame of reference"), ""
    return header


def set_series(header: Dataset, modality: str, number: int, description: str, begun: datetime) -> None:
    """Attributes of the series; acquisition and content start with it."""
    header.BodyPartExamined = "WHOLEBODY"
    header.Modality, header.SeriesNumber, header.SeriesDescription = modality, number, description
    for what in ("Series", "Acquisition", "Content"):
        _date(header, what, begun)


def set_acquired(header: Dataset, begun: datetime) -> None:
    """Acquisition and content date and time of one instance."""
    _date(header, "Acquisition", begun)
    _date(header, "Content", begun)


def _date(header: Dataset, what: str, moment: datetime) -> None:
    setattr(header, f"{what}Date", DA(moment.date()))
    setattr(header, f"{what}Time", TM(moment.time()))


def set_supine(header: Dataset) -> None:
    """NM/PET Patient Orientation (PS3.3 C.8.4.6): supine, head first."""
    recumbent = coded_item(RECUMBENT)
    recumbent.PatientOrientationModifierCodeSequence = Sequence([coded_item(SUPINE)])
    header.PatientOrientationCodeSequence = Sequence([recumbent])
    header.PatientGantryRelationshipCodeSequence = Sequence([coded_item(HEADFIRST)])


def radiopharmaceutical(protocol: Protocol, activity: float) -> Dataset:
    """Radiopharmaceutical Information Sequence item; ``activity`` in the unit of the IOD (Bq or MBq)."""
    given, item = protocol.injection, Dataset()
    item.Radiopharmaceutical = given.tracer.name
    item.RadiopharmaceuticalRoute = "Intravenous route"
    item.RadiopharmaceuticalStartTime = TM(given.at.time())
    item.RadiopharmaceuticalStartDateTime = DT(given.at)
    item.RadionuclideTotalDose = decimal(activity)
    item.RadionuclideCodeSequence = Sequence([coded_item(given.nuclide.codes[0])])
    item.AdministrationRouteCodeSequence = Sequence([coded_item(INTRAVENOUS)])
    if given.tracer.code is not None:
        item.RadiopharmaceuticalCodeSequence = Sequence([coded_item(given.tracer.code)])
    return item


def set_plane(header: Dataset, grid: Grid, z: int) -> None:
    """Image plane (PS3.3 C.7.6.2) of slice ``z`` of an axis-aligned grid."""
    column_mm, row_mm, slice_mm = grid.spacing_mm
    header.PixelSpacing = [decimal(row_mm), decimal(column_mm)]
    header.SliceThickness = decimal(slice_mm)
    header.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    header.ImagePositionPatient = position(grid, z)
    header.SliceLocation = header.ImagePositionPatient[2]


def position(grid: Grid, z: int) -> list[str]:
    """LPS mm of the first voxel of slice ``z``."""
    return [decimal(value) for value in grid.to_lps(np.array([[0.0, 0.0, float(z)]]))[0]]


def set_pixels(header: Dataset, stored: NDArray[np.int16] | NDArray[np.uint16]) -> None:
    """Monochrome 16-bit pixels ``(rows, columns)`` or ``(frames, rows, columns)``, int16 or uint16."""
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = stored.shape[-2:]
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = int(stored.dtype.kind == "i")
    header.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    header["PixelData"].VR = "OW"


def save(dataset: Dataset, path: Path) -> Path:
    """Write a Part 10 file, Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        dataset.SOPClassUID,
        dataset.SOPInstanceUID,
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = derived_uid("phantom", "implementation")
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)
    return path
