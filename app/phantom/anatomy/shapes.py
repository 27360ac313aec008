"""Superquadric solids: the bricks that a simulated body is made of.

Body coordinates are millimetres, +x to the patient's left, +y posterior, +z superior (as LPS), with
``z = 0`` at mid-thigh. On a grid only the box around each shape is painted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import FloatArray, Grid
from app.phantom.centres import Vector

Exponents = tuple[int, int]
ELLIPSOID: Exponents = (2, 2)
ROUNDED: Exponents = (2, 4)
CYLINDER: Exponents = (2, 8)
PLUMP: Exponents = (4, 4)
BLOCK: Exponents = (4, 8)


@dataclass(frozen=True, slots=True)
class Uptake:
    """Tracer concentration of a tissue as SUVbw (g/ml), per scan."""

    pet: float
    spect: float

    def times(self, factor: float) -> Uptake:
        """The same tissue, ``factor`` times as avid."""
        return Uptake(self.pet * factor, self.spect * factor)


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One superquadric ``((|x/a|^e + |y/b|^e)^(f/e) + |z/c|^f)^(1/f) <= 1``.

    Attributes:
        centre: centre in body mm.
        half_axes: half lengths a, b, c in mm along the shape's own axes.
        hu: what CT shows; None leaves the tissue underneath.
        uptake: what PET and SPECT show; None leaves the tissue underneath.
        exponents: (e, f), powers of two with f >= e.
        rotation: 3x3, own axes to body axes.
    """

    centre: Vector
    half_axes: Vector
    hu: float | None = None
    uptake: Uptake | None = None
    exponents: Exponents = ELLIPSOID
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))

    def scaled(self, factor: float) -> Shape:
        """The same shape in a body ``factor`` times as large."""
        x, y, z = self.centre
        a, b, c = self.half_axes
        centre = (x * factor, y * factor, z * factor)
        return replace(self, centre=centre, half_axes=(a * factor, b * factor, c * factor))

    def grown(self, factor: float, hu: float | None, uptake: Uptake | None) -> Shape:
        """A shape with the same centre, ``factor`` times as large, of another tissue."""
        a, b, c = self.half_axes
        return replace(self, half_axes=(a * factor, b * factor, c * factor), hu=hu, uptake=uptake)


def euler(x_deg: float, y_deg: float, z_deg: float) -> FloatArray:
    """3x3 rotation about x, then y, then z (fixed axes), degrees."""
    (cx, cy, cz), (sx, sy, sz) = (f(np.deg2rad([x_deg, y_deg, z_deg])) for f in (np.cos, np.sin))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turned: FloatArray = about_z @ about_y @ about_x
    return turned


def along(direction: FloatArray) -> FloatArray:
    """3x3 rotation whose third axis points along ``direction``."""
    third = direction / np.linalg.norm(direction)
    helper = np.array([0.0, 0.0, 1.0]) if abs(third[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    first = np.cross(helper, third)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third], axis=1)


def tube(start: Vector, end: Vector, radii_mm: tuple[float, float]) -> Shape:
    """A rounded cylinder from ``start`` to ``end`` (no tissue yet), radii across in mm."""
    p, q = np.array(start, dtype=np.float64), np.array(end, dtype=np.float64)
    middle, half = (p + q) / 2, float(np.linalg.norm(q - p)) / 2
    centre = (float(middle[0]), float(middle[1]), float(middle[2]))
    return Shape(centre, (*radii_mm, half), exponents=ROUNDED, rotation=along(q - p))


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
