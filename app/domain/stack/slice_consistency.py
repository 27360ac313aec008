"""Whether slices that lie side by side are on one scale: a wrong Rescale Slope shows as a jump.

Two neighbouring slices of a patient show almost the same tissue a few millimetres on: the median ratio of
their voxels is near 1 wherever the body goes through both. A slope that is wrong for one slice, or for a
block of them, multiplies every voxel at once. Three things tell what anatomy and phantoms do from that: a
shoulder or an end face changes over several slices in one sense (:data:`TREND_WEIGHT`), a lesion or a bladder
is a small part of the body (the median, with capped weights), and an empty slice beside a full one is another
picture, not the same one fainter (:data:`LARGEST_UNLIKENESS`). In a small or a noisy body a jump has to
stand out from what a slice's parts disagree by, and from the stack's other boundaries (:data:`ERRORS`).

Everything is exact under scaling: a slope that is wrong by a factor moves the statistic by just that factor.
The measured margins are in docs/reference/quantities.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode
from app.domain.volume import FloatArray, Volume

NOTABLE_JUMP = 1.15
"""Ratio. Undamaged slices, real and simulated, reach 1.07."""

LARGEST_JUMP = 1.35
"""Ratio. More is refused: it would change SUV by a third, and is far above what bodies and noise do."""

NOTABLE_JUMP_AT_END = 1.35
LARGEST_JUMP_AT_END = 1.6
"""The outermost slice has a neighbour on one side only, and the axial field ends in noise: undamaged ones
reach 1.25."""

TREND_WEIGHT = 2.0
"""How many times a change in the same sense at the next boundary is taken off a step: a jump of scale is at
one boundary alone, the end of a body or of a phantom is spread over several."""

LARGEST_UNLIKENESS = 0.5
"""Share of the activity of two slices that differs once their ratio is taken out. Neighbours in a body reach
0.38; noise next to a body has 0.6 and more."""

MORE_UNLIKE, MORE_UNLIKE_SHARE = 1.5, 0.1
"""Two slices may differ by so many times what the more alike of the next pairs do, and this share more: a
body that begins next to noise differs by more still. Undamaged pairs stay 0.04 below."""

ERRORS, TIMES_USUAL, LARGEST_DOUBT = 4.0, 6.0, 1.5
"""A jump is told if it is so many standard errors of its median, and so many times the median change of the
stack's boundaries; neither asks for more than the last, a ratio. A wrong slope multiplies a whole slice,
an organ's edge parts of it. In whole bodies both are below the limits above."""

TILE_MM = 30.0
"""Voxels nearer than this change together: noise is correlated, and an organ is one thing."""

SMALLEST_BODY_CM2 = 60.0
SMALLEST_BODY_VOXELS = 100
"""What two slices must share to be compared: a neck has 100 cm², a lesion or a sphere of a phantom has 10."""

MOST_VOXELS_A_SLICE = 16384
"""Larger slices are thinned for speed; a median needs no more."""

CAP = 3.0
"""Of a slice's mean: what lies above, a bladder or an injection site, does not rule the comparison."""

SAME_SLOPE = 1e-6
"""Relative. One slope for all is no excuse: it may have been written over slices that had their own."""


@dataclass(frozen=True)
class Jump:
    """Where the scale changes.

    Attributes:
        first, last: slices of another scale than their neighbours, counted from 0 along the slice normal.
        ratio: their values over their neighbours'.
        is_end: the outermost slice, or one beside empty slices, was judged by one neighbour.
    """

    first: int
    last: int
    ratio: float
    is_end: bool

    @property
    def size(self) -> float:
        """1 or more, whichever way the jump goes."""
        return max(self.ratio, 1.0 / self.ratio)

    @property
    def is_too_large(self) -> bool:
        """Beyond what can be put down to the patient."""
        if self.is_end and self.first == self.last and self.ratio < 1.0:
            return False  # the end of a phantom in a partly filled slice looks the same
        return self.size >= (LARGEST_JUMP_AT_END if self.is_end else LARGEST_JUMP)

    @property
    def is_notable(self) -> bool:
        """Worth a sentence in the report."""
        return self.size >= (NOTABLE_JUMP_AT_END if self.is_end else NOTABLE_JUMP)


def check_scales(volume: Volume, slopes: FloatArray) -> tuple[Decision, ...] | Reason:
    """Nothing, a warning, or why the slices can't be on one scale; ``slopes`` are Rescale Slopes ``(z,)``."""
    jumps = [jump for jump in scale_jumps(volume) if jump.is_notable]
    if not jumps:
        return ()
    worst = max(jumps, key=lambda jump: (jump.is_too_large, jump.size))
    found = _in_words(worst, len(jumps), volume.grid.shape[0])
    if is_one_slope(slopes):
        found = f"one slope for all slices, and {found}"
    if worst.is_too_large:
        limit = LARGEST_JUMP_AT_END if worst.is_end else LARGEST_JUMP
        expected = f"neighbouring slices alike within a factor of {limit:g}"
        advice = "Compare RescaleSlope with the scanner's own copy, and send the series again from there"
        return Reason(RefusalCode.VALUES_IMPLAUSIBLE, "RescaleSlope", found, expected, advice)
    return (Decision.warning("load", f"RescaleSlope: {found}; check these slices"),)


