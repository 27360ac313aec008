"""Where a skeleton lies on another: every translation searched at once, the best places refined.

The overlap at each shift is a correlation by FFT. Vertebrae repeat, so the best few places are all handed on.
Refinement is Gauss-Newton on bone with a robust weight: bone that disagrees (arms, flexed hips, ribs in
another breath) loses its say instead of pulling the spine along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import affine_transform, maximum_filter
from scipy.spatial.transform import Rotation

from app.domain.volume import FloatArray, moved_points
from app.imaging.morphology import box_of, grown
from app.imaging.registration.working_ct import WorkingCt, bone_centre_mm, smoothed
from app.imaging.slices import thread_count

UPRIGHT_DEG = ((0.0, 0.0, 0.0),)
"""No rotation: refinement reaches some 10 degrees from here."""

TURNS_DEG = (
    (10.0, 0.0, 0.0),
    (-10.0, 0.0, 0.0),
    (0.0, 10.0, 0.0),
    (0.0, -10.0, 0.0),
    (0.0, 0.0, 10.0),
    (0.0, 0.0, -10.0),
)
"""Rotations (about x, y, z) to search from when the upright search finds no good place."""

STARTS = 6
"""How many places are handed on: the right one and its neighbours a vertebra away."""

STARTS_APART_MM = 20.0
"""Places closer than this are one: less than the height of a vertebra (25-35 mm)."""

MIN_SHARED_BONE = 0.5
"""One of the two CTs must see this share of the other's bone: less is a coincidence of fragments."""

SMOOTHING_VOXELS = 0.7


def likely_starts(
    fixed: WorkingCt, moving: WorkingCt, turns_deg: Sequence[tuple[float, float, float]]
) -> list[FloatArray]:
    """Transforms (4x4, LPS mm fixed to moving) worth refining, best first, no two at the same place.

    They are searched for from each of ``turns_deg``, rotations about x, y, z.
    """
    centre = bone_centre_mm(moving)
    search = _TranslationSearch(fixed, moving)
    found: list[tuple[float, FloatArray]] = []
    for turn_deg in turns_deg:
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
        turn[:3, 3] = centre - turn[:3, :3] @ centre
        found += [(overlap, turn @ shift) for overlap, shift in search.best_shifts(turn)]
    found.sort(key=lambda each: -each[0])
    return _far_apart([motion for _, motion in found], bone_centre_mm(fixed))


def _far_apart(motions: list[FloatArray], point: FloatArray) -> list[FloatArray]:
    kept: list[FloatArray] = []
    for motion in motions:
        place = moved_points(motion, point)
        if all(np.linalg.norm(moved_points(other, point) - place) > STARTS_APART_MM for other in kept):
            kept.append(motion)
    return kept[:STARTS]


