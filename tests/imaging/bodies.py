"""Analytic bodies for registration tests: whole-body CTs of chosen persons in chosen poses, made in a second.

Every person has a skeleton, lungs, liver, gut and fat of his own. A pose moves the body as a whole, puts the
arms up or down, flexes the hips, moves the diaphragm and bends the spine a little.
LPS: +x left, +y posterior, +z up; z = 0 is mid thigh.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from app.domain.volume import FloatArray, Grid, LabelMap, Unit, Volume


@dataclass(frozen=True, eq=False)
class Shape:
    """A superellipsoid: ``|x/a|^p + |y/b|^p + |z/c|^p < 1`` about ``centre``, turned by ``turn``."""

    centre: FloatArray
    half_axes: FloatArray
    hu: float
    power: float = 2.0
    turn: FloatArray = field(default_factory=lambda: np.eye(3))
    limb: str = ""
    breathes: bool = False
    suv: float | None = None


@dataclass(frozen=True)
class Pose:
    """How a person lies: rigid motion, limbs, breath, a slow bend of the trunk."""

    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    arms_up: bool = True
    hip_flexion_deg: float = 0.0
    breath_mm: float = 0.0
    bend_mm: float = 0.0

    def motion(self) -> FloatArray:
        """4x4, LPS of the person standing by himself to LPS of the scanner."""
        motion = np.eye(4)
        motion[:3, :3] = euler(*self.turn_deg)
        centre = np.array([0.0, 20.0, 500.0])
        motion[:3, 3] = centre - motion[:3, :3] @ centre + self.shift_mm
        return motion


def euler(x_deg: float, y_deg: float, z_deg: float) -> FloatArray:
    """Rotation about x, then y, then z."""
    a, b, c = np.deg2rad([x_deg, y_deg, z_deg])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, dtype=np.float64)


class Person:
    """One anatomy. Equal numbers are the same person."""

    def __init__(self, number: int) -> None:
        self._random = np.random.default_rng((77, number))
        self._phase = self._random.uniform(0, 6.3, 4)
        self._scale = 1.0 + np.clip(self._random.normal(0, 0.045, 3), -0.1, 0.1)
        self.shapes: list[Shape] = []
        self._outline()
        self._chest()
        self._abdomen()
        self._spine()
        self._pelvis()
        self._limbs()
        self.lesions = self._draw_lesions()

    def ct(self, grid: Grid, pose: Pose | None = None, table: bool = True, noise_hu: float = 20.0) -> Volume:
        """The person's CT in HU on an axis-aligned ``grid``."""
        pose = pose or Pose()
        hu = np.full(grid.shape, -1000.0, dtype=np.float32)
        if table:
            board = Shape(np.array([0, 165.0, 500]), np.array([230.0, 8, 900]), -100.0, 8.0)
            _paint(hu, grid, board, board.hu)
        for shape in self.shapes:
            _paint(hu, grid, _posed(shape, pose), shape.hu)
        random = np.random.default_rng(5)
        hu += gaussian_filter(random.normal(0, 1, grid.shape).astype(np.float32), 0.5) * 2.2 * noise_hu
        return Volume(np.clip(np.round(hu), -1024, 3000), grid, Unit.HU)

    def suv(self, grid: Grid, pose: Pose | None = None, fwhm_mm: float = 6.0) -> Volume:
        """The person's uptake in SUVbw, blurred as a scanner of that resolution shows it."""
        pose = pose or Pose()
        uptake = np.full(grid.shape, 0.02, dtype=np.float32)
        for shape in (*self.shapes, *self.lesions):
            if shape.suv is not None:
                _paint(uptake, grid, _posed(shape, pose), shape.suv)
        sigma = [fwhm_mm / 2.3548 / mm for mm in grid.spacing_mm[::-1]]
        random = np.random.default_rng(6)
        noisy = gaussian_filter(uptake, sigma) * (1 + 0.05 * random.normal(0, 1, grid.shape))
        return Volume(np.maximum(noisy, 0), grid, Unit.SUVBW)

    def lesion_labels(self, grid: Grid, pose: Pose | None = None) -> LabelMap:
        """The lesions, one label each."""
        labels = np.zeros(grid.shape, dtype=np.uint16)
        for number, lesion in enumerate(self.lesions, start=1):
            share = np.zeros(grid.shape, dtype=np.float32)
            _paint(share, grid, _posed(lesion, pose or Pose()), 1.0)
            labels[share > 0.5] = number
        return LabelMap(labels, grid)

    def _draw_lesions(self) -> list[Shape]:
        """Eight hot spheres: three in the pelvis, five in vertebrae up to the heart."""
        pelvis = [
            shape for shape in self.shapes if shape.hu in (400.0, 420.0) and 222 < shape.centre[2] < 380
        ]
        spine = [shape for shape in self.shapes if shape.hu == 320.0 and shape.centre[2] < 560]
        chosen = [
            bones[i]
            for bones, count in ((pelvis, 3), (spine, 5))
            for i in self._random.choice(len(bones), count, replace=False)
        ]
        return [Shape(bone.centre, np.full(3, 9.0), 500.0, suv=15.0) for bone in chosen]

    def _add(
        self,
        centre: tuple[float, float, float],
        half_axes: tuple[float, float, float],
        hu: float,
        jitter_mm: float = 0.0,
        **more: object,
    ) -> None:
        random = self._random
        moved = np.array(centre, float) + random.normal(0, 1, 3) * jitter_mm
        size = np.array(half_axes, float) * (1.0 + random.normal(0, 0.05, 3) * (jitter_mm > 0))
        scale = self._scale
        self.shapes.append(Shape(moved * scale, size * scale, hu, **more))  # type: ignore[arg-type]

    def _outline(self) -> None:
        fat = abs(self._random.normal(12, 10))
        for extra, hu in ((fat, -95.0), (0.0, 45.0)):
            self._add((0, 10, 530), (160 + extra, 100 + extra, 350), hu, power=6.0, suv=0.6)
            self._add((0, 15, 790), (165 + extra / 2, 75 + extra / 2, 60), hu, power=4.0, suv=0.6)
            self._add((0, 5, 880), (60, 60, 90), hu, power=4.0, suv=0.6)
            self._add((0, -8, 975), (76, 97, 112), hu, suv=0.4)
            for side in (-1, 1):
                self._add(
                    (side * 88, 10, 70),
                    (75 + extra, 80 + extra, 180),
                    hu,
                    power=4.0,
                    limb=_leg(side),
                    suv=0.5,
                )

    def _chest(self) -> None:
        for side in (-1, 1):
            self._add((side * 78, 0, 715), (60, 78, 125), -800.0, 5.0, power=3.0, breathes=True)
        self._add((0, 0, 720), (26, 70, 120), 30.0, power=4.0)
        self._add((22, -25, 665), (48, 42, 50), 45.0, 5.0)
        self._add((0, -88, 700), (17, 7, 78), 450.0, 2.0, power=4.0)
        for rib in range(12):
            width = (150 - abs(rib - 4) * 5 - (25 if rib > 9 else 0)) * self._random.normal(1, 0.02)
            for side in (-1, 1):
                for step in range(15 if rib > 2 else 8 + rib * 2):
                    angle = np.deg2rad(80 - step * 11.5)
                    centre = (
                        side * width * np.cos(angle),
                        5 + 88 * np.sin(angle),
                        600 + 21 * rib - step * 5.5,
                    )
                    self._add(centre, (8, 9, 6), 420.0)

    def _abdomen(self) -> None:
        random = self._random
        self._add((0, -20, 455), (115, 68, 125), -90.0, 4.0, power=4.0)
        self._add((-78, -8, 590), (82, 85, 68), 58.0, 7.0, power=3.0, breathes=True, suv=5.0)
        self._add((-10, -45, 600), (65, 35, 35), 58.0, 5.0, breathes=True, suv=5.0)
        self._add((112, 32, 592), (26, 42, 48), 50.0, 7.0, breathes=True, suv=7.0)
        self._add((60, -40, 590), (35, 30, 45), -300.0, 10.0, breathes=True)
        for side in (-1, 1):
            self._add((side * 66, 48, 510), (27, 26, 55), 35.0, 6.0, suv=40.0)
        for _ in range(14):
            self._add(tuple(random.uniform((-90, -60, 380), (90, 10, 530))), (16, 15, 18), 35.0, 3.0, suv=4.0)
        self._add((0, -22, 243), (40, 34, 28), 8.0, 8.0, suv=20.0)

    def _spine(self) -> None:
        z = 350.0
        bow = self._random.normal(0, 7)
        for level in range(24):
            height = 31 if level < 5 else 24.5 if level < 17 else 16
            height *= self._random.normal(1, 0.03)
            width = 23 if level < 5 else 18 if level < 17 else 11
            x = bow * np.sin((z - 350) / 150)
            y = 42 + 22 * np.sin((z - 430) / 150) if z < 820 else 30 - (z - 820) * 0.12
            self._add((x, y, z), (width, width * 0.75, height * 0.42), 320.0, 0.7, power=4.0)
            self._add(
                (x, y + width * 1.25, z - 4),
                (width * 0.9, width * 0.38, height * 0.33),
                450.0,
                1.0,
                power=4.0,
            )
            z += height
        self._add((0, -8, 975), (72, 92, 108), 900.0, 1.0)
        self._add((0, -8, 975), (65, 85, 101), 35.0, 1.0)
        self._add((0, -62, 880), (36, 9, 12), 600.0, 2.0, power=3.0)

    def _pelvis(self) -> None:
        self._add((0, 68, 315), (46, 18, 48), 350.0, 2.0, power=3.0, turn=euler(-25, 0, 0))
        for side in (-1, 1):
            self._add(
                (side * 82, 32, 335),
                (14, 46, 58),
                420.0,
                3.0,
                power=3.0,
                turn=euler(0, side * 18, -side * 30),
            )
            self._add((side * 72, 15, 252), (24, 30, 30), 400.0, 2.0, power=3.0)
            self._add((side * 60, 38, 205), (14, 16, 34), 400.0, 2.0, power=3.0)
            self._add((side * 28, -45, 222), (32, 9, 12), 420.0, 2.0, power=3.0, turn=euler(0, 0, side * 15))

    def _limbs(self) -> None:
        for side in (-1, 1):
            self._add((side * 96, 8, 243), (23, 23, 23), 420.0, 2.0)
            self._add((side * 92, 8, 70), (15, 15, 150), 700.0, 2.0, power=4.0, limb=_leg(side))
            self._add((side * 105, 72, 775), (42, 7, 58), 420.0, 3.0, power=3.0, turn=euler(0, 0, side * 20))
            self._add((side * 80, -35, 828), (68, 7, 7), 500.0, 2.0, power=4.0, turn=euler(0, 0, -side * 12))
            self._add((side * 152, 25, 800), (22, 22, 26), 420.0, 2.0)
            for half_axes, hu in (((38.0, 38.0, 160.0), 45.0), ((12.0, 12.0, 150.0), 700.0)):
                self._add((side * 195, 30, 650), half_axes, hu, power=4.0, limb=_arm(side))


