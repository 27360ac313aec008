"""Every translation at once: how well two skeletons overlap at each shift, as a correlation by FFT.

Vertebrae repeat, so the best few places are all handed on, to be refined and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import affine_transform, maximum_filter
from scipy.spatial.transform import Rotation

from app.domain.volume import FloatArray
from app.imaging.working_ct import WorkingCt, bone_centre_mm, moved_points, smoothed

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

    Args:
        fixed, moving: the CTs.
        turns_deg: rotations about x, y, z to search from.
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
        spectrum: NDArray[np.complex64] = fft.rfftn(image, self._size)
        return spectrum

    def _correlation(self, product: NDArray[np.complex64]) -> NDArray[np.float32]:
        correlation: NDArray[np.float32] = fft.irfftn(product, self._size)
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
