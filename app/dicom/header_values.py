"""Values out of headers that may be damaged: a value of the right kind, or nothing.

pydicom converts values when they are first looked at, so that is where a malformed one raises. It is then as
good as absent: what needs it refuses with its reason.
"""

from __future__ import annotations

import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from threading import Lock
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag

from app.domain.clocks import FARTHEST_EAST, FARTHEST_WEST, zone_offset
from app.domain.study import Code

READ_ERRORS = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, TypeError, LookupError,
    AttributeError, ArithmeticError, NotImplementedError, RecursionError, MemoryError, struct.error,
    zlib.error,
)  # fmt: skip
"""What pydicom raises on malformed files; anything else is a fault of ours."""

MIDNIGHT_H = 2
"""Hours before and after it in which a scan runs over midnight; no PET takes longer."""

_SIMPLE = frozenset((
    "AE", "AS", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM",
    "UI", "UL", "US",
))  # fmt: skip
"""VRs of values that say all in their bytes and the character set."""

_SHARED_SEQUENCES = frozenset((
    "RadiopharmaceuticalInformationSequence", "ProcedureCodeSequence", "RequestAttributesSequence",
))  # fmt: skip
"""The same in every slice, and without values whose VR is that of the pixels around them."""

_MOST_SHARED_BYTES = 256

_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")
_TIME = re.compile(r"(\d\d):?(\d\d)?:?(\d\d)?(\.\d{1,6})?")
_DATE_TIME = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)([+-]\d{4})?")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)


class _Silence:
    """Python's warning filters are the process's own: the first thread in hushes them, the last restores."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    def begin(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")

    def end(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


_silence = _Silence()


@contextmanager
def tolerant() -> Iterator[None]:
    """Without pydicom's warnings about values that the Standard forbids: scanners write them daily."""
    _silence.begin()
    try:
        yield
    finally:
        _silence.end()


def value(dataset: Dataset, keyword: str) -> Any:
    """The attribute's value, or ``None`` when it is absent, empty or malformed."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return None
    try:
        found = dataset[tag].value
    except READ_ERRORS:
        return None
    return None if found is None or found == "" else found


@lru_cache(maxsize=1024)
def _place(keyword: str) -> tuple[BaseTag, str]:
    """Tag and dictionary VR of a keyword; tag 0 for none."""
    tag = tag_for_keyword(keyword)
    return BaseTag(tag or 0), "" if tag is None else dictionary_VR(tag)


def _unread(dataset: Dataset, keyword: str) -> tuple[RawDataElement, tuple[str, ...]] | None:
    """An attribute of a file that nobody has looked at yet, and the encodings of its text."""
    raw, encodings = dataset.get_item(_place(keyword)[0]), dataset.original_character_set
    if not isinstance(raw, RawDataElement) or not raw.value or not encodings:
        return None
    return raw, (encodings,) if isinstance(encodings, str) else tuple(encodings)


@lru_cache(maxsize=1 << 14)
def _texts(keyword: str, vr: str, value: bytes, little: bool, encodings: tuple[str, ...]) -> tuple[str, ...]:
    """Slices of a series share most values, so each is converted once."""
    tag, _ = _place(keyword)
    try:
        raw = RawDataElement(tag, vr, len(value), value, 0, False, little)
        return _spelled(convert_raw_data_element(raw, encoding=list(encodings)).value)
    except READ_ERRORS:
        return ()


@lru_cache(maxsize=64)
def _items(raw: RawDataElement, encodings: tuple[str, ...]) -> tuple[Dataset, ...]:
    try:
        found = convert_raw_data_element(raw, encoding=list(encodings)).value
    except READ_ERRORS:
        return ()
    return tuple(item for item in found if isinstance(item, Dataset))


def text(dataset: Dataset, keyword: str) -> str:
    """The attribute as text, without padding; several values joined by a backslash."""
    return "\\".join(texts(dataset, keyword))


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Every value of the attribute as text."""
    unread = _unread(dataset, keyword)
    if unread is not None:
        raw, encodings = unread
        vr, found = raw.VR or _place(keyword)[1], raw.value or b""
        if vr in _SIMPLE and len(found) <= _MOST_SHARED_BYTES:
            return _texts(keyword, vr, found, raw.is_little_endian, encodings)
    return _spelled(value(dataset, keyword))


def _spelled(found: Any) -> tuple[str, ...]:
    if found is None or found == "":
        return ()
    several = [found] if isinstance(found, (str, bytes)) or not isinstance(found, Sequence) else list(found)
    return tuple(str(item).strip().strip("\0") for item in several)


