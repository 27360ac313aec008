"""Which series of a study are the functional image and its CT, by codes and geometry; why the rest is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode, Rejection
from app.domain.selection.identification import Identified, identify_tracer
from app.domain.selection.pair import (
    Coverage,
    Selection,
    SeriesVerdict,
    axial_overlap,
    coverage,
    no_ct,
    refused_cts,
    rejection_of,
)
from app.domain.selection.parts import Part, told_of_parts
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.screening import NM_IMAGE, ImageRole, is_derived, screen
from app.domain.stack.geometry import stack_series
from app.domain.study import Series, Study, StudyKind
from app.domain.volume import Grid

SAME_REGION = 0.5
"""Two functional images of one frame of reference that share more than this of their length show the same
region: one of them is taken. Images of other regions, or of another session, are analysed on their own."""


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


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A series that could play a role, with its place in space."""

    series: Series
    role: ImageRole
    grid: Grid
    identified: Identified | None = None


@dataclass(frozen=True, eq=False)
class _Pair:
    functional: _Candidate
    ct: _Candidate
    cover: Coverage

    @property
    def uid(self) -> str:
        return self.functional.series.series_instance_uid


def select(study: Study, policy: SelectionPolicy) -> SelectionResult:
    """Pair every usable functional image with its CT."""
    judged = {series.series_instance_uid: _judge(series, policy) for series in study.series}
    candidates = [item for item in judged.values() if isinstance(item, _Candidate)]
    reasons = {
        uid: replace(item, series_instance_uid=uid)
        for uid, item in judged.items()
        if isinstance(item, Reason)
    }
    refused = refused_cts(study, reasons)
    cts = [item for item in candidates if item.role is ImageRole.CT]
    pairs = []
    for functional in (item for item in candidates if item.role is not ImageRole.CT):
        uid = functional.series.series_instance_uid
        pair = _pair(functional, cts, policy) if cts else no_ct(refused, uid)
        if isinstance(pair, Reason):
            reasons[uid] = pair
        else:
            pairs.append(pair)
    chosen = _best(pairs, reasons)
    members = [member for pair in chosen for member in (pair.functional, pair.ct)]
    roles = {member.series.series_instance_uid: member.role for member in members}
    for item in candidates:
        if item.series.series_instance_uid not in roles:
            reasons.setdefault(item.series.series_instance_uid, _unused(item, chosen, bool(pairs)))
    rejection = None if chosen else rejection_of(study, reasons, any_ct=bool(cts))
    parts = (Part.of(_selection(study, pair, policy), pair.functional.grid) for pair in chosen)
    return SelectionResult(told_of_parts(parts), _verdicts(study, roles, reasons), rejection)


def _judge(series: Series, policy: SelectionPolicy) -> _Candidate | Reason:
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
    return _Candidate(series, role, stack.grid, identified)


def _short_of(series: Series) -> str:
    """How many images of those announced are here, in words; empty when all are, or none are announced."""
    expected = series.expected_instance_count
    if expected is None or len(series.instances) >= expected:
        return ""
    return f"{len(series.instances)} of {expected} announced images"


def _pair(functional: _Candidate, cts: Sequence[_Candidate], policy: SelectionPolicy) -> _Pair | Reason:
    """The CT for a functional image, or why it has none."""
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
    pairs = [_Pair(functional, ct, coverage(functional.grid, ct.grid)) for ct in same_frame]
    least = (policy.minimum_ct_coverage, policy.minimum_field_overlap)
    covering = [pair for pair in pairs if pair.cover.axial >= least[0] and pair.cover.in_plane >= least[1]]
    if covering:
        return min(covering, key=lambda pair: _ct_rank(pair, policy))
    best = max(pairs, key=lambda pair: (pair.cover.axial, pair.cover.in_plane)).cover
    return functional.series.reason(
        RefusalCode.CT_DOES_NOT_COVER,
        "ImagePositionPatient",
        f"at best {best.axial:.0%} of the slices, {best.in_plane:.0%} of the smaller field of view",
        f"{policy.minimum_ct_coverage:.0%} and {policy.minimum_field_overlap:.0%}",
        "Send the CT of the whole functional image",
    )