def is_one_slope(slopes: FloatArray) -> bool:
    """Whether every slice has the same Rescale Slope."""
    return bool(np.ptp(slopes) <= SAME_SLOPE * float(np.max(slopes)))


def _in_words(jump: Jump, count: int, slices: int) -> str:
    first, last = jump.first + 1, jump.last + 1
    which = f"slice {first}" if first == last else f"slices {first} to {last}"
    more = "" if count == 1 else f", and {count - 1} more such places"
    return f"{which} of {slices} (along the normal) {jump.ratio:.2f} times as high as the tissue beside{more}"


def scale_jumps(volume: Volume) -> tuple[Jump, ...]:
    """Every change of scale of one slice against both neighbours, or of a block at its edges."""
    logs, usable, doubts = _log_ratios(volume)
    stands_out = np.abs(logs) >= doubts
    single = [jump for jump in _peaks(logs, usable) if stands_out[[jump.first - 1, jump.first]].all()]
    alone = {boundary for jump in single if jump.is_notable for boundary in (jump.first - 1, jump.first)}
    steps = [
        step for step in _steps(logs, usable) if step.boundary not in alone and stands_out[step.boundary]
    ]
    return (*single, *_blocks(steps, volume.grid.shape[0]))


def _log_ratios(volume: Volume) -> tuple[FloatArray, NDArray[np.bool_], FloatArray]:
    """Of each slice over the one before: median log ratio, whether comparable, and what a jump exceeds."""
    stride = stride_to(MOST_VOXELS_A_SLICE, volume.array)
    spacing = volume.grid.spacing_mm
    voxel_cm2 = spacing[0] * spacing[1] * stride**2 / 100.0
    tiles = _tiles(volume.array[0, ::stride, ::stride].shape, (spacing[1] * stride, spacing[0] * stride))
    slices = [plane[::stride, ::stride].astype(np.float64).ravel() for plane in volume.array]
    found = np.array([_compared(one, two, voxel_cm2, tiles) for one, two in pairwise(slices)])
    unlike = np.concatenate([[np.inf], found[:, 1], [np.inf]])
    usual = np.minimum(unlike[:-2], unlike[2:])
    limit = np.minimum(LARGEST_UNLIKENESS, MORE_UNLIKE * usual + MORE_UNLIKE_SHARE)
    usable = found[:, 1] <= limit
    return found[:, 0], usable, _doubts(found[:, 0], np.where(usable, found[:, 2], 0.0), usable)


def _doubts(logs: FloatArray, errors: FloatArray, usable: NDArray[np.bool_]) -> FloatArray:
    """Log ratios that chance and anatomy may make: by the errors here and beside, and the stack's changes."""
    beside = np.concatenate([[0.0], errors, [0.0]])
    error = np.maximum(errors, np.maximum(beside[:-2], beside[2:]))
    usual = float(np.median(np.abs(logs[usable]))) if usable.any() else 0.0
    found: FloatArray = np.minimum(np.maximum(ERRORS * error, TIMES_USUAL * usual), math.log(LARGEST_DOUBT))
    return found


