"""Frames of Enhanced and Legacy Converted Enhanced PET and CT, as the classic images that they would be.

One rule then reads both: what functional groups say of a frame (PS3.3 C.7.6.16, C.8.15, C.8.22) stands under
the classic attributes of the same meaning. What a Legacy Converted image keeps as unassigned attributes is
classic already.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import DSfloat

from app.dicom import header_values as header
from app.domain.quantities.administration import CLOCK_TOLERANCE_S
from app.domain.quantities.scales import BQML_PER_UNIT, Kind, RealWorldMapping, best_mapping
from app.domain.quantities.scan_start import TIME_ROUNDING_S
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.screening import CLASSIC_OF_ENHANCED, PET_IMAGE

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
UNASSIGNED = (
    "UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence",
)  # fmt: skip
GROUPS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "FrameContentSequence",
    "PixelValueTransformationSequence", "PETFrameTypeSequence", "PETFrameAcquisitionSequence",
    "PETFrameCorrectionFactorsSequence", "PETReconstructionSequence", "CTImageFrameTypeSequence",
    "CTReconstructionSequence", *UNASSIGNED,
)  # fmt: skip
"""Functional groups whose attributes count; the classic ones last, for they overrule."""

KEPT_GROUPS = ("RealWorldValueMappingSequence", "RadiopharmaceuticalUsageSequence")

KEYWORDS = (
    SHARED, PER_FRAME, "ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber",
    "DecayCorrected", "AttenuationCorrected", "ScatterCorrected", "DeadTimeCorrected", "RandomsCorrected",
    "PatientMotionCorrected", "CountLossNormalizationCorrected", "DecayCorrectionDateTime", "DecayCorrection",
)  # fmt: skip
"""What is needed besides the classic attributes."""

CORRECTIONS = {
    "DecayCorrected": "DECY", "AttenuationCorrected": "ATTN", "ScatterCorrected": "SCAT",
    "DeadTimeCorrected": "DTIM", "RandomsCorrected": "RAN", "PatientMotionCorrected": "MOTN",
    "CountLossNormalizationCorrected": "NORM",
}  # fmt: skip
"""PS3.3 C.8.22.3 as values of Corrected Image (0028,0051)."""

MAPPED = "MAPPED"
"""Rescale Type of a frame whose rescale was made of its real-world mapping."""

PLAIN_FLAVORS = ("VOLUME", "AXIAL", "HELIX", "STATIC", "WHOLE_BODY", "WHOLE BODY", "NONE", "")
"""Image flavors (value 3, PS3.3 C.8.16.1.3) of the slices of a scan."""


def classic_frames(dataset: Dataset) -> tuple[Dataset, ...]:
    """A data set a frame, in the file's order, with SOP class and UIDs of the whole and without pixels."""
    top = Dataset()
    _merge(top, dataset, {Tag(keyword) for keyword in (SHARED, PER_FRAME, "PixelData")})
    top.file_meta = dataset.file_meta
    base = _with_groups(top, header.items(dataset, SHARED)[:1])
    groups = header.items(dataset, PER_FRAME) or (Dataset(),)
    frames = tuple(_with_groups(base, (group,)) for group in groups)
    is_pet = CLASSIC_OF_ENHANCED.get(header.uid(dataset, "SOPClassUID")) == PET_IMAGE
    for frame, group in zip(frames, groups, strict=True):
        _number(frame, group)
        _type(frame, is_pet)
        _acquired(frame)
    if is_pet:
        earliest = min((at for at in map(header.acquired_at, frames) if at is not None), default=None)
        for frame in frames:
            _corrections(frame)
            _decay(frame, earliest)
            _units(frame)
            _injection(frame)
    return frames


def functional_groups(dataset: Dataset, frame: int = 1) -> tuple[Dataset, ...]:
    """Where what holds for a frame, counted from 1, may stand: at the top, in shared groups, in its own."""
    shared = header.items(dataset, "SharedFunctionalGroupsSequence")
    own = header.items(dataset, "PerFrameFunctionalGroupsSequence")[frame - 1 : frame]
    return (dataset, *shared, *own)


def real_world_mappings(dataset: Dataset, frame: int = 1) -> tuple[RealWorldMapping, ...]:
    """Every item that holds for a frame."""
    found = []
    for holder in functional_groups(dataset, frame):
        for item in header.items(holder, "RealWorldValueMappingSequence"):
            unit = header.code(item, "MeasurementUnitsCodeSequence")
            slope = header.number(item, "RealWorldValueSlope")
            intercept = header.number(item, "RealWorldValueIntercept")
            first, last = (_mapped(item, end) for end in ("First", "Last"))
            has_table = "RealWorldValueLUTData" in item
            found.append(
                RealWorldMapping(slope, intercept, unit.value if unit else "", first, last, has_table)
            )
    return tuple(found)


def _mapped(item: Dataset, end: str) -> float | None:
    """First or last stored value of a mapping: as integer or, for float pixels, as double."""
    keyword = f"RealWorldValue{end}ValueMapped"
    integer = header.number(item, keyword)
    return header.number(item, f"DoubleFloat{keyword}") if integer is None else integer


def missing_groups(dataset: Dataset) -> tuple[Reason, ...]:
    """That functional groups are not one for each frame: then nothing says what a frame shows, or where."""
    groups, frames = len(header.items(dataset, PER_FRAME)), header.whole(dataset, "NumberOfFrames")
    if groups and groups == (frames or groups):
        return ()
    found, expected = f"{groups} items for {frames or 'an unknown number of'} frames", "one for each frame"
    return (Reason(RefusalCode.GEOMETRY_MISSING, PER_FRAME, found, expected),)


