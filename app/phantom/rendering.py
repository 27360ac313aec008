"""Painting of analytic shapes on a grid: only the box around each shape is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import FloatArray, Grid
from app.phantom.anatomy.shapes import Shape

Image = NDArray[np.float32]
Box = tuple[slice, slice, slice]
SLAB_VOXELS = 120_000
"""Large shapes are evaluated in slabs of this size, which stay in the processor's cache."""

EDGE_LIMIT_MM = 60.0


@dataclass(frozen=True, eq=False)
class Pose:
    """How a body lies in the scanner: a small smooth warp, then a rigid motion.

    Attributes:
        rigid: 4x4, body mm to LPS mm.
        wave: (n, 3) wave vectors of the warp, 1/mm.
        phase: (n,) phases.
        amplitude_mm: (n, 3) displacement of each wave.
    """

    rigid: FloatArray
    wave: FloatArray
    phase: FloatArray
    amplitude_mm: FloatArray

    def place(self, centre: FloatArray) -> FloatArray:
        """LPS position of a body point, shape (3,)."""
        moved = centre + np.sin(self.wave @ centre + self.phase) @ self.amplitude_mm
        placed: FloatArray = self.rigid[:3, :3] @ moved + self.rigid[:3, 3]
        return placed

    @classmethod
    def identity(cls) -> Pose:
        """No motion: shapes given in LPS mm already."""
        return cls(np.eye(4), np.zeros((1, 3)), np.zeros(1), np.zeros((1, 3)))


@dataclass(frozen=True, eq=False)
class Stencil:
    """A shape in place: its box on the grid, and how to fill it."""

    box: Box
    centre: FloatArray
    to_own_axes: FloatArray
    shape: Shape

    def coverage(self, grid: Grid, box: Box) -> Image:
        """Share of each voxel of ``box`` inside the shape, 0..1, softened over one voxel."""
        spacing, start = np.array(grid.spacing_mm), grid.origin_mm - self.centre
        z, y, x = (
            (start[axis] + spacing[axis] * np.arange(part.start, part.stop)).astype(np.float32)
            for axis, part in zip((2, 1, 0), box, strict=True)
        )
        radius = _radius(self.to_own_axes.astype(np.float32), (x, y, z), self.shape.exponents)
        softness = min(*self.shape.half_axes, EDGE_LIMIT_MM) / float(np.cbrt(spacing.prod()))
        radius -= np.float32(1.0 + 0.5 / softness)
        radius *= np.float32(-softness)
        return np.clip(radius, 0.0, 1.0, out=radius)

    def slabs(self) -> Iterator[Box]:
        """The box in slabs of about ``SLAB_VOXELS``."""
        z, y, x = self.box
        step = max(1, SLAB_VOXELS // max(1, (y.stop - y.start) * (x.stop - x.start)))
        for start in range(z.start, z.stop, step):
            yield slice(start, min(start + step, z.stop)), y, x


def _radius(axes: Image, coordinates: tuple[Image, Image, Image], exponents: tuple[int, int]) -> Image:
    x, y, z = coordinates
    powers = []
    for row in axes:
        own = (row[0] * x)[None, None, :] + (row[1] * y)[None, :, None] + (row[2] * z)[:, None, None]
        own *= own
        powers.append(own)
    first, second = exponents
    across: Image = powers[0]
    lengthwise = powers[2]
    for _ in range(first.bit_length() - 2):
        across *= across
        powers[1] *= powers[1]
    across += powers[1]
    for _ in range((second // first).bit_length() - 1):
        across *= across
    for _ in range(second.bit_length() - 2):
        lengthwise *= lengthwise
    across += lengthwise
    for _ in range(second.bit_length() - 1):
        np.sqrt(across, out=across)
    return across


def stencil(shape: Shape, pose: Pose, grid: Grid, margin_mm: float = 0.0) -> Stencil | None:
    """Place a shape on an axis-aligned grid; None when it lies outside."""
    centre = pose.place(np.array(shape.centre, dtype=np.float64))
    turned = pose.rigid[:3, :3] @ shape.rotation
    half = np.array(shape.half_axes)
    spacing = np.array(grid.spacing_mm)
    swell = 1.0 if shape.exponents[1] == 2 else 3 ** (0.5 - 1 / shape.exponents[1])
    reach = np.sqrt(turned**2 @ half**2) * swell + spacing + margin_mm
    low = np.maximum(np.floor((centre - reach - grid.origin_mm) / spacing).astype(int), 0)
    high = np.minimum(np.ceil((centre + reach - grid.origin_mm) / spacing).astype(int) + 1, grid.shape[::-1])
    if (high <= low).any():
        return None
    z, y, x = (slice(int(low[axis]), int(high[axis])) for axis in (2, 1, 0))
    return Stencil((z, y, x), centre, turned.T / half[:, None], shape)


def paint(image: Image, grid: Grid, pose: Pose, shapes: Iterable[tuple[Shape, float | None]]) -> None:
    """Paint shapes with their values over ``image``, in order; None leaves what is there."""
    for shape, value in shapes:
        if value is None:
            continue
        placed = stencil(shape, pose, grid)
        if placed is None:
            continue
        for box in placed.slabs():
            blend(image[box], placed.coverage(grid, box), value)


def blend(view: Image, coverage: Image, value: float) -> None:
    """Move ``view`` towards ``value`` by ``coverage``, in place."""
    step = np.float32(value) - view
    step *= coverage
    view += step
