"""Every number of the report with its code, unit, derivation and method, rounded as written; its instants.

A number is found again by name, derivation and unit, so no two of a group share all three. Instants are when
activities hold, when the analysis was made, and how long after the injection the scan began.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.valuerep import DT

from app.dicom.header_values import offset_of
from app.dicom.results.context import ResultContext, coded, plain
from app.domain import codes
from app.domain.findings.findings import ActivityInstant, Burden, Change, InstantKind, Lesion, LinkKind, Organ
from app.domain.study import Code, StudyKind

SIGNIFICANT_DIGITS = 6
"""Written precision: far finer than any lesion can be measured, short enough to read."""

REFERENCE_CODES = {Organ.LIVER: codes.LIVER_UPTAKE, Organ.PAROTID: codes.PAROTID_UPTAKE}

Found = tuple[Code, float | None, Code, Code | None, Code | None]
"""Name, value, unit, derivation, method."""

OF_ACTIVITY = (codes.LESION_ACTIVITY, codes.ACTIVITY_CONCENTRATION, codes.PET_ACTIVITY_CONCENTRATION)
"""They decay: each names the instant at which it holds."""

OF_CHANGE = (codes.PSMA_TV_CHANGE, codes.TL_PSMA_CHANGE, codes.SUV_MAX_CHANGE, codes.NEW_LESIONS,
             codes.VANISHED_LESIONS)  # fmt: skip


@dataclass(frozen=True)
class Quantity:
    """One number of the report.

    Attributes:
        instant: at which an activity holds.
        below, above: how far under and over the number the true one may lie, in its unit.
        remark: what a reader of a change must know of the two studies.
    """

    name: Code
    value: float
    unit: Code
    derivation: Code | None = None
    method: Code | None = None
    instant: ActivityInstant | None = None
    below: float | None = None
    above: float | None = None
    remark: str = ""


def lesion_quantities(lesion: Lesion, context: ResultContext) -> tuple[Quantity, ...]:
    """Every number written for a lesion, rounded as written."""
    suv, suv_method = context.policy.suv_unit.code, codes.SUV_BODY_WEIGHT_METHOD
    is_pet = context.loaded.selection.kind is StudyKind.PET_CT
    concentration = codes.PET_ACTIVITY_CONCENTRATION if is_pet else codes.ACTIVITY_CONCENTRATION
    bqml = codes.BECQUEREL_PER_MILLILITRE
    found: tuple[Found, ...] = (
        (codes.VOLUME, lesion.volume_ml, codes.MILLILITRE, None, codes.SUM_OF_SEGMENTED_VOXELS),
        (codes.LONGEST_DIAMETER, lesion.longest_diameter_mm, codes.MILLIMETRE, None, None),
        (codes.SUVBW, lesion.suv_max, suv, codes.MAXIMUM, suv_method),
        (codes.SUVBW, lesion.suv_mean, suv, codes.MEAN, suv_method),
        (codes.SUVBW, lesion.suv_peak, suv, codes.PEAK, suv_method),
        (codes.TL_PSMA, lesion.tl_psma, codes.GRAM, None, None),
        (codes.TO_LIVER_MAX, lesion.to_liver_max, codes.COUNT, None, None),
        (codes.TO_LIVER_PEAK, lesion.to_liver_peak, codes.COUNT, None, None),
        (codes.TO_LIVER, lesion.to_liver, codes.COUNT, None, None),
        (codes.TO_PAROTID, lesion.to_parotid, codes.COUNT, None, None),
        (codes.LESION_ACTIVITY, lesion.activity_mbq, codes.MEGABECQUEREL, None, None),
        (concentration, lesion.concentration_max_bqml, bqml, codes.MAXIMUM, None),
        (concentration, lesion.concentration_mean_bqml, bqml, codes.MEAN, None),
        (codes.ABSORBED_DOSE, lesion.absorbed_dose_gy, codes.GRAY, codes.MEAN, codes.SINGLE_TIME_POINT_DOSE),
        *_other_suvs(lesion, context),
    )
    return tuple(_qualified(quantity, context) for quantity in _quantities(found))


def _other_suvs(lesion: Lesion, context: ResultContext) -> Iterator[Found]:
    """Maximum, mean and peak once more, in each SUV that the site asks for in addition to SUVbw."""
    values = ((lesion.suv_max, codes.MAXIMUM), (lesion.suv_mean, codes.MEAN), (lesion.suv_peak, codes.PEAK))
    for other in context.loaded.quantification.other_suv:
        coded = codes.OTHER_SUV[other.unit]
        for suvbw, derivation in values:
            value = None if suvbw is None else suvbw * other.per_suvbw
            yield coded.name, value, coded.unit, derivation, coded.method


def whole_body_quantities(context: ResultContext) -> tuple[Quantity, ...]:
    """Every number written for the whole body: burden, reference organs, change."""
    findings, suv = context.quantified.findings, context.policy.suv_unit.code
    found = [*_burden(findings.burden, suv)]
    found += [
        (REFERENCE_CODES[organ.organ], organ.suv_mean, suv, codes.MEAN, codes.SUV_BODY_WEIGHT_METHOD)
        for organ in findings.references
    ]
    found += [
        (REFERENCE_CODES[organ.organ], organ.to_liver, codes.COUNT, codes.MEAN, None)
        for organ in findings.references
    ]
    if findings.change is not None:
        found += _change(findings.change)
    return tuple(_qualified(quantity, context) for quantity in _quantities(found))


def _qualified(quantity: Quantity, context: ResultContext) -> Quantity:
    """With the instant of an activity, the range of a dose, and how alike the studies of a change are."""
    findings = context.quantified.findings
    if quantity.name in OF_CHANGE and findings.change is not None:
        return replace(quantity, remark="; ".join(findings.change.remarks))
    if quantity.name in OF_ACTIVITY:
        return replace(quantity, instant=findings.activity_instant)
    dose = findings.dose
    if quantity.name != codes.ABSORBED_DOSE or dose is None or dose.lowest is None or dose.highest is None:
        return quantity
    below, above = quantity.value * (1.0 - dose.lowest), quantity.value * (dose.highest - 1.0)
    return replace(quantity, below=_rounded(below), above=_rounded(above))


def _burden(burden: Burden, suv: Code) -> tuple[Found, ...]:
    return (
        (codes.NUMBER_OF_LESIONS, burden.lesion_count, codes.COUNT, None, None),
        (codes.PSMA_TV, burden.psma_tv_ml, codes.MILLILITRE, None, codes.SUM_OF_SEGMENTED_VOXELS),
        (codes.TL_PSMA, burden.tl_psma, codes.GRAM, None, None),
        (codes.SUVBW, burden.suv_max, suv, codes.MAXIMUM, codes.SUV_BODY_WEIGHT_METHOD),
        (codes.TO_LIVER_MAX, burden.to_liver_max, codes.COUNT, None, None),
        (codes.DMAX, burden.dmax_mm, codes.MILLIMETRE, None, None),
        (codes.LESION_ACTIVITY, burden.activity_mbq, codes.MEGABECQUEREL, None, None),
    )


def _change(change: Change) -> tuple[Found, ...]:
    return (
        (codes.PSMA_TV_CHANGE, change.psma_tv_percent, codes.PERCENT, None, None),
        (codes.TL_PSMA_CHANGE, change.tl_psma_percent, codes.PERCENT, None, None),
        (codes.SUV_MAX_CHANGE, change.suv_max_percent, codes.PERCENT, None, None),
        (codes.NEW_LESIONS, change.lesions_that_are(LinkKind.NEW), codes.COUNT, None, None),
        (codes.VANISHED_LESIONS, change.lesions_that_are(LinkKind.VANISHED), codes.COUNT, None, None),
    )


def _quantities(found: Iterable[Found]) -> Iterator[Quantity]:
    for name, value, unit, derivation, method in found:
        if value is not None:
            written = value if isinstance(value, int) else _rounded(value)
            yield Quantity(name, written, unit, derivation, method)


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


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


def add_instant(measurement: hd.sr.Measurement, instant: ActivityInstant) -> None:
    """The observation context of a number that decays: to what it is corrected, and when that was."""
    item = measurement[0]
    at_scan = instant.kind is InstantKind.SCAN_START
    event = codes.IMAGING_START if at_scan else codes.RADIOPHARMACEUTICAL_START
    relation = hd.sr.RelationshipTypeValues.HAS_OBS_CONTEXT
    context: list[hd.sr.ContentItem] = [
        hd.sr.CodeContentItem(name=coded(codes.ACTIVITY_AT), value=coded(event), relationship_type=relation)
    ]
    if instant.at is not None:
        value = DT(f"{instant.at:%Y%m%d%H%M%S.%f}")
        context.append(hd.sr.DateTimeContentItem(name=coded(event), value=value, relationship_type=relation))
    _add_children(item, context)


def add_remark(measurement: hd.sr.Measurement, remark: str) -> None:
    """A comment (121106 DCM) on a number."""
    relation = hd.sr.RelationshipTypeValues.HAS_PROPERTIES
    _add_children(measurement[0], [hd.sr.TextContentItem(coded(codes.COMMENT), plain(remark), relation)])


def _add_children(item: Dataset, added: list[hd.sr.ContentItem]) -> None:
    children = list(item.ContentSequence) if "ContentSequence" in item else []
    item.ContentSequence = hd.sr.ContentSequence([*children, *added])


def uptake_item(context: ResultContext) -> hd.sr.ContentItem | None:
    """Of a PET, the time from the injection to the scan (TID 1607)."""
    uptake_s = context.loaded.quantification.uptake_s
    if uptake_s is None or context.loaded.selection.kind is not StudyKind.PET_CT:
        return None
    return hd.sr.NumContentItem(
        name=coded(codes.UPTAKE_TIME),
        value=round(uptake_s / SECONDS_PER_MINUTE, 2),
        unit=coded(codes.MINUTE),
        relationship_type=hd.sr.RelationshipTypeValues.HAS_ACQ_CONTEXT,
    )


def processed_item(context: ResultContext) -> hd.sr.ContentItem | None:
    """When the analysis began, with the zone; but for UTC, whose +0000 DCMTK 3.6.7 takes for an error."""
    local = processed_local(context)
    if local is None:
        return None
    zone = f"{local:%z}" if local.utcoffset() else ""
    return hd.sr.DateTimeContentItem(
        name=coded(codes.PROCESSED_AT),
        value=DT(f"{local:%Y%m%d%H%M%S}{zone}"),
        relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
    )


def processed_local(context: ResultContext) -> datetime | None:
    """When the analysis began, in the zone that the source's times are in: its own, else this machine's."""
    instant = context.provenance.processed_at
    if instant is None:
        return None
    offset = offset_of(str(context.header.get("TimezoneOffsetFromUTC") or ""))
    return instant.astimezone(None if offset is None else timezone(offset)).replace(microsecond=0)
