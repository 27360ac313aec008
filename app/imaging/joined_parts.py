"""Bed positions of a SPECT that came as series of their own, joined to one image where they overlap or abut.

Each part is in SUVbw by its own times before they meet, and activities are brought to one instant. No value
is interpolated or averaged: every slice is one part's, so that results refer to the image it came from. A
slice that two parts show is taken from the one in which it lies farther from an edge, because the outermost
slices of a SPECT have fewer counts and lack their neighbours' spill.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from app.domain.analysis import Loaded
from app.domain.decision import Decision
from app.domain.quantities.decay import decay_factor, seconds_between
from app.domain.quantities.suv_scale import Quantification
from app.domain.refusal import Rejection
from app.domain.stack.geometry import LARGEST_MISPLACEMENT, LARGEST_SIDEWAYS_SHIFT_MM
from app.domain.study import Series, StudyKind
from app.domain.volume import Grid, Unit, Volume

LONGEST_APART_S = 2 * 3600.0
"""From the first part's start to the last one's: 177Lu-PSMA leaves the body by half in two days, so 3 %."""

SAME_VOXELS = 1e-3
"""Of the lattices' steps, mm."""

SAME_SCALE = 1e-3
"""Relative: dose, weight and times as headers write them."""

SAME_UPTAKE = 1.25
"""The parts' ratio in slices that both show; beyond, a warning: edges and noise alone make a few per cent."""


@dataclass(frozen=True, eq=False)
class Part:
    """A loaded part; slice ``start`` of the joined image is its first.

    Attributes:
        factor: brings its activity to the instant of the first part's.
    """

    loaded: Loaded
    start: int
    factor: float = 1.0

    @property
    def series(self) -> Series:
        """The functional one."""
        return self.loaded.selection.functional

    @property
    def stop(self) -> int:
        """Behind its last slice."""
        return self.start + self.loaded.uptake.grid.shape[0]

    def depth(self, z: int) -> int:
        """Slices between slice ``z`` and the nearest edge of the part; negative outside."""
        return min(z - self.start, self.stop - 1 - z)


def joined_parts(items: Iterable[Loaded | Rejection]) -> tuple[Loaded | Rejection, ...]:
    """A study's items, the parts of each SPECT joined; parts that can't be joined say why, and stay."""
    items = tuple(items)
    examinations: dict[str, list[Loaded]] = defaultdict(list)
    for item in items:
        if isinstance(item, Loaded) and item.selection.part and item.selection.kind is StudyKind.SPECT_CT:
            examinations[item.selection.functional.frame_of_reference_uid].append(item)
    instead: dict[int, Loaded | None] = {}
    for loaded in (group for group in examinations.values() if len(group) > 1):
        found = _joined(loaded)
        if isinstance(found, str):
            told = Decision("load", f"the parts are not joined: {found}")
            instead |= {id(one): replace(one, decisions=(*one.decisions, told)) for one in loaded}
        else:
            instead |= {id(one): None for one in loaded} | {id(loaded[0]): found}
    settled = (instead.get(id(item), item) for item in items)
    return tuple(item for item in settled if item is not None)


def _joined(loaded: Sequence[Loaded]) -> Loaded | str:
    """One image of the parts, or why not; the first acquired gives dates, CT and tracer."""
    first = min(loaded, key=_by_time)
    placed = _differences(loaded) or _placed(loaded)
    parts = placed if isinstance(placed, str) else _at_one_instant(placed, first)
    if isinstance(parts, str):
        return parts
    slices = [_deepest(parts, z) for z in range(max(part.stop for part in parts))]
    origins = [(part.loaded, z - part.start) for z, part in enumerate(slices)]
    grid = Grid((len(slices), *parts[0].loaded.uptake.grid.shape[1:]), parts[0].loaded.uptake.grid.affine)
    uptake = np.stack([one.uptake.array[z] for one, z in origins])
    activity = [
        part.loaded.activity.array[z - part.start] * np.float32(part.factor)
        for z, part in enumerate(slices)
        if part.loaded.activity is not None
    ]
    frame = first.uptake.frame_of_reference_uid
    decided = _once(one.selection.decisions for one in loaded)
    return replace(
        first,
        selection=replace(first.selection, part=None, decisions=decided),
        uptake=Volume(uptake, grid, Unit.SUVBW, frame),
        activity=Volume(np.stack(activity), grid, Unit.BQML, frame) if activity else None,
        slice_sop_instance_uids=tuple(one.slice_sop_instance_uids[z] for one, z in origins),
        slice_frame_numbers=tuple(one.slice_frame_numbers[z] for one, z in origins),
        decisions=(*_once(one.decisions for one in loaded), *_told(parts)),
        ct_doubt="; ".join(one.ct_doubt for one in loaded if one.ct_doubt),
        joined=tuple(part.series for part in parts),
    )


def _by_time(loaded: Loaded) -> tuple[str, str]:
    functional = loaded.selection.functional
    return str(functional.when), functional.series_instance_uid


