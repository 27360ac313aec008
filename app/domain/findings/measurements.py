"""Lesions in numbers: volume, SUVmax, SUVmean, SUVpeak, TL-PSMA, activity, distances, and their sums.

SUVpeak is the highest mean in a sphere of 1 cm³ (radius 6.20 mm) centred on a voxel of the lesion, voxels on
the sphere's surface counted by the share of them that lies inside (Wahl et al., J Nucl Med 2009, PERCIST).
TL-PSMA = volume x SUVmean; PSMA-TV = sum of volumes (Seifert et al., Semin Nucl Med 2020).

Distances are exact on any grid. The farthest pair of a set of points is found without comparing all pairs:

* on a straight line of voxels only the two ends can belong to a farthest pair, since distance to any point is
  convex; so only voxels that end their line in every direction looked at stay;
* a lower bound L is found by walking from a point to the one farthest from it until nothing is gained;
* with R the largest distance from a centre c, a point p has no partner beyond ``|p - c| + R``; where that is
  below L, p goes. Any c will do; the middle of the best pair found keeps R small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.findings.findings import Burden, Findings, Lesion
from app.domain.findings.policy import QuantifyPolicy
from app.domain.volume import FloatArray, Grid, LabelMap, Volume

ROUNDING_MM = 1e-6
"""Below any grid's precision: a pair that ties with the bound must not be lost to rounding."""

CHUNK_PAIRS = 2_000_000
"""So many distances are held at once: 16 MB."""

LINE_DIRECTIONS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1),
                   (0, 1, -1), (1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1))  # fmt: skip

IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class FarthestPair:
    """Two points of a set, by their place in it, and their distance."""

    distance_mm: float
    first: int
    second: int


def longest_diameter_mm(voxels_zyx: IndexArray, grid: Grid) -> float:
    """The largest distance between two voxel centres ``(n, 3)`` of a lesion; 0 for a single voxel."""
    ends = voxels_zyx[_end_every_line(voxels_zyx)]
    return farthest_pair(grid.to_lps(ends[:, ::-1].astype(np.float64))).distance_mm


def farthest_pair(points_mm: FloatArray) -> FarthestPair:
    """The two points of ``(n, 3)`` farthest apart; of pairs equally far, the one that comes first.

    Raises:
        ValueError: there is no point.
    """
    if len(points_mm) == 0:
        raise ValueError("no point, so no distance")
    first, second = _far_pair(points_mm)
    bound = _distance(points_mm[first], points_mm[second])
    centre = (points_mm[first] + points_mm[second]) / 2.0
    from_centre = np.linalg.norm(points_mm - centre, axis=1)
    kept = np.flatnonzero(from_centre + from_centre.max() >= bound - ROUNDING_MM)
    return _farthest_of_all(points_mm, kept)


def _end_every_line(voxels: IndexArray) -> NDArray[np.bool_]:
    """Voxels with no neighbour on one side, along every direction.

    A voxel between two voxels of its line is no end; that alone may keep a voxel which is none (its line has
    a gap), never lose one which is.
    """
    padded = voxels - voxels.min(axis=0) + 1
    inside = np.zeros(padded.max(axis=0) + 2, dtype=np.bool_)
    inside[tuple(padded.T)] = True
    is_end = np.ones(len(voxels), dtype=np.bool_)
    for direction in LINE_DIRECTIONS:
        is_end &= ~(inside[tuple((padded + direction).T)] & inside[tuple((padded - direction).T)])
    return is_end


def _far_pair(points: FloatArray) -> tuple[int, int]:
    """Two points far apart: from each point to its farthest, until the distance grows no more."""
    first = _farthest_from(points.mean(axis=0), points)
    second, reached = first, -1.0
    while True:
        partner = _farthest_from(points[first], points)
        distance = _distance(points[first], points[partner])
        if distance <= reached:
            return second, first
        first, second, reached = partner, first, distance


