"""Does a functional image lie on its own CT? The body's outline and lungs tell, whatever the uptake.

Both images become outlines on one lattice of 8 mm: the CT by density, the functional image by low uptake,
which soft tissue has and air and lung lack. They are correlated at every shift within reach
(:mod:`app.imaging.registration.outline_search`), with the CT as it is and mirrored or turned about each axis.
An outline is symmetrical, so organs decide between left and right: left minus right in both images.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter

from app.domain.analysis import Loaded
from app.domain.decision import Decision
from app.domain.refusal import Rejection
from app.domain.stack.ct_agreement import (
    ADVICE,
    CtAgreement,
    CtAgreementPolicy,
    CtVerdict,
    Flip,
    judge_ct_agreement,
)
from app.domain.study import StudyKind
from app.domain.volume import FloatArray, Grid, Unit, Volume
from app.imaging.registration.outline_search import OutlinePair, Scalar, ShiftSearch
from app.imaging.registration.working_ct import WorkingCt, shrunk, working_ct
from app.imaging.resampling import resample

STAGE = "load"

NOT_CHECKED = "not checked whether the image lies on its CT: too little outline on both, or too coarse voxels"

REACH_MM = 96.0
"""Shifts up to this along each axis are tried."""

SMOOTHING_MM = 8.0
"""Standard deviation: the functional image is noisy where uptake is low."""

DENSITY_HU = (-1000.0, 0.0)
"""Air to soft tissue; what is denser is no more body than that."""

ORGAN_SHARE = (0.1, 20.0)
"""Uptake between these shares of the body's typical one tells organs apart."""

ORGAN_HU = (-100.0, 60.0)
"""Gas and fat to liver."""

COARSEST_MM = 12.0
"""Voxels longer than this along any axis draw no outline on a grid of 8 mm."""

MIN_BODY_ML = 3000.0
"""Of body that both images show: less has no shape to go by."""

MIN_AIR_SHARE = 0.05
"""Of the shared view: without air there is no outline."""

FLIPS: tuple[tuple[Flip, tuple[int, ...]], ...] = (
    (Flip.LEFT_RIGHT, (2,)),
    (Flip.FRONT_BACK, (1,)),
    (Flip.HEAD_FEET, (0,)),
    (Flip.ABOUT_Z, (1, 2)),
    (Flip.ABOUT_Y, (0, 2)),
    (Flip.ABOUT_X, (0, 1)),
)
"""Each with the array axes that it reverses."""


def measure_ct_agreement(suv: Volume, source: Volume) -> CtAgreement | None:
    """How well an image lies on its CT, and where it would lie better.

    Args:
        suv: PET or SPECT; its unit does not matter.
        source: the CT in HU, any orientation.

    Returns:
        ``None`` when too little body with its outline is on both to tell.
    """
    if max(*suv.grid.spacing_mm, *source.grid.spacing_mm) > COARSEST_MM:
        return None
    pair = _pair(suv, working_ct(source).coarser())
    if pair is None:
        return None
    search = ShiftSearch(pair)
    upright = search.correlation(())
    gain = upright - np.where(upright > -1.0, search.unmoved(), 0.0)
    best = _highest(gain)
    flipped = {flip: search.correlation(axes) for flip, axes in FLIPS}
    x, y, z = (step * pair.ct.grid.spacing_mm[0] for step in _refined(gain, best)[::-1])
    worth_x, worth_y, worth_z = (_worth(gain, best, axis) for axis in (2, 1, 0))
    side = _side_correlation(pair, tuple(i - pair.reach for i in best), flipped[Flip.LEFT_RIGHT])
    others = {flip: float(values.max()) for flip, values in flipped.items() if flip is not Flip.LEFT_RIGHT}
    likeliest = max(others, key=lambda flip: others[flip])
    return CtAgreement(
        shift_mm=(x, y, z),
        gains=(worth_x, worth_y, worth_z),
        overlap=float(upright[(pair.reach,) * 3]),
        best_overlap=float(upright[best]),
        flip=likeliest,
        flip_gain=others[likeliest] - float(upright[best]),
        side_correlation=side,
    )


def check_ct(loaded: Loaded, policy: CtAgreementPolicy) -> Loaded | Rejection:
    """The pair with what was measured, warned of when it is doubtful; refused when it is wrong."""
    found = measure_ct_agreement(loaded.suv, loaded.ct)
    if found is None:
        return _told(loaded, None, Decision(STAGE, NOT_CHECKED))
    selection = loaded.selection
    is_spect = selection.kind is StudyKind.SPECT_CT
    judgement = judge_ct_agreement(found, policy, is_spect, selection.functional.series_instance_uid)
    if judgement.verdict is CtVerdict.WRONG:
        return Rejection(judgement.reasons)
    if judgement.verdict is CtVerdict.FITS:
        return _told(loaded, found, Decision(STAGE, f"the image lies on its CT: {found.in_words()}"))
    doubt = "; ".join(f"{reason.found}, expected {reason.expected}" for reason in judgement.reasons)
    text = f"{doubt}; sites and reference organs are not told. {ADVICE}"
    return replace(_told(loaded, found, Decision.warning(STAGE, text)), ct_doubt=doubt)