def _tiles(shape: tuple[int, ...], spacing_mm: tuple[float, float]) -> NDArray[np.intp]:
    """The number of the square of :data:`TILE_MM` that each pixel of a slice lies in, ``(pixels,)``."""
    rows, columns = (
        (np.arange(size) * step // TILE_MM).astype(np.intp)
        for size, step in zip(shape, spacing_mm, strict=True)
    )
    numbers: NDArray[np.intp] = np.add.outer(rows * (columns[-1] + 1), columns).ravel()
    return numbers


def _compared(
    one: FloatArray, two: FloatArray, voxel_cm2: float, tiles: NDArray[np.intp]
) -> tuple[float, float, float]:
    """Weighted median of log(two / one), unlikeness, the median's error; infinite where they share no body.

    A voxel weighs as its geometric mean, at most the mean of those: air counts little, a bladder not much.
    """
    both = (one > 0.0) & (two > 0.0)
    if np.count_nonzero(both) < SMALLEST_BODY_VOXELS:
        return 0.0, math.inf, math.inf
    means = np.sqrt(one[both] * two[both])
    cap = means.sum() / both.size
    weights = np.minimum(means, cap)
    body_voxels = weights.sum() / cap
    if body_voxels < SMALLEST_BODY_VOXELS or body_voxels * voxel_cm2 < SMALLEST_BODY_CM2:
        return 0.0, math.inf, math.inf
    ratios = np.log(two[both] / one[both])
    order = np.argsort(ratios)
    below = np.cumsum(weights[order])
    low, middle, high = ratios[order][np.searchsorted(below, np.array([0.25, 0.5, 0.75]) * below[-1])]
    pulls = np.bincount(tiles[both], weights * np.sign(ratios - middle))
    error = float((high - low) * np.sqrt((pulls**2).sum()) / below[-1])
    return float(middle), unlikeness(one, two * math.exp(-middle)), error


def stride_to(voxels: int, slices: NDArray[Any]) -> int:
    """The step along rows and columns that leaves about so many voxels of each slice ``(z, y, x)``."""
    return max(1, math.ceil(math.sqrt(slices[0].size / voxels)))


def unlikeness(one: FloatArray, two: FloatArray) -> float:
    """Share of the activity of two slices that is not in the same place, 0 to 1 (Bray and Curtis)."""
    one, two = np.clip(one, 0.0, CAP * max(one.mean(), 0.0)), np.clip(two, 0.0, CAP * max(two.mean(), 0.0))
    whole = float((one + two).sum())
    return float(np.abs(one - two).sum()) / whole if whole > 0.0 else 0.0


@dataclass(frozen=True)
class _Step:
    """The change from slice ``boundary`` to the next: log ratio, and whether it is the outermost one."""

    boundary: int
    log_ratio: float
    is_end: bool = False


def _peaks(logs: FloatArray, usable: NDArray[np.bool_]) -> list[Jump]:
    """Slices that differ from both neighbours in one sense, by the smaller of the two differences.

    A slice that is higher, with emptiness two slices off, is a thin object.
    """
    found = []
    for k in np.flatnonzero(usable[:-1] & usable[1:]) + 1:
        below, above = float(logs[k - 1]), -float(logs[k])
        is_thin = (k >= 2 and not usable[k - 2]) or (k + 1 < len(logs) and not usable[k + 1])
        if below * above <= 0.0 or (below > 0.0 and is_thin):
            continue
        outer = (float(logs[k - 2]) if k >= 2 else 0.0, -float(logs[k + 1]) if k + 1 < len(logs) else 0.0)
        size = min(_beyond_trend(below, outer[:1]), _beyond_trend(above, outer[1:]))
        found.append(Jump(int(k), int(k), math.exp(math.copysign(size, below)), is_end=False))
    return found


def _beyond_trend(log_ratio: float, beside: Sequence[float]) -> float:
    """Size of a change, less what the next boundaries change in the same sense."""
    sense = math.copysign(1.0, log_ratio)
    trend = max([0.0, *(sense * other for other in beside)])
    return max(0.0, abs(log_ratio) - TREND_WEIGHT * trend)


def _steps(logs: FloatArray, usable: NDArray[np.bool_]) -> list[_Step]:
    """Changes at the usable boundaries beyond their trend.

    Where a body or a phantom ends within the image its last slice is partly filled: lower outside is no step.
    """
    last = len(logs) - 1
    found = []
    for k in (int(index) for index in np.flatnonzero(usable)):
        is_open = (k > 0 and not usable[k - 1], k < last and not usable[k + 1])
        if all(is_open) or (is_open[0] and logs[k] > 0.0) or (is_open[1] and logs[k] < 0.0):
            continue
        beside = [float(logs[j]) for j in (k - 1, k + 1) if 0 <= j <= last and usable[j]]
        size = _beyond_trend(float(logs[k]), beside)
        found.append(_Step(k, math.copysign(size, logs[k]), any(is_open) or k in (0, last)))
    return found


def _blocks(steps: Sequence[_Step], slices: int) -> list[Jump]:
    """A step up and the step down after it bound a block; a step alone, the shorter side of the stack."""
    found = []
    edges = [
        step
        for step in steps
        if abs(step.log_ratio) >= math.log(NOTABLE_JUMP_AT_END if step.is_end else NOTABLE_JUMP)
    ]
    while edges:
        step = edges.pop(0)
        ratio, first = math.exp(step.log_ratio), step.boundary + 1
        if edges and edges[0].log_ratio * step.log_ratio < 0.0:
            closing = edges.pop(0)
            if (closing.is_end, -abs(closing.log_ratio)) < (step.is_end, -abs(step.log_ratio)):
                ratio = math.exp(-closing.log_ratio)
            found.append(Jump(first, closing.boundary, ratio, step.is_end and closing.is_end))
        elif slices - first <= first:
            found.append(Jump(first, slices - 1, ratio, step.is_end))
        else:
            found.append(Jump(0, step.boundary, 1.0 / ratio, step.is_end))
    return found
