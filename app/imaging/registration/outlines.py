"""Outlines of an image and its CT on one lattice, correlated at every shift; and what they can prove.

The correlation is masked and normalised (Padfield, IEEE Trans Image Process 2012;21:2706): at each shift it
covers the view that both images share there.

An outline that the field of view cuts says where the view ends, not where the body does. And an edge says
something about a shift only together with the edge that faces the other way: an image that is a little wider
than its CT, a limb that tapers, or an arm beyond the CT's field of view each draw one of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import binary_erosion, uniform_filter1d

from app.domain.volume import FloatArray
from app.imaging.registration.working_ct import WorkingCt
from app.imaging.slices import thread_count

Scalar = TypeVar("Scalar", bound=np.generic)

OUTLINE_SHARE = (0.1, 1.0)
"""Uptake between these shares of the body's typical one tells body from air and lung."""

MIN_SHARED_VIEW = 0.4
"""At a shift, so much of the view shared at the stated place must still be shared."""

AT_EDGE_VOXELS = 1
"""A body that comes so near to the end of the view is cut by it."""

VIEW_EDGE_VOXELS = 3
"""What the smoothing reaches from beyond the end of a view."""

EDGE_REACH_VOXELS = 5
"""To both sides of an edge: 4 cm on the lattice of 8 mm."""

LEAST_EDGE_SHARE = 0.15
"""Of the edges that face one way, to those that face the other: with less, nothing is set against these."""

LEAST_SPREAD = 1e-3
"""Variance that a window has at least: an even one correlates with nothing."""

Bool = NDArray[np.bool_]
Image = NDArray[np.float32]


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
        spectrum: NDArray[np.complex64] = fft.rfftn(image, self._size, workers=thread_count())
        return spectrum

    def _at_shifts(self, product: NDArray[np.complex64]) -> NDArray[np.float64]:
        """``irfftn`` as far as shifts go: axis by axis in its order, only the lines that are looked at."""
        n = 2 * self._pair.reach + 1
        columns = fft.ifft(product, axis=0, norm="forward", workers=thread_count())[:n]
        rows = fft.ifft(columns, axis=1, norm="forward")[:, :n]
        values = fft.irfft(rows, self._size[2], axis=2, norm="forward")[:, :, :n]
        return np.asarray(values * np.float32(1.0 / np.prod(self._size)), dtype=np.float64)


def _pearson(*sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation at each shift, of six sums: number, x, y, x², y², xy."""
    number, x, y, xx, yy, xy = sums
    count = np.maximum(number, 1.0)
    least = 1e-3 * count  # an even field correlates with nothing
    spread_x, spread_y = np.maximum(xx - x**2 / count, least), np.maximum(yy - y**2 / count, least)
    found: NDArray[np.float64] = (xy - x * y / count) / np.sqrt(spread_x * spread_y)
    return found


def cut_share(body: Bool, view: Bool) -> float:
    """Of the ends of all lines across a body, along its rows or its columns (the worse), the share at or
    beyond the edge of the view. Arrays are ``(z, y, x)``; slices that the view does not reach don't count.
    """
    reached = view.any(axis=(1, 2))
    return max(_cut_along(body[reached], view[reached], axis) for axis in (1, 2))


def _cut_along(body: Bool, view: Bool, axis: int) -> float:
    crossed = body.any(axis=axis)
    cut = 0
    for of_body, of_view in ((body, view), (np.flip(body, axis), np.flip(view, axis))):
        is_unseen = ~of_view.any(axis=axis)
        apart = of_body.argmax(axis=axis) - of_view.argmax(axis=axis)
        cut += int(np.count_nonzero(crossed & (is_unseen | (apart <= AT_EDGE_VOXELS))))
    return cut / max(1, 2 * int(np.count_nonzero(crossed)))


def edge_gain(density: Image, view: Bool, moved: Image, unmoved: Image, axis: int) -> float:
    """By how much a move along an axis raises the correlation at the CT's edges: the lesser of those that
    face either way; 0 where one of them is not seen.

    Args:
        density: of the CT, ``(z, y, x)``, 0 air to 1 tissue.
        view: what both images see at both places.
        moved, unmoved: the other image's outline at the place that is tried, and without the move.
    """
    along = np.zeros((3, 3, 3), dtype=bool)
    along[tuple(slice(None) if each == axis else 1 for each in range(3))] = True
    # where the view ends, the smoothed density falls off although the body goes on
    slope = np.gradient(density, axis=axis) * binary_erosion(view, along, iterations=VIEW_EDGE_VOXELS)
    gains, sizes = [], []
    for sense in (1.0, -1.0):
        edges = np.maximum(sense * slope, 0.0)
        near = uniform_filter1d(edges, 2 * EDGE_REACH_VOXELS + 1, axis=axis, mode="constant") * view
        sizes.append(float(edges.sum()))
        gains.append(_correlation(near, density, moved) - _correlation(near, density, unmoved))
    return min(gains) if min(sizes) > LEAST_EDGE_SHARE * max(sizes) else 0.0


def _correlation(weights: FloatArray, one: Image, two: Image) -> float:
    """Pearson's, weighted."""
    whole = max(float(weights.sum()), 1e-9)
    one, two = (image - float((weights * image).sum()) / whole for image in (one, two))
    spreads = [max(float((weights * image**2).sum()) / whole, LEAST_SPREAD) for image in (one, two)]
    return float((weights * one * two).sum()) / whole / float(np.sqrt(spreads[0] * spreads[1]))
