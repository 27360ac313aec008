"""Every attribute of an NM image that stands between stored values and what was counted, frame by frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.tag import BaseTag

from app.dicom import header_values as header
from app.dicom.reading.enhanced import functional_groups, real_world_mappings
from app.domain.quantities.scales import RealWorldMapping, Scale, is_no_offset


@dataclass(frozen=True)
class FrameScales:
    """What holds for one frame."""

    mappings: tuple[RealWorldMapping, ...]
    rescale: tuple[Scale, ...]
    vendor: tuple[Scale, ...]


@dataclass(frozen=True)
class _Private:
    """A vendor's own scale, in whatever block its creator has reserved."""

    group: int
    creator: str
    element: int
    name: str
    is_offset: bool = False
    is_understood: bool = False

    @property
    def attribute(self) -> str:
        """As a reason names it."""
        return f"({self.group:04X},xx{self.element:02X}) {self.name}"


GE, SIEMENS, PHILIPS = "GEMS_GENIE_1", "SIEMENS MED NM", "Philips PET Private Group"

PRIVATE_SCALES = (
    # Xeleris stores counts divided by it: a real window of 136920 is that of 32760 x 4.1795
    _Private(0x0011, GE, 0x3B, "Pixel Scale", is_understood=True),
    _Private(0x0011, GE, 0x3C, "Pixel Offset", is_offset=True, is_understood=True),
    _Private(0x0013, GE, 0x15, "Fscalar"),
    _Private(0x0033, SIEMENS, 0x38, "Pixel scale factor"),
    _Private(0x0057, SIEMENS, 0x06, "Rescale intercept", is_offset=True, is_understood=True),
    _Private(0x0057, SIEMENS, 0x07, "Rescale Slope"),
    _Private(0x7053, PHILIPS, 0x00, "SUV Scale Factor"),
    _Private(0x7053, PHILIPS, 0x09, "Activity Concentration Scale Factor"),
)
"""Of vendors' dictionaries. Of those not understood only the name is known: they must change nothing."""


def frame_scales(headers: Sequence[Dataset], frames: Sequence[int]) -> list[FrameScales]:
    """Of each frame, counted from 1, of the header beside it; many share one."""
    found: dict[tuple[int, int], FrameScales] = {}
    keys = []
    for dataset, frame in zip(headers, frames, strict=True):
        key = (id(dataset), frame if "PerFrameFunctionalGroupsSequence" in dataset else 1)
        if key not in found:
            found[key] = _frame_scales(dataset, frame)
        keys.append(key)
    return [found[key] for key in keys]


def _frame_scales(dataset: Dataset, frame: int) -> FrameScales:
    groups = functional_groups(dataset, frame)
    vendor = [scale for private in PRIVATE_SCALES if (scale := _private_scale(dataset, private))]
    if any("ModalityLUTSequence" in group for group in groups):
        vendor.append(Scale("ModalityLUTSequence", None, is_understood=False))
    return FrameScales(real_world_mappings(dataset, frame), _rescales(groups), tuple(vendor))


def _rescales(groups: Sequence[Dataset]) -> tuple[Scale, ...]:
    """NM has no rescale of its own; where one was added it counts."""
    found = []
    transformed = [
        item for group in groups for item in header.items(group, "PixelValueTransformationSequence")
    ]
    for holder in (groups[0], *transformed):
        slope = header.number(holder, "RescaleSlope")
        intercept = header.number(holder, "RescaleIntercept") or 0.0
        if "RescaleSlope" in holder:
            found.append(Scale("RescaleSlope", slope))
        if not is_no_offset(intercept, slope or 1.0):
            found.append(Scale("RescaleIntercept", 1.0, intercept))
    return tuple(found)


def _private_scale(dataset: Dataset, private: _Private) -> Scale | None:
    """A vendor's scale, where it is present: one number, however often it is there."""
    raw = list(_private_values(dataset, private))
    if not raw:
        return None
    numbers = {number for value in raw for number in _numbers(value)}
    number = numbers.pop() if len(numbers) == 1 else None
    if not private.is_offset:
        return Scale(private.attribute, number, is_understood=private.is_understood)
    if number is not None and is_no_offset(number, 1.0):
        return None
    return Scale(private.attribute, None if number is None else 1.0, number or 0.0)


def _private_values(dataset: Dataset, private: _Private) -> Iterator[object]:
    """From each block of the creator, here and in the items of sequences.

    Anonymisers drop creators: what is in GE's usual block then is GE's by the manufacturer, or without one.
    """
    manufacturer = header.text(dataset, "Manufacturer").upper()
    is_ge = not manufacturer or manufacturer.startswith("GE")
    for tag in list(dataset.keys()):
        if tag.group == private.group and tag.element & 0xFF == private.element and tag.element >= 0x1000:
            creator_at = (tag.group, tag.element >> 8)
            creator = _value(dataset, creator_at)
            is_dropped = creator is None and private.creator == GE and is_ge and creator_at[1] == 0x10
            if is_dropped or str(creator or "").strip().upper() == private.creator.upper():
                yield _value(dataset, (tag.group, tag.element))
        elif not tag.is_private_creator:
            for item in _items(dataset, tag):
                yield from _private_values(item, private)


def _value(dataset: Dataset, tag: tuple[int, int] | BaseTag) -> object:
    """As it is; its bytes where they don't fit the representation that it is said to have."""
    try:
        return dataset[tag].value if tag in dataset else None
    except header.READ_ERRORS:
        return getattr(dataset.get_item(tag), "value", "")


def _items(dataset: Dataset, tag: BaseTag) -> tuple[Dataset, ...]:
    found = _value(dataset, tag)
    if not isinstance(found, Sequence) or isinstance(found, (str, bytes)):
        return ()
    return tuple(item for item in found if isinstance(item, Dataset))


def _numbers(value: object) -> tuple[float | None, ...]:
    """Of a number, text, or bytes whose representation (FD) was lost; ``None`` for what is no number."""
    several = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
    return tuple(_number(item) for item in several) or (None,)


def _number(value: object) -> float | None:
    try:
        text = value.decode("ascii") if isinstance(value, bytes) else str(value)
        return float(text.strip(" \0"))
    except ValueError:
        is_double = isinstance(value, bytes) and len(value) == 8
        return float(struct.unpack("<d", value)[0]) if is_double and isinstance(value, bytes) else None
