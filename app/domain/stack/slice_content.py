"""Whether a slice holds what was reconstructed there: not zeros, another slice's copy, or wrecked pixels.

Noise never repeats and activity never stops within a slice of a body. What a computed phantom does (identical
slices, empty ones between spheres, sharp ends) shows in what the rest of the series is like. Measured margins
are in docs/reference/quantities.md.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.slice_consistency import (
    CAP,
    LARGEST_UNLIKENESS,
    SMALLEST_BODY_CM2,
    SMALLEST_BODY_VOXELS,
    is_one_slope,
    stride_to,
    unlikeness,
)
from app.domain.volume import FloatArray, Volume

Stored = NDArray[Any]

THINNED_VOXELS = 4096
"""Of a slice, for comparing it with others."""

LARGEST_LOSS = 0.35
"""Share of two slices' common activity that may lie where all slices between have exactly 0: undamaged
neighbours reach 0.18, of a SPECT with few counts; half a slice that is gone has 0.4 and more."""

LONGEST_RUN = 24
"""Slices between two that are compared: further apart a body is another one."""

LARGEST_EQUAL_SHARE = 0.1
"""Of a body's voxels in one slice that have one value: noise has hardly any, computed objects most."""

NOISY_SHARE = 0.5
"""Of a series' pairs of neighbours: more that are copies make it a resampled or a computed one."""

LEAST_UNLIKENESS = 0.1
SUDDEN = 1.8
TOO_SUDDEN = 2.5
"""A boundary's unlikeness over that of the boundaries next to it (taken as 0.1 at least): a warning, refused.
Undamaged ones within a body reach 1.34."""

STILL_ALIKE = 0.75
"""What lies on both sides of a displaced block is alike to this share of what the block is to them."""

LARGEST_CHANGE = 2.0
"""Factor of the mean activity over a displaced block's edges: where an object begins it is more."""

WRECKED = 0.25
"""Unlikeness of neighbours from which their bytes are looked at."""

SWAPPED_LIKENESS = 0.6
"""A slice whose bytes are swapped back is so much less unlike its neighbour."""

FULL_SCALE = (255, 4095, 16383, 32767, 65535)
"""What a slice is scaled to that is scaled by itself."""

AT_FULL_SCALE, FEW_AT_TOP = 0.9, 8.0
"""Share of slices that reach it, and voxels (median) that do: a plateau or a clipped slice has more."""


@dataclass(frozen=True, eq=False)
class _Slices:
    """Thinned slices, each to a mean of 1 and capped: ``(z, voxels)``.

    Attributes:
        voxel_cm2: area that one voxel stands for.
        means: of the slices before that, in the volume's unit.
        stored: thinned too, as they are in the file.
    """

    planes: FloatArray
    means: FloatArray
    stored: Stored
    voxel_cm2: float


def check_content(volume: Volume, stored: Stored, slopes: FloatArray) -> tuple[Decision, ...] | Reason:
    """Nothing, a warning, or why a slice's pixels can't be what was measured there.

    ``stored`` are the values in the files, of the volume's shape; ``slopes`` are Rescale Slopes ``(z,)``.
    """
    slices = _thinned(volume, stored)
    return (
        _scaled_by_itself(stored, slopes)
        or _copies(stored, slices)
        or _swapped(slices)
        or _zeros(slices)
        or _displaced(slices)
    )


def _thinned(volume: Volume, stored: Stored) -> _Slices:
    stride = stride_to(THINNED_VOXELS, stored)
    part = volume.array[:, ::stride, ::stride].reshape(len(volume.array), -1)
    spacing = volume.grid.spacing_mm
    return _Slices(
        np.stack([_levelled(plane) for plane in part]),
        np.maximum(part, 0.0).mean(axis=1),
        stored[:, ::stride, ::stride].reshape(len(part), -1),
        spacing[0] * spacing[1] * stride**2 / 100.0,
    )


def _scaled_by_itself(stored: Stored, slopes: FloatArray) -> Reason | None:
    """Every slice reaches the top of the range in a voxel or two: each had its own slope."""
    if not is_one_slope(slopes):
        return None
    tops = stored.max(axis=(1, 2))
    filled = tops > stored.min(axis=(1, 2))
    full = next((value for value in FULL_SCALE if np.median(tops) <= value), 0)
    at_top = filled & (tops >= full - 1)
    if np.count_nonzero(filled) < 4 or at_top.sum() < AT_FULL_SCALE * filled.sum():
        return None
    if np.median([np.count_nonzero(plane >= full - 1) for plane in stored[at_top]]) > FEW_AT_TOP:
        return None
    reached = f"{at_top.sum()} of {filled.sum()} reach {full}, each in few voxels"
    found = f"one slope for all slices, of which {reached}"
    expected = "the slope that each slice was scaled with"
    return _reason(RefusalCode.VALUES_IMPLAUSIBLE, found, expected, "RescaleSlope")


def _body(one: FloatArray, other: FloatArray, slices: _Slices) -> NDArray[np.bool_]:
    """Where a body goes through both slices; nowhere if it is none."""
    both = (one > 0.5) & (other > 0.5)
    count = np.count_nonzero(both)
    if count < SMALLEST_BODY_VOXELS or count * slices.voxel_cm2 < SMALLEST_BODY_CM2:
        return np.zeros_like(both)
    return both


