"""Defects of a 177Lu SPECT in counts, which the site's calibration turns into Bq/ml."""

# ruff: noqa: E501  one defect a line, so that the table reads as one

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

from app.domain.refusal import RefusalCode as Code
from tests.defects.damage import Damage, Defect, both, every
from tests.defects.studies import PLACEHOLDER_CAMERA, Images
from tests.dicom.reading import tiny

MAPPING = "RealWorldValueMappingSequence"
ROTATION = "RotationInformationSequence"
GE, PIXEL_SCALE, PIXEL_OFFSET = "GEMS_GENIE_1", "(0011,xx3B) Pixel Scale", "(0011,xx3C) Pixel Offset"
DOWN = 5
"""Counts are stored divided by a fifth: values that a scale of 0.2 turns back."""


def mapping(unit: str, slope: float | None, **changes: Any) -> Dataset:
    item = Dataset()
    item.RealWorldValueIntercept, item.MeasurementUnitsCodeSequence = 0.0, [tiny.code_item(unit, "UCUM")]
    if slope is not None:
        item.RealWorldValueSlope = slope
    for keyword, value in changes.items():
        setattr(item, keyword, value)
    return item


def mapped(*items: Dataset) -> Damage:
    return every(**{MAPPING: list(items)})


def stored_times(factor: int) -> Damage:
    """Counts stored on a scale of their own: divided by ``1 / factor``."""

    def damage(images: Images) -> None:
        image = images.functional[0]
        image.PixelData = (np.frombuffer(image.PixelData, "<i2") * factor).astype("<i2").tobytes()

    return damage


def in_groups(shared: Dataset | None = None, frames: Sequence[Dataset] = ()) -> Damage:
    def damage(images: Images) -> None:
        if shared is not None:
            images.functional[0].SharedFunctionalGroupsSequence = [shared]
        if frames:
            images.functional[0].PerFrameFunctionalGroupsSequence = list(frames)

    return damage


def group(**sequences: Sequence[Dataset]) -> Dataset:
    found = Dataset()
    for keyword, items in sequences.items():
        setattr(found, keyword, list(items))
    return found


def rescaled(slope: float) -> Dataset:
    item = Dataset()
    item.RescaleSlope, item.RescaleIntercept = slope, 0
    return group(PixelValueTransformationSequence=[item])


def each_frame_by_its_own(images: Images) -> None:
    """Frame i stored times i + 1, but for an empty first one, whose slope is 0."""
    image = images.functional[0]
    frames = np.frombuffer(image.PixelData, "<i2").reshape(6, 4, 5).copy()
    frames[0] = 0
    image.PixelData = (frames * np.arange(6)[:, None, None]).astype("<i2").tobytes()
    slopes = [0.0, *(1.0 / n for n in range(1, 6))]
    image.PerFrameFunctionalGroupsSequence = [group(**{MAPPING: [mapping("{counts}", slope)]}) for slope in slopes]


def first_frame_empty(images: Images) -> None:
    image = images.functional[0]
    image.PixelData = bytes(40) + image.PixelData[40:]


def private(value: Any, vr: str = "FD", tag: tuple[int, str, int] = (0x0011, GE, 0x3B), block: int = 0) -> Damage:
    """A private element; ``block``: so many blocks of others come before its own."""

    def damage(images: Images) -> None:
        add_private(images.functional[0], value, vr, tag, block)

    return damage


def add_private(dataset: Dataset, value: Any, vr: str, tag: tuple[int, str, int], block: int = 0) -> None:
    group_number, creator, element = tag
    for number in range(block):
        dataset.private_block(group_number, f"OTHER {number}", create=True).add_new(1, "LO", "x")
    dataset.private_block(group_number, creator, create=True).add_new(element, vr, value)


def private_of_detectors(*values: float) -> Damage:
    def damage(images: Images) -> None:
        items = [Dataset() for _ in values]
        for item, value in zip(items, values, strict=True):
            add_private(item, value, "FD", (0x0011, GE, 0x3B))
        images.functional[0].private_block(0x0055, GE, create=True).add_new(0x22, "SQ", items)

    return damage


def creator_dropped(images: Images) -> None:
    del images.functional[0][0x0011, 0x0010]


