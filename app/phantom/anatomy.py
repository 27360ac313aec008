"""A whole body, mid-thigh to vertex, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app.phantom.benign import build_benign
from app.phantom.body import Arms, Habitus, arm_outline, arm_skeleton, draw_habitus, trunk_outline
from app.phantom.organs import build_organs, liver_and_spleen, retroperitoneum, spinal_cord, thorax
from app.phantom.physiology import Physiology, draw_physiology
from app.phantom.shapes import Shape
from app.phantom.skeleton import BoneRegion, Site, build_skeleton, scaled_sites

VERTEX_MM = 1086.0
"""Height of the vertex above mid-thigh in the reference body."""

REFERENCE_HEIGHT_M = 1.75


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One body.

    Attributes:
        scale: size against the reference body, lengthwise and across.
        fat, muscle: outline of trunk, head and thighs.
        interior: everything inside, in painting order.
        benign: benign foci, painted last.
        sites: where bone lesions may grow.
    """

    scale: float
    habitus: Habitus
    physiology: Physiology
    fat: tuple[Shape, ...]
    muscle: tuple[Shape, ...]
    interior: tuple[Shape, ...]
    benign: tuple[Shape, ...]
    sites: Mapping[BoneRegion, tuple[Site, ...]]

    @property
    def height_m(self) -> float:
        """Standing height in metres."""
        return REFERENCE_HEIGHT_M * self.scale

    def shapes(self, arms: Arms) -> list[Shape]:
        """All shapes in painting order with the arms in that position."""
        fat, muscle = arm_outline(arms, self.habitus, self.physiology)
        limbs = arm_skeleton(arms, self.habitus, self.physiology)
        grown = [[shape.scaled(self.scale) for shape in layer] for layer in (fat, muscle, limbs)]
        return [*self.fat, *grown[0], *self.muscle, *grown[1], *grown[2], *self.interior, *self.benign]


def build_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one body."""
    scale = float(np.clip(rng.normal(1.0, 0.035), 0.93, 1.07))
    habitus, physiology = draw_habitus(rng), draw_physiology(rng)
    fat, muscle = trunk_outline(habitus, physiology)
    skeleton = build_skeleton(rng, physiology)
    interior = [
        *thorax(rng, physiology),
        *retroperitoneum(physiology),
        *liver_and_spleen(rng, physiology),
        *skeleton.shapes,
        *spinal_cord(physiology),
        *build_organs(rng, physiology),
    ]
    benign = build_benign(rng, scaled_sites(skeleton, 1.0))

    def grow(shapes: list[Shape]) -> tuple[Shape, ...]:
        return tuple(shape.scaled(scale) for shape in shapes)

    sites = scaled_sites(skeleton, scale)
    return Anatomy(scale, habitus, physiology, grow(fat), grow(muscle), grow(interior), grow(benign), sites)