class _TranslationSearch:
    """Soft Dice of two bone images at every shift t, within the view that both share:

    ``2 sum f(x) m(x + t) / sum (f(x)² + m(x + t)²)``.
    """

    def __init__(self, fixed: WorkingCt, moving: WorkingCt) -> None:
        self._fixed, self._moving = fixed, moving
        sizes = (a + b for a, b in zip(fixed.bone.shape, moving.bone.shape, strict=True))
        self._size = tuple(fft.next_fast_len(n, real=True) for n in sizes)
        bone = smoothed(fixed.bone, SMOOTHING_VOXELS)
        images = (bone, bone**2, fixed.seen.astype(np.float32))
        self._bone_f, self._energy_f, self._seen_f = (np.conj(self._spectrum(image)) for image in images)
        self._energy = float((bone**2).sum())

    def best_shifts(self, turn: FloatArray) -> Iterator[tuple[float, FloatArray]]:
        """The best shifts of the moving image seen through ``turn``, each with its overlap."""
        bone = smoothed(_turned(self._moving.bone, self._moving, turn), SMOOTHING_VOXELS)
        seen = _turned(self._moving.seen.astype(np.float32), self._moving, turn)
        both = self._correlation(self._bone_f * self._spectrum(bone))
        of_fixed = self._correlation(self._energy_f * self._spectrum(seen))
        of_moving = self._correlation(self._seen_f * self._spectrum(bone**2))
        shared = np.maximum(of_fixed / self._energy, of_moving / float((bone**2).sum()))
        overlap = np.where(shared >= MIN_SHARED_BONE, 2 * both / np.maximum(of_fixed + of_moving, 1e-3), 0)
        apart_voxels = round(STARTS_APART_MM / self._fixed.grid.spacing_mm[0])
        for value, index in _peaks(overlap, apart_voxels):
            yield value, self._shift(index)

    def _spectrum(self, image: NDArray[np.float32]) -> NDArray[np.complex64]:
        spectrum: NDArray[np.complex64] = fft.rfftn(image, self._size, workers=thread_count())
        return spectrum

    def _correlation(self, product: NDArray[np.complex64]) -> NDArray[np.float32]:
        correlation: NDArray[np.float32] = fft.irfftn(product, self._size, workers=thread_count())
        return correlation

    def _shift(self, index_zyx: tuple[int, ...]) -> FloatArray:
        """The motion that lays fixed voxel x on moving voxel x + t; indices wrap beyond the moving image."""
        reach = self._moving.bone.shape
        shift = [t if t < m else t - n for t, m, n in zip(index_zyx, reach, self._size, strict=True)]
        motion = np.eye(4)
        lies_on = self._moving.grid.to_lps(np.array([shift[::-1]], dtype=np.float64))[0]
        motion[:3, 3] = lies_on - self._fixed.grid.origin_mm
        return motion


def _turned(image: NDArray[np.float32], ct: WorkingCt, turn: FloatArray) -> NDArray[np.float32]:
    """``image`` seen through ``turn``: the value at x is the image's at turn(x)."""
    if np.array_equal(turn, np.eye(4)):
        return image
    index_xyz = np.linalg.inv(ct.grid.affine) @ turn @ ct.grid.affine
    seen: NDArray[np.float32] = affine_transform(
        image, index_xyz[:3, :3][::-1, ::-1], index_xyz[:3, 3][::-1], order=1
    )
    return seen


def _peaks(overlap: NDArray[np.float32], apart_voxels: int) -> list[tuple[float, tuple[int, ...]]]:
    """The highest local maxima: places where every voxel within ``apart_voxels`` along the axes is lower.

    The slope of a high peak is no place of its own, so it can't crowd out a rival a vertebra away.
    """
    highest_near = maximum_filter(
        overlap, size=2 * apart_voxels + 1, mode="wrap"
    )  # the correlation is cyclic
    index = np.argwhere((overlap == highest_near) & (overlap > 0))
    values = overlap[tuple(index.T)]
    best = np.argsort(-values, kind="stable")[:STARTS]
    return [(float(values[i]), tuple(int(n) for n in index[i])) for i in best]


ITERATIONS = 30

CONVERGED_MM = 0.02
"""A step that moves no bone further than this is the last: far below a voxel."""

TOLERANCE = (0.5, 0.15)
"""Bone difference (0..1) at which a voxel has a quarter of its say: at first, and in the end."""

TOLERANCE_DECAY = 0.85

STRETCH_ITERATIONS = 12

BEND_MM = 5.0
"""A trunk that lies differently looks this much longer or shorter, whatever part of it is in view."""


@dataclass(frozen=True, eq=False)
class Refined:
    """A transform (4x4, LPS mm fixed to moving) and the soft Dice of bone that it gives."""

    fixed_to_moving: FloatArray
    bone_overlap: float


def refine(match: BoneMatch, start: FloatArray) -> Refined:
    """The rigid transform near ``start`` that lays bone on bone."""
    motion, tolerance = start, TOLERANCE[0]
    for _ in range(ITERATIONS):
        step, moved_mm = match.step(motion, tolerance)
        motion = step @ motion
        settled = tolerance == TOLERANCE[1]
        tolerance = max(TOLERANCE[1], tolerance * TOLERANCE_DECAY)
        if settled and moved_mm < CONVERGED_MM:
            break
    return Refined(motion, match.overlap(motion))