def rotation(**changes: Any) -> Damage:
    return every(**{f"{ROTATION}__{keyword}": value for keyword, value in changes.items()})


def second_rotation(images: Images) -> None:
    sequence = images.functional[0].RotationInformationSequence
    sequence.append(sequence[0])


PLACEHOLDERS = both(rotation(NumberOfFramesInRotation=1, ActualFrameDuration=1), every(NumberOfDetectors=1))
SIEMENS = "SIEMENS MED NM"
TABLE_OF_VALUES = mapping("{counts}", None, RealWorldValueLUTData=[0.0, 1.0])
FIVE_TIMES = stored_times(DOWN)

DEFECTS = (
    # scales that are applied: the numbers are those of counts as they are
    Defect("mapping to counts, slope 0.2", both(FIVE_TIMES, mapped(mapping("{counts}", 0.2)))),
    Defect("mapping to counts, slope 1", mapped(mapping("{counts}", 1.0))),
    Defect("mapping without a unit that changes nothing", mapped(mapping("1", 1.0))),
    Defect("mapping to counts, intercept 1e-7", mapped(mapping("{counts}", 1.0, RealWorldValueIntercept=1e-7))),
    Defect("mapping to counts in the shared groups", both(FIVE_TIMES, in_groups(group(**{MAPPING: [mapping("{counts}", 0.2)]})))),
    Defect("mapping to counts in each frame's group", both(FIVE_TIMES, in_groups(frames=[group(**{MAPPING: [mapping("{counts}", 0.2)]})] * 6))),
    Defect("a slope of its own for each frame, an empty one with 0", each_frame_by_its_own, like=first_frame_empty),
    Defect("mappings to counts and to dose, where the counts serve", both(FIVE_TIMES, mapped(mapping("Gy", 7.0), mapping("{counts}", 0.2)))),
    Defect("mapping to counts for all values, of two ranges", mapped(mapping("{counts}", 1.0, RealWorldValueFirstValueMapped=0, RealWorldValueLastValueMapped=32767))),
    Defect("rescale slope 0.2", both(FIVE_TIMES, every(RescaleSlope=0.2, RescaleIntercept=0))),
    Defect("rescale intercept 1e-7", every(RescaleSlope=1, RescaleIntercept=1e-7)),
    Defect("rescale in the shared groups", both(FIVE_TIMES, in_groups(rescaled(0.2)))),
    Defect("rescale and mapping that agree", both(FIVE_TIMES, every(RescaleSlope=0.2), mapped(mapping("{counts}", 0.2)))),
    Defect("GE's pixel scale", both(FIVE_TIMES, private(0.2))),
    Defect("GE's pixel scale of 1", private(1.0)),
    Defect("GE's pixel scale in another block", both(FIVE_TIMES, private(0.2, block=2))),
    Defect("GE's pixel scale as text", both(FIVE_TIMES, private("0.2 ", "DS"))),
    Defect("GE's pixel scale as bytes of unknown kind", both(FIVE_TIMES, private(struct.pack("<d", 0.2), "UN"))),
    Defect("GE's pixel scale as text of unknown kind", both(FIVE_TIMES, private(b"0.2\0", "UN"))),
    Defect("GE's pixel scale of each detector", both(FIVE_TIMES, private_of_detectors(0.2, 0.2))),
    Defect("GE's pixel scale, its creator dropped", both(FIVE_TIMES, private(0.2), creator_dropped)),
    Defect("GE's pixel scale beside a rescale slope of 1", both(FIVE_TIMES, private(0.2), every(RescaleSlope=1, RescaleIntercept=0))),
    Defect("GE's pixel offset of 0, and a scalar of 0", both(private(0.0, tag=(0x0011, GE, 0x3C)), private(0.0, tag=(0x0013, GE, 0x15)))),
    # scales that are refused by name
    Defect("mapping without a unit that changes values", both(FIVE_TIMES, mapped(mapping("1", 0.2))), Code.UNITS_UNSUPPORTED, "MeasurementUnitsCodeSequence"),
    Defect("mapping to counts a second", mapped(mapping("{counts}/s", 1.0)), Code.UNITS_UNSUPPORTED, "MeasurementUnitsCodeSequence"),
    Defect("mapping to counts by a table", mapped(TABLE_OF_VALUES), Code.RESCALE_MISSING, "RealWorldValueLUTData"),
    Defect("mapping to counts without slope", mapped(mapping("{counts}", None)), Code.RESCALE_MISSING, MAPPING),
    Defect("mapping to counts with slope 0", mapped(mapping("{counts}", 0.0)), Code.RESCALE_MISSING, MAPPING),
    Defect("mapping to counts with an intercept", mapped(mapping("{counts}", 1.0, RealWorldValueIntercept=3.0)), Code.RESCALE_INTERCEPT, MAPPING),
    Defect("mapping to counts for fewer values", mapped(mapping("{counts}", 1.0, RealWorldValueFirstValueMapped=0, RealWorldValueLastValueMapped=9)), Code.VALUES_IMPLAUSIBLE, "RealWorldValueFirstValueMapped, RealWorldValueLastValueMapped"),
    Defect("two mappings to counts that differ", mapped(mapping("{counts}", 1.0), mapping("{counts}", 2.0)), Code.ATTRIBUTE_INCONSISTENT, MAPPING),
    Defect("a frame mapped to Bq/ml among counts", in_groups(frames=[group(**{MAPPING: [mapping("Bq/ml", 2000.0)]}), *[Dataset()] * 5]), Code.ATTRIBUTE_INCONSISTENT, MAPPING),
    Defect("rescale and mapping that differ", both(every(RescaleSlope=0.5), mapped(mapping("{counts}", 0.2))), Code.ATTRIBUTE_INCONSISTENT, f"{MAPPING}, RescaleSlope"),
    Defect("GE's pixel scale and a mapping that differ", both(private(0.5), mapped(mapping("{counts}", 1.0))), Code.ATTRIBUTE_INCONSISTENT, f"{MAPPING}, {PIXEL_SCALE}"),
    Defect("GE's pixel scale and a rescale that differ", both(private(0.5), every(RescaleSlope=0.2)), Code.ATTRIBUTE_INCONSISTENT, f"RescaleSlope, {PIXEL_SCALE}"),
    Defect("GE's pixel scale 0", private(0.0), Code.RESCALE_MISSING, PIXEL_SCALE),
    Defect("GE's pixel scale negative", private(-4.0), Code.RESCALE_MISSING, PIXEL_SCALE),
    Defect("GE's pixel scale no number", private("much", "LO"), Code.RESCALE_MISSING, PIXEL_SCALE),
    Defect("GE's pixel scales that differ between detectors", private_of_detectors(0.2, 0.5), Code.RESCALE_MISSING, PIXEL_SCALE),
    Defect("GE's pixel offset", private(3.0, tag=(0x0011, GE, 0x3C)), Code.RESCALE_INTERCEPT, PIXEL_OFFSET),
    Defect("Siemens' pixel scale factor", private(2.0, "FL", (0x0033, SIEMENS, 0x38)), Code.UNITS_UNSUPPORTED, "(0033,xx38) Pixel scale factor"),
    Defect("Siemens' own rescale slope", private(2.0, "FL", (0x0057, SIEMENS, 0x07)), Code.UNITS_UNSUPPORTED, "(0057,xx07) Rescale Slope"),
    Defect("Siemens' own rescale slope, and a mapping", both(FIVE_TIMES, private(2.0, "FL", (0x0057, SIEMENS, 0x07)), mapped(mapping("{counts}", 0.2)))),
    Defect("Philips' scale to Bq/ml", private("2000", "DS", (0x7053, "Philips PET Private Group", 0x09)), Code.UNITS_UNSUPPORTED, "(7053,xx09) Activity Concentration Scale Factor"),
    Defect("a modality LUT", every(ModalityLUTSequence=[Dataset()]), Code.UNITS_UNSUPPORTED, "ModalityLUTSequence"),
    # units beside a calibration
    Defect("units counts", every(Units="CNTS")),
    Defect("units Bq/ml, and no mapping to it", every(Units="BQML"), Code.ATTRIBUTE_INCONSISTENT, "Units"),
    Defect("units Bq/ml, and a mapping to counts", both(every(Units="BQML"), mapped(mapping("{counts}", 1.0))), Code.ATTRIBUTE_INCONSISTENT, "Units"),
    Defect("units SUV, and no mapping to it", every(Units="GML"), Code.ATTRIBUTE_INCONSISTENT, "Units"),
    Defect("units proportional to counts", every(Units="PROPCNTS"), Code.ATTRIBUTE_INCONSISTENT, "Units"),
    Defect("rescale type Bq/ml", every(RescaleSlope=1, RescaleType="BQML"), Code.ATTRIBUTE_INCONSISTENT, "RescaleType"),
    Defect("units counts, and rescale type Bq/ml", every(Units="CNTS", RescaleSlope=1, RescaleType="Bq/ml"), Code.ATTRIBUTE_INCONSISTENT, "RescaleType"),
    Defect("units Bq/ml by a rescale, and a mapping that differs", both(every(Units="BQML", RescaleSlope=500), mapped(mapping("Bq/ml", 2000.0))), Code.ATTRIBUTE_INCONSISTENT, f"{MAPPING}, RescaleSlope"),
    Defect("counts, and a mapping to Bq/ml that the calibration contradicts", mapped(mapping("{counts}", 1.0), mapping("Bq/ml", 6000.0)), Code.ATTRIBUTE_INCONSISTENT, f"{MAPPING}, load.calibrations"),
    Defect("counts, and a mapping to Bq/ml that the calibration confirms", mapped(mapping("{counts}", 1.0), mapping("Bq/ml", 2000.0))),
    # the camera's time
    Defect("camera time lost", every(**{ROTATION: None}), Code.CALIBRATION_MISSING, "ActualFrameDuration, NumberOfFramesInRotation, NumberOfDetectors"),
    Defect("one projection", rotation(NumberOfFramesInRotation=1), Code.CAMERA_TIME_IMPLAUSIBLE, "NumberOfFramesInRotation"),
    Defect("as many projections as slices", rotation(NumberOfFramesInRotation=6), Code.CAMERA_TIME_IMPLAUSIBLE, "NumberOfFramesInRotation"),
    Defect("one detector", every(NumberOfDetectors=1), Code.CAMERA_TIME_IMPLAUSIBLE, "NumberOfDetectors"),
    Defect("duration of a projection in s", rotation(ActualFrameDuration=20), Code.CAMERA_TIME_IMPLAUSIBLE, "ActualFrameDuration"),
    Defect("duration of the whole as that of a projection", rotation(ActualFrameDuration=1200000), Code.CAMERA_TIME_IMPLAUSIBLE, "ActualFrameDuration"),
    Defect("everything 1", PLACEHOLDERS, Code.CAMERA_TIME_IMPLAUSIBLE, "ActualFrameDuration, NumberOfFramesInRotation, NumberOfDetectors"),
    Defect("a bed position of two minutes less", rotation(ActualFrameDuration=3000, NumberOfFramesInRotation=32), Code.CAMERA_TIME_IMPLAUSIBLE, "ActualFrameDuration, NumberOfFramesInRotation"),
    Defect("steps that fit the projections", rotation(AngularStep=3, ScanArc=180)),
    Defect("steps that fit the projections, the arc that of both detectors", rotation(AngularStep=3, ScanArc=360)),
    Defect("steps and arc of fewer projections", rotation(AngularStep=6, ScanArc=180), Code.CAMERA_TIME_IMPLAUSIBLE, "NumberOfFramesInRotation"),
    Defect("projections of more than a turn", rotation(AngularStep=12), Code.CAMERA_TIME_IMPLAUSIBLE, "NumberOfFramesInRotation"),
    Defect("angles of 0", rotation(AngularStep=0, ScanArc=0)),
    Defect("two rotations", second_rotation, Code.CAMERA_TIME_IMPLAUSIBLE, "NumberOfFramesInRotation"),
    Defect("a duration of the whole that fits", every(EffectiveDuration=1300.0)),
    Defect("a duration of the whole that is shorter than a bed", every(EffectiveDuration=600.0), Code.CAMERA_TIME_IMPLAUSIBLE, "ActualFrameDuration, NumberOfFramesInRotation"),
    Defect("a duration of the whole that is far longer", every(AcquisitionDuration=9000.0), Code.CAMERA_TIME_IMPLAUSIBLE, "ActualFrameDuration, NumberOfFramesInRotation"),
    Defect("placeholders, and the site's own word for this camera", both(PLACEHOLDERS, every(StationName=PLACEHOLDER_CAMERA))),
)
