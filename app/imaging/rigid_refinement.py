"""Gauss-Newton on bone with a robust weight.

Bone that disagrees (arms, flexed hips, ribs in another breath) loses its say instead of pulling the spine
along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, map_coordinates
from scipy.spatial.transform import Rotation

from app.domain.volume import FloatArray
from app.imaging.working_ct import WorkingCt, moved_points, smoothed

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


def refine(fixed: WorkingCt, moving: WorkingCt, start: FloatArray) -> Refined:
    """The rigid transform near ``start`` that lays bone on bone."""
    match = _BoneMatch(fixed, moving)
    motion, tolerance = start, TOLERANCE[0]
    for _ in range(ITERATIONS):
        step, moved_mm = match.step(motion, tolerance)
        motion = step @ motion
        settled = tolerance == TOLERANCE[1]
        tolerance = max(TOLERANCE[1], tolerance * TOLERANCE_DECAY)
        if settled and moved_mm < CONVERGED_MM:
            break
    return Refined(motion, match.overlap(motion))


def measure_stretch(fixed: WorkingCt, moving: WorkingCt, fixed_to_moving: FloatArray) -> float:
    """How much longer or shorter the moving body is, lengthwise: 0.03 is 3 %.

    A person keeps his length; two persons rarely share it. Found by letting the registration scale each axis;
    across the body the warp of a trunk that lies differently looks like scale, so only the length counts,
    and of it what such a warp does not explain.
    """
    match = _BoneMatch(fixed, moving)
    motion: FloatArray = fixed_to_moving
    scales: FloatArray = np.ones(3)
    for _ in range(STRETCH_ITERATIONS):
        step, step_scales = match.step_with_scales(motion, TOLERANCE[0] / 2)
        motion, scales = step @ motion, scales * step_scales
    return max(0.0, float(abs(scales[2] - 1.0)) - BEND_MM / match.length_mm)


class _BoneMatch:
    """Bone of the fixed CT as points, bone of the moving CT as an image with its slopes."""

    def __init__(self, fixed: WorkingCt, moving: WorkingCt) -> None:
        bone = smoothed(fixed.bone, 1.0)
        near = np.argwhere(binary_dilation(bone > 0.05) & fixed.seen)
        self._points = fixed.grid.to_lps(near[:, ::-1].astype(np.float64))
        self._target = bone[tuple(near.T)]
        self._moving = moving
        image = smoothed(moving.bone, 1.0)
        by_z, by_y, by_x = np.gradient(image, *moving.grid.spacing_mm[::-1])
        self._images = (image, by_x, by_y, by_z)
        distances = np.linalg.norm(self._points - self._points.mean(axis=0), axis=1)
        self._reach_mm = float(np.percentile(distances, 90))
        self.length_mm = max(1.0, float(np.ptp(self._points[:, 2])))

    def step(self, motion: FloatArray, tolerance: float) -> tuple[FloatArray, float]:
        """A small rigid motion of moving space, and how far it moves the outer bone (mm)."""
        places = moved_points(motion, self._points)
        solution = self._solve(places, tolerance, scaling=False)
        return self._as_motion(solution, places.mean(axis=0)), float(np.linalg.norm(solution))

    def step_with_scales(self, motion: FloatArray, tolerance: float) -> tuple[FloatArray, FloatArray]:
        """A small rigid motion with a scale for each axis of moving space, and the scales."""
        places = moved_points(motion, self._points)
        centre = places.mean(axis=0)
        solution = self._solve(places, tolerance, scaling=True)
        scales = 1.0 + solution[6:] / self._reach_mm
        scaling = np.diag([*scales, 1.0])
        scaling[:3, 3] = centre - scales * centre
        return self._as_motion(solution, centre) @ scaling, scales

    def _solve(self, places: FloatArray, tolerance: float, scaling: bool) -> FloatArray:
        """Gauss-Newton: turns (mm at the reach), shifts (mm), then scales (mm at the reach) if wanted."""
        value, *slopes = self._sampled(places)
        slope = np.stack(slopes, axis=1)
        difference = self._target - value
        weight = (tolerance**2 / (tolerance**2 + difference**2)) ** 2 * self._seen(places)  # Geman-McClure
        arm = (places - places.mean(axis=0)) / self._reach_mm  # turns, shifts and scales then weigh alike
        columns = [np.cross(arm, slope), slope, *([arm * slope] if scaling else [])]
        jacobian: FloatArray = np.concatenate(columns, axis=1)
        normal: FloatArray = jacobian.T @ (jacobian * weight[:, None])
        size = len(normal)
        normal.flat[:: size + 1] += 1e-3 * float(np.trace(normal)) / size + 1e-9  # keeps it invertible
        return np.asarray(np.linalg.solve(normal, jacobian.T @ (weight * difference)), dtype=np.float64)

    def overlap(self, motion: FloatArray) -> float:
        """Soft Dice of bone, of the fixed bone that the moving CT sees."""
        places = moved_points(motion, self._points)
        seen = self._seen(places)
        value = self._sampled(places, images=1)[0]
        both = float((self._target * value * seen).sum())
        return 2 * both / max(float(((self._target**2 + value**2) * seen).sum()), 1e-6)

    def _as_motion(self, solution: FloatArray, centre: FloatArray) -> FloatArray:
        motion = np.eye(4)
        motion[:3, :3] = Rotation.from_rotvec(solution[:3] / self._reach_mm).as_matrix()
        motion[:3, 3] = centre - motion[:3, :3] @ centre + solution[3:6]
        return motion

    def _sampled(self, places: FloatArray, images: int = 4) -> list[NDArray[np.float64]]:
        index_zyx = self._moving.grid.to_index(places)[:, ::-1].T
        return [
            map_coordinates(image, index_zyx, order=1, output=np.float64) for image in self._images[:images]
        ]

    def _seen(self, places: FloatArray) -> NDArray[np.float64]:
        index_zyx = self._moving.grid.to_index(places)[:, ::-1].T
        seen: NDArray[np.float64] = map_coordinates(self._moving.seen, index_zyx, order=0, output=np.float64)
        return seen