def _deepest(parts: Sequence[Part], z: int) -> Part:
    return max(parts, key=lambda part: part.depth(z))


def _differences(loaded: Sequence[Loaded]) -> str:
    """What parts of one image must have in common and these have not; empty when they have."""
    kinds = {(one.selection.tracer.key, one.selection.functional.sop_class_uid) for one in loaded}
    if len(kinds) > 1:
        return "their tracers or kinds of image differ"
    if len({one.selection.ct.series_instance_uid for one in loaded}) > 1:
        return "each has a CT of its own"
    if any(one.uptake.unit is not Unit.SUVBW for one in loaded):
        return "they are not quantified, so their scales may differ"
    starts = [one.selection.functional.when for one in loaded]
    known = [start for start in starts if start is not None]
    if len(known) < len(starts) or seconds_between(min(known), max(known)) > LONGEST_APART_S:
        return f"they were not acquired within {LONGEST_APART_S / 3600.0:g} hours of each other"
    return ""


def _placed(loaded: Sequence[Loaded]) -> list[Part] | str:
    """The parts in order on the lattice of the one where it begins, or why they are no single stack."""
    normal = loaded[0].uptake.grid.affine[:3, 2]
    ordered = sorted(loaded, key=lambda one: float(one.uptake.grid.origin_mm @ normal))
    base = ordered[0].uptake.grid
    parts: list[Part] = []
    for one in ordered:
        grid = one.uptake.grid
        steps_off = np.abs(grid.affine[:3, :3] - base.affine[:3, :3]).max()
        if steps_off > SAME_VOXELS or grid.shape[1:] != base.shape[1:]:
            return "their voxels, sizes or orientations differ"
        x, y, z = base.to_index(grid.origin_mm)[0]
        aside_mm, off = math.hypot(x * base.spacing_mm[0], y * base.spacing_mm[1]), abs(z - round(z))
        if aside_mm > LARGEST_SIDEWAYS_SHIFT_MM or off > LARGEST_MISPLACEMENT:
            return f"they lie {aside_mm:.1f} mm sideways and {off:.2f} of a slice off one lattice"
        reach = max((part.stop for part in parts), default=0)
        if round(z) > reach:
            return f"{round(z) - reach} slices are missing between them"
        parts.append(Part(one, round(z)))
    return parts


def _at_one_instant(parts: Sequence[Part], first: Loaded) -> list[Part] | str:
    """The parts with the factors of their activities, or why they don't belong to one injection."""
    found = []
    for part in parts:
        factor = _factor(first.quantification, part.loaded.quantification)
        has_activity = part.loaded.activity is not None
        if factor is None or has_activity is not (first.activity is not None):
            return "dose, weight or the times of injection and scan differ, or are unknown in one of them"
        found.append(replace(part, factor=factor))
    return found


def _factor(first: Quantification, other: Quantification) -> float | None:
    """From the other's activity to that at the first's instant; ``None`` where their SUV then differ."""
    factor, instants = 1.0, (first.reference_datetime, other.reference_datetime)
    if instants[0] is not None and instants[1] is not None and first.half_life_s:
        factor = 1.0 / decay_factor(seconds_between(instants[0], instants[1]), first.half_life_s)
    elif instants[0] != instants[1]:
        return None
    scales = (first.suv_per_bqml or 0.0) * factor, other.suv_per_bqml or 0.0
    return factor if math.isclose(*scales, rel_tol=SAME_SCALE) else None


def _told(parts: Sequence[Part]) -> Iterator[Decision]:
    words = "; ".join(
        f"{part.series.series_instance_uid} ({part.series.when}): slices {part.start + 1} to {part.stop}"
        for part in parts
    )
    text = f"joined from {len(parts)} parts: {words}"
    yield Decision("load", f"{text}; of a slice that two show, the one farther from its edge is taken")
    for lower, upper in pairwise(parts):
        in_both = slice(upper.start, lower.stop)
        below, above = (_uptake_of(part, in_both) for part in (lower, upper))
        if min(below, above) > 0.0:
            yield _agreement(above / below, in_both.stop - in_both.start)


def _uptake_of(part: Part, slices: slice) -> float:
    array = part.loaded.uptake.array[slices.start - part.start : slices.stop - part.start]
    return float(array.sum(dtype=np.float64))


def _agreement(ratio: float, count: int) -> Decision:
    text = (
        f"in the {count} slices that two parts show, the upper has {ratio:.2f} times the uptake of the lower"
    )
    if 1.0 / SAME_UPTAKE <= ratio <= SAME_UPTAKE:
        return Decision("load", text)
    return Decision.warning("load", f"{text}: one of their scales is wrong, or the patient moved")


def _once(decisions: Iterable[tuple[Decision, ...]]) -> tuple[Decision, ...]:
    return tuple(dict.fromkeys(one for each in decisions for one in each))
