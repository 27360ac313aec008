"""A whole body from mid-thigh to vertex: soft organs with their uptake in painting order, and benign foci.

The foci look like small lesions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from app.domain.volume import FloatArray
from app.phantom.anatomy import body
from app.phantom.anatomy.shapes import CYLINDER, ELLIPSOID, PLUMP, ROUNDED, Shape, Uptake, euler, tube
from app.phantom.anatomy.skeleton import BoneRegion, Site, build_skeleton, scaled_sites, spine_y
from app.phantom.centres import Arms, Vector


def _thorax(rng: np.random.Generator, physiology: body.Physiology) -> list[Shape]:
    """Lungs, mediastinum, heart and great vessels."""
    lung, blood = physiology[body.Tissue.LUNG], physiology[body.Tissue.BLOOD]
    dome = float(rng.normal(0, 6))
    shapes = [
        Shape((side * 74, 8, 705 + dome), (56, 80, 122), -820, lung, ROUNDED, euler(0, -side * 4, 0))
        for side in (-1, 1)
    ]
    shapes += [
        Shape((0, 4, 735), (27, 62, 110), 28, blood.times(0.65), PLUMP),
        Shape((24, -28, 662), (50, 44, 50), 45, blood, ELLIPSOID, euler(0, 25, 0)),
        Shape((10, 20, 762), (14, 34, 18), 45, blood),
        tube((15, 30, 760), (16, 34, 590), (12, 12)).grown(1, 45, blood),
        tube((-1, -6, 770), (-1, 8, 890), (7, 7)).grown(1, -900, lung),
    ]
    return shapes


def _retroperitoneum(physiology: body.Physiology) -> list[Shape]:
    """Abdominal fat, aorta, vena cava, iliac vessels and psoas."""
    muscle, blood = physiology[body.Tissue.MUSCLE], physiology[body.Tissue.BLOOD]
    shapes = [Shape((0, -12, 450), (118, 66, 130), -95, muscle.times(0.45), PLUMP)]
    shapes.append(Shape((0, -6, 290), (70, 50, 70), -90, muscle.times(0.45), PLUMP))
    for side in (-1.0, 1.0):
        shapes.append(tube((side * 38, 38, 520), (side * 62, 10, 290), (20, 24)).grown(1, 50, muscle))
        iliac = tube((side * 8, 8, 392), (side * 62, -22, 250), (7, 7))
        shapes.append(iliac.grown(1, 42, blood.times(0.8)))
    shapes.append(tube((14, 12, 600), (10, 4, 390), (10, 10)).grown(1, 45, blood))
    shapes.append(tube((-15, 10, 620), (-11, 6, 385), (11, 9)).grown(1, 45, blood))
    return shapes


def _liver_and_spleen(rng: np.random.Generator, physiology: body.Physiology) -> list[Shape]:
    """Liver of three lobes that tapers to its lower edge; stomach; spleen."""
    liver, spleen = physiology[body.Tissue.LIVER], physiology[body.Tissue.SPLEEN]
    size, drop = float(rng.normal(1, 0.07)), float(rng.normal(0, 7))
    return [
        Shape((62, -30, 582 + drop), (44, 42, 52), 30, physiology[body.Tissue.BOWEL].times(0.18)),
        Shape((-64, 6, 594 + drop), (67 * size, 76, 62 * size), 58, liver, ROUNDED, euler(0, 14, 0)),
        Shape((-86, 16, 545 + drop), (40 * size, 52, 62 * size), 58, liver, ELLIPSOID, euler(0, 8, 0)),
        Shape((-6, -36, 606 + drop), (66 * size, 40, 30), 58, liver, ELLIPSOID, euler(0, 12, 0)),
        Shape((106, 44, 590 + drop * 0.6), (24, 42, 50 * size), 50, spleen, ELLIPSOID, euler(12, -12, 12)),
    ]


def _kidneys(rng: np.random.Generator, physiology: body.Physiology) -> list[Shape]:
    """Cortex around a sinus that opens to the middle, with urine in the pelvis."""
    cortex, urine = physiology[body.Tissue.KIDNEY], physiology[body.Tissue.BLADDER]
    size, shapes = float(rng.normal(1, 0.06)), []
    for side in (-1, 1):
        x, y = side * 62 + float(rng.normal(0, 4)), 50 + float(rng.normal(0, 3))
        z = 500 + side * 7 + float(rng.normal(0, 8))
        tilt = euler(-8, side * 13, -side * 20)
        shapes += [
            Shape((x, y, z), (27 * size, 25 * size, 54 * size), 35, cortex, ELLIPSOID, tilt),
            Shape((x - side * 8, y - 3, z), (13, 12, 28 * size), 5, cortex.times(0.42), ELLIPSOID, tilt),
            Shape((x - side * 21, y - 6, z), (12, 11, 17), -40, cortex.times(0.12), ELLIPSOID, tilt),
            Shape((x - side * 19, y - 5, z - 3), (6, 6, 9), 10, urine.times(float(rng.uniform(0.3, 1)))),
        ]
    return shapes


def _head_glands(rng: np.random.Generator, physiology: body.Physiology) -> list[Shape]:
    """Parotid, submandibular, sublingual and lacrimal glands; mucosa of nose and throat."""
    parotid, mandibular = physiology[body.Tissue.PAROTID], physiology[body.Tissue.SUBMANDIBULAR]
    lacrimal = physiology[body.Tissue.LACRIMAL]
    shapes = [
        Shape((0, -62, 926), (12, 20, 15), None, mandibular.times(0.16)),
        Shape((0, -18, 885), (13, 8, 20), None, mandibular.times(0.14)),
        Shape((0, -24, 830), (7, 6, 12), 40, mandibular.times(0.10)),
    ]
    for side in (-1, 1):
        a, b, c = (float(rng.normal(1, 0.1)) for _ in range(3))
        tilt, turn = euler(12, side * 8, 0), euler(0, 0, side * 20)
        shapes += [
            Shape((side * 58, -2, 906), (11 * a, 17 * b, 25 * c), 30, parotid, ELLIPSOID, tilt),
            Shape((side * 53, -26, 912), (6, 16, 14), 20, parotid.times(0.8)),
            Shape((side * 31, -32, 874), (10 * b, 14, 12 * a), 30, mandibular, ELLIPSOID, turn),
            Shape((side * 14, -56, 872), (6, 13, 5), None, mandibular.times(0.55)),
            Shape((side * 36, -74, 968), (7, 6, 8), 30, lacrimal),
            Shape((side * 13, -28, 880), (6, 5, 8), None, mandibular.times(0.22)),
        ]
    return shapes


def _bowel(rng: np.random.Generator, physiology: body.Physiology) -> list[Shape]:
    """Duodenum as a C around the pancreas, jejunal loops on the left, fading ileum, and colon."""
    wall = physiology[body.Tissue.BOWEL]
    duodenum = (
        (-30, -18, 545), (-42, -10, 525), (-46, 0, 500), (-40, 2, 475),
        (-18, 0, 462), (8, -8, 466), (26, -16, 482),
    )  # fmt: skip
    gut = np.array(duodenum, dtype=np.float64)
    gut += rng.normal(0, 3, gut.shape) + rng.normal(0, 5, 3)
    shapes = []
    for start, end in pairwise(gut):
        avid = wall.times(float(rng.uniform(0.6, 1.15)))
        shapes.append(_loop(start, end, float(rng.uniform(9, 13)), avid))
    point, heading = gut[-1], rng.normal(0, 1, 3)
    for step in range(30):
        drift = (0.25 if step < 10 else -0.1, 0, -0.22)
        heading = 0.55 * heading + rng.normal(0, 1, 3) * (1.0, 0.5, 0.9) + drift
        reach = point + heading / np.linalg.norm(heading) * rng.uniform(18, 30)
        reach = np.clip(reach, (-75, -62, 330), (85, -5, 520))
        fade = float(np.exp(-step / 12) * rng.uniform(0.4, 1.1) + 0.10)
        shapes.append(_loop(point, reach, float(rng.uniform(8, 12)), wall.times(fade)))
        point = reach
    return shapes + _colon(rng, wall)


def _loop(start: FloatArray, end: FloatArray, radius_mm: float, uptake: Uptake) -> Shape:
    p, q = start.tolist(), end.tolist()
    if np.linalg.norm(end - start) < 4:  # the walk was held at the wall of the abdomen
        q[2] += 4.0
    return tube((p[0], p[1], p[2]), (q[0], q[1], q[2]), (radius_mm, radius_mm)).grown(1.0, 35, uptake)


def _colon(rng: np.random.Generator, wall: Uptake) -> list[Shape]:
    path = (
        (-98, 0, 370), (-100, 6, 500), (-60, -58, 510), (60, -58, 520),
        (104, 10, 530), (104, 14, 400), (45, 0, 320),
    )  # fmt: skip
    shapes = []
    for (x0, y0, z0), (x1, y1, z1) in pairwise(path):
        avid = wall.times(float(rng.uniform(0.05, 0.16)))
        segment = tube((x0, y0, z0), (x1, y1, z1), (19, 19))
        shapes += [segment.grown(1.0, 30, avid), segment.grown(0.7, float(rng.choice([-700, 10])), avid)]
    return shapes


def _pelvic_organs(rng: np.random.Generator, physiology: body.Physiology) -> list[Shape]:
    """Bladder of varying filling, prostate, rectum, and penile urethra."""
    urine, fill = physiology[body.Tissue.BLADDER], float(rng.uniform(0.7, 1.25))
    prostate, wall = physiology[body.Tissue.PROSTATE], physiology[body.Tissue.BOWEL]
    size, tilt = float(rng.uniform(0.85, 1.25)), euler(float(rng.normal(0, 8)), 0, 0)
    return [
        tube((0, 42, 290), (0, 38, 205), (17, 15)).grown(1.0, 20, wall.times(0.08)),
        Shape((0, 6, 216), (20 * size, 15 * size, 15 * size), 42, prostate),
        Shape((0, -16, 248 + 6 * fill), (39 * fill, 33 * fill, 27 * fill), 8, urine, rotation=tilt),
        Shape((0, -70, 175), (7, 22, 7), 40, urine.times(float(rng.uniform(0.02, 0.25)))),
        Shape((0, -75, 140), (28, 30, 32), 35, prostate.times(0.5), ELLIPSOID),
    ]


def _spinal_cord(physiology: body.Physiology) -> list[Shape]:
    """The cord in its canal: cool on both scans."""
    heights = np.arange(370.0, 900.0, 60.0)
    cool = physiology[body.Tissue.BRAIN].times(1.3)
    return [Shape((0, spine_y(z) + 17.0, float(z)), (7, 7, 32), 35, cool, CYLINDER) for z in heights.tolist()]


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
            avid = Uptake(body.lognormal(rng, 14, 9, (3, 45)), body.lognormal(rng, 3, 1.8, (0.8, 9)))
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
        avid = Uptake(float(rng.uniform(2, 6)), body.lognormal(rng, 3.2, 1.8, (1, 9)))
        a, b, c = rng.uniform(10, 22, 3).tolist()
        foci.append(_focus(rng, (x, y, z), (a, b, c), avid, 35.0))
    return foci


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
    habitus: body.Habitus
    physiology: body.Physiology
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
        fat, muscle = body.arm_outline(arms, self.habitus, self.physiology)
        limbs = body.arm_skeleton(arms, self.habitus, self.physiology)
        grown = [[shape.scaled(self.scale) for shape in layer] for layer in (fat, muscle, limbs)]
        return [*self.fat, *grown[0], *self.muscle, *grown[1], *grown[2], *self.interior, *self.benign]


def build_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one body."""
    scale = float(np.clip(rng.normal(1.0, 0.035), 0.93, 1.07))
    habitus, physiology = body.draw_habitus(rng), body.draw_physiology(rng)
    fat, muscle = body.trunk_outline(habitus, physiology)
    skeleton = build_skeleton(rng, physiology)
    interior = [
        *_thorax(rng, physiology),
        *_retroperitoneum(physiology),
        *_liver_and_spleen(rng, physiology),
        *skeleton.shapes,
        *_spinal_cord(physiology),
        *_bowel(rng, physiology),
        *_kidneys(rng, physiology),
        *_pelvic_organs(rng, physiology),
        *_head_glands(rng, physiology),
    ]
    bones = scaled_sites(skeleton, 1.0)
    benign = [*_ureters(rng), *_ganglia(rng), *_unspecific_bone(rng, bones), *_bowel_foci(rng)]

    def grow(shapes: list[Shape]) -> tuple[Shape, ...]:
        return tuple(shape.scaled(scale) for shape in shapes)

    sites = scaled_sites(skeleton, scale)
    return Anatomy(scale, habitus, physiology, grow(fat), grow(muscle), grow(interior), grow(benign), sites)