def measure_stretch(match: BoneMatch, fixed_to_moving: FloatArray) -> float:
    """How much longer or shorter the moving body is, lengthwise: 0.03 is 3 %.

    A person keeps his length; two persons rarely share it. Found by letting the registration scale each axis;
    across the body the warp of a trunk that lies differently looks like scale, so only the length counts,
    and of it what such a warp does not explain.
    """
    motion: FloatArray = fixed_to_moving
    scales: FloatArray = np.ones(3)
    for _ in range(STRETCH_ITERATIONS):
        step, step_scales = match.step_with_scales(motion, TOLERANCE[0] / 2)
        motion, scales = step @ motion, scales * step_scales
    return max(0.0, float(abs(scales[2] - 1.0)) - BEND_MM / match.length_mm)


BLUR_VOXELS = 1.0
"""Standard deviation, before bone is matched to bone: the slopes then reach a voxel or two."""

LEAST_BONE = 0.05
"""Blurred; a voxel further out, the slopes still tell where bone begins."""

REACH_VOXELS = 5
"""Beyond a CT's bone, where its blur and the slopes of that have ended."""


class BoneMatch:
    """Bone of the fixed CT as points, bone of the moving CT as an image with its slopes; threads share it.

    Points, and what is found at them, are ``(3, n)`` and ``(n,)`` as x, y, z: numpy is quick along rows.
    """

    def __init__(self, fixed: WorkingCt, moving: WorkingCt) -> None:
        within = box_of(fixed.bone > 0, REACH_VOXELS) or (slice(0, 0),) * 3
        bone = smoothed(fixed.bone, BLUR_VOXELS, within)
        near = np.nonzero(grown(bone > LEAST_BONE) & fixed.seen[within])
        index_zyx = np.stack(near, axis=1) + [part.start for part in within]
        points = fixed.grid.to_lps(index_zyx[:, ::-1].astype(np.float64))
        self._points = np.ascontiguousarray(points.T)
        self._target = bone[near].astype(np.float64)
        self._moving = _Slopes(moving)
        distances = np.linalg.norm(points - points.mean(axis=0), axis=1)
        self._reach_mm = float(np.percentile(distances, 90))
        self.length_mm = max(1.0, float(np.ptp(points[:, 2])))

    def step(self, motion: FloatArray, tolerance: float) -> tuple[FloatArray, float]:
        """A small rigid motion of moving space, and how far it moves the outer bone (mm)."""
        solution, centre = self._solve(motion, tolerance, scaling=False)
        return self._as_motion(solution, centre), float(np.linalg.norm(solution))

    def step_with_scales(self, motion: FloatArray, tolerance: float) -> tuple[FloatArray, FloatArray]:
        """A small rigid motion with a scale for each axis of moving space, and the scales."""
        solution, centre = self._solve(motion, tolerance, scaling=True)
        scales = 1.0 + solution[6:] / self._reach_mm
        scaling = np.diag([*scales, 1.0])
        scaling[:3, 3] = centre - scales * centre
        return self._as_motion(solution, centre) @ scaling, scales

    def _solve(self, motion: FloatArray, tolerance: float, scaling: bool) -> tuple[FloatArray, FloatArray]:
        """Gauss-Newton: turns (mm at the reach), shifts (mm), then scales (mm at the reach) if wanted; and
        the centre of the points that they are about."""
        places = self._places(motion)
        value, *slopes, seen = self._moving.at(places)
        difference = self._target - value
        weight = (tolerance**2 / (tolerance**2 + difference**2)) ** 2 * seen  # Geman-McClure
        centre = places.mean(axis=1)
        arm_x, arm_y, arm_z = (places - centre[:, None]) / self._reach_mm  # all columns then weigh alike
        by_x, by_y, by_z = slopes
        rows = [
            arm_y * by_z - arm_z * by_y,
            arm_z * by_x - arm_x * by_z,
            arm_x * by_y - arm_y * by_x,
            *slopes,
        ]
        if scaling:
            rows += [arm_x * by_x, arm_y * by_y, arm_z * by_z]
        jacobian: FloatArray = np.array(rows)
        weighted = jacobian * weight
        normal: FloatArray = weighted @ jacobian.T
        size = len(normal)
        normal.flat[:: size + 1] += 1e-3 * float(np.trace(normal)) / size + 1e-9  # keeps it invertible
        return np.asarray(np.linalg.solve(normal, weighted @ difference), dtype=np.float64), centre

    def overlap(self, motion: FloatArray) -> float:
        """Soft Dice of bone, of the fixed bone that the moving CT sees."""
        value, *_, seen = self._moving.at(self._places(motion))
        both = float((self._target * value * seen).sum())
        return 2 * both / max(float(((self._target**2 + value**2) * seen).sum()), 1e-6)

    def _places(self, motion: FloatArray) -> FloatArray:
        places: FloatArray = motion[:3, :3] @ self._points + motion[:3, 3:]
        return places

    def _as_motion(self, solution: FloatArray, centre: FloatArray) -> FloatArray:
        motion = np.eye(4)
        motion[:3, :3] = Rotation.from_rotvec(solution[:3] / self._reach_mm).as_matrix()
        motion[:3, 3] = centre - motion[:3, :3] @ centre + solution[3:6]
        return motion