def whole_body_grid(spacing_mm: float = 5.0, from_z_mm: float = 0.0, to_z_mm: float = 1060.0) -> Grid:
    """An axis-aligned field of view 500 x 420 mm across, arms included."""
    return _grid(spacing_mm, (from_z_mm, to_z_mm), (500.0, 420.0))


def trunk_grid(from_z_mm: float = 180.0, to_z_mm: float = 680.0, spacing_mm: float = 6.0) -> Grid:
    """A field of view 420 x 330 mm across, from below the pelvis to the heart: quick to register."""
    return _grid(spacing_mm, (from_z_mm, to_z_mm), (420.0, 330.0))


def _grid(spacing_mm: float, z_mm: tuple[float, float], across_mm: tuple[float, float]) -> Grid:
    shape = tuple(int(size / spacing_mm) for size in (z_mm[1] - z_mm[0], across_mm[1], across_mm[0]))
    origin = (-across_mm[0] / 2, 15.0 - across_mm[1] / 2, z_mm[0])
    return Grid.axis_aligned((shape[0], shape[1], shape[2]), (spacing_mm,) * 3, origin)


def mirrored(ct: Volume) -> Volume:
    """The same geometry, the image flipped left to right: what a lost sign does."""
    return Volume(ct.array[:, :, ::-1], ct.grid, ct.unit)