def _merge(into: Dataset, source: Dataset, left_out: Iterable[int] = ()) -> None:
    """Elements of their own: setting an attribute changes its element, which other frames would have too."""
    for tag in source.keys():  # noqa: SIM118  a data set is no mapping: it iterates over elements
        if tag in left_out:
            continue
        try:
            into[tag] = copy.copy(source[tag])
        except header.READ_ERRORS:
            continue  # malformed is as good as absent (see header_values)


def _with_groups(base: Dataset, groups: Sequence[Dataset]) -> Dataset:
    frame = Dataset()
    _merge(frame, base)
    frame.file_meta = base.file_meta
    for group in groups:
        for keyword in KEPT_GROUPS:
            if keyword in group:
                frame[keyword] = group[keyword]
        for keyword in GROUPS:
            for item in header.items(group, keyword)[:1]:
                _merge(frame, item)
    return frame


def _number(frame: Dataset, group: Dataset) -> None:
    """Instance Number is the whole image's; a frame has its place in the stack, or that of its source."""
    if any("InstanceNumber" in item for item in header.items(group, UNASSIGNED[1])):
        return
    place = header.whole(frame, "InStackPositionNumber")
    if place is not None:
        frame.InstanceNumber = place
    elif "InstanceNumber" in frame:
        del frame.InstanceNumber


def _type(frame: Dataset, is_pet: bool) -> None:
    """Frame Type as Image Type: value 3 is a flavor here, value 4 says by what other pixels were derived."""
    values = header.codes_upper(frame, "FrameType") or header.codes_upper(frame, "ImageType")
    if not values:
        return
    flavor, contrast = (*values[2:4], "", "")[:2]
    kind = [flavor] if flavor not in PLAIN_FLAVORS else [] if is_pet else ["AXIAL"]
    frame.ImageType = [*values[:2], *kind, *([contrast] if contrast not in ("NONE", "") else [])]


def _acquired(frame: Dataset) -> None:
    if "FrameAcquisitionDateTime" in frame:
        frame.AcquisitionDateTime = header.text(frame, "FrameAcquisitionDateTime")
        for keyword in ("AcquisitionDate", "AcquisitionTime"):
            if keyword in frame:
                del frame[keyword]
    duration_ms = header.number(frame, "FrameAcquisitionDuration")
    if duration_ms is not None and "ActualFrameDuration" not in frame:
        frame.ActualFrameDuration = round(duration_ms)


def _corrections(frame: Dataset) -> None:
    if "CorrectedImage" in frame:
        return
    done = [value for keyword, value in CORRECTIONS.items() if header.text(frame, keyword).upper() == "YES"]
    if done:
        frame.CorrectedImage = done


def _decay(frame: Dataset, earliest: datetime | None) -> None:
    """Decay Correction Date Time as START or ADMIN; a later instant than the scan's start is neither."""
    if "DecayCorrection" in frame:
        return
    if header.text(frame, "DecayCorrected").upper() == "NO":
        frame.DecayCorrection = "NONE"
    zone = header.stated_zone(frame)
    reference = header.moment(frame, "DecayCorrectionDateTime", zone)
    if reference is None or header.text(frame, "DecayCorrected").upper() != "YES":
        return
    items = header.items(frame, "RadiopharmaceuticalInformationSequence")
    starts = [header.moment(item, "RadiopharmaceuticalStartDateTime", zone) for item in items]
    if any(at and abs(at - reference) <= timedelta(seconds=CLOCK_TOLERANCE_S) for at in starts):
        frame.DecayCorrection = "ADMIN"
        return
    if earliest is None or reference > earliest + timedelta(seconds=TIME_ROUNDING_S):
        frame.DecayCorrection = "AFTER START"
        return
    frame.DecayCorrection = "START"
    frame.SeriesDate, frame.SeriesTime = f"{reference:%Y%m%d}", f"{reference:%H%M%S.%f}"
    middle = header.moment(frame, "FrameReferenceDateTime", zone)
    if middle is not None and "FrameReferenceTime" not in frame:
        frame.FrameReferenceTime = DSfloat((middle - reference).total_seconds() * 1000.0, auto_format=True)


def _units(frame: Dataset) -> None:
    """Units, and the slope to them, by the Real World Value Mapping: these images have no others.

    Whether it holds for the stored values is seen where these are read.
    """
    mapping = best_mapping(real_world_mappings(frame))
    if "Units" in frame or mapping is None:
        return
    frame.Units = "BQML" if mapping.kind is Kind.ACTIVITY else mapping.unit.upper()[:16]
    if mapping.kind is Kind.SUV:
        frame.Units, frame.SUVType = "GML", "BW"
    frame.RescaleType, factor = MAPPED, BQML_PER_UNIT.get(mapping.unit, 1.0)
    for keyword, value in (("RescaleSlope", mapping.slope), ("RescaleIntercept", mapping.intercept)):
        if value is not None:
            setattr(frame, keyword, DSfloat(value * factor, auto_format=True))
        elif keyword in frame:
            del frame[keyword]


def _injection(frame: Dataset) -> None:
    """Of several agents the one that Radiopharmaceutical Usage names for this frame."""
    used = {
        header.whole(item, "RadiopharmaceuticalAgentNumber")
        for item in header.items(frame, "RadiopharmaceuticalUsageSequence")
    }
    items = header.items(frame, "RadiopharmaceuticalInformationSequence")
    chosen = [item for item in items if header.whole(item, "RadiopharmaceuticalAgentNumber") in used]
    if chosen:
        frame.RadiopharmaceuticalInformationSequence = chosen
