"""Small instances made for the tests of the receive side."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from app.node.records.instances import ReceivedInstance, StoreCommand, identify

STUDY = "1.2.826.0.1.3680043.10.999.1"
OTHER_STUDY = "1.2.826.0.1.3680043.10.999.7"
SERIES = f"{STUDY}.2"


def ct_slice(number: int, study: str = STUDY, value: int = 0, size: int = 16) -> Dataset:
    """A CT slice at z = 3 mm times ``number``."""
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = f"{study}.2.{number}"
    image.Modality = "CT"
    image.PatientName = "Testfall^Erna"
    image.PatientID = "T-1"
    image.StudyInstanceUID = study
    image.SeriesInstanceUID = f"{study}.2"
    image.InstanceNumber = str(number)
    image.ImagePositionPatient = [0, 0, 3 * number]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelSpacing = [1, 1]
    image.FrameOfReferenceUID = f"{study}.9"
    image.Rows = image.Columns = size
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 0
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = np.full((size, size), value + number, np.uint16).tobytes()
    return image


def encoded(image: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """The data set alone, as it goes over the network."""
    syntax = UID(transfer_syntax_uid)
    buffer = BytesIO()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    dcmwrite(buffer, image, enforce_file_format=True)
    return data_set_of(buffer.getvalue())


def data_set_of(file: bytes) -> bytes:
    """What follows the file meta information of a valid Part 10 file."""
    length = dcmread(BytesIO(file), stop_before_pixels=True, specific_tags=[]).file_meta[0x00020000].value
    return file[132 + 12 + int(length) :]


def received(
    image: Dataset, calling_ae: str = "SCANNER", syntax: str = ExplicitVRLittleEndian
) -> ReceivedInstance:
    """The instance as the SCP would hand it to the inbox."""
    command = StoreCommand(image.SOPInstanceUID, image.SOPClassUID, str(syntax), calling_ae)
    return identify(command, encoded(image, syntax))


def write_study(folder: Path, count: int, study: str = STUDY, size: int = 16) -> list[Path]:
    """``count`` slices as files with names that mean nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        image = ct_slice(number, study, size=size)
        encoded(image)
        paths.append(folder / f"file{(number * 7919) % 1000:03d}-{number}")
        dcmwrite(paths[-1], image, enforce_file_format=True)
    return paths
