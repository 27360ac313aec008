"""Soft organs with their physiological uptake, in painting order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from app.domain.volume import FloatArray
from app.phantom.anatomy.physiology import Physiology, Tissue
from app.phantom.anatomy.shapes import CYLINDER, ELLIPSOID, PLUMP, ROUNDED, Shape, Uptake, Vector, euler, tube
from app.phantom.anatomy.skeleton import spine_y


def thorax(rng: np.random.Generator, physiology: Physiology) -> list[Shape]:
    """Lungs, mediastinum, heart and great vessels."""
    lung, blood = physiology[Tissue.LUNG], physiology[Tissue.BLOOD]
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


def retroperitoneum(physiology: Physiology) -> list[Shape]:
    """Abdominal fat, aorta, vena cava, iliac vessels and psoas."""
    muscle, blood = physiology[Tissue.MUSCLE], physiology[Tissue.BLOOD]
    shapes = [Shape((0, -12, 450), (118, 66, 130), -95, muscle.times(0.45), PLUMP)]
    shapes.append(Shape((0, -6, 290), (70, 50, 70), -90, muscle.times(0.45), PLUMP))
    for side in (-1.0, 1.0):
        shapes.append(tube((side * 38, 38, 520), (side * 62, 10, 290), (20, 24)).grown(1, 50, muscle))
        iliac = tube((side * 8, 8, 392), (side * 62, -22, 250), (7, 7))
        shapes.append(iliac.grown(1, 42, blood.times(0.8)))
    shapes.append(tube((14, 12, 600), (10, 4, 390), (10, 10)).grown(1, 45, blood))
    shapes.append(tube((-15, 10, 620), (-11, 6, 385), (11, 9)).grown(1, 45, blood))
    return shapes


def liver_and_spleen(rng: np.random.Generator, physiology: Physiology) -> list[Shape]:
    """Liver of three lobes that tapers to its lower edge; stomach; spleen."""
    liver, spleen = physiology[Tissue.LIVER], physiology[Tissue.SPLEEN]
    size, drop = float(rng.normal(1, 0.07)), float(rng.normal(0, 7))
    return [
        Shape((62, -30, 582 + drop), (44, 42, 52), 30, physiology[Tissue.BOWEL].times(0.18)),
        Shape((-64, 6, 594 + drop), (67 * size, 76, 62 * size), 58, liver, ROUNDED, euler(0, 14, 0)),
        Shape((-86, 16, 545 + drop), (40 * size, 52, 62 * size), 58, liver, ELLIPSOID, euler(0, 8, 0)),
        Shape((-6, -36, 606 + drop), (66 * size, 40, 30), 58, liver, ELLIPSOID, euler(0, 12, 0)),
        Shape((106, 44, 590 + drop * 0.6), (24, 42, 50 * size), 50, spleen, ELLIPSOID, euler(12, -12, 12)),
    ]


def kidneys(rng: np.random.Generator, physiology: Physiology) -> list[Shape]:
    """Cortex around a sinus that opens to the middle, with urine in the pelvis."""
    cortex, urine = physiology[Tissue.KIDNEY], physiology[Tissue.BLADDER]
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


def _turned(centre: Vector, half_axes: Vector, rotation: FloatArray, uptake: Uptake) -> Shape:
    return Shape(centre, half_axes, 30, uptake, ELLIPSOID, rotation)


def head_glands(rng: np.random.Generator, physiology: Physiology) -> list[Shape]:
    """Parotid, submandibular, sublingual and lacrimal glands; mucosa of nose and throat."""
    parotid, mandibular = physiology[Tissue.PAROTID], physiology[Tissue.SUBMANDIBULAR]
    lacrimal = physiology[Tissue.LACRIMAL]
    shapes = [
        Shape((0, -62, 926), (12, 20, 15), None, mandibular.times(0.16)),
        Shape((0, -18, 885), (13, 8, 20), None, mandibular.times(0.14)),
        Shape((0, -24, 830), (7, 6, 12), 40, mandibular.times(0.10)),
    ]
    for side in (-1, 1):
        skew = [float(rng.normal(1, 0.1)) for _ in range(3)]
        shapes += [
            _turned(
                (side * 58, -2, 906),
                (11 * skew[0], 17 * skew[1], 25 * skew[2]),
                euler(12, side * 8, 0),
                parotid,
            ),
            Shape((side * 53, -26, 912), (6, 16, 14), 20, parotid.times(0.8)),
            _turned(
                (side * 31, -32, 874), (10 * skew[1], 14, 12 * skew[0]), euler(0, 0, side * 20), mandibular
            ),
            Shape((side * 14, -56, 872), (6, 13, 5), None, mandibular.times(0.55)),
            Shape((side * 36, -74, 968), (7, 6, 8), 30, lacrimal),
            Shape((side * 13, -28, 880), (6, 5, 8), None, mandibular.times(0.22)),
        ]
    return shapes


def bowel(rng: np.random.Generator, physiology: Physiology) -> list[Shape]:
    """Duodenum as a C around the pancreas, jejunal loops on the left, fading ileum, and colon."""
    wall = physiology[Tissue.BOWEL]
    gut = np.array(
        [
            (-30, -18, 545),
            (-42, -10, 525),
            (-46, 0, 500),
            (-40, 2, 475),
            (-18, 0, 462),
            (8, -8, 466),
            (26, -16, 482),
        ],
        dtype=np.float64,
    )
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
    path = [
        (-98, 0, 370),
        (-100, 6, 500),
        (-60, -58, 510),
        (60, -58, 520),
        (104, 10, 530),
        (104, 14, 400),
        (45, 0, 320),
    ]
    shapes = []
    for (x0, y0, z0), (x1, y1, z1) in pairwise(path):
        avid = wall.times(float(rng.uniform(0.05, 0.16)))
        segment = tube((x0, y0, z0), (x1, y1, z1), (19, 19))
        shapes += [segment.grown(1.0, 30, avid), segment.grown(0.7, float(rng.choice([-700, 10])), avid)]
    return shapes


def pelvic_organs(rng: np.random.Generator, physiology: Physiology) -> list[Shape]:
    """Bladder of varying filling, prostate, rectum, and penile urethra."""
    urine, fill = physiology[Tissue.BLADDER], float(rng.uniform(0.7, 1.25))
    prostate, wall = physiology[Tissue.PROSTATE], physiology[Tissue.BOWEL]
    size, tilt = float(rng.uniform(0.85, 1.25)), euler(float(rng.normal(0, 8)), 0, 0)
    return [
        tube((0, 42, 290), (0, 38, 205), (17, 15)).grown(1.0, 20, wall.times(0.08)),
        Shape((0, 6, 216), (20 * size, 15 * size, 15 * size), 42, prostate),
        Shape((0, -16, 248 + 6 * fill), (39 * fill, 33 * fill, 27 * fill), 8, urine, rotation=tilt),
        Shape((0, -70, 175), (7, 22, 7), 40, urine.times(float(rng.uniform(0.02, 0.25)))),
        Shape((0, -75, 140), (28, 30, 32), 35, prostate.times(0.5), ELLIPSOID),
    ]


def spinal_cord(physiology: Physiology) -> list[Shape]:
    """The cord in its canal: cool on both scans."""
    heights = np.arange(370.0, 900.0, 60.0)
    cool = physiology[Tissue.BRAIN].times(1.3)
    return [Shape((0, spine_y(z) + 17.0, float(z)), (7, 7, 32), 35, cool, CYLINDER) for z in heights.tolist()]


def build_organs(rng: np.random.Generator, physiology: Physiology) -> list[Shape]:
    """The soft organs that are painted over the skeleton."""
    return [
        *bowel(rng, physiology),
        *kidneys(rng, physiology),
        *pelvic_organs(rng, physiology),
        *head_glands(rng, physiology),
    ]
