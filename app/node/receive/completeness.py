"""When a study is complete, what it waits for until then, and how urgent it is.

A study is complete when a pair (PET and CT, SPECT and CT) has been selected from it and either every image
series holds as many images as its headers announce, or nothing has come for ``settle_s``. A study that more
images could still make usable waits for them until ``give_up_s``; then it is processed as it is, so that it
is rejected with its reasons. Images that come later make a new revision; other objects, which could not be
analysed (:data:`app.domain.selection.screening.IMAGE_CLASSES`), make none. Nothing here discards anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from app.domain.refusal import RefusalCode
from app.domain.selection.screening import MODALITY_OF_CLASS
from app.domain.selection.selection import SelectionResult
from app.domain.stack.geometry import stack_gaps
from app.domain.study import Series, Study, StudyKind
from app.node.peers import ReceivePolicy
from app.node.records.states import Arrival, Rank
from app.node.records.studies import StudySubject

UNSUITABLE = frozenset(
    {
        RefusalCode.NO_FUNCTIONAL_SERIES,
        RefusalCode.NOT_PRIMARY,
        RefusalCode.NOT_RECONSTRUCTED,
        RefusalCode.NOT_ATTENUATION_CORRECTED,
    }
)
"""What has come is not what is segmented; scanners send projections and uncorrected images first."""

CURABLE_BY_ARRIVAL = UNSUITABLE | {
    RefusalCode.NO_CT,
    RefusalCode.CT_OTHER_FRAME_OF_REFERENCE,
    RefusalCode.CT_DOES_NOT_COVER,
    RefusalCode.SLICE_GAP,
    RefusalCode.INCOMPLETE_SERIES,
    RefusalCode.TOO_FEW_SLICES,
    RefusalCode.GEOMETRY_INCONSISTENT,  # what is left of a stack may look uneven rather than torn
}
"""Refusals that images still on their way may undo; the images that are here settle the others."""

SETTLED = frozenset({RefusalCode.TRACER_UNKNOWN, RefusalCode.TRACER_NOT_ALLOWED})
"""True of the whole examination: a CT for it would change nothing."""

URGENT_PRIORITIES = ("STAT", "HIGH")

OLD = timedelta(days=7)
"""A study that was acquired so long before it came was sent again, and nobody waits for it today."""

_IMAGE_MODALITIES = tuple(MODALITY_OF_CLASS.values())


@dataclass(frozen=True)
class Completeness:
    """Whether a study is to be processed now, or what it waits for, in words.

    ``given_up``: it is complete only because nothing came for ``give_up_s``. ``rests_s``: without another
    image nothing changes before so many seconds of quiet; 0 when that is soon.
    """

    complete: bool
    waits_for: str = ""
    given_up: bool = False
    rests_s: float = field(default=0.0, compare=False)


def assess(study: Study, selected: SelectionResult, quiet_s: float, policy: ReceivePolicy) -> Completeness:
    """Judge a study as far as it has arrived, by its headers and what the selection makes of them.

    No image of it has come for ``quiet_s``.
    """
    missing = _what_is_missing(study, selected)
    if missing:
        if quiet_s >= policy.give_up_s:
            return Completeness(complete=True, given_up=True)
        return Completeness(complete=False, waits_for=missing, rests_s=policy.give_up_s)
    if selected.selections and _all_announced_are_here(study):
        return Completeness(complete=True)
    if quiet_s >= policy.settle_s:
        return Completeness(complete=True)
    return Completeness(complete=False, waits_for=f"quiet for {quiet_s:.0f} of {policy.settle_s:.0f} s")


def _what_is_missing(study: Study, selected: SelectionResult) -> str:
    """Words for what the study waits for, beyond quiet; empty when there is nothing."""
    if selected.selections:
        # a functional series that was selected although it is short is one that the site takes as it is
        return "; ".join(filter(None, (_unannounced_words(pair.ct) for pair in selected.selections)))
    codes = {reason.code for reason in selected.rejection.reasons} if selected.rejection else set()
    if codes & SETTLED or not codes & CURABLE_BY_ARRIVAL:
        return ""
    images = [series for series in study.series if series.modality in _IMAGE_MODALITIES]
    words = [found for series in images if (found := _unannounced_words(series) or _gap_words(series))]
    partner = _partner_words(images, codes)
    return "; ".join(filter(None, (*words, partner))) or "more images of the PET or SPECT, or of its CT"


def _unannounced_words(series: Series) -> str:
    expected = series.expected_instance_count
    if expected is None or len(series.instances) >= expected:
        return ""
    missing = expected - len(series.instances)
    are = "is" if missing == 1 else "are"
    return f"{missing} of {expected} images {are} missing in the {series.modality} series"


def _gap_words(series: Series) -> str:
    gaps = stack_gaps(series)
    if not gaps:
        return ""
    missing = sum(gap.count for gap in gaps)
    slices = "slice" if missing == 1 else "slices"
    first = gaps[0]
    where = f"z={first.from_mm:.1f} to {first.to_mm:.1f} mm"
    more = f" and {len(gaps) - 1} more gaps" if len(gaps) > 1 else ""
    return f"{missing} {slices} missing in the {series.modality} series, {where}{more}"


def _partner_words(images: list[Series], codes: set[RefusalCode]) -> str:
    modalities = {series.modality for series in images}
    if not modalities:
        return "a PET or SPECT with its CT"
    if modalities == {"CT"}:
        return "a PET or SPECT that belongs to the CT"
    name = "SPECT" if "NM" in modalities else "PET"
    if codes & UNSUITABLE:
        return f"a {name} series that can be segmented"
    if RefusalCode.CT_DOES_NOT_COVER in codes:
        return f"a CT that covers the {name}"
    if codes & {RefusalCode.NO_CT, RefusalCode.CT_OTHER_FRAME_OF_REFERENCE}:
        return f"a CT in the frame of reference of the {name}"
    return ""


def _all_announced_are_here(study: Study) -> bool:
    """Whether every image series announces how many images it has, and has them."""
    images = [series for series in study.series if series.modality in _IMAGE_MODALITIES]
    return all(
        series.expected_instance_count is not None and len(series.instances) >= series.expected_instance_count
        for series in images
    )


def subject_of(study: Study, selected: SelectionResult | None) -> StudySubject:
    """What is known from the headers that are here; ``selected`` is ``None`` when that is only one.

    While nothing can be selected yet, everything but a gamma camera's study may become a PET/CT. A study
    that holds both is no SPECT here: its own PET is at hand, and two such studies could wait for each other.
    """
    subject = StudySubject(study.study_instance_uid, study.patient, accession_number=study.accession_number)
    pairs = selected.selections if selected else ()
    if not pairs:
        is_nm = any(series.modality == "NM" for series in study.series)
        times = [] if is_nm else [_acquired_at(study, series) for series in study.series]
        return replace(subject, pet_acquired_at=min(filter(None, times), default=None))
    pets = [_acquired_at(study, pair.functional) for pair in pairs if pair.kind is StudyKind.PET_CT]
    if pets:
        return replace(subject, pet_acquired_at=min(filter(None, pets), default=None))
    spects = filter(None, (_acquired_at(study, pair.functional) for pair in pairs))
    return replace(subject, spect_acquired_at=max(spects, default=None))


def arrival_of(
    study: Study | None,
    selected: SelectionResult | None,
    sender: str,
    came_at: datetime,
    policy: ReceivePolicy,
) -> Arrival:
    """Who sent a study, how urgent it is, and whether headers alone refuse it; ``None``: they can't be read.

    ``came_at`` is aware; dates of acquisition are in the clinic's local time, which is this host's.
    """
    by_headers = selected is None or selected.rejection is not None
    if study is None:
        return Arrival(sender, Rank.ROUTINE, by_headers)
    pairs = selected.selections if selected else ()
    times = [_acquired_at(study, pair.functional) for pair in pairs]
    latest = max(filter(None, times), default=None)
    local = came_at.astimezone().replace(tzinfo=None)
    if sender in policy.urgent_callers or study.priority in URGENT_PRIORITIES:
        rank = Rank.URGENT
    elif latest is not None and local - latest > OLD:
        rank = Rank.REPLAY
    else:
        is_spect = any(pair.kind is StudyKind.SPECT_CT for pair in pairs)
        rank = Rank.THERAPY if is_spect else Rank.ROUTINE
    return Arrival(sender, rank, by_headers)


def _acquired_at(study: Study, series: Series) -> datetime | None:
    return series.when or study.study_datetime
