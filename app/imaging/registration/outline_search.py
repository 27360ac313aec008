"""How well the outlines of an image and its CT correlate at every shift, by FFT.

Masked normalised correlation (Padfield, IEEE Trans Image Process 2012;21:2706): at each shift over the view
that both images share there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from app.imaging.registration.working_ct import WorkingCt

Scalar = TypeVar("Scalar", bound=np.generic)

OUTLINE_SHARE = (0.1, 1.0)
"""Uptake between these shares of the body's typical one tells body from air and lung."""

MIN_SHARED_VIEW = 0.4
"""At a shift, so much of the view shared at the stated place must still be shared."""


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
        sums = _Sums(
            count,
            (self._at_shifts(of_ct * seen), self._at_shifts(of_view * image)),
            (self._at_shifts(of_squares * seen), self._at_shifts(of_view * squares)),
            self._at_shifts(of_ct * image),
        )
        least = MIN_SHARED_VIEW * count[(self._pair.reach,) * 3]
        correlation: NDArray[np.float64] = np.where(count >= least, sums.correlation(), -1.0)
        return correlation

    def unmoved(self) -> NDArray[np.float64]:
        """Correlation at shift 0 over the parts that are compared at each shift, the better of both images'.

        Without it, a shift that moves a part which fits badly out of view would look like an improvement.
        """
        pair, seen = self._pair, self._image[0]
        outline = pair.at((0, 0, 0), pair.outline)
        shared = (pair.ct.seen & pair.at((0, 0, 0), pair.seen)).astype(np.float32)
        terms = [
            image * shared
            for image in (
                np.ones_like(shared),
                pair.density,
                outline,
                pair.density**2,
                outline**2,
                pair.density * outline,
            )
        ]
        margin = [(pair.reach, pair.reach)] * 3
        in_ct = np.conj(self._spectrum(pair.ct.seen.astype(np.float32)))
        found = [
            _Sums.of([self._at_shifts(np.conj(self._spectrum(term)) * seen) for term in terms]).correlation(),
            _Sums.of(
                [self._at_shifts(in_ct * self._spectrum(np.pad(term, margin))) for term in terms]
            ).correlation(),
        ]
        better: NDArray[np.float64] = np.maximum(*found)
        return better

    def _spectrum(self, image: NDArray[np.float32]) -> NDArray[np.complex64]:
        spectrum: NDArray[np.complex64] = fft.rfftn(image, self._size)
        return spectrum

    def _at_shifts(self, product: NDArray[np.complex64]) -> NDArray[np.float64]:
        n = 2 * self._pair.reach + 1
        return np.asarray(fft.irfftn(product, self._size)[:n, :n, :n], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Sums:
    """What Pearson's correlation is made of, at each shift: number, sums, squares, products."""

    count: NDArray[np.float64]
    sums: tuple[NDArray[np.float64], NDArray[np.float64]]
    squares: tuple[NDArray[np.float64], NDArray[np.float64]]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, terms: list[NDArray[np.float64]]) -> _Sums:
        count, first, second, squares, other_squares, products = terms
        return cls(count, (first, second), (squares, other_squares), products)

    def correlation(self) -> NDArray[np.float64]:
        count = np.maximum(self.count, 1.0)
        covariance = self.products - self.sums[0] * self.sums[1] / count
        least = 1e-3 * count  # an even field correlates with nothing
        spreads = [
            np.maximum(squares - total**2 / count, least)
            for squares, total in zip(self.squares, self.sums, strict=True)
        ]
        found: NDArray[np.float64] = covariance / np.sqrt(spreads[0] * spreads[1])
        return found