def _leg(side: int) -> str:
    return "leg left" if side > 0 else "leg right"


def _arm(side: int) -> str:
    return "arm left" if side > 0 else "arm right"


def _posed(shape: Shape, pose: Pose) -> Shape:
    centre, turn = shape.centre.copy(), shape.turn
    if shape.limb.startswith("arm") and pose.arms_up:
        shoulder = np.array([np.sign(centre[0]) * 160.0, 30.0, 810.0])
        up = euler(0, np.sign(centre[0]) * 160.0, 0)
        centre, turn = shoulder + up @ (centre - shoulder), up @ turn
    if shape.limb.startswith("leg") and pose.hip_flexion_deg:
        hip = np.array([centre[0], 8.0, 245.0])
        flexed = euler(-pose.hip_flexion_deg, 0, 0)
        centre, turn = hip + flexed @ (centre - hip), flexed @ turn
    if shape.breathes:
        centre[2] += pose.breath_mm
    centre[:2] += pose.bend_mm * np.sin((centre[2] - 300) / 180) * np.array([0.6, 0.8])
    motion = pose.motion()
    placed = motion[:3, :3] @ centre + motion[:3, 3]
    return replace(shape, centre=placed, turn=motion[:3, :3] @ turn)


def _paint(image: NDArray[np.float32], grid: Grid, shape: Shape, value: float) -> None:
    reach = np.sqrt((shape.turn**2) @ shape.half_axes**2) * (1.0 if shape.power == 2.0 else 1.35)
    spacing = np.array(grid.spacing_mm)
    first = np.maximum(np.floor((shape.centre - reach - grid.origin_mm) / spacing).astype(int), 0)
    last = np.minimum(
        np.ceil((shape.centre + reach - grid.origin_mm) / spacing).astype(int) + 1, grid.shape[::-1]
    )
    if (last <= first).any():
        return
    x, y, z = (
        (grid.origin_mm[i] + spacing[i] * np.arange(first[i], last[i]) - shape.centre[i]).astype(np.float32)
        for i in range(3)
    )
    turn, total = shape.turn.astype(np.float32), np.float32(0)
    for axis in range(3):
        along = turn[0, axis] * x + turn[1, axis] * y[:, None] + turn[2, axis] * z[:, None, None]
        total = total + np.abs(along / np.float32(shape.half_axes[axis])) ** np.float32(shape.power)
    distance = (1 - total ** np.float32(1 / shape.power)) * min(shape.half_axes.min(), 60.0)
    share = np.clip(0.5 + distance / spacing.mean(), 0, 1)
    part = image[first[2] : last[2], first[1] : last[1], first[0] : last[0]]
    part += share * (np.float32(value) - part)
