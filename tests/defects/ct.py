"""Defects of the CT beside a PET."""

# ruff: noqa: E501  one defect a line, so that the table reads as one

from __future__ import annotations

from app.domain.refusal import RefusalCode as Code
from tests.defects.damage import OTHER, Damage, Defect, both, copied, every_ct, lost, moved, one_ct, padded
from tests.defects.studies import Images


def doubled(images: Images) -> None:
    images.ct.append(copied(images.ct[OTHER], "1.2.3.2.77"))


def second_ct(keep: slice, **changes: object) -> Damage:
    """Another reconstruction beside the right one, and before it in order of UIDs."""

    def damage(images: Images) -> None:
        others = [
            copied(each, f"1.2.3.1.9.{index}", SeriesInstanceUID="1.2.3.1.9", **changes)
            for index, each in enumerate(images.ct)
        ]
        images.ct += others[keep]

    return damage


def numbered(*numbers: int) -> Damage:
    """Instance Numbers of the CT."""

    def damage(images: Images) -> None:
        for each, number in zip(images.ct, numbers, strict=True):
            each.InstanceNumber = number

    return damage


def padded_in_two_ways(images: Images) -> None:
    """Another padding value on one slice."""
    padded(-2000, True, PixelPaddingValue=-2000)(images)
    alone = Images([], images.ct[OTHER:][:1])
    padded(1500, True, PixelPaddingValue=1500)(alone)


AIR = padded(0, True)
"""The same columns as air."""

TWELVE_BITS = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}