def _told(loaded: Loaded, found: CtAgreement | None, decision: Decision) -> Loaded:
    return replace(loaded, ct_agreement=found, decisions=(*loaded.decisions, decision))


def _pair(suv: Volume, ct: WorkingCt) -> OutlinePair | None:
    reach = round(REACH_MM / ct.grid.spacing_mm[0])
    uptake = resample(_smoothed(shrunk(suv)), _widened(ct.grid, reach), np.nan).array
    seen = np.isfinite(uptake)
    within = (slice(reach, -reach),) * 3
    shared = seen[within] & ct.seen
    body = shared & ct.body
    if body.sum() * ct.grid.voxel_ml < MIN_BODY_ML or (shared & ~body).sum() < MIN_AIR_SHARE * shared.sum():
        return None
    typical = float(np.median(uptake[within][body]))
    if not typical > 0.0:
        return None
    share = np.nan_to_num(np.maximum(uptake, 0.0)) / np.float32(typical)
    low, high = DENSITY_HU
    density = np.clip((ct.hu - low) / (high - low), 0.0, 1.0).astype(np.float32)
    density = gaussian_filter(density, SMOOTHING_MM / ct.grid.spacing_mm[0], truncate=2.0)
    return OutlinePair(ct, density, share.astype(np.float32), seen, reach)


def _smoothed(volume: Volume) -> Volume:
    sigma = [SMOOTHING_MM / mm for mm in volume.grid.spacing_mm[::-1]]
    return Volume(gaussian_filter(volume.array, sigma, truncate=2.0), volume.grid, Unit.NONE)


def _widened(grid: Grid, voxels: int) -> Grid:
    """The same lattice, so many voxels more at each end."""
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_lps(np.full((1, 3), -float(voxels)))[0]
    depth, height, width = (n + 2 * voxels for n in grid.shape)
    return Grid((depth, height, width), affine)


def _highest(values: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(values.argmax()), values.shape))


def _worth(gain: NDArray[np.float64], best: tuple[int, ...], axis: int) -> float:
    """What the best place loses without its shift along one axis."""
    without = (*best[:axis], gain.shape[axis] // 2, *best[axis + 1 :])
    return float(gain[best] - gain[without])


def _refined(values: NDArray[np.float64], best: tuple[int, ...]) -> FloatArray:
    """Shift in voxels ``(z, y, x)`` at the top of a parabola through the best and its neighbours."""
    shift: FloatArray = np.array(best, dtype=np.float64) - values.shape[0] // 2
    for axis, index in enumerate(best):
        if not 0 < index < values.shape[axis] - 1:
            continue
        before, top, after = (
            float(values[(*best[:axis], index + step, *best[axis + 1 :])]) for step in (-1, 0, 1)
        )
        curvature = before - 2 * top + after
        if curvature < 0:
            shift[axis] += 0.5 * (before - after) / curvature
    return shift


def _side_correlation(pair: OutlinePair, shift: tuple[int, ...], mirrored: NDArray[np.float64]) -> float:
    """Correlation of left minus right in both; the plane between is where the mirrored CT fits best."""
    row = mirrored[shift[0] + pair.reach, shift[1] + pair.reach]
    to_mirror = int(row.argmax()) - pair.reach - shift[2]

    def minus_other_side(image: NDArray[np.float32]) -> NDArray[np.float32]:
        difference: NDArray[np.float32] = gaussian_filter(image - other_side(image), 1.0)
        return difference

    def other_side(image: NDArray[Scalar]) -> NDArray[Scalar]:
        rolled: NDArray[Scalar] = np.roll(image[:, :, ::-1], to_mirror, axis=2)
        return rolled

    body = pair.ct.body & pair.at(shift, pair.seen)
    both_sides = binary_erosion(body & other_side(body))
    if not both_sides.any():
        return 0.0
    uptake = np.log(np.clip(pair.at(shift, pair.share), *ORGAN_SHARE)).astype(np.float32)
    tissue = np.clip(pair.ct.hu, *ORGAN_HU)
    pairs = np.corrcoef(minus_other_side(tissue)[both_sides], minus_other_side(uptake)[both_sides])
    return float(np.nan_to_num(pairs[0, 1]))