def _zeros(slices: _Slices) -> Reason | None:
    """Exact zeros in a slice, or several, where those on both sides have activity."""
    planes = slices.planes
    absent = slices.stored == 0
    lost = [_share(planes[z], absent[z + 1]) > LARGEST_LOSS for z in range(len(planes) - 1)]
    gained = [_share(planes[z + 1], absent[z]) > LARGEST_LOSS for z in range(len(planes) - 1)]
    for before in [z for z, is_lost in enumerate(lost) if is_lost]:
        window = range(before + 1, min(before + 1 + LONGEST_RUN, len(gained)))
        ends = [k for k in window if gained[k]]
        if not ends:
            continue
        first, last = before + 1, ends[0]
        body = _body(planes[before], planes[last + 1], slices)
        empty = body & absent[first : last + 1].all(axis=0)
        shared = np.minimum(planes[before], planes[last + 1])
        is_all = bool(absent[first : last + 1].all())
        is_alike = is_all or unlikeness(planes[before], planes[last + 1]) <= LARGEST_UNLIKENESS
        if body.any() and is_alike and shared[empty].sum() > LARGEST_LOSS * shared[body].sum():
            what = "nothing but zeros" if is_all else "zeros in a part of the body"
            found = f"{what} in {_named(first, last, len(planes))}, between slices that show a body"
            return _reason(RefusalCode.PIXEL_DATA_MISSING, found, "pixels in every slice, whole")
    return None


def _share(plane: FloatArray, absent: NDArray[np.bool_]) -> float:
    """Share of a slice's activity that lies where another has exactly 0."""
    whole = float(plane.sum())
    return float(plane[absent].sum()) / whole if whole > 0.0 else 0.0


def _copies(stored: Stored, slices: _Slices) -> Reason | None:
    """Slices stored bit by bit like another, in a series whose other slices have noise."""
    by_content = defaultdict(list)
    for z, plane in enumerate(stored):
        if _has_noisy_body(slices.planes[z], slices.stored[z], slices):
            by_content[hashlib.sha256(np.ascontiguousarray(plane).tobytes()).digest()].append(z)
    groups = [same for same in by_content.values() if len(same) > 1]
    if not groups or sum(map(len, groups)) > NOISY_SHARE * len(stored):
        return None
    same = ", ".join(str(z + 1) for z in groups[0][:6])
    found = f"slices {same} of {len(stored)} (along the normal) alike bit by bit"
    return _reason(RefusalCode.VALUES_IMPLAUSIBLE, found, "noise of its own in every slice")


def _has_noisy_body(plane: FloatArray, stored: Stored, slices: _Slices) -> bool:
    """No computed object, whose flat parts have one value."""
    body = _body(plane, plane, slices)
    count = np.count_nonzero(body)
    if not count:
        return False
    return bool(np.unique(stored[body], return_counts=True)[1].max() < LARGEST_EQUAL_SHARE * count)


def _swapped(slices: _Slices) -> Reason | None:
    """A slice that is like the next one only after the two bytes of each value have changed places."""
    if slices.stored.dtype.itemsize != 2:
        return None
    planes = slices.planes
    for k, unlike in enumerate(_unlike_next(slices)):
        if unlike < WRECKED:
            continue
        for wrong, right in ((k, k + 1), (k + 1, k)):
            mended = _levelled(slices.stored[wrong].byteswap())
            if unlikeness(mended, planes[right]) > SWAPPED_LIKENESS * unlike:
                continue
            is_body = _body(mended, planes[right], slices).any()
            if is_body and _has_noisy_body(mended, slices.stored[wrong], slices):
                found = f"{_named(wrong, wrong, len(planes))} like the next only with its bytes swapped"
                expected = "pixels in the byte order of the transfer syntax"
                return _reason(RefusalCode.VALUES_IMPLAUSIBLE, found, expected)
    return None


def _displaced(slices: _Slices) -> tuple[Decision, ...] | Reason:
    """A slice or a block unlike both sides, which are like each other: shifted, turned, or foreign."""
    planes, unlike = slices.planes, _unlike_next(slices)
    for below in range(len(unlike)):
        for above in range(below + 1, min(below + 1 + LONGEST_RUN, len(unlike))):
            edges = min(unlike[below], unlike[above])
            beside = [below - 1, above + 1, *((below + 1, above - 1) if above - below > 1 else ())]
            usual = max([LEAST_UNLIKENESS, *(unlike[k] for k in beside if 0 <= k < len(unlike))])
            if edges < SUDDEN * usual or not _is_one_body((below, below + 1, above, above + 1), slices):
                continue
            if unlikeness(planes[below], planes[above + 1]) < STILL_ALIKE * edges:
                which = _named(below + 1, above, len(planes))
                found = f"{which} unlike the slices on both sides, which are alike"
                if edges / usual >= TOO_SUDDEN:
                    expected = "slices of one body, each in its place"
                    return _reason(RefusalCode.GEOMETRY_INCONSISTENT, found, expected)
                text = f"PixelData: {found}; check whether the patient moved there"
                return (Decision.warning("load", text),)
    return ()


def _is_one_body(indices: tuple[int, ...], slices: _Slices) -> bool:
    """Slices that each show a body, of about the same activity."""
    means = slices.means[list(indices)]
    if means.min() * LARGEST_CHANGE < means.max():
        return False
    return all(_body(slices.planes[z], slices.planes[z], slices).any() for z in indices)


def _unlike_next(slices: _Slices) -> list[float]:
    return [unlikeness(one, other) for one, other in pairwise(slices.planes)]


def _levelled(plane: Stored) -> FloatArray:
    """To a mean of 1, without what is below 0, capped."""
    values: FloatArray = np.maximum(plane.astype(np.float64), 0.0)
    mean = float(values.mean())
    return np.minimum(values / mean, CAP) if mean > 0.0 else values


def _named(first: int, last: int, slices: int) -> str:
    which = f"slice {first + 1}" if first == last else f"slices {first + 1} to {last + 1}"
    return f"{which} of {slices} (along the normal)"


def _reason(code: RefusalCode, found: str, expected: str, attribute: str = "PixelData") -> Reason:
    return Reason(code, attribute, found, expected, "Send the series again from the scanner")
