"""A whole body from mid-thigh to vertex, with benign foci that look like small lesions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app.phantom.anatomy.body import Arms, Habitus, arm_outline, arm_skeleton, draw_habitus, trunk_outline
from app.phantom.anatomy.organs import build_organs, liver_and_spleen, retroperitoneum, spinal_cord, thorax
from app.phantom.anatomy.physiology import Physiology, draw_physiology, lognormal
from app.phantom.anatomy.shapes import Shape, Uptake, Vector
from app.phantom.anatomy.skeleton import BoneRegion, Site, build_skeleton, scaled_sites

FADED_SHARE = 0.35
"""Share of benign foci that are no longer seen weeks later."""


def _focus(
    rng: np.random.Generator, centre: Vector, size_mm: Vector, uptake: Uptake, hu: float | None
) -> Shape:
    a, b, c = (np.array(size_mm) / 2 * rng.uniform(0.85, 1.15, 3)).tolist()
    if rng.random() < FADED_SHARE:
        uptake = Uptake(uptake.pet, uptake.spect * 0.3)
    return Shape(centre, (a, b, c), hu, uptake)


def _ureters(rng: np.random.Generator) -> list[Shape]:
    foci = []
    for side in (-1, 1):
        for _ in range(int(rng.poisson(1.0))):
            z = float(rng.uniform(275, 450))
            x = side * float(np.interp(z, (275, 350, 450), (52, 30, 36)))
            avid = Uptake(lognormal(rng, 14, 9, (3, 45)), lognormal(rng, 3, 1.8, (0.8, 9)))
            size = (7.0, 7.0, float(rng.uniform(10, 30)))
            foci.append(_focus(rng, (x, float(np.interp(z, (275, 450), (24, 14))), z), size, avid, None))
    return foci


def _ganglia(rng: np.random.Generator) -> list[Shape]:
    foci = []
    for side in (-1, 1):
        if rng.random() < 0.8:  # coeliac
            avid = Uptake(float(rng.uniform(2, 4.5)), float(rng.uniform(0.7, 1.6)))
            foci.append(_focus(rng, (side * 20, 16, 548), (4, 7, 11), avid, None))
        if rng.random() < 0.4:  # cervical and stellate
            avid = Uptake(float(rng.uniform(1.8, 3.5)), float(rng.uniform(0.5, 1.4)))
            foci.append(_focus(rng, (side * 28, 28, 838), (4, 5, 11), avid, None))
    return foci


def _unspecific_bone(rng: np.random.Generator, sites: Mapping[BoneRegion, tuple[Site, ...]]) -> list[Shape]:
    regions = (BoneRegion.SPINE, BoneRegion.PELVIS, BoneRegion.RIB, BoneRegion.RIB, BoneRegion.OTHER)
    foci = []
    for _ in range(int(rng.poisson(2.2))):
        places = sites[regions[int(rng.integers(len(regions)))]]
        centre, axes = places[int(rng.integers(len(places)))]
        x, y, z = (np.array(centre) + rng.uniform(-0.6, 0.6, 3) * np.minimum(axes, 40)).tolist()
        avid = Uptake(float(rng.uniform(1.8, 4.5)), float(rng.uniform(0.8, 3.2)))
        a, b, c = rng.uniform(6, 14, 3).tolist()
        foci.append(_focus(rng, (x, y, z), (a, b, c), avid, 750.0 if rng.random() < 0.5 else None))
    return foci


def _bowel_foci(rng: np.random.Generator) -> list[Shape]:
    foci = []
    for _ in range(int(rng.poisson(2.5))):
        x, y, z = rng.uniform((-90, -60, 340), (90, 10, 480)).tolist()
        avid = Uptake(float(rng.uniform(2, 6)), lognormal(rng, 3.2, 1.8, (1, 9)))
        a, b, c = rng.uniform(10, 22, 3).tolist()
        foci.append(_focus(rng, (x, y, z), (a, b, c), avid, 35.0))
    return foci


def build_benign(rng: np.random.Generator, sites: Mapping[BoneRegion, tuple[Site, ...]]) -> list[Shape]:
    """Ureters, ganglia, unspecific bone uptake and hot spots of the gut."""
    return [*_ureters(rng), *_ganglia(rng), *_unspecific_bone(rng, sites), *_bowel_foci(rng)]


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
