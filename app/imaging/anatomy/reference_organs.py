"""Liver and parotid glands as references: found by CT, position and uptake, or not at all.

Liver: the largest piece of soft tissue right of the midline, around or below the base of the right lung,
whose uptake is well above that of soft tissue in general and even; its volume of interest is a sphere of
3 cm where the piece is thickest. Parotid glands: the hottest soft tissue at about one height on both sides of
the head; their volumes of interest are voxels above half of each one's maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import cc3d
import numpy as np
from numpy.typing import NDArray

from app.domain.findings.findings import Organ, ReferenceUptake
from app.domain.volume import FloatArray, LabelMap, Volume
from app.imaging.anatomy.landmarks import BodyLandmarks, along
from app.imaging.morphology import Box, box_of, deep, depths, near, part_at
from app.imaging.registration.working_ct import WorkingCt, smoothed
from app.imaging.resampling import resample, resample_mask

SOFT_TISSUE_HU = (-20.0, 180.0)
"""With and without contrast medium."""

SMOOTHING_MM = 8.0
"""Standard deviation: an organ's uptake stands out from noise, and its borders are not needed."""

LIVER_OVER_SOFT_TISSUE = 1.8
"""The liver takes up at least this times the median of soft tissue."""

LIVER_RANGE = (0.5, 1.7)
"""Of the candidates' median uptake: leaves kidney and gut out."""

LIVER_BELOW_DOME_MM, LIVER_ABOVE_BASE_MM = 230.0, 80.0
LIVER_OPENING_MM = 10.0
"""What is thinner than twice this is no liver, and narrow bridges to neighbours are cut."""

LIVER_CLOSING_MM = 20.0
"""Lesions up to twice this wide within the liver belong to it."""

LIVER_MIN_ML = 250.0
LIVER_VOI_RADIUS_MM = 15.0
"""PERCIST: a sphere of 3 cm in the right lobe (Wahl et al., J Nucl Med 2009)."""

LIVER_MAX_VARIATION = 0.35
"""Standard deviation over mean within the sphere; beyond, it is no even tissue."""

LIVER_MAX_NOISE = 0.7
"""The same where the mean alone is wanted, whatever the noise: the sphere holds some 220 voxels of 4 mm."""

PAROTID_LATERAL_MM = (40.0, 85.0)
"""The submandibular glands lie nearer the midline."""

HOT_PLACES = 4
"""So many are looked at on each side: parotid, submandibular, lacrimal, and one more."""

PAROTID_SAME_HEIGHT_MM = 25.0
PAROTID_ABOVE_LUNG_MM = 40.0
PAROTID_ML = (4.0, 90.0)
PAROTID_SIDE_RATIO = 2.0
"""Left and right maxima differ by no more than this factor."""

PAROTID_OVER_SOFT_TISSUE = 4.0
HOT_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class BodyUptake:
    """PET or SPECT on the grid of the working CT, lesions left out.

    Attributes:
        suv: float32 ``(z, y, x)``; NaN where the image does not reach.
        smooth_suv: the same without noise, for telling organs apart; 0 far from ``soft``.
        soft: soft tissue by CT that is no lesion and within the image.
        typical_suv: median of it.
    """

    ct: WorkingCt
    landmarks: BodyLandmarks
    suv: NDArray[np.float32]
    smooth_suv: NDArray[np.float32]
    soft: NDArray[np.bool_]
    typical_suv: float


@dataclass(frozen=True, eq=False)
class Liver:
    """The piece of liver found, ``mask`` on the working CT's grid, and its uptake; or why there is none."""

    mask: NDArray[np.bool_] | None
    uptake: ReferenceUptake


def body_uptake(
    ct: WorkingCt, landmarks: Callable[[], BodyLandmarks], suv: Volume, labels: LabelMap
) -> BodyUptake | None:
    """Bring uptake and lesions on to the working CT; ``None`` without soft tissue to compare with.

    ``landmarks`` gives those of the CT; they may still be looked for meanwhile.
    """
    moved = resample(suv, ct.grid, np.nan).array
    lesions = resample_mask(labels, ct.grid).mask if labels.count else np.zeros(ct.grid.shape, dtype=np.bool_)
    low, high = SOFT_TISSUE_HU
    soft = ct.body & np.isfinite(moved) & ~lesions
    within = box_of(soft)
    if within is None:
        return None
    even = smoothed(ct.hu, 1.0, within, truncate=2.0)
    soft[within] &= (even >= low) & (even <= high)
    if not soft.any():
        return None
    smooth = np.zeros_like(moved)
    smooth[within] = smoothed(np.nan_to_num(moved), SMOOTHING_MM / ct.grid.spacing_mm[0], within)
    return BodyUptake(ct, landmarks(), moved, smooth, soft, float(np.median(moved[soft])))