class _Slopes:
    """Blurred bone with its slopes along x, y and z (1/mm), between voxels by linear interpolation.

    Kept where bone is, with a rim: beyond, all four are 0.
    """

    def __init__(self, ct: WorkingCt) -> None:
        within = box_of(ct.bone > 0, REACH_VOXELS) or (slice(0, 1),) * 3
        image = smoothed(ct.bone, BLUR_VOXELS, within)
        by_z, by_y, by_x = np.gradient(image, *ct.grid.spacing_mm[::-1])
        self._shape = image.shape
        # a rim of zeros behind the last voxels, which interpolation at them looks at
        self._images = [np.pad(each, (0, 1)).astype(np.float32) for each in (image, by_x, by_y, by_z)]
        self._first = np.array([[part.start] for part in within[::-1]], dtype=np.float64)
        self._to_index = np.linalg.inv(ct.grid.affine)
        self._seen = ct.seen

    def at(self, places: FloatArray) -> tuple[NDArray[np.float32], ...]:
        """The four at places ``(3, n)``, LPS mm, and 1 where the nearest voxel was seen, 0 elsewhere."""
        index = self._to_index[:3, :3] @ places + self._to_index[:3, 3:]
        in_view = ((index >= 0) & (index <= _last(self._seen.shape))).all(axis=0)
        x, y, z = (index * in_view + 0.5).astype(np.intp)
        seen = (in_view & self._seen[z, y, x]).astype(np.float32)
        index -= self._first
        at_bone = ((index >= 0) & (index <= _last(self._shape))).all(axis=0)
        index *= at_bone
        low = index.astype(np.intp)
        shares = (index - low).astype(np.float32)
        _, height, width = (n + 1 for n in self._shape)
        start = (low[2] * height + low[1]) * width + low[0]
        corners = [start + (k * height + j) * width + i for k in (0, 1) for j in (0, 1) for i in (0, 1)]
        found = []
        for image in self._images:
            values = [image.take(corner) for corner in corners]
            for share in shares:
                values = [a + share * (b - a) for a, b in zip(values[::2], values[1::2], strict=True)]
            found.append(values[0] * at_bone)
        return (*found, seen)


def _last(shape: tuple[int, ...]) -> FloatArray:
    """The last index along x, y and z, ``(3, 1)``."""
    return np.array(shape[::-1], dtype=np.float64)[:, None] - 1.0
