"""A pair of series ready to be loaded, the verdict on every series, and why a study gives no pair.

Functional images may be parts of one examination: bed positions as series of their own, in one space. Those
that can't be joined (:mod:`app.imaging.joined_parts`) have a report each. So each says which part it is,
where the others lie, and what they share: a lesion there stands in both reports, and none has the total.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode, Rejection
from app.domain.selection.screening import CT_IMAGE, NM_IMAGE, PET_IMAGE
from app.domain.selection.tracers import Tracer
from app.domain.study import Series, Study, StudyKind
from app.domain.volume import FloatArray, Grid

FUNCTIONAL_CLASSES = (PET_IMAGE, NM_IMAGE)

IN_ANY_STUDY = (RefusalCode.NOT_PRIMARY, RefusalCode.NOT_RECONSTRUCTED)
"""Reasons of series that every study has (MIPs, scouts, projections): they stand in the verdicts, and in a
rejection only when there is no other."""

EDGE_TOLERANCE_MM = 1.0
"""Image borders of two machines agree to within table positioning; a millimetre is not missing anatomy."""


@dataclass(frozen=True)
class Coverage:
    """Two fractions, 0 to 1.

    Attributes:
        axial: share of the functional slices that lie within the CT's extent along their normal.
        in_plane: overlap of the two fields of view, as a share of the smaller one. A PET's is often wider
            (700 mm) than its CT's (500 mm): that is not a lack.
    """

    axial: float
    in_plane: float


def coverage(functional: Grid, ct: Grid) -> Coverage:
    """Compare extents along the functional image's own axes, voxel edges included."""
    low, high = _extent_mm(functional, functional)
    ct_low, ct_high = _extent_mm(ct, functional)
    overlap = np.clip(np.minimum(high, ct_high) - np.maximum(low, ct_low), 0.0, None)
    smaller = np.minimum(high - low, ct_high - ct_low)
    in_plane = float(np.prod(overlap[:2] / smaller[:2]))
    return Coverage(float(_slices_within(functional, ct).mean()), min(in_plane, 1.0))


def coverage_together(functional: Grid, cts: Iterable[Grid]) -> float:
    """Share of the functional slices that lie within the extent of any of several CTs."""
    return float(np.any([_slices_within(functional, ct) for ct in cts], axis=0).mean())


def _slices_within(functional: Grid, ct: Grid) -> NDArray[np.bool_]:
    """For each functional slice whether it lies within the CT's extent along their normal."""
    (*_, low), (*_, high) = _extent_mm(functional, functional)
    (*_, ct_low), (*_, ct_high) = _extent_mm(ct, functional)
    depth, half_step = functional.shape[0], functional.spacing_mm[2] / 2.0
    centres = low + (np.arange(depth) + 0.5) * (high - low) / depth
    edge_mm = EDGE_TOLERANCE_MM + half_step
    within: NDArray[np.bool_] = (centres >= ct_low - edge_mm) & (centres <= ct_high + edge_mm)
    return within


def axial_overlap(first: Grid, second: Grid) -> float:
    """Overlap along the first grid's slice normal, as a share of the shorter extent."""
    low, high = _extent_mm(first, first)
    other_low, other_high = _extent_mm(second, first)
    overlap = max(0.0, min(high[2], other_high[2]) - max(low[2], other_low[2]))
    return float(overlap / min(high[2] - low[2], other_high[2] - other_low[2]))


