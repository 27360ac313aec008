"""Rigid CT-to-CT registration driven by bone, and how well it fits.

Every translation is searched, the best places are refined, and the fit of the best is measured: it tells a
right place from a wrong one, and a patient from another. There are no random numbers, and what runs in
threads is finished as it would be alone: equal inputs give equal transforms.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from app.domain.analysis import RegistrationFit
from app.domain.volume import AIR_HU, FloatArray, Grid, Unit, Volume, moved_points
from app.imaging.morphology import Box, box_of, thinned
from app.imaging.registration.search import (
    STARTS_APART_MM,
    TURNS_DEG,
    UPRIGHT_DEG,
    BoneMatch,
    Refined,
    likely_starts,
    measure_stretch,
    refine,
)
from app.imaging.registration.working_ct import WorkingCt, bone_centre_mm, bone_ml, smoothed, working_ct
from app.imaging.resampling import resample
from app.imaging.slices import thread_count

BONE_SHARE = 0.2
"""Bone on the scale of :data:`app.imaging.registration.working_ct.BONE_HU` from here on: 220 HU."""

BONE_PERCENTILE = 75
"""The thighs of flexed hips hold up to a fifth of the bone in view; they must not decide."""

TRUNK_CORE_HALF_WIDTH_MM = 100.0
"""Thickness is measured here, well inside the flanks, where it changes slowly."""

THINNEST_TRUNK_MM = 60.0
"""Thinner columns are edges, neck or limbs."""

SOFT_TISSUE_HU = (-150.0, 150.0)
"""Fat to enhanced organ: what lies outside is clipped, so that gas and bone don't rule the correlation."""

TEXTURE_VOXELS = (1.0, 6.0)
"""Soft tissue is compared at scales between these (4 to 24 mm): below is noise, above what bodies share."""

SIDE_SMOOTHING_VOXELS = 2.0
"""Left minus right is mostly edges that no registration aligns to the voxel; 8 mm forgive that."""

SKIN_VOXELS = 2
"""The skin's edge would make any two bodies correlate."""

AROUND_VOXELS = 20
"""Around both bodies, farther than any blur (18 voxels) or the mirror (7) reaches from what is compared."""


@dataclass(frozen=True, eq=False)
class _Pair:
    """Both CTs where either shows body, on that part of the fixed grid; every array ``(z, y, x)``.

    Attributes:
        view: what both scanners saw.
        inside: in both bodies, in view.
    """

    fixed: WorkingCt
    moved: WorkingCt
    view: NDArray[np.bool_]
    inside: NDArray[np.bool_]


def measure_fit(
    fixed: WorkingCt, moving: WorkingCt, fixed_to_moving: FloatArray, rival_overlap: float
) -> RegistrationFit:
    """Every number that the limits check.

    Args:
        fixed_to_moving: 4x4, LPS mm.
        rival_overlap: bone overlap at the best other place, as a share of the overlap at this one.
    """
    with ThreadPoolExecutor(thread_count()) as threads:
        mirror = threads.submit(_own_mirror, fixed.coarser)
        stretch = threads.submit(_stretch, fixed, moving, fixed_to_moving)
        pair = _pair(fixed, moving, fixed_to_moving)
        bone = threads.submit(_bone_agreement, pair)
        soft_tissue = threads.submit(_soft_tissue_correlation, pair)
        thickness_difference_mm = _thickness_difference_mm(pair)
        side_correlation = _side_correlation(pair, mirror.result())
    bone_dice, bone_distance_mm = bone.result()
    centre = bone_centre_mm(fixed)
    turn = Rotation.from_matrix(fixed_to_moving[:3, :3]).magnitude()
    return RegistrationFit(
        bone_dice=bone_dice,
        translation_mm=float(np.linalg.norm(moved_points(fixed_to_moving, centre) - centre)),
        rotation_deg=float(np.degrees(turn)),
        overlap_fraction=float((pair.fixed.body & pair.view).sum() / max(int(fixed.body.sum()), 1)),
        soft_tissue_correlation=soft_tissue.result(),
        bone_distance_mm=bone_distance_mm,
        side_correlation=side_correlation,
        stretch=stretch.result(),
        thickness_difference_mm=thickness_difference_mm,
        rival_overlap=rival_overlap,
    )


def _stretch(fixed: WorkingCt, moving: WorkingCt, fixed_to_moving: FloatArray) -> float:
    return measure_stretch(BoneMatch(fixed.coarser, moving.coarser), fixed_to_moving)


def _pair(fixed: WorkingCt, moving: WorkingCt, fixed_to_moving: FloatArray) -> _Pair:
    part = fixed.part(_around_both(fixed, moving, fixed_to_moving))
    moved = _moved(moving, part.grid, fixed_to_moving)
    view = part.seen & moved.seen
    return _Pair(part, moved, view, part.body & moved.body & view)


