"""Instants of the report: when activities hold, when the analysis was made, how long after the injection."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from highdicom.sr import (
    CodeContentItem,
    ContentItem,
    ContentSequence,
    DateTimeContentItem,
    Measurement,
    NumContentItem,
    RelationshipTypeValues,
)
from pydicom.valuerep import DT

from app.dicom.result_context import ResultContext, coded
from app.domain.codes import (
    ACTIVITY_AT,
    IMAGING_START,
    MINUTE,
    PROCESSED_AT,
    RADIOPHARMACEUTICAL_START,
    UPTAKE_TIME,
)
from app.domain.findings.findings import ActivityInstant, InstantKind
from app.domain.study import StudyKind

SECONDS_PER_MINUTE = 60.0
MINUTES_SHOWN_UP_TO = 600.0
"""Beyond, a SPECT days after the injection, hours say it better."""


def activity_instant_in_words(instant: ActivityInstant) -> str:
    """``start of the scan, 2026-03-04 09:30:00``."""
    if instant.at is None:
        return f"{instant.kind} (no date and time in the header)"
    return f"{instant.kind}, {instant.at:%Y-%m-%d %H:%M:%S}"


def uptake_in_words(uptake_s: float) -> str:
    """Minutes; hours where there are many."""
    minutes = uptake_s / SECONDS_PER_MINUTE
    return f"{minutes:.0f} min" if minutes < MINUTES_SHOWN_UP_TO else f"{minutes / 60.0:.1f} h"


def add_instant(measurement: Measurement, instant: ActivityInstant) -> None:
    """The observation context of a number that decays: to what it is corrected, and when that was."""
    item = measurement[0]
    at_scan = instant.kind is InstantKind.SCAN_START
    event = IMAGING_START if at_scan else RADIOPHARMACEUTICAL_START
    relation = RelationshipTypeValues.HAS_OBS_CONTEXT
    context: list[ContentItem] = [
        CodeContentItem(name=coded(ACTIVITY_AT), value=coded(event), relationship_type=relation)
    ]
    if instant.at is not None:
        value = DT(f"{instant.at:%Y%m%d%H%M%S.%f}")
        context.append(DateTimeContentItem(name=coded(event), value=value, relationship_type=relation))
    children = list(item.ContentSequence) if "ContentSequence" in item else []
    item.ContentSequence = ContentSequence([*children, *context])


def uptake_item(context: ResultContext) -> ContentItem | None:
    """Of a PET, the time from the injection to the scan (TID 1607)."""
    uptake_s = context.loaded.quantification.uptake_s
    if uptake_s is None or context.loaded.selection.kind is not StudyKind.PET_CT:
        return None
    return NumContentItem(
        name=coded(UPTAKE_TIME),
        value=round(uptake_s / SECONDS_PER_MINUTE, 2),
        unit=coded(MINUTE),
        relationship_type=RelationshipTypeValues.HAS_ACQ_CONTEXT,
    )


def processed_item(context: ResultContext) -> ContentItem | None:
    """When the analysis began, with the zone; but for UTC, whose +0000 DCMTK 3.6.7 takes for an error."""
    local = processed_local(context)
    if local is None:
        return None
    zone = f"{local:%z}" if local.utcoffset() else ""
    return DateTimeContentItem(
        name=coded(PROCESSED_AT),
        value=DT(f"{local:%Y%m%d%H%M%S}{zone}"),
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def processed_local(context: ResultContext) -> datetime | None:
    """When the analysis began, in the zone that the source's times are in: its own, else this machine's."""
    instant = context.provenance.processed_at
    if instant is None:
        return None
    stated = str(context.header.get("TimezoneOffsetFromUTC") or "")
    return instant.astimezone(_zone(stated)).replace(microsecond=0)


def _zone(offset: str) -> timezone | None:
    """(0008,0201) as ``+0100``; ``None`` for anything else."""
    sign, digits = offset[:1], offset[1:]
    if sign not in ("+", "-") or len(digits) != 4 or not digits.isdecimal():
        return None
    minutes = int(f"{sign}{digits[:2]}") * 60 + int(f"{sign}{digits[2:]}")
    if int(digits[2:]) > 59 or not -12 * 60 <= minutes <= 14 * 60:  # PS3.3 C.12.1.1.8: -1200 to +1400
        return None
    return timezone(timedelta(minutes=minutes))
