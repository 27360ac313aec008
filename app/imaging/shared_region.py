"""What two studies of a patient both show: how much of the body, and which part of each lesion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain.findings.findings import Lesion
from app.domain.volume import FloatArray, Grid, LabelMap, Volume, moved_points
from app.imaging.labels import inside

BODY_HU = -300.0
"""Denser is body; the table counts as well, and lies along all of it."""

SAMPLES_APART_MM = 8.0
"""The body is looked at in points: a share of it needs no more."""


@dataclass(frozen=True, eq=False)
class View:
    """What a study shows: its functional image's grid, and its CT in HU."""

    image: Grid
    ct: Volume


def shared_share(one: View, other: View, motion: FloatArray) -> float:
    """Share of the body in the view of ``one`` that is in the view of ``other`` too, 0..1.

    ``motion`` is 4x4, LPS mm of ``one`` to LPS mm of ``other``.
    """
    spacing = one.ct.grid.spacing_mm[::-1]
    steps = [max(1, round(SAMPLES_APART_MM / size)) for size in spacing]
    sampled = one.ct.array[tuple(slice(None, None, step) for step in steps)]
    voxels = (np.argwhere(sampled > BODY_HU) * steps)[:, ::-1].astype(np.float64)
    points = one.ct.grid.to_lps(voxels)
    points = points[_within(points, one.image)]
    if not len(points):
        return 0.0
    moved = moved_points(motion, points)
    return float((_within(moved, other.image) & _within(moved, other.ct.grid)).mean())


def seen_part(
    lesions: tuple[Lesion, ...], labels: LabelMap, suv: Callable[[], Volume], motion: FloatArray, other: Grid
) -> tuple[Lesion, ...]:
    """The lesions as far as they lie within ``other``; the rest of a lesion counts for nothing.

    Volume and TL-PSMA of one that lies outside are 0. Lesions are given back as they are where all of them
    lie within, and ``suv`` (SUVbw on the grid of ``labels``) is read only where that is not so.
    """
    voxels = np.argwhere(labels.array)
    seen = _within(moved_points(motion, labels.grid.to_lps(voxels[:, ::-1].astype(np.float64))), other)
    if seen.all():
        return lesions
    numbers, values = (image[tuple(voxels.T)] for image in (labels.array, suv().array))
    return tuple(
        _cut(lesion, values[(numbers == lesion.number) & seen], labels.grid.voxel_ml)
        if not seen[numbers == lesion.number].all()
        else lesion
        for lesion in lesions
    )


def _cut(lesion: Lesion, suv: NDArray[np.float32], voxel_ml: float) -> Lesion:
    if not len(suv):
        return replace(lesion, volume_ml=0.0, tl_psma=0.0, suv_max=0.0, suv_mean=0.0)
    volume_ml, mean = len(suv) * voxel_ml, float(suv.mean(dtype=np.float64))
    tl_psma = volume_ml * mean
    return replace(lesion, volume_ml=volume_ml, tl_psma=tl_psma, suv_max=float(suv.max()), suv_mean=mean)


def _within(points_mm: FloatArray, grid: Grid) -> NDArray[np.bool_]:
    return inside(grid.to_index(points_mm), grid)