def _ct_rank(pair: _Pair, policy: SelectionPolicy) -> tuple[object, ...]:
    """Smallest is best: original, covers most (in whole per cents), thinnest that is not too thin, UID."""
    step_mm = pair.ct.grid.spacing_mm[2]
    too_thin = step_mm < policy.thinnest_ct_mm
    finest_first = -step_mm if too_thin else step_mm
    covered = round(pair.cover.axial, 2) + round(pair.cover.in_plane, 2)
    return is_derived(pair.ct.series), -covered, too_thin, finest_first, pair.ct.series.series_instance_uid


def _best(pairs: Sequence[_Pair], reasons: dict[str, Reason]) -> list[_Pair]:
    """One pair for each region and session; the others get their reason."""
    chosen: list[_Pair] = []
    for pair in sorted(pairs, key=_functional_rank):
        better = next((other for other in chosen if _same_region(pair, other)), None)
        if better is None:
            chosen.append(pair)
        else:
            reasons[pair.uid] = _better_chosen(pair.functional.series, better.functional.series)
    return sorted(chosen, key=lambda pair: (str(pair.functional.series.when), pair.uid))


def _functional_rank(pair: _Pair) -> tuple[object, ...]:
    """Smallest is best: original, correction stated, longest (in cm), finest voxels, UID."""
    series, grid = pair.functional.series, pair.functional.grid
    length_cm = round(grid.shape[0] * grid.spacing_mm[2] / 10.0)
    return (
        is_derived(series),
        "ATTN" not in series.corrected_image,
        -length_cm,
        round(grid.voxel_ml, 5),
        pair.uid,
    )


def _same_region(first: _Pair, second: _Pair) -> bool:
    a, b = first.functional, second.functional
    if a.role is not b.role or a.series.frame_of_reference_uid != b.series.frame_of_reference_uid:
        return False
    return axial_overlap(a.grid, b.grid) > SAME_REGION


def _unused(item: _Candidate, chosen: Sequence[_Pair], any_pair: bool) -> Reason:
    """Why a usable CT serves nothing."""
    frame = item.series.frame_of_reference_uid
    rivals = [pair.ct.series for pair in chosen if pair.ct.series.frame_of_reference_uid == frame]
    if rivals:
        return _better_chosen(item.series, rivals[0])
    if any_pair:
        code = RefusalCode.CT_OTHER_FRAME_OF_REFERENCE
        found, expected = "another UID than any functional image taken", "the functional image's"
        return item.series.reason(code, "FrameOfReferenceUID", found, expected)
    found, expected = "a CT without a usable functional image", "a PET or SPECT that it belongs to"
    return item.series.reason(RefusalCode.NO_FUNCTIONAL_SERIES, "", found, expected)


def _better_chosen(series: Series, better: Series) -> Reason:
    found = f"series {better.series_instance_uid} of the same region"
    expected = "the only or the best one"
    return series.reason(RefusalCode.BETTER_SERIES_CHOSEN, "", found, expected)


def _selection(study: Study, pair: _Pair, policy: SelectionPolicy) -> Selection:
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
    decisions = (*identified.decisions, *(Decision.warning("select", text) for text in doubts))
    return Selection(study, kind, functional.series, pair.ct.series, identified.tracer, decisions)


def _verdicts(
    study: Study, roles: Mapping[str, ImageRole], reasons: Mapping[str, Reason]
) -> tuple[SeriesVerdict, ...]:
    def verdict(series: Series) -> SeriesVerdict:
        uid = series.series_instance_uid
        reason = None if uid in roles else reasons[uid]
        return SeriesVerdict(uid, series.modality, series.description, str(roles.get(uid, "")), reason)

    return tuple(map(verdict, sorted(study.series, key=lambda series: series.series_instance_uid)))