DEFECTS = (
    Defect("no CT", lost(0, 1, 2, 3, 4, 5, in_ct=True), Code.NO_CT, "SOPClassUID"),
    Defect("a CT slice lost", lost(2, in_ct=True), Code.SLICE_GAP, "ImagePositionPatient"),
    Defect("a CT slice doubled", doubled, Code.DUPLICATE_SLICE, "ImagePositionPatient"),
    Defect("half the CT", lost(3, 4, 5, in_ct=True), Code.CT_DOES_NOT_COVER, "ImagePositionPatient"),
    Defect("a CT of another place", moved(lambda i, p: [p[0], p[1], p[2] + 2000.0], in_ct=True), Code.CT_DOES_NOT_COVER, "ImagePositionPatient"),
    Defect("a CT to the side", moved(lambda i, p: [p[0] + 150.0, p[1], p[2]], in_ct=True), Code.CT_DOES_NOT_COVER, "ImagePositionPatient"),
    Defect("a tilted CT", moved(lambda i, p: [p[0], p[1] + 10.0 * i, p[2]], in_ct=True), Code.GEOMETRY_INCONSISTENT, "ImagePositionPatient"),
    Defect("one CT slice coronal", one_ct(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), Code.GEOMETRY_INCONSISTENT, "ImageOrientationPatient"),
    Defect("a CT of another session", every_ct(FrameOfReferenceUID="1.2.3.99"), Code.CT_OTHER_FRAME_OF_REFERENCE, "FrameOfReferenceUID"),
    Defect("a CT of the same space in another study", every_ct(StudyInstanceUID="1.2.4"), Code.NO_CT, "SOPClassUID"),
    Defect("CT slope lost", one_ct(RescaleSlope=None), Code.RESCALE_MISSING, "RescaleSlope"),
    Defect("CT intercept lost", one_ct(RescaleIntercept=None), Code.RESCALE_MISSING, "RescaleSlope"),
    Defect("CT intercept 0", every_ct(RescaleIntercept=0), Code.VALUES_IMPLAUSIBLE, "PixelData"),
    Defect("an empty CT slice with slope 0, which is no water", one_ct(RescaleSlope=0, RescaleIntercept=0, PixelData=bytes(40)), Code.RESCALE_MISSING, "RescaleSlope"),
    Defect("CT in another unit", every_ct(RescaleType="MGML"), Code.UNITS_UNSUPPORTED, "RescaleType"),
    Defect("another unit on one CT slice", one_ct(RescaleType="US"), Code.ATTRIBUTE_INCONSISTENT, "RescaleType"),
    Defect("a scout", every_ct(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), Code.NOT_PRIMARY, "ImageType"),
    Defect("a scout by its vendor's name", every_ct(ImageType=["ORIGINAL", "PRIMARY", "SURVIEW"]), Code.NOT_PRIMARY, "ImageType"),
    Defect("CT without value 3 of Image Type", every_ct(ImageType=["ORIGINAL", "PRIMARY", ""])),
    Defect("CT of Image Type HELIX", every_ct(ImageType=["ORIGINAL", "PRIMARY", "HELIX"])),
    Defect("CT of Image Type VOLUME", every_ct(ImageType=["ORIGINAL", "PRIMARY", "VOLUME"])),
    Defect("CT of Image Type VOLUME, NONE", every_ct(ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])),
    Defect("a CT derived as a volume", every_ct(ImageType=["DERIVED", "PRIMARY", "VOLUME"]), Code.NOT_PRIMARY, "ImageType"),
    Defect("a CT resampled as a volume", every_ct(ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED"]), Code.NOT_PRIMARY, "ImageType"),
    Defect("a CT derived as something unknown", every_ct(ImageType=["DERIVED", "PRIMARY", "IODINE"]), Code.NOT_PRIMARY, "ImageType"),
    Defect("CT pixels cut off", one_ct(PixelData=b"\0\0"), Code.PIXEL_DATA_MISSING, "PixelData"),
    Defect("a shorter CT beside it", second_ct(slice(0, 3)), beside=Code.BETTER_SERIES_CHOSEN),
    Defect("a reformatted CT beside it", second_ct(slice(None), ImageType=["DERIVED", "SECONDARY", "REFORMATTED"]), beside=Code.NOT_PRIMARY),
    Defect("a torn CT beside it", both(second_ct(slice(0, None, 5))), beside=Code.TOO_FEW_SLICES),
    Defect("CT compressed with loss", every_ct(LossyImageCompression="01")),
    Defect("CT slices numbered from the head to the feet", numbered(6, 5, 4, 3, 2, 1)),
    Defect("numbers of two CT slices exchanged, and too few voxels to see it", numbered(1, 2, 4, 3, 5, 6), warned="of the CT, slices 3, 4 of 6 (along the normal) not where InstanceNumber has them"),
    # padding
    Defect("CT padded with -2000", padded(-2000, True, PixelPaddingValue=-2000), like=AIR),
    Defect("CT padded with -2000, nowhere stated", padded(-2000, True), like=AIR),
    Defect("CT padded with -2000, stated as 63536", padded(-2000, True, PixelPaddingValue=63536), like=AIR),
    Defect("CT padded with -2000 and called unsigned", padded(-2000, True, PixelPaddingValue=-2000, PixelRepresentation=0), like=AIR),
    Defect("CT padded with -2000 and called unsigned, stated as 63536", padded(63536, True, PixelPaddingValue=63536, PixelRepresentation=0), like=AIR),
    Defect("CT padded with -2000 and called unsigned, nowhere stated", padded(63536, True, PixelRepresentation=0), like=AIR),
    Defect("CT padded with -2000 in 12 bits", padded(-2000, True, PixelPaddingValue=-2000, **TWELVE_BITS), like=AIR),
    Defect("CT padded with -2000 in 12 bits, nowhere stated", padded(-2000, True, **TWELVE_BITS), like=AIR),
    Defect("CT padded with -2000, cut to 12 bits", padded(0x830, True, PixelPaddingValue=63536, **TWELVE_BITS), like=AIR),
    Defect("CT padded with the value of water", padded(1024, True, PixelPaddingValue=1024), like=AIR),
    Defect("CT padded with the value of bone, a range", padded(2100, True, PixelPaddingValue=2000, PixelPaddingRangeLimit=2200), like=AIR),
    Defect("CT padded with the highest value", padded(32767, True, PixelPaddingValue=32767), like=AIR),
    Defect("CT padded with the highest value, nowhere stated", padded(32767, True), like=AIR),
    Defect("CT padded with the highest value on one side, nowhere stated", padded(32767, True, columns=(0,)), like=padded(0, True, columns=(0,))),
    Defect("CT padded with the highest value and called unsigned, nowhere stated", padded(32767, True, PixelRepresentation=0), like=AIR),
    Defect("CT padded with 30000, nowhere stated", padded(30000, True), like=AIR),
    Defect("CT padded with the highest value of 12 bits, nowhere stated", padded(4095, True, **TWELVE_BITS), like=AIR),
    Defect("CT padded with another value on one slice", padded_in_two_ways, like=AIR),
    Defect("a CT padding value that tissue has too", padded(0, True, columns=(), PixelPaddingValue=224)),
    Defect("fewer CT images than announced", every_ct(ImagesInAcquisition=300)),
)
