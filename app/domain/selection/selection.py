"""Which series of a study are the functional image and its CT, by codes and geometry; why the rest is not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode, Rejection
from app.domain.selection.identification import identify_tracer
from app.domain.selection.pair import (
    Part,
    Selection,
    SeriesVerdict,
    axial_overlap,
    coverage,
    coverage_together,
    no_ct,
    refused_cts,
    rejection_of,
    told_of_parts,
)
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.ranking import (
    Candidate,
    Pair,
    ct_in_words,
    ct_rules,
    decided_by,
    functional_in_words,
    functional_rules,
    ranked,
)
from app.domain.selection.screening import NM_IMAGE, ImageRole, is_derived, screen
from app.domain.stack.geometry import stack_series
from app.domain.study import Series, Study, StudyKind

SAME_REGION = 0.5
"""Two functional images of one frame of reference that share more than this of their length show the same
region: one of them is taken. Images of other regions, or of another session, are analysed on their own."""

BY_UID = "no rule of section select decides, so the lower UID does"


@dataclass(frozen=True)
class SelectionResult:
    """What the selection decided.

    Attributes:
        selections: pairs to analyse, earliest first.
        verdicts: one for every series of the study, in order of their UIDs.
        rejection: why nothing can be analysed; ``None`` when there is a pair.
    """

    selections: tuple[Selection, ...]
    verdicts: tuple[SeriesVerdict, ...]
    rejection: Rejection | None = None

    @property
    def pairs(self) -> tuple[Selection | Rejection, ...]:
        """What goes down the chain: the pairs, or the one rejection."""
        return self.selections if self.rejection is None else (self.rejection,)


def select(study: Study, policy: SelectionPolicy) -> SelectionResult:
    """Pair every usable functional image with its CT."""
    judged = {series.series_instance_uid: _judge(series, policy) for series in study.series}
    candidates = [item for item in judged.values() if isinstance(item, Candidate)]
    reasons = {
        uid: replace(item, series_instance_uid=uid)
        for uid, item in judged.items()
        if isinstance(item, Reason)
    }
    refused = refused_cts(study, reasons)
    cts = [item for item in candidates if item.role is ImageRole.CT]
    pairs = {}
    for functional in (item for item in candidates if item.role is not ImageRole.CT):
        found = _pairs(functional, cts, policy) if cts else no_ct(refused, functional.uid)
        if isinstance(found, Reason):
            reasons[functional.uid] = _naming_cts_elsewhere(found, functional.series, study)
        else:
            pairs[functional.uid] = found
    regions = _regions(candidates, pairs, policy)
    chosen = [region[0] for region in regions]
    roles = {member.uid: member.role for pair in chosen for member in (pair.functional, pair.ct)}
    for region in regions:
        reasons = _reasons_of_others(region, policy) | reasons
    for item in cts:
        reasons.setdefault(item.uid, _unused(item, chosen))
    rejection = None if chosen else rejection_of(study, reasons, any_ct=bool(cts))
    parts = (Part.of(_selection(study, region, policy), region[0].functional.grid) for region in regions)
    return SelectionResult(told_of_parts(parts), _verdicts(study, roles, reasons), rejection)


def _judge(series: Series, policy: SelectionPolicy) -> Candidate | Reason:
    """A series on its own: what it is, where it lies, what it shows."""
    if series.sop_class_uid == NM_IMAGE and series.modality in map(str.upper, policy.nm_modalities):
        series = replace(series, modality="NM")
    role = screen(series)
    if isinstance(role, Reason):
        return role
    if is_derived(series) and not policy.derived_images:
        found = "\\".join(series.image_type)
        return series.reason(RefusalCode.NOT_PRIMARY, "ImageType", found, "ORIGINAL")
    identified = identify_tracer(series, policy) if role is not ImageRole.CT else None
    if isinstance(identified, Reason):
        return identified
    stack = stack_series(series)
    if isinstance(stack, Reason):
        return stack
    short = _short_of(series)
    if short and role is not ImageRole.CT and not policy.fewer_slices_than_announced:
        advice = "Send all slices; for cropped images: select.fewer_slices_than_announced: true"
        code, expected = RefusalCode.INCOMPLETE_SERIES, f"{series.expected_instance_count} as announced"
        return series.reason(code, "NumberOfSlices", f"{len(series.instances)} slices", expected, advice)
    return Candidate(series, role, stack.grid, identified)


def _short_of(series: Series) -> str:
    """How many images of those announced are here, in words; empty when all are, or none are announced."""
    expected = series.expected_instance_count
    if expected is None or len(series.instances) >= expected:
        return ""
    return f"{len(series.instances)} of {expected} announced images"


def _pairs(functional: Candidate, cts: Sequence[Candidate], policy: SelectionPolicy) -> list[Pair] | Reason:
    """A functional image with each CT that serves it, best first, or why none does."""
    frame = functional.series.frame_of_reference_uid
    blind = not frame and policy.pair_without_frame_of_reference
    same_frame = [ct for ct in cts if blind or (frame and ct.series.frame_of_reference_uid == frame)]
    if not same_frame:
        found = (
            "nothing in the functional image" if not frame else f"{len(cts)} CT series, all with another UID"
        )
        expected = "one Frame of Reference UID for both"
        code = RefusalCode.CT_OTHER_FRAME_OF_REFERENCE
        return functional.series.reason(code, "FrameOfReferenceUID", found, expected)
    pairs = [Pair(functional, ct, coverage(functional.grid, ct.grid)) for ct in same_frame]
    least = (policy.minimum_ct_coverage, policy.minimum_field_overlap)
    covering = [pair for pair in pairs if pair.cover.axial >= least[0] and pair.cover.in_plane >= least[1]]
    if covering:
        return ranked(covering, ct_rules(policy), lambda pair: pair.ct.uid)
    return _not_covered(functional, pairs, policy)


def _not_covered(functional: Candidate, pairs: Sequence[Pair], policy: SelectionPolicy) -> Reason:
    """That no CT covers enough; of several parts, what each covers and all together."""
    best = max(pairs, key=lambda pair: (pair.cover.axial, pair.cover.in_plane)).cover
    found = f"at best {best.axial:.0%} of the slices, {best.in_plane:.0%} of the smaller field of view"
    advice = "Send the CT of the whole functional image"
    together = coverage_together(functional.grid, [pair.ct.grid for pair in pairs])
    if together > best.axial:
        shares = " and ".join(f"{pair.cover.axial:.0%}" for pair in pairs if pair.cover.axial > 0.0)
        found = f"{len(pairs)} CT series that cover {shares} of the slices, together {together:.0%}; {found}"
        advice = "Have the CT sent as one series, joined on the scanner or workstation"
    expected = f"{policy.minimum_ct_coverage:.0%} and {policy.minimum_field_overlap:.0%}"
    code = RefusalCode.CT_DOES_NOT_COVER
    return functional.series.reason(code, "ImagePositionPatient", found, expected, advice)


def _naming_cts_elsewhere(reason: Reason, series: Series, study: Study) -> Reason:
    """The reason why there is no CT, with those of the same space that came in other studies."""
    frame = series.frame_of_reference_uid
    named = [words for other_frame, words in study.cts_elsewhere if other_frame == frame]
    if not named:
        return reason
    found = f"{reason.found}; in the same frame of reference lies {' and '.join(named)}"
    advice = "Have that CT and the functional image sent under one Study Instance UID"
    return replace(reason, found=found, advice=advice)


def _regions(
    candidates: Sequence[Candidate], pairs: Mapping[str, Sequence[Pair]], policy: SelectionPolicy
) -> list[list[Pair]]:
    """The pairs of each region and session, best first; regions by time."""
    sessions: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for item in candidates:
        if item.uid in pairs:
            sessions[item.role, item.series.frame_of_reference_uid].append(item)
    regions: list[list[Candidate]] = []
    for session in sessions.values():
        own: list[list[Candidate]] = []
        for item in ranked(session, functional_rules(policy), lambda item: item.uid):
            alike = (region for region in own if axial_overlap(item.grid, region[0].grid) > SAME_REGION)
            region = next(alike, None)
            if region is None:
                own.append([item])
            else:
                region.append(item)
        regions += own
    regions.sort(key=lambda region: (str(region[0].series.when), region[0].uid))
    return [[pair for item in region for pair in pairs[item.uid]] for region in regions]


def _reasons_of_others(region: Sequence[Pair], policy: SelectionPolicy) -> dict[str, Reason]:
    """What each functional image and CT of a region is that another one goes before."""
    first = region[0]
    reasons: dict[str, Reason] = {}
    for pair in region:
        item, best = pair.functional, first.functional
        if item is not best:
            words = functional_in_words(item, best)
            by = decided_by(best, item, functional_rules(policy))
            reasons.setdefault(item.uid, _goes_after(item, best, words, by))
        elif pair is not first:
            by = decided_by(first, pair, ct_rules(policy))
            reasons.setdefault(pair.ct.uid, _goes_after(pair.ct, first.ct, ct_in_words(pair, first), by))
    return reasons


def _goes_after(item: Candidate, first: Candidate, words: str, by: str) -> Reason:
    expected = f"series {first.uid}: {by or BY_UID}"
    return item.series.reason(RefusalCode.BETTER_SERIES_CHOSEN, "", words, expected)


def _unused(item: Candidate, chosen: Sequence[Pair]) -> Reason:
    """Why a usable CT serves nothing."""
    frame = item.series.frame_of_reference_uid
    rivals = [pair for pair in chosen if pair.ct.series.frame_of_reference_uid == frame]
    if rivals:
        first = rivals[0]
        pair = Pair(first.functional, item, coverage(first.functional.grid, item.grid))
        return _goes_after(item, first.ct, ct_in_words(pair, first), "covers enough of the functional image")
    if chosen:
        code = RefusalCode.CT_OTHER_FRAME_OF_REFERENCE
        found, expected = "another UID than any functional image taken", "the functional image's"
        return item.series.reason(code, "FrameOfReferenceUID", found, expected)
    found, expected = "a CT without a usable functional image", "a PET or SPECT that it belongs to"
    return item.series.reason(RefusalCode.NO_FUNCTIONAL_SERIES, "", found, expected)


def _selection(study: Study, region: Sequence[Pair], policy: SelectionPolicy) -> Selection:
    """The first pair, with the others as its alternatives."""
    first, *others = (_with_decisions(study, region[place:], policy) for place in range(len(region)))
    return replace(first, alternatives=tuple(others))


def _rivals(region: Sequence[Pair], policy: SelectionPolicy) -> Iterator[Decision]:
    """What else there was, for the report: every other functional image, and CTs that no rule decides on."""
    for reason in _reasons_of_others(region, policy).values():
        is_open = reason.expected.endswith(BY_UID)
        is_ct = reason.series_instance_uid in {pair.ct.uid for pair in region}
        if is_open or not is_ct:
            uid = reason.series_instance_uid
            text = f"series {uid} is not taken, {reason.found}; taken is {reason.expected}"
            yield Decision.warning("select", text) if is_open else Decision("select", text)


def _with_decisions(study: Study, region: Sequence[Pair], policy: SelectionPolicy) -> Selection:
    """The first of these pairs, and what a report must say of it."""
    pair = region[0]
    functional, identified = pair.functional, pair.functional.identified
    if identified is None:  # every functional candidate was identified in _judge
        raise RuntimeError("a functional series was paired before its tracer was identified")
    kind = StudyKind.PET_CT if functional.role is ImageRole.PET else StudyKind.SPECT_CT
    both, derived = (("functional image", functional.series), ("CT", pair.ct.series)), "is of type DERIVED"
    doubts = [f"the {word} {derived}; no original one serves" for word, series in both if is_derived(series)]
    doubts += [f"the {word} has {_short_of(series)}" for word, series in both if _short_of(series)]
    if pair.ct.series.is_lossy:
        doubts.append("the CT was compressed with loss")
    if functional.series.sop_class_uid == NM_IMAGE and not functional.series.corrected_image:
        doubts.append("CorrectedImage is absent; attenuation correction is not stated")
    if not functional.series.frame_of_reference_uid:
        doubts.append("no FrameOfReferenceUID; the CT was taken by coverage, by the site's rule")
    if pair.cover.axial < 1.0:
        doubts.append(f"the CT covers {pair.cover.axial:.0%} of the functional slices")
    warnings = (Decision.warning("select", text) for text in doubts)
    aside = (
        Decision("select", f"set aside from the series of the {word}: {images}")
        for word, series in both
        for images in series.set_aside
    )
    decisions = (*identified.decisions, *warnings, *aside, *_rivals(region, policy))
    return Selection(study, kind, functional.series, pair.ct.series, identified.tracer, decisions)


def _verdicts(
    study: Study, roles: Mapping[str, ImageRole], reasons: Mapping[str, Reason]
) -> tuple[SeriesVerdict, ...]:
    def verdict(series: Series) -> SeriesVerdict:
        uid = series.series_instance_uid
        reason = None if uid in roles else reasons[uid]
        return SeriesVerdict(uid, series.modality, series.description, str(roles.get(uid, "")), reason)

    return tuple(map(verdict, sorted(study.series, key=lambda series: series.series_instance_uid)))