def codes_upper(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """A multi-valued code string (CS), upper case."""
    return tuple(item.upper() for item in texts(dataset, keyword))


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Every value as a finite number; empty when any is not."""
    try:
        found = tuple(float(item) for item in texts(dataset, keyword))
    except ValueError:
        return ()
    return found if all(math.isfinite(item) for item in found) else ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """The attribute's only value as a finite number."""
    found = numbers(dataset, keyword)
    return found[0] if len(found) == 1 else None


def whole(dataset: Dataset, keyword: str) -> int | None:
    """The attribute's only value as a whole number."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found == int(found) else None


def uid(dataset: Dataset, keyword: str) -> str:
    """A UID of digits and dots (PS3.5 9.1); empty when absent or malformed."""
    found = text(dataset, keyword)
    return found if len(found) <= 64 and _UID.fullmatch(found) else ""


def items(dataset: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Items of a sequence, for reading alone; empty when it is absent or no sequence."""
    unread = _unread(dataset, keyword) if keyword in _SHARED_SEQUENCES else None
    if unread is not None and unread[0].VR in (None, "SQ"):
        return _items(unread[0]._replace(value_tell=0), unread[1])
    found = value(dataset, keyword)
    if found is None or isinstance(found, (str, bytes)) or not isinstance(found, Sequence):
        return ()
    return tuple(item for item in found if isinstance(item, Dataset))


def code(dataset: Dataset, keyword: str) -> Code | None:
    """The first item of a code sequence."""
    for item in items(dataset, keyword):
        found = text(item, "CodeValue") or text(item, "LongCodeValue") or text(item, "URNCodeValue")
        if found:
            return Code(found, text(item, "CodingSchemeDesignator"), text(item, "CodeMeaning"))
    return None


def date_and_time(dataset: Dataset, date_keyword: str, time_keyword: str) -> datetime | None:
    """Local date and time of a DA and a TM attribute; ``None`` unless both are there."""
    return _instant(text(dataset, date_keyword), text(dataset, time_keyword))


def _instant(date: str, time: str, moved_by: timedelta = timedelta()) -> datetime | None:
    """What DA and TM values make together; ``None`` where they make no instant that a clock can show."""
    day, clock = _DATE.fullmatch(date), _clock(time)
    if day is None or clock is None:
        return None
    try:
        return datetime(*(int(part) for part in day.groups())) + clock + moved_by  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None


def time_of_day(dataset: Dataset, keyword: str) -> timedelta | None:
    """A TM attribute, since midnight."""
    return _clock(text(dataset, keyword))


def _clock(spelled: str) -> timedelta | None:
    found = _TIME.fullmatch(spelled)
    if found is None:
        return None
    hours, minutes, seconds, fraction = found.groups()
    if int(hours) > 23 or int(minutes or 0) > 59 or int(seconds or 0) > 60:
        return None
    return timedelta(
        hours=int(hours), minutes=int(minutes or 0), seconds=int(seconds or 0) + float(fraction or 0)
    )


def moment(dataset: Dataset, keyword: str, zone: timedelta | None = None) -> datetime | None:
    """A DT attribute as the clock on the wall of ``zone`` shows it, without zone.

    A DT without an offset of its own is in the zone of the data set already (PS3.3 C.12.1.1.8); one with an
    offset is moved there. Where that zone isn't known (``None``) its own clock is given, which
    :func:`own_offset` shows to be perhaps another's.
    """
    found = _DATE_TIME.fullmatch(text(dataset, keyword))
    if found is None:
        return None
    own = offset_of(found.group(3))
    moved_by = timedelta() if own is None or zone is None else zone - own
    return _instant(found.group(1), found.group(2), moved_by)


def own_offset(dataset: Dataset, keyword: str) -> timedelta | None:
    """The offset from UTC that a DT attribute states for itself."""
    found = _DATE_TIME.fullmatch(text(dataset, keyword))
    return None if found is None else offset_of(found.group(3))


def stated_zone(dataset: Dataset) -> timedelta | None:
    """Offset from UTC of every DA, TM and DT of the data set that has none of its own (PS3.3 C.12.1.1.8).

    Timezone Offset From UTC (0008,0201); without it that of Acquisition DateTime, where this is the only time
    of the acquisition; and where it is not, what both differ by.
    """
    stated = offset_of(text(dataset, "TimezoneOffsetFromUTC"))
    own = own_offset(dataset, "AcquisitionDateTime")
    if stated is not None or own is None:
        return stated
    local = date_and_time(dataset, "AcquisitionDate", "AcquisitionTime")
    clock = moment(dataset, "AcquisitionDateTime")
    return own if local is None or clock is None else zone_offset(local - (clock - own))


def acquired_at(dataset: Dataset) -> datetime | None:
    """Acquisition Date and Time, else Acquisition DateTime, as local time.

    A bed soon after midnight, with the date of the series that began soon before, is of the next day.
    """
    found = date_and_time(dataset, "AcquisitionDate", "AcquisitionTime")
    if found is None:
        return moment(dataset, "AcquisitionDateTime", stated_zone(dataset))
    began = date_and_time(dataset, "SeriesDate", "SeriesTime")
    if began is None or began.date() != found.date():
        return found
    is_over_midnight = found.hour < MIDNIGHT_H and began.hour >= 24 - MIDNIGHT_H
    return found + timedelta(days=1) if is_over_midnight else found


def offset_of(spelled: str | None) -> timedelta | None:
    """Of ``±HHMM``; ``None`` where it is none on earth (PS3.3 C.12.1.1.8: −1200 to +1400)."""
    found = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", spelled or "")
    if found is None:
        return None
    sign, hours, minutes = found.groups()
    offset = (1 if sign == "+" else -1) * timedelta(hours=int(hours), minutes=int(minutes))
    return offset if FARTHEST_WEST <= offset <= FARTHEST_EAST else None


def energy_windows(dataset: Dataset) -> tuple[tuple[float, float], ...]:
    """Every range of every item of Energy Window Information Sequence (0054,0012), keV."""
    found = []
    for item in items(dataset, "EnergyWindowInformationSequence"):
        for limits in items(item, "EnergyWindowRangeSequence"):
            low, high = (number(limits, f"EnergyWindow{end}Limit") for end in ("Lower", "Upper"))
            if low is not None and high is not None and high > 0.0:
                found.append((low, high))
    return tuple(found)