def _farthest_from(point: FloatArray, points: FloatArray) -> int:
    return int(np.linalg.norm(points - point, axis=1).argmax())


def _distance(point: FloatArray, other: FloatArray) -> float:
    return float(np.linalg.norm(point - other))


def _farthest_of_all(points: FloatArray, kept: NDArray[np.intp]) -> FarthestPair:
    """Every pair of the points kept, a chunk of rows at a time."""
    some = points[kept]
    rows = max(1, CHUNK_PAIRS // len(some))
    best, pair = -1.0, (0, 0)
    for start in range(0, len(some), rows):
        apart = np.linalg.norm(some[start : start + rows, None] - some[None, start:], axis=2)
        place = int(apart.argmax())
        if apart.flat[place] > best:
            row, column = divmod(place, apart.shape[1])
            best, pair = float(apart.flat[place]), (start + row, start + column)
    return FarthestPair(best, int(kept[pair[0]]), int(kept[pair[1]]))


SUBSAMPLES_PER_AXIS = 9
"""Points per axis in a voxel when its share of the sphere is found: the sphere's volume to 0.5 %."""

BQ_PER_MBQ = 1e6


@dataclass(frozen=True, eq=False)
class PeakKernel:
    """A sphere on a grid.

    Attributes:
        offsets: ``(n, 3)`` voxel offsets ``(z, y, x)`` from the sphere's centre.
        weights: ``(n,)`` share of each voxel inside the sphere, summing to 1.
    """

    offsets: IndexArray
    weights: FloatArray


def measure(
    labels: LabelMap, suv: Volume, activity: Volume | None, policy: QuantifyPolicy | None = None
) -> Findings:
    """Measure every lesion on its functional image.

    Args:
        labels: lesions ``1..n``, every number present.
        suv: SUVbw (g/ml) on the grid of ``labels``.
        activity: Bq/ml on the same grid; ``None`` when not known.

    Returns:
        One lesion per label, in the order of the labels, and the burden.

    Raises:
        ValueError: the grids differ, a label has no voxel, or a lesion holds a value that is no number.
    """
    for image in (suv, activity):
        if image is not None and not image.grid.matches(labels.grid):
            raise ValueError(f"the {image.unit} image and the lesions lie on different grids")
    kernel = sphere_kernel(labels.grid, (policy or QuantifyPolicy()).suv_peak_sphere_ml)
    lesions = tuple(
        _measure_lesion(number, voxels, labels.grid, (suv, activity), kernel)
        for number, voxels in _voxels_by_label(labels)
    )
    return Findings(lesions, total(lesions))


def sphere_kernel(grid: Grid, sphere_ml: float) -> PeakKernel:
    """The sphere of ``sphere_ml`` on ``grid``, sub-voxel weighted; works for any affine."""
    radius_mm = (3.0 * sphere_ml * 1000.0 / (4.0 * np.pi)) ** (1.0 / 3.0)
    to_mm = grid.affine[:3, :3]
    # The sphere's reach along each index axis: how far the plane of constant index is from the centre.
    reach = np.ceil(radius_mm * np.linalg.norm(np.linalg.inv(to_mm), axis=1) + 0.5).astype(int)
    axes = [np.arange(-n, n + 1) for n in reach]
    offsets_xyz = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    steps = (np.arange(SUBSAMPLES_PER_AXIS) + 0.5) / SUBSAMPLES_PER_AXIS - 0.5
    points = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    centres_mm, points_mm = offsets_xyz @ to_mm.T, points @ to_mm.T
    share = np.array(
        [(np.square(centre + points_mm).sum(axis=1) <= radius_mm**2).mean() for centre in centres_mm]
    )
    inside = share > 0
    return PeakKernel(offsets_xyz[inside][:, ::-1].astype(np.int64), share[inside] / share.sum())


def _voxels_by_label(labels: LabelMap) -> Iterator[tuple[int, IndexArray]]:
    """Each number with its voxels, ``(n, 3)`` as (z, y, x), in the array's order."""
    flat = np.flatnonzero(labels.array)
    numbers = labels.array.ravel()[flat]
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(1, labels.count + 2))
    for number in range(1, labels.count + 1):
        voxels = flat[order[ends[number - 1] : ends[number]]]
        if voxels.size == 0:
            raise ValueError(f"labels are dense; number {number} of {labels.count} has no voxel")
        yield number, np.stack(np.unravel_index(voxels, labels.array.shape), axis=1)


