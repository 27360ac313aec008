"""Does a functional image lie on its own CT? The body's outline and lungs tell, whatever the uptake.

Both images become outlines on one lattice of 8 mm: the CT by density, the functional image by low uptake,
which soft tissue has and air and lung lack. They are correlated at every shift within reach, with the CT as
it is and mirrored or turned about each axis. An outline is symmetrical, so organs decide between left and
right: left minus right in both images. What the field of view cuts is no evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

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
from app.domain.volume import FloatArray, Volume
from app.imaging.registration.outlines import OutlinePair, ShiftSearch, cut_share, edge_gain
from app.imaging.registration.working_ct import WorkingCt, blurred_on, shrunk, working_ct
from app.imaging.slices import thread_count

Scalar = TypeVar("Scalar", bound=np.generic)

STAGE = "load"

NOT_CHECKED = "not checked whether the image lies on its CT"
TOO_LITTLE = "too little outline on both (less than 3 l of body, or 5 % of air), or voxels longer than 12 mm"

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

LEAST_EDGE_GAIN = 0.01
"""In correlation at the edges that face either way: shifts of 2 cm and more gain 0.03; a view that fits
anywhere loses at one of them."""

LEAST_LENGTH_MM = 320.0
"""Of body that both images show, before a reversal is judged: less resembles other parts of it, turned."""

LEAST_FIT = 0.75
"""Correlation of outlines that a reversed CT has at least, if that is what happened (0.77 to 0.98): where the
arms lie elsewhere, both fit badly, and either may fit a little better."""

VOXELS_A_VALUE = 44.0
"""Of the lattice, that hold one independent value once they are blurred by a voxel: (2 sqrt(pi))^3."""

CERTAIN = 3.0
"""Standard errors of a correlation below which it may be chance."""

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
    """How well a PET or SPECT, in any unit, lies on its CT in HU, and where it would lie better.

    ``None`` when too little body with its outline is on both.
    """
    if max(*suv.grid.spacing_mm, *source.grid.spacing_mm) > COARSEST_MM:
        return None
    pair = _pair(suv, working_ct(source).coarser)
    if pair is None:
        return None
    upright, gain, flipped = _at_every_shift(pair)
    best = tuple(int(i) for i in np.unravel_index(int(gain.argmax()), gain.shape))
    shift = tuple(i - pair.reach for i in best)
    is_moved = [_edges_agree(pair, shift, axis) for axis in range(3)]
    place = tuple(step if moved else 0 for step, moved in zip(shift, is_moved, strict=True))
    x, y, z = (step * pair.ct.grid.spacing_mm[0] for step in _refined(gain, best)[::-1])
    worth_x, worth_y, worth_z = (_worth(gain, best, axis) if is_moved[axis] else 0.0 for axis in (2, 1, 0))
    side = _side_correlation(pair, place, flipped.pop(Flip.LEFT_RIGHT))
    flip, flip_gain = _reversal(flipped, float(upright.max()))
    view = pair.ct.seen & pair.at(place, pair.seen)
    slices = np.count_nonzero((pair.ct.body & view).any(axis=(1, 2)))
    is_long = bool(slices * pair.ct.grid.spacing_mm[2] >= LEAST_LENGTH_MM)
    return CtAgreement(
        shift_mm=(x, y, z),
        gains=(worth_x, worth_y, worth_z),
        overlap=float(upright[(pair.reach,) * 3]),
        best_overlap=float(upright[best]),
        flip=flip,
        flip_gain=flip_gain if is_long else min(flip_gain, 0.0),
        side_correlation=side if is_long else 0.0,
        cut_share=cut_share(pair.ct.body, view),
        is_long=is_long,
    )


def _at_every_shift(
    pair: OutlinePair,
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[Flip, NDArray[np.float64]]]:
    """Correlations with the CT as it is, what a shift gains in them, and correlations with it reversed."""
    search = ShiftSearch(pair)
    with ThreadPoolExecutor(thread_count()) as threads:
        unmoved = threads.submit(search.unmoved)
        reversed_ct = {flip: threads.submit(search.correlation, axes) for flip, axes in FLIPS}
        upright = search.correlation(())
    gain = upright - np.where(upright > -1.0, unmoved.result(), 0.0)
    return upright, gain, {flip: each.result() for flip, each in reversed_ct.items()}


def _reversal(flipped: Mapping[Flip, NDArray[np.float64]], upright: float) -> tuple[Flip, float]:
    """The reversal that fits best and what it gains over ``upright``."""
    highest = {flip: float(values.max()) for flip, values in flipped.items()}
    likeliest = max(highest, key=lambda flip: highest[flip])
    gain = highest[likeliest] - upright
    return likeliest, gain if highest[likeliest] >= LEAST_FIT else min(gain, 0.0)


def check_ct(loaded: Loaded, policy: CtAgreementPolicy) -> Loaded | Rejection:
    """The pair with what was measured, warned of when it is doubtful; refused when it is wrong."""
    found = measure_ct_agreement(loaded.uptake, loaded.ct)
    if found is None:
        return _decided(loaded, None, Decision(STAGE, f"{NOT_CHECKED}: {TOO_LITTLE}"))
    selection = loaded.selection
    is_spect = selection.kind is StudyKind.SPECT_CT
    judgement = judge_ct_agreement(found, policy, is_spect, selection.functional.series_instance_uid)
    if judgement.verdict is CtVerdict.UNCHECKED:
        return _decided(loaded, found, Decision(STAGE, f"{NOT_CHECKED}: {judgement.why}"))
    if judgement.verdict is CtVerdict.WRONG:
        return Rejection(judgement.reasons)
    if judgement.verdict is CtVerdict.FITS:
        return _decided(loaded, found, Decision(STAGE, f"the image lies on its CT: {found.in_words()}"))
    doubt = "; ".join(f"{reason.found}, expected {reason.expected}" for reason in judgement.reasons)
    text = f"{doubt}; sites and reference organs are not told. {ADVICE}"
    return replace(_decided(loaded, found, Decision.warning(STAGE, text)), ct_doubt=doubt)


def _decided(loaded: Loaded, found: CtAgreement | None, decision: Decision) -> Loaded:
    return replace(loaded, ct_agreement=found, decisions=(*loaded.decisions, decision))


def _pair(suv: Volume, ct: WorkingCt) -> OutlinePair | None:
    reach = round(REACH_MM / ct.grid.spacing_mm[0])
    uptake = blurred_on(shrunk(suv), ct.grid.widened(reach), SMOOTHING_MM, 2.0)
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


def _edges_agree(pair: OutlinePair, shift: tuple[int, ...], axis: int) -> bool:
    """Whether the body's edges on both sides gain by the shift along an axis ``(z, y, x)``."""
    if not shift[axis]:
        return True
    without = (*shift[:axis], 0, *shift[axis + 1 :])
    view = pair.ct.seen & pair.at(shift, pair.seen) & pair.at(without, pair.seen)
    moved, unmoved = (pair.at(place, pair.outline) for place in (shift, without))
    return edge_gain(pair.density, view, moved, unmoved, axis) >= LEAST_EDGE_GAIN


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
    one, two = (minus_other_side(image)[both_sides] for image in (tissue, uptake))
    if not (one.any() and two.any()):
        return 0.0
    found = float(np.corrcoef(one, two)[0, 1])
    independent = max(1.0, np.count_nonzero(both_sides) / 2.0 / VOXELS_A_VALUE)
    return found if abs(found) > CERTAIN / np.sqrt(independent) else 0.0