def _extent_mm(grid: Grid, frame: Grid) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest coordinate of ``grid``'s outer voxel edges along ``frame``'s axes (x, y, z), mm."""
    z, y, x = grid.shape
    edges = [[i, j, k] for k in (-0.5, z - 0.5) for j in (-0.5, y - 0.5) for i in (-0.5, x - 0.5)]
    directions = frame.affine[:3, :3] / np.array(frame.spacing_mm)
    along = grid.to_lps(np.array(edges)) @ directions
    return along.min(axis=0), along.max(axis=0)


@dataclass(frozen=True)
class SeriesVerdict:
    """What became of one series: a role, or the reason it has none."""

    series_instance_uid: str
    modality: str
    description: str
    role: str
    """``PET``, ``SPECT``, ``CT``, or empty."""
    reason: Reason | None = None


@dataclass(frozen=True)
class Selection:
    """A functional series with its CT, ready to be loaded.

    Attributes:
        part: where it is one of several parts of an examination, what a report on it alone must say.
        alternatives: other pairs of the same region and session, best first, should this one not load.
        failed: why pairs that went before this one could not be loaded; each names its series.
    """

    study: Study
    kind: StudyKind
    functional: Series
    ct: Series
    tracer: Tracer
    decisions: tuple[Decision, ...] = ()
    part: Decision | None = None
    alternatives: tuple[Selection, ...] = ()
    failed: tuple[Reason, ...] = ()

    @property
    def told(self) -> tuple[Decision, ...]:
        """Its decisions, with the one on parts."""
        return self.decisions if self.part is None else (*self.decisions, self.part)

    @property
    def roles(self) -> dict[str, str]:
        """What each of its series is used as, by Series Instance UID."""
        functional = "PET" if self.kind is StudyKind.PET_CT else "SPECT"
        return {self.functional.series_instance_uid: functional, self.ct.series_instance_uid: "CT"}


def verdicts_after_loading(
    verdicts: Iterable[SeriesVerdict], used: Sequence[Selection], refused: Iterable[Reason]
) -> tuple[SeriesVerdict, ...]:
    """What became of each series once pairs were loaded: a chosen one may have failed, another served.

    ``refused`` are the reasons of pairs of which no alternative could be loaded either.
    """
    roles = {uid: role for selection in used for uid, role in selection.roles.items()}
    reasons = [*refused, *(reason for selection in used for reason in selection.failed)]
    failed = {reason.series_instance_uid: reason for reason in reversed(reasons)}

    def settled(verdict: SeriesVerdict) -> SeriesVerdict:
        uid = verdict.series_instance_uid
        if uid in roles:
            return replace(verdict, role=roles[uid], reason=None)
        return replace(verdict, role="", reason=failed[uid]) if uid in failed else verdict

    return tuple(map(settled, verdicts))


def rejection_of(study: Study, reasons: Mapping[str, Reason], any_ct: bool) -> Rejection:
    """Every reason that a person must clear before this study can be analysed; the same sentence once.

    ``reasons`` has one for every series, by Series Instance UID; ``any_ct`` is whether there is a usable CT.
    """
    functional = _reasons_of(study, reasons, FUNCTIONAL_CLASSES)
    weighty = [reason for reason in functional if reason.code not in IN_ANY_STUDY]
    found = [reason for reason in weighty or functional if reason.code is not RefusalCode.NO_CT]
    if not functional:
        expected = "an attenuation-corrected PET, or a RECON TOMO SPECT"
        code = RefusalCode.NO_FUNCTIONAL_SERIES
        found.append(Reason(code, "SOPClassUID", "no PET or NM image", expected))
    if not any_ct:
        refused = refused_cts(study, reasons)
        missing = [reason for reason in functional if reason.code is RefusalCode.NO_CT] or [no_ct(refused)]
        found += [*refused, *(replace(reason, series_instance_uid="") for reason in missing)]
    return Rejection(tuple(_once(study, found)))


def refused_cts(study: Study, reasons: Mapping[str, Reason]) -> list[Reason]:
    """Why each CT that isn't a mere scout or projection can't be used."""
    return [item for item in _reasons_of(study, reasons, (CT_IMAGE,)) if item.code not in IN_ANY_STUDY]


def no_ct(refused: Sequence[Reason], series_instance_uid: str = "") -> Reason:
    """That a CT is missing, or that those sent are refused: a person does something else about each."""
    found, advice = "no usable CT series", "Send the CT"
    if refused:
        what = "the CT series was refused" if len(refused) == 1 else f"{len(refused)} CT series were refused"
        found = f"{what}: {'; '.join(dict.fromkeys(reason.in_brief for reason in refused))}"
        advice = "Clear the CT's own reason, or send another CT"
    expected = "a CT Image series of the same frame of reference that covers the functional image"
    return Reason(RefusalCode.NO_CT, "SOPClassUID", found, expected, advice, series_instance_uid)


def rejection_lines(reasons: Iterable[Reason], verdicts: Sequence[SeriesVerdict]) -> list[str]:
    """One line a reason, with modality and UID of the series it is about, or how many series share it."""
    return [f"{_subject(reason, verdicts)}{reason}" for reason in reasons]


def _subject(reason: Reason, verdicts: Sequence[SeriesVerdict]) -> str:
    uid = reason.series_instance_uid
    about = next((verdict for verdict in verdicts if verdict.series_instance_uid == uid), None)
    if about is None:
        return ""
    alike = [item for item in verdicts if item.modality == about.modality and str(item.reason) == str(reason)]
    if len(alike) > 1:
        return f"{len(alike)} {about.modality} series: "
    return f"{about.modality} series {uid}: "


def _reasons_of(study: Study, reasons: Mapping[str, Reason], classes: Sequence[str]) -> list[Reason]:
    of_class = (item.series_instance_uid for item in study.series if item.sop_class_uid in classes)
    return [reasons[uid] for uid in of_class if uid in reasons]


def _once(study: Study, reasons: Iterable[Reason]) -> Iterable[Reason]:
    """The first of those that say the same about series of one modality, in order."""
    modality = {series.series_instance_uid: series.modality for series in study.series}
    kept: dict[tuple[str, str], Reason] = {}
    for reason in reasons:
        kept.setdefault((modality.get(reason.series_instance_uid, ""), str(reason)), reason)
    return kept.values()


ABUT_MM = 10.0
"""Parts no farther apart than this meet: a lesion at the seam may be cut in two. Two slices of a SPECT."""


@dataclass(frozen=True, eq=False)
class Part:
    """A selection with the heights that its functional image shows, LPS mm, voxel edges included."""

    selection: Selection
    low_mm: float
    high_mm: float

    @classmethod
    def of(cls, selection: Selection, grid: Grid) -> Part:
        """From the functional image's grid."""
        z_mm, half_mm = grid.corners_mm()[:, 2], abs(float(grid.affine[2, 2])) / 2.0
        return cls(selection, float(z_mm.min()) - half_mm, float(z_mm.max()) + half_mm)

    @property
    def series_instance_uid(self) -> str:
        """Of the functional image."""
        return self.selection.functional.series_instance_uid

    def where(self) -> str:
        """Its heights in words."""
        return f"z {self.low_mm:.0f} to {self.high_mm:.0f} mm"


