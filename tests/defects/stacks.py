"""Defects of a PET's slices: places, pixels, files, and what kind of image they are."""

# ruff: noqa: E501  one defect a line, so that the table reads as one

from __future__ import annotations

import copy
from collections.abc import Callable
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGLSLossless, RLELossless

from app.domain.refusal import RefusalCode as Code
from tests.defects.body import of_a_body
from tests.defects.damage import OTHER, Damage, Defect, both, copied, every, lost, moved, one
from tests.defects.studies import Images

ENHANCED_PET, SECONDARY_CAPTURE, KEY_OBJECTS = (
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("130", "7", "88.59")
)


def pixels_of(keep: int) -> Damage:
    """Pixel data of one slice cut to its first bytes."""

    def damage(images: Images) -> None:
        images.functional[OTHER].PixelData = images.functional[OTHER].PixelData[:keep]

    return damage


def upside_down(images: Images) -> None:
    """One slice turned by 180 degrees, as its orientation says."""
    images.functional[OTHER].ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]


def doubled(images: Images) -> None:
    images.functional.append(copied(images.functional[OTHER], "1.2.3.1.77"))


def sent_twice(images: Images) -> None:
    images.functional.append(copy.deepcopy(images.functional[OTHER]))


def two_contents(images: Images) -> None:
    again = copy.deepcopy(images.functional[OTHER])
    again.PixelData = bytes(len(again.PixelData))
    images.functional.append(again)


def oblique(images: Images) -> None:
    """All slices, CT too, turned about z as a whole: no defect, and other places."""
    for each in (*images.functional, *images.ct):
        each.ImageOrientationPatient = [0.6, 0.8, 0, -0.8, 0.6, 0]


def renumbered(images: Images) -> None:
    for index, each in enumerate(images.functional):
        each.InstanceNumber, each.SliceLocation = (7 * index) % 6, -50.0 * index


def big_endian(images: Images) -> None:
    for each in images.functional:
        each.PixelData = np.frombuffer(each.PixelData, "<i2").astype(">i2").tobytes()
        each.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.2")
        each["PixelData"].VR = "OW"


def compressed(syntax: str) -> Damage:
    """Slices as a PACS compresses them, without loss."""

    def damage(images: Images) -> None:
        for each in images.functional:
            if syntax in (RLELossless, JPEGLSLossless):
                each.compress(UID(syntax), generate_instance_uid=False)
            else:
                _encode(each, syntax)

    return damage


