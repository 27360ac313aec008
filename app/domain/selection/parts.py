"""Functional images that are parts of one examination: bed positions as series of their own, in one space.

Those that can't be joined (:mod:`app.imaging.joined_parts`) have a report each. So each says which part it
is, where the others lie, and what they share: a lesion there stands in both reports, and none has the total.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.domain.decision import Decision
from app.domain.selection.pair import Selection
from app.domain.study import StudyKind
from app.domain.volume import Grid

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
