"""Does a functional image lie on its own CT? The body's outline and lungs tell, whatever the uptake.

Both images become outlines on one lattice of 8 mm: the CT by density, the functional image by low uptake,
which soft tissue has and air and lung lack. They are correlated at every shift within reach, with the CT as
it is and mirrored or turned about each axis. An outline is symmetrical, so organs decide between left and
right: left minus right in both images.

The correlation is masked and normalised (Padfield, IEEE Trans Image Process 2012;21:2706): at each shift it
covers the view that both images share there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft
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
from app.imaging.registration.working_ct import WorkingCt, blurred, shrunk, working_ct
from app.imaging.resampling import resample

Scalar = TypeVar("Scalar", bound=np.generic)

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

OUTLINE_SHARE = (0.1, 1.0)
"""Uptake between these shares of the body's typical one tells body from air and lung."""

MIN_SHARED_VIEW = 0.4
"""At a shift, so much of the view shared at the stated place must still be shared."""

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
    pair = _pair(suv, working_ct(source).coarser())
    if pair is None:
        return None
    search = ShiftSearch(pair)
    upright = search.correlation(())
    gain = upright - np.where(upright > -1.0, search.unmoved(), 0.0)
    best = tuple(int(i) for i in np.unravel_index(int(gain.argmax()), gain.shape))
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
    found = measure_ct_agreement(loaded.uptake, loaded.ct)
    if found is None:
        return _decided(loaded, None, Decision(STAGE, NOT_CHECKED))
    selection = loaded.selection
    is_spect = selection.kind is StudyKind.SPECT_CT
    judgement = judge_ct_agreement(found, policy, is_spect, selection.functional.series_instance_uid)
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
    uptake = resample(blurred(shrunk(suv), SMOOTHING_MM, 2.0), ct.grid.widened(reach), np.nan).array
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


@dataclass(frozen=True, eq=False)
class OutlinePair:
    """Both images on one lattice; arrays ``(z, y, x)``, the functional ones ``reach`` voxels wider all round.

    Attributes:
        ct: on its 8 mm grid.
        density: 0 air to 1 soft tissue.
        share: uptake as a share of the body's typical one; 0 outside the field of view.
        seen: bool, the functional image's field of view.
        reach: voxels.
    """

    ct: WorkingCt
    density: NDArray[np.float32]
    share: NDArray[np.float32]
    seen: NDArray[np.bool_]
    reach: int

    @property
    def outline(self) -> NDArray[np.float32]:
        """Logarithm of low uptake."""
        outline: NDArray[np.float32] = np.log(np.clip(self.share, *OUTLINE_SHARE))
        return outline

    def at(self, shift_zyx: tuple[int, ...], array: NDArray[Scalar]) -> NDArray[Scalar]:
        """A functional array on the CT's lattice, as it lies when moved back by the shift."""
        start = [self.reach + step for step in shift_zyx]
        box = tuple(slice(a, a + n) for a, n in zip(start, self.density.shape, strict=True))
        part: NDArray[Scalar] = array[box]
        return part


class ShiftSearch:
    """Pearson's correlation of the two outlines at every shift, each over the view that both share there.

    Every result is ``(2 reach + 1,) * 3``, indexed ``reach + shift``: the CT at x against the image at
    x + shift; -1 where too little view is shared.
    """

    def __init__(self, pair: OutlinePair) -> None:
        self._pair = pair
        self._size = tuple(fft.next_fast_len(n, real=True) for n in pair.share.shape)
        seen, outline = pair.seen.astype(np.float32), pair.outline
        self._image = tuple(self._spectrum(image) for image in (seen, outline * seen, outline**2 * seen))

    def correlation(self, reversed_axes: tuple[int, ...]) -> NDArray[np.float64]:
        """With the CT's array reversed along these axes."""
        view = np.flip(self._pair.ct.seen, reversed_axes).astype(np.float32)
        density = np.flip(self._pair.density, reversed_axes) * view
        of_view, of_ct, of_squares = (np.conj(self._spectrum(a)) for a in (view, density, density**2))
        seen, image, squares = self._image
        count = self._at_shifts(of_view * seen)
        products = (of_ct * seen, of_view * image, of_squares * seen, of_view * squares, of_ct * image)
        found = _pearson(count, *map(self._at_shifts, products))
        least = MIN_SHARED_VIEW * count[(self._pair.reach,) * 3]
        correlation: NDArray[np.float64] = np.where(count >= least, found, -1.0)
        return correlation

    def unmoved(self) -> NDArray[np.float64]:
        """Correlation at shift 0 over the parts that are compared at each shift, the better of both images'.

        Without it, a shift that moves a part which fits badly out of view would look like an improvement.
        """
        pair, seen = self._pair, self._image[0]
        outline = pair.at((0, 0, 0), pair.outline)
        shared = (pair.ct.seen & pair.at((0, 0, 0), pair.seen)).astype(np.float32)
        one, two = pair.density, outline
        terms = [image * shared for image in (np.ones_like(one), one, two, one**2, two**2, one * two)]
        in_ct = np.conj(self._spectrum(pair.ct.seen.astype(np.float32)))
        of_image = [self._at_shifts(np.conj(self._spectrum(term)) * seen) for term in terms]
        of_ct = [self._at_shifts(in_ct * self._spectrum(np.pad(term, pair.reach))) for term in terms]
        better: NDArray[np.float64] = np.maximum(_pearson(*of_image), _pearson(*of_ct))
        return better

    def _spectrum(self, image: NDArray[np.float32]) -> NDArray[np.complex64]:
        spectrum: NDArray[np.complex64] = fft.rfftn(image, self._size)
        return spectrum

    def _at_shifts(self, product: NDArray[np.complex64]) -> NDArray[np.float64]:
        n = 2 * self._pair.reach + 1
        return np.asarray(fft.irfftn(product, self._size)[:n, :n, :n], dtype=np.float64)


def _pearson(*sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation at each shift, of six sums: number, x, y, x², y², xy."""
    number, x, y, xx, yy, xy = sums
    count = np.maximum(number, 1.0)
    least = 1e-3 * count  # an even field correlates with nothing
    spread_x, spread_y = np.maximum(xx - x**2 / count, least), np.maximum(yy - y**2 / count, least)
    found: NDArray[np.float64] = (xy - x * y / count) / np.sqrt(spread_x * spread_y)
    return found