def _encode(dataset: Dataset, syntax: str) -> None:
    array = dataset.pixel_array.astype(np.uint16)
    if syntax.endswith((".57", ".70")):
        stream = imagecodecs.jpeg8_encode(array, lossless=True, bitspersample=16)
    else:
        stream = imagecodecs.jpeg2k_encode(array, reversible=True, level=0, codecformat="J2K")
    dataset.PixelData = encapsulate([bytes(stream)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = UID(syntax)


def with_loss(encode: Callable[..., Any], syntax: str, **options: Any) -> Damage:
    """One slice compressed with loss by a gateway that does not say so."""

    def damage(images: Images) -> None:
        each = images.functional[OTHER]
        stream = encode(each.pixel_array.astype(np.uint16), **options)
        each.PixelData = encapsulate([bytes(stream)])
        each["PixelData"].VR, each["PixelData"].is_undefined_length = "OB", True
        each.file_meta.TransferSyntaxUID = UID(syntax)

    return damage


def called_eight_bits(syntax: str) -> Damage:
    """One slice's header says half of its compressed samples' depth."""

    def damage(images: Images) -> None:
        compressed(syntax)(images)
        one(BitsAllocated=8, BitsStored=8, HighBit=7)(images)

    return damage


def damaged_stream(syntax: str) -> Damage:
    def damage(images: Images) -> None:
        compressed(syntax)(images)
        each = images.functional[OTHER]
        each.PixelData = each.PixelData[:40] + bytes(len(each.PixelData) - 40)

    return damage


def video(images: Images) -> None:
    for each in images.functional:
        each.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.103")
        each["PixelData"].VR, each["PixelData"].is_undefined_length = "OB", True
        each.PixelData = encapsulate([b"\0\0"])


def second_series(**changes: object) -> Damage:
    """Another PET beside the right one."""

    def damage(images: Images) -> None:
        others = [
            copied(each, f"1.2.3.7.{index}", SeriesInstanceUID="1.2.3.7", **changes)
            for index, each in enumerate(images.functional)
        ]
        images.functional += others

    return damage


def not_dicom(content: bytes) -> Damage:
    return lambda images: images.unreadable.append(content)


def once_more(**encoding: bool) -> Damage:
    """The PET again as a PACS forwards it, after what its scanner has sent."""

    def damage(images: Images) -> None:
        images.unreadable += [data_set(each, **encoding) for each in images.functional]

    return damage


def once_more_changed(images: Images) -> None:
    """One of them with another weight."""
    changed = copy.deepcopy(images.functional[OTHER])
    changed.PatientWeight = 80
    images.unreadable.append(data_set(changed, implicit_vr=True))


def headerless(**encoding: bool) -> Damage:
    """Data sets alone: no preamble, no file meta information."""

    def damage(images: Images) -> None:
        images.unreadable += [data_set(each, **encoding) for each in images.functional]
        images.functional.clear()

    return damage


def data_set(dataset: Dataset, implicit_vr: bool) -> bytes:
    """As PS3.5 has it, without the file around it."""
    buffer = BytesIO()
    plain = Dataset(dataset)
    dcmwrite(buffer, plain, implicit_vr=implicit_vr, little_endian=True)
    return buffer.getvalue()


def scaled(factor: float, *indices: int) -> Damage:
    """Rescale Slope of some slices of a body multiplied."""

    def damage(images: Images) -> None:
        for index in indices:
            images.functional[index].RescaleSlope = float(images.functional[index].RescaleSlope) * factor

    return of_a_body(damage)


def same_slope(images: Images) -> None:
    """One slope written over slices that each have their own."""
    for each in images.functional:
        each.RescaleSlope = images.functional[OTHER].RescaleSlope


def content(change: Callable[[NDArray[np.int16]], None]) -> Damage:
    """Stored values of a body's slices changed in place, ``(z, y, x)``."""

    def damage(images: Images) -> None:
        first = images.functional[0]
        shape = (len(images.functional), first.Rows, first.Columns)
        stored = np.stack([np.frombuffer(each.PixelData, "<i2") for each in images.functional]).reshape(shape)
        change(stored)
        for each, plane in zip(images.functional, stored, strict=True):
            each.PixelData = plane.tobytes()

    return of_a_body(damage)


def zeroed(stored: NDArray[np.int16]) -> None:
    stored[8:12] = 0


def half_zeroed(stored: NDArray[np.int16]) -> None:
    stored[8, stored.shape[1] // 2 :] = 0


def repeated(stored: NDArray[np.int16]) -> None:
    stored[17:20] = stored[17]


def swapped(stored: NDArray[np.int16]) -> None:
    stored[8] = stored[8].byteswap()


def rolled(stored: NDArray[np.int16]) -> None:
    stored[8:13] = np.roll(stored[8:13], 15, axis=2)


def exchanged(one: int, two: int, in_ct: bool = False) -> Damage:
    """Positions of two slices exchanged, everything else left."""

    def damage(images: Images) -> None:
        first, second = ((images.ct if in_ct else images.functional)[index] for index in (one, two))
        places = first.ImagePositionPatient, second.ImagePositionPatient
        second.ImagePositionPatient, first.ImagePositionPatient = places

    return damage


def uncounted(damage: Damage) -> Damage:
    """No Number of Slices on any image, and ``damage`` to a body."""
    return of_a_body(both(damage, every(NumberOfSlices=None)))


def blank(images: Images) -> None:
    for each in images.functional:
        if each["PixelData"].is_undefined_length:
            raise ValueError("compressed pixels can't be blanked so")
        each.PixelData = bytes(40)


def numbered(number: Callable[[int], int]) -> Damage:
    """Instance Numbers of another scheme."""

    def damage(images: Images) -> None:
        for index, each in enumerate(images.functional):
            each.InstanceNumber = number(index)

    return damage


NEGATIVE = [-4.0, 4.0]

DEFECTS = (
    # places
    Defect("a slice lost within the stack", lost(2), Code.SLICE_GAP, "ImagePositionPatient"),
    Defect("a slice lost at the lower end", lost(0), Code.INCOMPLETE_SERIES, "NumberOfSlices"),
    Defect("two slices lost at the upper end", lost(4, 5), Code.INCOMPLETE_SERIES, "NumberOfSlices"),
    Defect("two slices left", lost(2, 3, 4, 5), Code.TOO_FEW_SLICES, "SOPInstanceUID"),
    Defect("a slice doubled", doubled, Code.DUPLICATE_SLICE, "ImagePositionPatient"),
    Defect("a slice sent twice", sent_twice),
    Defect("two contents of one slice", two_contents, Code.CONFLICTING_DUPLICATE, "SOPInstanceUID"),
    Defect("one slice upside down", upside_down, Code.GEOMETRY_INCONSISTENT, "ImageOrientationPatient"),
    Defect("one slice sagittal", one(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), Code.GEOMETRY_INCONSISTENT, "ImageOrientationPatient"),
    Defect("orientation no direction", every(ImageOrientationPatient=[0, 0, 0, 0, 1, 0]), Code.GEOMETRY_INCONSISTENT, "ImageOrientationPatient"),
    Defect("orientation lost on one slice", one(ImageOrientationPatient=None), Code.GEOMETRY_MISSING, "ImageOrientationPatient"),
    Defect("position lost on one slice", one(ImagePositionPatient=None), Code.GEOMETRY_MISSING, "ImagePositionPatient"),
    Defect("position of two numbers", one(ImagePositionPatient=[1.0, 2.0]), Code.GEOMETRY_MISSING, "ImagePositionPatient"),
    Defect("all slices at one place", moved(lambda i, p: [p[0], p[1], 0.0]), Code.DUPLICATE_SLICE, "ImagePositionPatient"),
    Defect("tilted gantry", moved(lambda i, p: [p[0], p[1] + 10.0 * i, p[2]]), Code.GEOMETRY_INCONSISTENT, "ImagePositionPatient"),
    Defect("uneven steps", moved(lambda i, p: [p[0], p[1], p[2] + 12.0 * (i == 2)]), Code.GEOMETRY_INCONSISTENT, "ImagePositionPatient"),
    Defect("pixel spacing negative", every(PixelSpacing=NEGATIVE), Code.GEOMETRY_MISSING, "PixelSpacing"),
    Defect("pixel spacing 0", every(PixelSpacing=[0, 0]), Code.GEOMETRY_MISSING, "PixelSpacing"),
    Defect("pixel spacing lost", every(PixelSpacing=None), Code.GEOMETRY_MISSING, "PixelSpacing"),
    Defect("pixel spacing differs on one slice", one(PixelSpacing=[41.0, 41.0]), Code.GEOMETRY_INCONSISTENT, "PixelSpacing"),
    Defect("spacing between slices negative, where positions rule", every(SpacingBetweenSlices=-7)),
    Defect("slice thickness wrong", every(SliceThickness=1)),
    Defect("numbers and locations of slices shuffled", renumbered),
    Defect("slices of two sizes", one(Rows=8), Code.GEOMETRY_INCONSISTENT, "Rows, Columns"),
    Defect("rows lost", every(Rows=None), Code.GEOMETRY_MISSING, "Rows, Columns"),
    Defect("frame of reference lost", every(FrameOfReferenceUID=None), Code.CT_OTHER_FRAME_OF_REFERENCE, "FrameOfReferenceUID"),
    Defect("frame of reference differs on one slice", one(FrameOfReferenceUID="1.2.3.99"), Code.ATTRIBUTE_INCONSISTENT, "FrameOfReferenceUID"),
    Defect("positions of two slices exchanged", of_a_body(exchanged(6, 15)), Code.GEOMETRY_INCONSISTENT, "ImagePositionPatient"),
    Defect("positions of two neighbours exchanged", of_a_body(exchanged(6, 7)), Code.GEOMETRY_INCONSISTENT, "ImagePositionPatient"),
    Defect("positions of six slices reversed", of_a_body(both(exchanged(4, 9), exchanged(5, 8), exchanged(6, 7))), Code.GEOMETRY_INCONSISTENT, "ImagePositionPatient"),
    Defect("positions exchanged, and too few voxels to see it", both(numbered(lambda i: i + 1), exchanged(2, 3)), warned="slices 3, 4 of 6 (along the normal) not where InstanceNumber has them"),
    Defect("numbers from the head to the feet", numbered(lambda i: 6 - i)),
    Defect("numbers interleaved", numbered(lambda i: 1 + i // 2 + 3 * (i % 2))),
    Defect("no numbers", every(InstanceNumber=None)),
    Defect("one number for all", every(InstanceNumber=1)),
    Defect("five slices lost at the lower end, no count", uncounted(lost(0, 1, 2, 3, 4)), warned="InstanceNumber begins at 6, as if 5 were missing at one end"),
    Defect("five slices lost at the upper end, no count", uncounted(lost(21, 22, 23, 24, 25)), warned="only slices after 21 could be missing"),
    Defect("five slices lost at an end, no count and no numbers", uncounted(both(lost(0, 1, 2, 3, 4), every(InstanceNumber=None))), warned="NumberOfSlices is absent"),
    # scales
    Defect("slope of one slice twice", scaled(2.0, OTHER), Code.VALUES_IMPLAUSIBLE, "RescaleSlope"),
    Defect("slope of one slice half", scaled(0.5, OTHER), Code.VALUES_IMPLAUSIBLE, "RescaleSlope"),
    Defect("slope of one slice ten times", scaled(10.0, OTHER), Code.VALUES_IMPLAUSIBLE, "RescaleSlope"),
    Defect("slope of one slice a tenth", scaled(0.1, OTHER), Code.VALUES_IMPLAUSIBLE, "RescaleSlope"),
    Defect("slope of two neighbours twice", scaled(2.0, OTHER, OTHER + 1), Code.VALUES_IMPLAUSIBLE, "RescaleSlope"),
    Defect("slope of a bed position three times", scaled(3.0, *range(8, 17)), Code.VALUES_IMPLAUSIBLE, "RescaleSlope"),
    Defect("slope of the first bed position twice", scaled(2.0, *range(9)), Code.VALUES_IMPLAUSIBLE, "RescaleSlope"),
    Defect("slope of the outermost slice three times", scaled(3.0, 0), Code.VALUES_IMPLAUSIBLE, "RescaleSlope"),
    Defect("slope of the outermost slice half", scaled(0.5, 0), warned="slice 1 of 26 (along the normal)"),
    Defect("slope of one slice a quarter more", scaled(1.25, OTHER), warned="slice 4 of 26 (along the normal)"),
    Defect("slope of a bed position a quarter more", scaled(1.25, *range(8, 17)), warned="slices 9 to 17 of 26 (along the normal)"),
    Defect("one slope for slices that have their own", of_a_body(same_slope), Code.VALUES_IMPLAUSIBLE, "RescaleSlope"),
    # content
    Defect("four slices of zeros within a body", content(zeroed), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("half a slice of zeros within a body", content(half_zeroed), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("content of one slice in three", content(repeated), Code.VALUES_IMPLAUSIBLE, "PixelData"),
    Defect("bytes of one slice swapped", content(swapped), Code.VALUES_IMPLAUSIBLE, "PixelData"),
    Defect("content of five slices shifted sideways", content(rolled), Code.GEOMETRY_INCONSISTENT, "PixelData"),
    # pixels
    Defect("pixels cut off", pixels_of(10), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("no pixels", one(PixelData=None), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("eight bits where there are sixteen", one(BitsAllocated=8, BitsStored=8, HighBit=7), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("three samples a pixel", one(SamplesPerPixel=3), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("rows and pixels disagree", every(Rows=40), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("small values called unsigned", every(PixelRepresentation=0)),
    Defect("nothing but zeros", blank, Code.VALUES_IMPLAUSIBLE, "PixelData"),
    Defect("compressed with loss once", every(LossyImageCompression="01"), Code.LOSSY_COMPRESSION, "LossyImageCompression"),
    Defect("compressed with loss, one slice", one(LossyImageCompression="01"), Code.LOSSY_COMPRESSION, "LossyImageCompression"),
    Defect("RLE", compressed(RLELossless)),
    Defect("JPEG-LS", compressed(JPEGLSLossless)),
    Defect("JPEG lossless", compressed("1.2.840.10008.1.2.4.57")),
    Defect("JPEG lossless, first-order prediction", compressed("1.2.840.10008.1.2.4.70")),
    Defect("JPEG 2000 lossless", compressed("1.2.840.10008.1.2.4.90")),
    Defect("JPEG 2000", compressed("1.2.840.10008.1.2.4.91")),
    Defect("JPEG-LS with loss, which the header keeps quiet about", with_loss(imagecodecs.jpegls_encode, "1.2.840.10008.1.2.4.81", level=5), Code.LOSSY_COMPRESSION, "PixelData"),
    Defect("JPEG 2000 with loss, which the header keeps quiet about", with_loss(imagecodecs.jpeg2k_encode, "1.2.840.10008.1.2.4.91", reversible=False, level=40, codecformat="J2K"), Code.LOSSY_COMPRESSION, "PixelData"),
    Defect("a damaged JPEG lossless stream", damaged_stream("1.2.840.10008.1.2.4.70"), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("a damaged JPEG-LS stream", damaged_stream(JPEGLSLossless), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("a damaged JPEG 2000 stream", damaged_stream("1.2.840.10008.1.2.4.90"), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("JPEG lossless of 16 bits called 8", called_eight_bits("1.2.840.10008.1.2.4.70"), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("JPEG-LS of 16 bits called 8", called_eight_bits(JPEGLSLossless), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("JPEG 2000 of 16 bits called 8", called_eight_bits("1.2.840.10008.1.2.4.90"), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("video", video, Code.TRANSFER_SYNTAX_UNSUPPORTED, "TransferSyntaxUID"),
    # files
    Defect("a file that is no DICOM", not_dicom(b"no image"), beside=Code.UNREADABLE),
    Defect("a zip", not_dicom(b"PK\x03\x04" + bytes(200)), beside=Code.UNREADABLE),
    Defect("without preamble and file meta, explicit VR", headerless(implicit_vr=False)),
    Defect("without preamble and file meta, implicit VR", headerless(implicit_vr=True)),
    Defect("without preamble and file meta, compressed", both(compressed(RLELossless), headerless(implicit_vr=False)), Code.TRANSFER_SYNTAX_UNSUPPORTED, "TransferSyntaxUID"),
    Defect("every slice once more as implicit VR", once_more(implicit_vr=True)),
    Defect("a slice once more with another weight", once_more_changed, Code.CONFLICTING_DUPLICATE, "SOPInstanceUID"),
    Defect("an empty file", not_dicom(b""), beside=Code.UNREADABLE),
    Defect("a slice without UID", one(SOPInstanceUID=None), Code.UNREADABLE, "SOPInstanceUID"),
    Defect("a UID that is a path", one(SeriesInstanceUID="../../x"), Code.UNREADABLE, "SeriesInstanceUID"),
    Defect("two patients in one study", one(PatientID="Q"), Code.ATTRIBUTE_INCONSISTENT, "PatientID"),
    # kinds of image
    Defect("not attenuation corrected", every(CorrectedImage=["DECY", "SCAT"]), Code.NOT_ATTENUATION_CORRECTED, "CorrectedImage"),
    Defect("correction not stated", every(CorrectedImage=None), Code.NOT_ATTENUATION_CORRECTED, "CorrectedImage"),
    Defect("attenuation corrected but for one slice", one(CorrectedImage=["DECY"]), Code.ATTRIBUTE_INCONSISTENT, "CorrectedImage"),
    Defect("a projection", every(ImageType=["DERIVED", "SECONDARY", "MIP"]), Code.NOT_PRIMARY, "ImageType"),
    Defect("a reprojection", every(SeriesType=["WHOLE BODY", "REPROJECTION"]), Code.NOT_PRIMARY, "SeriesType"),
    Defect("an enhanced PET without functional groups", every(SOPClassUID=ENHANCED_PET), Code.GEOMETRY_MISSING, "PerFrameFunctionalGroupsSequence"),
    Defect("PET that calls itself MR", every(Modality="MR"), Code.OTHER_MODALITY, "Modality"),
    Defect("captures of the screen", every(SOPClassUID=SECONDARY_CAPTURE), Code.NOT_PRIMARY, "SOPClassUID"),
    Defect("key objects", every(SOPClassUID=KEY_OBJECTS), Code.NOT_AN_IMAGE, "SOPClassUID"),
    Defect("no PET", lost(0, 1, 2, 3, 4, 5), Code.NO_FUNCTIONAL_SERIES, "SOPClassUID"),
    Defect("an uncorrected PET beside it", second_series(CorrectedImage=["DECY"]), beside=Code.NOT_ATTENUATION_CORRECTED),
    Defect("a processed PET beside it", second_series(ImageType=["DERIVED", "SECONDARY"]), beside=Code.BETTER_SERIES_CHOSEN),
    Defect("big endian", big_endian),
    Defect("a slice lost, and another doubled", both(lost(5), doubled), Code.DUPLICATE_SLICE, "ImagePositionPatient"),
)
