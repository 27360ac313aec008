"""Superquadric solids: the bricks that a simulated body is made of.

Body coordinates are millimetres, +x to the patient's left, +y posterior, +z superior (as LPS), with
``z = 0`` at mid-thigh.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from app.domain.volume import FloatArray

Vector = tuple[float, float, float]
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