def _around_both(fixed: WorkingCt, moving: WorkingCt, fixed_to_moving: FloatArray) -> Box:
    """The part of the fixed grid that shows all of both bodies, and :data:`AROUND_VOXELS` more."""
    index = [
        fixed.grid.to_index(moved_points(motion, ct.grid.part(box).corners_mm()))[:, ::-1]
        for ct, motion in ((fixed, np.eye(4)), (moving, np.linalg.inv(fixed_to_moving)))
        if (box := box_of(ct.body)) is not None
    ]
    corners = np.concatenate(index or [np.zeros((1, 3))])
    first = np.maximum(np.floor(corners.min(axis=0)).astype(int) - AROUND_VOXELS, 0)
    last = np.minimum(
        np.ceil(corners.max(axis=0)).astype(int) + AROUND_VOXELS, np.array(fixed.grid.shape) - 1
    )
    z, y, x = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    return z, y, x


def _moved(moving: WorkingCt, grid: Grid, fixed_to_moving: FloatArray) -> WorkingCt:
    def on_grid(array: NDArray[np.generic], fill: float) -> NDArray[np.float32]:
        source = Volume(array.astype(np.float32), moving.grid, Unit.NONE)
        return resample(source, grid, fill, fixed_to_moving).array

    return WorkingCt(
        grid,
        on_grid(moving.hu, AIR_HU),
        on_grid(moving.seen, 0.0) > 0.99,
        on_grid(moving.body, 0.0) > 0.5,
        on_grid(moving.bone, 0.0),
    )


def _bone_agreement(pair: _Pair) -> tuple[float, float]:
    """Dice of bone in the trunk, and the distance (mm) within which most of it has a counterpart."""
    a, b = (pair.fixed.bone > BONE_SHARE) & pair.view, (pair.moved.bone > BONE_SHARE) & pair.view
    if not a.any() or not b.any():
        return 0.0, float("inf")
    dice = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    places_a, places_b = (np.argwhere(bone) * pair.fixed.grid.spacing_mm[::-1] for bone in (a, b))
    to_b, to_a = cKDTree(places_b).query(places_a)[0], cKDTree(places_a).query(places_b)[0]
    return dice, float(np.percentile(np.concatenate([to_b, to_a]), BONE_PERCENTILE))


def _near_the_middle(ct: WorkingCt) -> NDArray[np.bool_]:
    """Which sagittal planes lie within :data:`TRUNK_CORE_HALF_WIDTH_MM` of the bone's centre, ``(x,)``."""
    x_mm = ct.grid.origin_mm[0] + np.arange(ct.grid.shape[2]) * ct.grid.spacing_mm[0]
    near: NDArray[np.bool_] = np.abs(x_mm - bone_centre_mm(ct)[0]) <= TRUNK_CORE_HALF_WIDTH_MM
    return near


def _thickness_difference_mm(pair: _Pair) -> float | None:
    """Mean difference, front to back, of the columns through the trunk; fat and girth are a person's own."""
    step_mm = pair.fixed.grid.spacing_mm[1]
    thick = [_extent(ct.body) * step_mm for ct in (pair.fixed, pair.moved)]
    trunk = _near_the_middle(pair.fixed) & (np.minimum(*thick) > THINNEST_TRUNK_MM)
    return float(np.abs(thick[0] - thick[1])[trunk].mean()) if trunk.any() else None