def find_liver(body: BodyUptake, max_variation: float = LIVER_MAX_VARIATION) -> Liver:
    """The liver with its uptake, or an uptake that says why there is none."""
    heights = body.landmarks.lung_slices
    if heights.size == 0:
        return _no_liver("no lung in view to find it below")
    z_mm = along(body.ct.grid, 2)
    base_mm = z_mm[heights[0]]
    level = (z_mm >= base_mm - LIVER_BELOW_DOME_MM) & (z_mm <= base_mm + LIVER_ABOVE_BASE_MM)
    right = _off_midline_mm(body) < 0  # LPS: x grows to the left
    candidates = body.soft & level[:, None, None] & right[:, None, :]
    candidates &= body.smooth_suv >= LIVER_OVER_SOFT_TISSUE * body.typical_suv
    box = box_of(candidates, 1)  # what tells how deep a candidate lies
    if box is None:
        return _no_liver("no soft tissue on the right takes up more than the rest")
    return _liver_among(candidates, box, body, max_variation)


def find_parotids(body: BodyUptake) -> ReferenceUptake:
    """Both glands together, or an uptake that says why there is none."""
    heights = body.landmarks.lung_slices
    if heights.size == 0:
        return _unknown(Organ.PAROTID, "no lung in view to find the head above")
    z_mm, off_mm = along(body.ct.grid, 2), np.abs(_off_midline_mm(body))
    above = z_mm >= z_mm[heights[-1]] + PAROTID_ABOVE_LUNG_MM
    nearest, farthest = PAROTID_LATERAL_MM
    beside = (off_mm >= nearest) & (off_mm <= farthest)
    place = body.soft & above[:, None, None] & beside[:, None, :]
    place &= body.smooth_suv >= PAROTID_OVER_SOFT_TISSUE * body.typical_suv
    left = (_off_midline_mm(body) > 0)[:, None, :]
    sides = [tuple(_glands(place & side, body)) for side in (left, ~left)]
    step_mm = body.ct.grid.spacing_mm[2]
    pairs = [
        (one, other)
        for one, other in product(*sides)
        if abs(float(one.centre[0] - other.centre[0])) * step_mm <= PAROTID_SAME_HEIGHT_MM
    ]
    if not pairs:
        return _unknown(Organ.PAROTID, "no hot soft tissue at one height on both sides of the head")
    return _pair(max(pairs, key=lambda pair: min(gland.peak for gland in pair)), body)


@dataclass(frozen=True, eq=False)
class _Gland:
    """A hot place: voxels above half of its maximum, by their places in the flat array, and their centre
    ``(z, y, x)``."""

    voxels: NDArray[np.intp]
    peak: float
    centre: FloatArray


def _glands(place: NDArray[np.bool_], body: BodyUptake) -> Iterator[_Gland]:
    """Hot places, the hottest first, whose centre lies as far from the midline as a parotid gland's."""
    left, off_mm = np.flatnonzero(place), np.abs(_off_midline_mm(body))
    nearest, farthest = PAROTID_LATERAL_MM
    suv = body.suv.ravel()
    for _ in range(HOT_PLACES):
        if not left.size:
            return
        hottest = left[int(suv[left].argmax())]
        peak = suv[hottest]
        if peak <= 0:
            return
        seed = tuple(int(n) for n in np.unravel_index(hottest, place.shape))
        box, part = part_at(body.soft & (body.suv >= HOT_SHARE * peak), seed)
        gland = np.argwhere(part) + [each.start for each in box]
        centre = gland.mean(axis=0)
        voxels = np.ravel_multi_index(tuple(gland.T), place.shape)
        if nearest <= off_mm[round(centre[0]), round(centre[2])] <= farthest:
            yield _Gland(voxels, float(peak), centre)
        left = left[~np.isin(left, voxels)]


