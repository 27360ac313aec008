"""Whether slices lie in the order that their numbers tell, and whether numbers are missing at an end.

Positions alone place a slice (:mod:`app.domain.stack.geometry`). Numbers contradict positions in two ways: a
vendor numbers as he likes (backwards, interleaved, by bed), or positions were mixed up. The image tells
which: in its right order each slice is like the next. Positions are refused only where the order of the
numbers makes the slices more like their neighbours than the order of the positions does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.slice_consistency import stride_to, unlikeness
from app.domain.volume import FloatArray

CLEARLY_BETTER = 0.91
"""Share. With two slices swapped the numbers' order has 0.08 to 0.89 of the unlikeness of the positions'
order; a numbering that is merely another order has 0.93 and more (docs/reference/quantities.md)."""

FEW = 0.1
"""Share of slices out of an otherwise strict order: more is no numbering by place."""

SMALLEST_SLICE_VOXELS = 1000
"""Smaller slices are too few voxels to tell an order by."""

CHANCE = 5.0
"""Standard deviations below 1 that are no chance. In slices of noise alone the share of k pairs of n voxels
has one of 1 / √(k n); up to 3,000 voxels it takes more than :data:`CLEARLY_BETTER` to tell."""

THINNED_VOXELS = 16384
"""Of a slice, for comparing it with others."""

MOST_MISSING = 1.0
"""Slices that Instance Numbers leave out, over those that came: more is a numbering of another kind."""

Numbering = Sequence[float | None]
"""One number a slice, in the order of positions along the normal; ``None`` where absent."""


def check_order(
    values: NDArray[np.floating[Any]], numberings: Mapping[str, Numbering], lowest: float = 0.0
) -> tuple[Decision, ...] | Reason:
    """Nothing, a warning, or why positions can't be right.

    ``values`` are ``(z, y, x)`` in the order of positions, ``lowest`` is that of air.
    """
    stride = stride_to(THINNED_VOXELS, values)
    values = values[:, ::stride, ::stride]
    doubts = []
    for keyword, numbers in numberings.items():
        displaced = out_of_order(numbers)
        if not displaced.size:
            continue
        slices = len(numbers)
        found = f"slices {_listed(displaced)} of {slices} (along the normal) not where {keyword} has them"
        better, limit = _share_of_unlikeness(values - lowest, np.array(numbers, dtype=np.float64))
        if better <= limit:
            found = f"{found}, and in that order neighbours are more alike ({better:.2f} of the difference)"
            expected = "positions in the order of the image's content"
            advice = "Send the series again from the scanner: positions of slices were mixed up"
            code, attribute = RefusalCode.GEOMETRY_INCONSISTENT, "ImagePositionPatient"
            return Reason(code, attribute, found, expected, advice)
        if displaced.size <= max(2.0, FEW * slices):
            text = f"{found}; the image's content does not say that positions are wrong, they are used"
            doubts.append(Decision.warning("load", text))
    return tuple(doubts)


def out_of_order(numbers: Numbering) -> NDArray[np.int64]:
    """Slices whose rank by number is not that by position, in the better of both directions.

    Nothing where a number is absent or doubled: that is no numbering of places.
    """
    if any(number is None for number in numbers) or len(set(numbers)) < len(numbers):
        return np.array([], dtype=np.int64)
    ranks = np.argsort(np.argsort(np.array(numbers, dtype=np.float64)))
    forwards = np.arange(len(ranks))
    either = [np.flatnonzero(ranks != forwards), np.flatnonzero(ranks != forwards[::-1])]
    return min(either, key=len)


def by_bed(times: Numbering) -> Numbering:
    """A numbering that exchanges two slices which each have the time of the other's bed position.

    Slices of a bed position share their times: of two swapped slices each stands alone among the other's.
    """
    known = list(times)
    if None in known:
        return ()
    alone = [k for k in range(1, len(known) - 1) if known[k - 1] == known[k + 1] != known[k]]
    if len(alone) != 2:
        return ()
    one, two = alone
    if known[one] != known[two - 1] or known[two] != known[one - 1]:
        return ()
    order: list[float | None] = [float(k) for k in range(len(known))]
    order[one], order[two] = order[two], order[one]
    return order


def check_completeness(numbers: Numbering, is_announced: bool) -> tuple[Decision, ...]:
    """The warning where no Number of Slices (0054,0081) is announced; ``numbers`` are Instance Numbers."""
    if is_announced:
        return ()
    text = "NumberOfSlices is absent, or images don't agree on it: slices missing at an end can't be noticed"
    known = [number for number in numbers if number is not None]
    if len(known) == len(numbers) == len(set(known)):
        text = f"{text}; InstanceNumber {_numbers_in_words(known)}"
    return (Decision.warning("load", text),)


def _numbers_in_words(numbers: Sequence[float]) -> str:
    """What numbers that are all there, and all different, say of slices that are not."""
    slices, lowest, highest = len(numbers), min(numbers), max(numbers)
    before, absent = round(lowest) - 1, round(highest - lowest) + 1 - slices
    if max(before, absent) > MOST_MISSING * slices:
        return f"goes from {lowest:g} to {highest:g} with {slices} slices, which counts nothing"
    if before > 0:
        return f"begins at {lowest:g}, as if {before} were missing at one end"
    if absent > 0:
        return f"goes to {highest:g} with {slices} slices, as if {absent} were missing"
    return f"begins at {lowest:g}, so only slices after {highest:g} could be missing"


def _share_of_unlikeness(values: NDArray[np.floating[Any]], numbers: FloatArray) -> tuple[float, float]:
    """Unlikeness of neighbours in the order of ``numbers`` over that in the order of positions; its limit.

    Only pairs that are neighbours in one of both orders are compared, so that a few displaced slices count.
    """
    voxels = values[0].size
    if voxels < SMALLEST_SLICE_VOXELS:
        return math.inf, CLEARLY_BETTER
    thin = [plane.astype(np.float64).ravel() for plane in values]
    by_position = {frozenset(pair) for pair in pairwise(range(len(thin)))}
    by_number = {frozenset(pair) for pair in pairwise(int(z) for z in np.argsort(numbers))}
    pairs = by_number - by_position
    in_number, in_position = (
        sum(unlikeness(*(thin[z] for z in sorted(pair))) for pair in each)
        for each in (pairs, by_position - by_number)
    )
    limit = min(CLEARLY_BETTER, 1.0 - CHANCE / math.sqrt(voxels * len(pairs)))
    return (in_number / in_position if in_position > 0.0 else math.inf), limit


def _listed(slices: NDArray[np.int64]) -> str:
    shown = ", ".join(str(int(z) + 1) for z in slices[:6])
    return shown if len(slices) <= 6 else f"{shown} and {len(slices) - 6} more"