def _measure_lesion(
    number: int, voxels: IndexArray, grid: Grid, images: tuple[Volume, Volume | None], kernel: PeakKernel
) -> Lesion:
    suv, activity = images
    uptake = _values(suv, voxels)
    volume_ml = len(voxels) * grid.voxel_ml
    suv_mean = float(uptake.mean())
    becquerels = None if activity is None else _values(activity, voxels)
    concentration_mean_bqml = None if becquerels is None else float(becquerels.mean())
    return Lesion(
        number=number,
        volume_ml=volume_ml,
        suv_max=float(uptake.max()),
        suv_mean=suv_mean,
        suv_peak=_peak(suv.array, voxels, kernel),
        tl_psma=volume_ml * suv_mean,
        centre_mm=grid.place_mm(voxels.mean(axis=0)),
        hottest_mm=grid.place_mm(voxels[int(uptake.argmax())]),
        activity_mbq=(
            None if concentration_mean_bqml is None else concentration_mean_bqml * volume_ml / BQ_PER_MBQ
        ),
        concentration_max_bqml=None if becquerels is None else float(becquerels.max()),
        concentration_mean_bqml=concentration_mean_bqml,
        longest_diameter_mm=longest_diameter_mm(voxels, grid),
    )


def _values(image: Volume, voxels: IndexArray) -> FloatArray:
    values: FloatArray = image.array[tuple(voxels.T)].astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"the {image.unit} image holds values in a lesion that are no numbers")
    return values


def _peak(suv: NDArray[np.float32], voxels: IndexArray, kernel: PeakKernel) -> float | None:
    """Highest sphere mean among spheres that lie within the image; ``None`` when there is none."""
    low, high = kernel.offsets.min(axis=0), kernel.offsets.max(axis=0)
    fits = ((voxels + low >= 0) & (voxels + high < np.array(suv.shape))).all(axis=1)
    if not fits.any():
        return None
    centres = voxels[fits]
    means = np.zeros(len(centres))
    for offset, weight in zip(kernel.offsets, kernel.weights, strict=True):
        means += weight * suv[tuple((centres + offset).T)]
    return float(means.max())


def total(lesions: tuple[Lesion, ...]) -> Burden:
    """The burden of these lesions; one without volume is none."""
    lesions = tuple(lesion for lesion in lesions if lesion.volume_ml > 0)
    activities = [lesion.activity_mbq for lesion in lesions if lesion.activity_mbq is not None]
    maxima = [lesion.suv_max for lesion in lesions if lesion.suv_max is not None]
    dmax_mm, dmax_lesions = _dmax(lesions)
    return Burden(
        lesion_count=len(lesions),
        psma_tv_ml=float(sum(lesion.volume_ml for lesion in lesions)),
        tl_psma=float(sum(lesion.tl_psma or 0.0 for lesion in lesions)),
        suv_max=max(maxima, default=None),
        activity_mbq=float(sum(activities)) if activities else None,
        dmax_mm=dmax_mm,
        dmax_lesions=dmax_lesions,
    )


def _dmax(lesions: tuple[Lesion, ...]) -> tuple[float | None, tuple[int, int] | None]:
    """Distance of the two centres of mass farthest apart (Cottereau et al., Ann Oncol 2020)."""
    if len(lesions) < 2:
        return None, None
    pair = farthest_pair(np.array([lesion.centre_mm for lesion in lesions]))
    first, second = sorted((pair.first, pair.second))
    return pair.distance_mm, (lesions[first].number, lesions[second].number)