def _liver_among(candidates: NDArray[np.bool_], box: Box, body: BodyUptake, max_variation: float) -> Liver:
    candidates, smooth_suv = candidates[box], body.smooth_suv[box]
    low, high = (share * float(np.median(smooth_suv[candidates])) for share in LIVER_RANGE)
    even = candidates & (smooth_suv >= low) & (smooth_suv <= high)
    spacing_mm = body.ct.grid.spacing_mm[0]
    depth_mm = depths(even) * spacing_mm
    thick = depth_mm > LIVER_OPENING_MM
    within = box_of(thick)
    if within is None:
        return _no_liver("no thick piece of evenly avid soft tissue on the right")
    core = np.zeros_like(even)
    core[within] = _largest_part(thick[within])
    mask = even & near(core, LIVER_OPENING_MM / spacing_mm)
    volume_ml = float(mask.sum()) * body.ct.grid.voxel_ml
    if volume_ml < LIVER_MIN_ML:
        return _no_liver(f"the largest piece has {volume_ml:.0f} ml, expected {LIVER_MIN_ML:g} ml")
    centre = np.array(np.unravel_index(int(np.where(core, depth_mm, 0).argmax()), core.shape))
    depth = float(depth_mm[tuple(centre)])
    uptake = _sphere_uptake(centre + [each.start for each in box], depth, body, max_variation)
    if uptake.suv_mean is None:
        return Liver(None, uptake)
    liver = np.zeros(body.soft.shape, dtype=np.bool_)
    liver[box] = mask
    return Liver(_filled(liver, spacing_mm), uptake)


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """By faces; of equals the one that comes first."""
    parts = cc3d.connected_components(mask.astype(np.uint8), connectivity=6)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = parts == int(sizes.argmax())
    return largest


def _filled(liver: NDArray[np.bool_], spacing_mm: float) -> NDArray[np.bool_]:
    """The liver with what its uptake left out: lesions, vessels, and its rim."""
    reach = LIVER_CLOSING_MM / spacing_mm
    rim = int(reach) + 1
    filled = liver.copy()
    within = box_of(liver)
    if within is not None:  # what is filled lies in the box, what it grows by may not
        padded = np.pad(liver[within], rim)
        filled[within] |= deep(near(padded, reach), reach)[rim:-rim, rim:-rim, rim:-rim]
    return filled


def _sphere_uptake(
    centre_zyx: NDArray[np.int64], depth_mm: float, body: BodyUptake, max_variation: float
) -> ReferenceUptake:
    grid = body.ct.grid
    if depth_mm < LIVER_VOI_RADIUS_MM:
        return _unknown(Organ.LIVER, f"nowhere thicker than {2 * depth_mm:.0f} mm, expected 30 mm")
    axes = [(np.arange(n) - c) * grid.spacing_mm[0] for n, c in zip(grid.shape, centre_zyx, strict=True)]
    apart = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2
    values = body.suv[apart <= LIVER_VOI_RADIUS_MM**2].astype(np.float64)
    mean, variation = float(values.mean()), float(values.std() / values.mean())
    if variation > max_variation:
        return _unknown(Organ.LIVER, f"uptake varies by {100 * variation:.0f} % where it is thickest")
    return ReferenceUptake(
        Organ.LIVER,
        mean,
        "sphere of 3 cm where the largest evenly avid soft tissue on the right is thickest",
        len(values) * grid.voxel_ml,
        (grid.place_mm(centre_zyx),),
    )


def _pair(glands: tuple[_Gland, ...], body: BodyUptake) -> ReferenceUptake:
    grid = body.ct.grid
    peaks = [gland.peak for gland in glands]
    volumes = [len(gland.voxels) * grid.voxel_ml for gland in glands]
    if any(not PAROTID_ML[0] <= volume <= PAROTID_ML[1] for volume in volumes):
        found = " and ".join(f"{volume:.0f}" for volume in volumes)
        return _unknown(Organ.PAROTID, f"hot tissue of {found} ml, expected two glands of 4 to 90 ml")
    if max(peaks) > PAROTID_SIDE_RATIO * min(peaks):
        return _unknown(Organ.PAROTID, "one side is more than twice as hot as the other")
    both = np.union1d(glands[0].voxels, glands[1].voxels)
    return ReferenceUptake(
        Organ.PAROTID,
        float(body.suv.ravel()[both].mean(dtype=np.float64)),
        "hottest soft tissue on both sides of the head, voxels above half of each maximum",
        sum(volumes),
        tuple(grid.place_mm(gland.centre) for gland in glands),
    )


def _no_liver(reason: str) -> Liver:
    return Liver(None, _unknown(Organ.LIVER, reason))


def _unknown(organ: Organ, reason: str) -> ReferenceUptake:
    return ReferenceUptake(organ, None, f"not told: {reason}")


def _off_midline_mm(body: BodyUptake) -> FloatArray:
    """``(z, x)``; positive to the patient's left."""
    off: FloatArray = along(body.ct.grid, 0)[None, :] - body.landmarks.midline_x_mm[:, None]
    return off