def _extent(body: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Voxels from the first to the last of ``body`` along y, ``(z, x)``; lungs and gas between them count."""
    first, last = body.argmax(axis=1), body.shape[1] - 1 - body[:, ::-1].argmax(axis=1)
    return np.where(body.any(axis=1), last - first + 1, 0)


def _soft_tissue_correlation(pair: _Pair) -> float:
    """Correlation of soft tissue inside both bodies, at the scales of organs and fat planes."""
    inside = thinned(pair.inside, SKIN_VOXELS)
    within = box_of(inside)
    if within is None:
        return 0.0
    fine, wide = TEXTURE_VOXELS
    textures = []
    for ct in (pair.fixed, pair.moved):
        tissue = np.clip(ct.hu, *SOFT_TISSUE_HU)
        textures.append((smoothed(tissue, fine, within) - smoothed(tissue, wide, within))[inside[within]])
    return _correlation(*textures)


def _side_correlation(pair: _Pair, mirror: FloatArray) -> float:
    """Correlation of left minus right in both CTs: liver, heart, spleen, gas and scoliosis know their side.

    ``mirror`` is the fixed CT's own (:func:`_own_mirror`). A mirrored CT gives a negative number, however
    well its bones fit.
    """
    grid = pair.fixed.grid
    inside = thinned(pair.inside & (_through(pair.inside, grid, mirror) > 0.99), SKIN_VOXELS)
    within = box_of(inside)
    if within is None:
        return 0.0
    differences = []
    for ct in (pair.fixed, pair.moved):
        tissue = np.clip(ct.hu, *SOFT_TISSUE_HU)
        difference = smoothed(tissue - _through(tissue, grid, mirror), SIDE_SMOOTHING_VOXELS, within)
        differences.append(difference[inside[within]])
    return _correlation(*differences)


def _own_mirror(ct: WorkingCt) -> FloatArray:
    """4x4, LPS mm: each point to the same place on the body's other side, found by laying the CT on its
    mirror image."""
    flipped = replace(ct, seen=ct.seen[:, :, ::-1], bone=ct.bone[:, :, ::-1])
    middle_x = float(ct.grid.corners_mm()[:, 0].mean())
    reflection = np.diag([-1.0, 1.0, 1.0, 1.0])
    reflection[0, 3] = 2 * middle_x
    start = np.eye(4)
    start[0, 3] = 2 * (middle_x - bone_centre_mm(ct)[0])
    to_flipped = refine(BoneMatch(ct, flipped), start).fixed_to_moving
    mirror: FloatArray = reflection @ to_flipped
    return mirror


def _through(image: NDArray[np.generic], grid: Grid, motion: FloatArray) -> NDArray[np.float32]:
    source = Volume(image.astype(np.float32), grid, Unit.NONE)
    return resample(source, grid, 0.0, motion).array


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's, 0 when there is nothing to compare."""
    if a.size < 2:
        return 0.0
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


MIN_BONE_ML = 30.0
"""Dense bone, cancellous counted by half: about two lumbar vertebrae. With less there is nothing to go by."""

GOOD_OVERLAP = 0.75
"""Soft Dice of bone at 8 mm that a right place reaches (0.80 at least on simulated patients)."""


@dataclass(frozen=True, eq=False)
class RigidRegistration:
    """Where a point of the fixed CT lies in the moving CT, and how well that fits.

    Attributes:
        fixed_to_moving: 4x4, LPS mm of the fixed CT to LPS mm of the moving CT.
        fit: every number that the limits of :class:`app.imaging.registration.policy.AlignPolicy` check.
    """

    fixed_to_moving: FloatArray
    fit: RegistrationFit


def register_rigid(fixed_ct: Volume, moving_ct: Volume) -> RigidRegistration | None:
    """Bring two CTs of one patient together; ``fixed_ct`` is the SPECT's, ``moving_ct`` the PET's.

    Returns:
        The best rigid transform with its fit, or ``None`` when one of the two shows no bone to go by.

    Raises:
        ValueError: a volume is not in HU: a fault of the caller.
    """
    if fixed_ct.unit is not Unit.HU or moving_ct.unit is not Unit.HU:
        raise ValueError(f"registration takes HU, found {fixed_ct.unit} and {moving_ct.unit}")
    fixed, moving = working_ct(fixed_ct).without_arms(), working_ct(moving_ct).without_arms()
    if min(bone_ml(fixed), bone_ml(moving)) < MIN_BONE_ML:
        return None
    return register_working(fixed, moving)


def register_working(fixed: WorkingCt, moving: WorkingCt) -> RigidRegistration | None:
    """As :func:`register_rigid`, of CTs that are prepared already."""
    places = _places(fixed.coarser, moving.coarser)
    if not places:
        return None
    motion = refine(BoneMatch(fixed, moving), places[0].fixed_to_moving).fixed_to_moving
    fit = measure_fit(fixed, moving, motion, _rival_overlap(places, fixed))
    return RigidRegistration(motion, fit)


def _places(fixed: WorkingCt, moving: WorkingCt) -> list[Refined]:
    """Refined places, best first; turned bodies are searched for only when upright none is good."""
    places: list[Refined] = []
    for turns_deg in (UPRIGHT_DEG, TURNS_DEG):
        starts = likely_starts(fixed, moving, turns_deg)
        if starts:
            refined = partial(refine, BoneMatch(fixed, moving))
            with ThreadPoolExecutor(thread_count()) as threads:  # each is refined as it would be alone
                places += threads.map(refined, starts)
        places.sort(key=lambda place: -place.bone_overlap)
        if places and places[0].bone_overlap >= GOOD_OVERLAP:
            break
    return places


def _rival_overlap(places: list[Refined], fixed: WorkingCt) -> float:
    """Overlap of the best other place, as a share of the best place's: near 1, the place is a guess."""
    centre = bone_centre_mm(fixed)
    best = moved_points(places[0].fixed_to_moving, centre)
    rivals = (
        place.bone_overlap
        for place in places[1:]
        if np.linalg.norm(moved_points(place.fixed_to_moving, centre) - best) > STARTS_APART_MM / 2
    )
    return max(rivals, default=0.0) / max(places[0].bone_overlap, 1e-6)
