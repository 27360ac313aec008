"""Bones of the trunk, and the places in them where lesions grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

import numpy as np

from app.domain.volume import FloatArray
from app.phantom.anatomy.body import Physiology, Tissue
from app.phantom.anatomy.shapes import CYLINDER, ELLIPSOID, PLUMP, ROUNDED, Exponents, Shape, euler, tube
from app.phantom.centres import Vector

VERTEBRAE = 24
RIBS = 12


class BoneRegion(StrEnum):
    """Regions that bone lesions are spread over."""

    SPINE = "spine"
    PELVIS = "pelvis"
    RIB = "rib"
    OTHER = "other"


Site = tuple[Vector, Vector]
"""Centre and half axes of a bone, body mm."""


@dataclass
class Skeleton:
    """Bones in painting order, and lesion sites by region."""

    physiology: Physiology
    cortical_hu: float
    shapes: list[Shape] = field(default_factory=list)
    sites: dict[BoneRegion, list[Site]] = field(default_factory=lambda: {r: [] for r in BoneRegion})

    def add(self, shape: Shape, region: BoneRegion | None = None, marrow: float = 0.82) -> None:
        """A cortical shell around cancellous bone, ``marrow`` of its size."""
        muscle, core = self.physiology[Tissue.MUSCLE], self.physiology[Tissue.MARROW]
        self.shapes.append(shape.grown(1.0, self.cortical_hu, muscle))
        self.shapes.append(shape.grown(marrow, self.cortical_hu * 0.36, core))
        if region is not None:
            self.sites[region].append((shape.centre, shape.half_axes))

    def bone(
        self,
        centre: Vector,
        half_axes: Vector,
        region: BoneRegion | None = None,
        exponents: Exponents = PLUMP,
        rotation: FloatArray | None = None,
    ) -> None:
        """``add`` of a superquadric."""
        turned = np.eye(3) if rotation is None else rotation
        self.add(Shape(centre, half_axes, exponents=exponents, rotation=turned), region)


def spine_y(z_mm: float) -> float:
    """Depth of the vertebral bodies (posterior mm): lordosis, kyphosis, cervical lordosis."""
    heights = (300, 350, 440, 540, 680, 790, 860, 930)
    return float(np.interp(z_mm, heights, (58, 44, 26, 38, 58, 44, 26, 18)))


def _spine(skeleton: Skeleton) -> None:
    z = 350.0
    for level in range(VERTEBRAE):
        lumbar, thoracic = level < 5, level < 17
        height = 32.0 if lumbar else 25.5 if thoracic else 15.5
        half_width = 24.0 if lumbar else 18.0 if thoracic else 11.0
        y = spine_y(z)
        region = BoneRegion.SPINE
        skeleton.bone((0, y, z), (half_width, half_width * 0.75, height * 0.43), region, CYLINDER)
        arch = BoneRegion.SPINE if thoracic else None
        skeleton.bone(
            (0, y + half_width * 1.45, z - 5), (4.5, half_width * 0.7, height * 0.33), arch, ROUNDED
        )
        skeleton.bone((0, y + half_width * 1.0, z - 2), (half_width * 1.3, 4.5, height * 0.22), None, ROUNDED)
        z += height


def _pelvis(skeleton: Skeleton) -> None:
    pelvis = BoneRegion.PELVIS
    skeleton.bone((0, 66, 312), (48, 18, 46), pelvis, PLUMP, euler(-28, 0, 0))
    for side in (-1.0, 1.0):
        skeleton.bone((side * 84, 36, 335), (11, 50, 56), pelvis, PLUMP, euler(0, side * 20, -side * 32))
        skeleton.bone((side * 68, 48, 300), (16, 26, 34), pelvis, ELLIPSOID, euler(0, side * 10, -side * 30))
        skeleton.bone((side * 74, 14, 255), (22, 28, 28), pelvis, ELLIPSOID)
        skeleton.bone((side * 58, 40, 205), (14, 15, 34), pelvis, ELLIPSOID)
        skeleton.bone((side * 30, -48, 226), (33, 9, 11), pelvis, ELLIPSOID, euler(0, 0, side * 15))
        skeleton.bone((side * 36, -22, 200), (30, 7, 8), None, ELLIPSOID, euler(0, side * 38, side * 40))
        skeleton.bone((side * 92, 10, 248), (23, 23, 23), BoneRegion.OTHER, ELLIPSOID)
        skeleton.add(tube((side * 92, 10, 246), (side * 122, 14, 212), (14, 14)), None)
        skeleton.bone((side * 124, 16, 205), (18, 19, 30), BoneRegion.OTHER, ELLIPSOID)
        skeleton.add(tube((side * 120, 12, 200), (side * 96, 2, -60), (14.5, 14.5)), BoneRegion.OTHER, 0.6)


def _shoulder_girdle(skeleton: Skeleton) -> None:
    other = BoneRegion.OTHER
    for side in (-1.0, 1.0):
        skeleton.bone((side * 108, 82, 765), (40, 5, 56), other, PLUMP, euler(0, -side * 12, side * 24))
        skeleton.add(tube((side * 15, -42, 806), (side * 140, 20, 828), (6.5, 6.5)), other)
        skeleton.bone((side * 154, 22, 800), (23, 23, 25), other, ELLIPSOID)
    skeleton.bone((0, -86, 700), (17, 6, 80), other, PLUMP, euler(-9, 0, 0))


def rib_points(rib: int, side: float) -> FloatArray:
    """Points along one rib from spine to its front end, (n, 3) body mm."""
    z_head = 548.0 + 24.5 * rib
    width = float(np.interp(rib, (0, 2, 5, 8, 10, 11), (112, 132, 140, 126, 96, 66)))
    depth = float(np.interp(rib, (0, 5, 11), (86, 90, 52)))
    reach = 128.0 if rib > 3 else 62.0 + 20 * rib
    angle = np.deg2rad(np.linspace(72, 72 - reach, 11 if rib > 1 else 7))
    fall = np.linspace(0, 1, angle.size) ** 1.3 * (78 if rib > 3 else 58) * reach / 128
    x = side * (width * np.cos(angle))
    y = spine_y(z_head) - depth * 0.62 + depth * np.sin(angle)
    return np.stack([x, y, z_head + 6 - fall], axis=1)


def _ribs(skeleton: Skeleton) -> None:
    for rib in range(RIBS):
        for side in (-1.0, 1.0):
            points = rib_points(rib, side)
            for index, (start, end) in enumerate(pairwise(points)):
                over = (end - start) * 0.12
                p, q = (start - over).tolist(), (end + over).tolist()
                region = BoneRegion.RIB if index % 2 == 0 else None
                skeleton.add(tube((p[0], p[1], p[2]), (q[0], q[1], q[2]), (5.0, 6.0)), region, 0.6)


def _skull(skeleton: Skeleton, physiology: Physiology) -> None:
    brain = physiology[Tissue.BRAIN]
    skull = Shape((0, -2, 988), (70, 88, 96))
    skeleton.shapes += [skull.grown(1.0, 800, brain.times(1.4)), skull.grown(0.93, 36, brain)]
    skeleton.bone((0, -66, 872), (36, 10, 12), None, ROUNDED)
    for side in (-1.0, 1.0):
        skeleton.add(tube((side * 44, -15, 905), (side * 34, -62, 872), (5, 11)), None)
    sinus = physiology[Tissue.LUNG]
    skeleton.shapes.append(Shape((0, -70, 926), (22, 18, 20), -500, sinus.times(1.6)))


def build_skeleton(rng: np.random.Generator, physiology: Physiology) -> Skeleton:
    """Every bone but those of the arms."""
    skeleton = Skeleton(physiology, float(rng.normal(600, 60)))
    _pelvis(skeleton)
    _spine(skeleton)
    _ribs(skeleton)
    _shoulder_girdle(skeleton)
    _skull(skeleton, physiology)
    return skeleton


def scaled_sites(skeleton: Skeleton, factor: float) -> Mapping[BoneRegion, tuple[Site, ...]]:
    """Lesion sites in a body ``factor`` times as large."""

    def grow(vector: Vector) -> Vector:
        return vector[0] * factor, vector[1] * factor, vector[2] * factor

    return {region: tuple((grow(c), grow(a)) for c, a in sites) for region, sites in skeleton.sites.items()}
