"""Enhanced PET and CT give the numbers of the classic images that they are made of, or are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from app.dicom import header_values as header
from app.dicom.reading.enhanced import classic_frames
from app.dicom.results.context import open_context
from app.dicom.results.policy import WritePolicy
from app.dicom.results.report.sr import in_order
from app.dicom.results.rtstruct import write_structure_set
from app.dicom.results.seg import write_segmentation
from app.domain.analysis import Aligned, Provenance, Quantified, Segmented
from app.domain.decision import ModelRole, ModelUsed
from app.domain.findings.measurements import measure
from app.domain.refusal import RefusalCode as Code
from app.imaging.labels import label_lesions
from tests.defects.studies import Images, Outcome, outcome, pet_ct, same_numbers, undamaged
from tests.dicom.reading import tiny
from tests.dicom.reading.enhanced import enhanced_ct, enhanced_pet, legacy

MAPPING = "RealWorldValueMappingSequence"
MAPPED_VALUES = "RealWorldValueFirstValueMapped, RealWorldValueLastValueMapped"

ORDER = [3, 0, 5, 1, 4, 2]


def made(
    pet: Callable[[Images], list[Dataset]], ct: Callable[[Images], list[Dataset]] | None = None
) -> Images:
    classic = pet_ct()
    return Images(pet(classic), ct(classic) if ct else classic.ct)


def parts(images: Images) -> list[Dataset]:
    """A concatenation of two instances."""
    found = [enhanced_pet(images.functional, ORDER[:2], 1), enhanced_pet(images.functional, ORDER[2:], 2)]
    for number, each in enumerate(found, start=1):
        each.ConcatenationUID, each.InConcatenationTotalNumber = "1.2.3.5", 2
        each.InConcatenationNumber = number
        each.ConcatenationFrameOffsetNumber = (number - 1) * 2
    return found


STUDIES = {
    "legacy converted": made(lambda im: [legacy(im.functional)], lambda im: [legacy(im.ct)]),
    "enhanced": made(lambda im: [enhanced_pet(im.functional)], lambda im: [enhanced_ct(im.ct)]),
    "frames in any order": made(
        lambda im: [enhanced_pet(im.functional, ORDER)], lambda im: [enhanced_ct(im.ct, ORDER)]
    ),
    "enhanced PET, classic CT": made(lambda im: [enhanced_pet(im.functional)]),
    "classic PET, enhanced CT": made(lambda im: im.functional, lambda im: [enhanced_ct(im.ct)]),
    "concatenation": made(parts),
}


@pytest.mark.parametrize("name", STUDIES)
def test_enhanced_images_give_the_classic_numbers(name: str, tmp_path: Path) -> None:
    found = outcome(STUDIES[name], tmp_path)
    assert found.loaded is not None, found.reasons
    assert same_numbers(found.loaded, undamaged("PET/CT"))
    assert [item.line for item in found.loaded.decisions if item.line.startswith("warning:")] == []


def test_each_slice_names_its_frame(tmp_path: Path) -> None:
    """Slice z of the volume is frame ORDER.index(z) + 1 of the file."""
    found = outcome(STUDIES["frames in any order"], tmp_path).loaded
    assert found is not None
    assert found.slice_frame_numbers == tuple(ORDER.index(z) + 1 for z in range(6))
    assert len(set(found.slice_sop_instance_uids)) == 1


def test_slices_of_a_concatenation_name_instance_and_frame(tmp_path: Path) -> None:
    found = outcome(STUDIES["concatenation"], tmp_path).loaded
    assert found is not None
    places = {number: ("1.2.3.1.91", place + 1) for place, number in enumerate(ORDER[:2])}
    places |= {number: ("1.2.3.1.92", place + 1) for place, number in enumerate(ORDER[2:])}
    named = zip(found.slice_sop_instance_uids, found.slice_frame_numbers, strict=True)
    assert list(named) == [places[z] for z in range(6)]


@pytest.mark.parametrize("name", ["enhanced", "frames in any order", "concatenation", "legacy converted"])
def test_a_segmentation_names_the_frames_that_lie_where_it_does(name: str, tmp_path: Path) -> None:
    """By the positions in the source's own functional groups."""
    loaded = outcome(STUDIES[name], tmp_path).loaded
    assert loaded is not None
    mask = np.zeros(loaded.uptake.grid.shape, dtype=bool)
    mask[1:5, 1:3, 1:4] = True
    labels = label_lesions(mask, loaded.uptake.grid, 0.0).labels
    model = ModelUsed("m1-demo", ModelRole.M1, "1.0.0", "cd" * 32, demonstration_only=True)
    segmented = Segmented(Aligned(loaded, None), labels, model, ())
    quantified = Quantified(segmented, measure(labels, loaded.uptake, loaded.activity))
    context = open_context(quantified, WritePolicy(), Provenance("0.1.0", "ab" * 32))
    segmentation, structures = write_segmentation(context), write_structure_set(context)
    assert segmentation is not None
    assert structures is not None
    place_of = {
        (image.SOPInstanceUID, number): [
            float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient
        ]
        for image in STUDIES[name].functional
        for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence, start=1)
    }
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = place_of[source.ReferencedSOPInstanceUID, int(source.ReferencedFrameNumber)]
        assert place == pytest.approx([float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient])
    for contour in structures.ROIContourSequence[0].ContourSequence:
        image = contour.ContourImageSequence[0]
        place = place_of[image.ReferencedSOPInstanceUID, int(image.ReferencedFrameNumber)]
        assert place[2] == pytest.approx(float(contour.ContourData[2]))
    referred = {
        item.ReferencedSOPInstanceUID
        for item in segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referred == {image.SOPInstanceUID for image in STUDIES[name].functional}
    listed = [item.sop_instance_uid for item in in_order(context.functional)]
    assert sorted(listed) == sorted(referred)


def damaged(damage: Callable[[Dataset], None], folder: Path) -> Outcome:
    images = made(lambda im: [enhanced_pet(im.functional, ORDER)])
    damage(images.functional[0])
    return outcome(images, folder)


def frames(image: Dataset) -> list[Dataset]:
    return list(image.PerFrameFunctionalGroupsSequence)


def at_the_injection(image: Dataset) -> None:
    """Values as at 10:00: twice and more of what they are at 11:00."""
    image.DecayCorrectionDateTime = "20260301100000"
    for frame in frames(image):
        frame.RealWorldValueMappingSequence[0].RealWorldValueSlope *= 2.0 ** (3600.0 / 4062.6)
        frame.PETFrameCorrectionFactorsSequence[0].DecayFactor *= 2.0 ** (3600.0 / 4062.6)


def in_kilobecquerel(image: Dataset) -> None:
    for frame in frames(image):
        mapping = frame.RealWorldValueMappingSequence[0]
        mapping.RealWorldValueSlope /= 1000.0
        mapping.MeasurementUnitsCodeSequence = [tiny.code_item("kBq/ml", "UCUM")]


def in_suv(image: Dataset) -> None:
    per_bqml = 70e3 / (150e6 * 2.0 ** (-3600.0 / 4062.6))
    for frame in frames(image):
        mapping = frame.RealWorldValueMappingSequence[0]
        mapping.RealWorldValueSlope *= per_bqml
        mapping.MeasurementUnitsCodeSequence = [tiny.code_item("g/ml{SUVbw}", "UCUM")]


def of_two_agents(image: Dataset) -> None:
    """Usage names the first; the second is 18F."""
    other = tiny.psma_injection()
    other.RadiopharmaceuticalAgentNumber, other.RadionuclideHalfLife = 2, 6586.2
    image.RadiopharmaceuticalInformationSequence.insert(0, other)


def with_a_shared_rescale(image: Dataset) -> None:
    """To stored values, for all frames, beside their own mappings."""
    shared = image.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence = frames(image)[0].PixelValueTransformationSequence
    for frame in frames(image):
        del frame.PixelValueTransformationSequence


def in_suv_with_a_shared_rescale(image: Dataset) -> None:
    in_suv(image)
    with_a_shared_rescale(image)


def half_a_second_late(image: Dataset) -> None:
    """Within the second to which scanners write times."""
    image.DecayCorrectionDateTime = "20260301110000.500000"


def for_all_values(image: Dataset) -> None:
    mapped_values(image, 0, 32767)


def mapped_values(image: Dataset, first: int, last: int) -> None:
    for frame in frames(image):
        mapping = frame.RealWorldValueMappingSequence[0]
        mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = first, last


SAME = [
    at_the_injection,
    in_kilobecquerel,
    in_suv,
    of_two_agents,
    with_a_shared_rescale,
    in_suv_with_a_shared_rescale,
    half_a_second_late,
    for_all_values,
]


@pytest.mark.parametrize("change", SAME)
def test_the_same_numbers_said_otherwise(change: Callable[[Dataset], None], tmp_path: Path) -> None:
    found = damaged(change, tmp_path)
    assert found.loaded is not None, found.reasons
    expected = undamaged("PET/CT").uptake.array
    assert found.loaded.uptake.array == pytest.approx(expected, rel=2e-3)


def two_beds(image: Dataset) -> None:
    """Slices 0 to 2 at 11:00, 3 to 5 at 11:20, not corrected for decay, as scanners write it."""
    image.DecayCorrected = "NO"
    del image.DecayCorrectionDateTime
    for index, frame in zip(ORDER, frames(image), strict=True):
        content = frame.FrameContentSequence[0]
        content.FrameAcquisitionDateTime = "20260301110000" if index < 3 else "20260301112000"
        content.FrameAcquisitionDuration, content.InStackPositionNumber = 600000.0, index + 1
        del content.FrameReferenceDateTime
        frame.PETFrameCorrectionFactorsSequence[0].DecayFactor = 1.0


def test_each_frame_has_its_own_time_and_place_in_the_stack() -> None:
    """Although Acquisition Date Time and Instance Number stand at the top, once for all."""
    image = enhanced_pet(pet_ct().functional, ORDER)
    two_beds(image)
    found = classic_frames(image)
    assert [header.whole(each, "InstanceNumber") for each in found] == [index + 1 for index in ORDER]
    minutes = [at.minute for each in found if (at := header.acquired_at(each))]
    assert minutes == [0 if index < 3 else 20 for index in ORDER]
    assert (str(image.AcquisitionDateTime), int(image.InstanceNumber)) == ("20260301110000", 1)


def test_each_bed_of_an_uncorrected_image_decays_by_its_own_time(tmp_path: Path) -> None:
    """Against values that are corrected to 11:00: the mean activity of ten minutes, and 20 minutes later."""
    found = damaged(two_beds, tmp_path)
    assert found.loaded is not None, found.reasons
    rate = np.log(2.0) / 4062.6
    mean = rate * 600.0 / (1.0 - np.exp(-rate * 600.0))
    factors = mean * np.exp(rate * np.repeat([0.0, 1200.0], 3))
    expected = undamaged("PET/CT").uptake.array * factors[:, None, None]
    assert found.loaded.uptake.array == pytest.approx(expected, rel=2e-3)
    assert found.loaded.quantification.uptake_s == pytest.approx(3600.0)


def with_a_localizer(image: Dataset) -> None:
    """A coronal frame after those of the scan, as some scanners put it into the same file."""
    shared, stack = image.SharedFunctionalGroupsSequence[0], frames(image)
    for frame in stack:
        for keyword in ("CTImageFrameTypeSequence", "PlaneOrientationSequence"):
            frame[keyword] = copy.deepcopy(shared[keyword])
    del shared.CTImageFrameTypeSequence, shared.PlaneOrientationSequence
    scout = copy.deepcopy(stack[0])
    scout.CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    scout.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    image.PerFrameFunctionalGroupsSequence = [*stack, scout]
    image.PixelData += image.PixelData[: len(image.PixelData) // len(stack)]
    image.NumberOfFrames = len(stack) + 1


def test_a_frame_that_is_set_aside_leaves_the_others_their_pixels(tmp_path: Path) -> None:
    images = made(lambda im: im.functional, lambda im: [enhanced_ct(im.ct, ORDER)])
    with_a_localizer(images.ct[0])
    found = outcome(images, tmp_path)
    assert found.loaded is not None, found.reasons
    assert same_numbers(found.loaded, undamaged("PET/CT"))


def dynamic(image: Dataset) -> None:
    for frame in frames(image)[:3]:
        frame.PlanePositionSequence = frames(image)[3].PlanePositionSequence


def without_units(image: Dataset) -> None:
    for frame in frames(image):
        del frame.RealWorldValueMappingSequence


def in_counts(image: Dataset) -> None:
    for frame in frames(image):
        unit = tiny.code_item("{counts}", "UCUM")
        frame.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence = [unit]


def with_intercept(image: Dataset) -> None:
    frames(image)[2].RealWorldValueMappingSequence[0].RealWorldValueIntercept = 5.0


def mapped_for_fewer_values(image: Dataset) -> None:
    mapped_values(image, 0, 10)


def with_a_rival(image: Dataset) -> None:
    """A second mapping to Bq/ml, of twice as much."""
    for frame in frames(image):
        rival = copy.deepcopy(frame.RealWorldValueMappingSequence[0])
        rival.RealWorldValueSlope *= 2.0
        frame.RealWorldValueMappingSequence.append(rival)


def by_a_table(image: Dataset) -> None:
    for frame in frames(image):
        mapping = frame.RealWorldValueMappingSequence[0]
        del mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept
        mapping.RealWorldValueLUTData = [0.0, 1.0]


def corrected_to_a_later_time(image: Dataset) -> None:
    image.DecayCorrectionDateTime = "20260301113000"


def uncorrected(image: Dataset) -> None:
    image.AttenuationCorrected = "NO"


def projection(image: Dataset) -> None:
    image.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"]


def one_of_two_parts(image: Dataset) -> None:
    image.InConcatenationTotalNumber = 2


def unplaced(image: Dataset) -> None:
    del frames(image)[1].PlanePositionSequence


def short_of_pixels(image: Dataset) -> None:
    image.PixelData = image.PixelData[:-40]


@pytest.mark.parametrize(
    ("damage", "code", "attribute"),
    [
        (dynamic, Code.DUPLICATE_SLICE, "ImagePositionPatient"),
        (without_units, Code.UNITS_UNSUPPORTED, "Units"),
        (in_counts, Code.UNITS_UNSUPPORTED, "Units"),
        (with_intercept, Code.RESCALE_INTERCEPT, MAPPING),
        (mapped_for_fewer_values, Code.VALUES_IMPLAUSIBLE, MAPPED_VALUES),
        (with_a_rival, Code.ATTRIBUTE_INCONSISTENT, MAPPING),
        (by_a_table, Code.RESCALE_MISSING, "RealWorldValueLUTData"),
        (corrected_to_a_later_time, Code.DECAY_CORRECTION_UNKNOWN, "DecayCorrectionDateTime"),
        (uncorrected, Code.NOT_ATTENUATION_CORRECTED, "CorrectedImage"),
        (projection, Code.NOT_PRIMARY, "ImageType"),
        (one_of_two_parts, Code.INCOMPLETE_SERIES, "InConcatenationTotalNumber"),
        (unplaced, Code.GEOMETRY_MISSING, "ImagePositionPatient"),
        (short_of_pixels, Code.PIXEL_DATA_MISSING, "PixelData"),
    ],
)
def test_an_enhanced_pet_is_refused_as_a_classic_one_is(
    damage: Callable[[Dataset], None], code: Code, attribute: str, tmp_path: Path
) -> None:
    found = damaged(damage, tmp_path)
    assert found.loaded is None
    assert (code, attribute) in [(reason.code, reason.attribute) for reason in found.reasons]