def told_of_parts(parts: Iterable[Part]) -> tuple[Selection, ...]:
    """The selections in their order; where several are parts of one examination, each warns of the others.

    Parts have one kind of study and one frame of reference.
    """
    parts = tuple(parts)
    examinations: dict[tuple[StudyKind, str], list[Part]] = defaultdict(list)
    for part in parts:
        frame = part.selection.functional.frame_of_reference_uid
        examinations[part.selection.kind, frame or part.series_instance_uid].append(part)
    told = {}
    for examination in examinations.values():
        downwards = sorted(examination, key=lambda part: (-part.high_mm, part.series_instance_uid))
        for part in downwards:
            told[part.series_instance_uid] = _told(part, downwards)
    return tuple(told[part.series_instance_uid] for part in parts)


def _told(part: Part, parts: Sequence[Part]) -> Selection:
    if len(parts) == 1:
        return part.selection
    others = "; ".join(_other(one, part) for one in parts if one is not part)
    text = (
        f"part {parts.index(part) + 1} of {len(parts)} of one examination (1 is the head), {part.where()}; "
        f"every total is of this part alone, without: {others}"
    )
    warning, selection = Decision.warning("select", text), part.selection
    alternatives = tuple(replace(pair, part=warning) for pair in selection.alternatives)
    return replace(selection, part=warning, alternatives=alternatives)


def _other(other: Part, part: Part) -> str:
    shared_mm = min(other.high_mm, part.high_mm) - max(other.low_mm, part.low_mm)
    words = f"series {other.series_instance_uid}, {other.where()}"
    if shared_mm > 0.0:
        return f"{words}, {shared_mm:.0f} mm of it in both: a lesion there may be reported twice"
    if shared_mm >= -ABUT_MM:
        return f"{words}, next to this one: a lesion at the seam may be in both"
    return words
