"""Metastases and local disease of one patient, on both scans."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from app.phantom.anatomy.anatomy import Anatomy
from app.phantom.anatomy.body import lognormal
from app.phantom.anatomy.shapes import Shape, Uptake, euler
from app.phantom.anatomy.skeleton import BoneRegion
from app.phantom.centres import Vector

MAX_LESIONS = 60
LESION_FREE_SHARE = 0.03
RESPONDED_SHARE = 0.05
NEW_SHARE = 0.04
LEADING_MM, LEADING_SUV = 15.0, 10.0
"""The least diameter and SUV of a patient's first lesion: without one, there is no therapy."""

BONE_SPREAD = {BoneRegion.SPINE: 0.46, BoneRegion.PELVIS: 0.28, BoneRegion.RIB: 0.14, BoneRegion.OTHER: 0.12}


class LesionKind(StrEnum):
    """Where a lesion sits."""

    BONE = "bone"
    NODE = "node"
    PROSTATE = "prostate"
    LIVER = "liver"


KIND_SHARES = {
    LesionKind.BONE: 0.62,
    LesionKind.NODE: 0.28,
    LesionKind.PROSTATE: 0.06,
    LesionKind.LIVER: 0.04,
}

SUV_MAX = {
    LesionKind.BONE: (16.0, 16.0),
    LesionKind.NODE: (15.0, 14.0),
    LesionKind.PROSTATE: (11.0, 8.0),
    LesionKind.LIVER: (24.0, 16.0),
}
"""SUVmax of 68Ga-PSMA-11, mean and standard deviation."""


@dataclass(frozen=True, eq=False)
class SimulatedLesion:
    """One lesion before it is imaged.

    Attributes:
        kind: where it sits.
        diameter_mm: size as drawn; its parts vary around it.
        parts: 1 to 3 overlapping ellipsoids, body mm.
        uptake: SUVbw on PET and SPECT.
        on_pet: it is there before therapy (False: new since).
        on_spect: it still takes up during therapy (False: responded).
    """

    kind: LesionKind
    diameter_mm: float
    parts: tuple[Shape, ...]
    uptake: Uptake
    on_pet: bool
    on_spect: bool


def _bone_place(rng: np.random.Generator, anatomy: Anatomy) -> tuple[Vector, float]:
    """Centre (scaled body mm) and the largest diameter that fits there."""
    region = list(BONE_SPREAD)[int(rng.choice(len(BONE_SPREAD), p=list(BONE_SPREAD.values())))]
    places = anatomy.sites[region]
    centre, axes = places[int(rng.integers(len(places)))]
    reach = np.minimum(axes, 60.0)  # long bones: keep to the part near the joint
    x, y, z = (np.array(centre) + rng.uniform(-0.7, 0.7, 3) * reach).tolist()
    return (x, y, max(z, 40.0)), 20.0 if region is BoneRegion.RIB else 42.0


def _node_place(rng: np.random.Generator) -> tuple[float, float, float]:
    side = 1 if rng.random() < 0.5 else -1
    station = rng.random()
    low, high = (
        ((6, 8, 390), (30, 34, 540))  # retroperitoneal
        if station < 0.4
        else ((36, -18, 250), (72, 28, 370))  # iliac, obturator
        if station < 0.75
        else ((-22, -15, 670), (22, 32, 790))  # mediastinal
        if station < 0.9
        else ((22, -12, 822), (75, 20, 850))  # supraclavicular, left
    )
    x, y, z = rng.uniform(low, high).tolist()
    return (x * side if station < 0.75 else x), y, z


def _soft_place(rng: np.random.Generator, kind: LesionKind) -> Vector:
    if kind is LesionKind.NODE:
        return _node_place(rng)
    prostate, liver = ((-16, -2, 206), (16, 16, 226)), ((-110, -40, 560), (-30, 40, 625))
    low, high = prostate if kind is LesionKind.PROSTATE else liver
    x, y, z = rng.uniform(low, high).tolist()
    return x, y, z


def _parts(
    rng: np.random.Generator, centre: Vector, diameter_mm: float, hu: float | None
) -> tuple[Shape, ...]:
    parts = []
    for index in range(int(rng.integers(1, 4))):
        a, b, c = (diameter_mm / 2 * rng.uniform(0.65, 1.25, 3) * (1.0 if index == 0 else 0.7)).tolist()
        offset = np.zeros(3) if index == 0 else rng.normal(0, 0.35 * diameter_mm, 3)
        x, y, z = (np.array(centre) + offset).tolist()
        turn_x, turn_y, turn_z = rng.uniform(0, 180, 3).tolist()
        parts.append(Shape((x, y, z), (a, b, c), hu, rotation=euler(turn_x, turn_y, turn_z)))
    return tuple(parts)


def _hu(rng: np.random.Generator, kind: LesionKind) -> float | None:
    """CT appearance: bone lesions are unchanged, sclerotic or lytic; the rest is soft tissue."""
    if kind is not LesionKind.BONE:
        return 45.0
    look = rng.random()
    return None if look < 0.35 else float(rng.uniform(450, 900) if look < 0.85 else rng.uniform(50, 140))


def _draw_lesion(
    rng: np.random.Generator, anatomy: Anatomy, median_mm: float, spect_ratio: float
) -> SimulatedLesion:
    kind = list(KIND_SHARES)[int(rng.choice(len(KIND_SHARES), p=list(KIND_SHARES.values())))]
    diameter = float(np.clip(rng.lognormal(np.log(median_mm), 0.45), 5, 42))
    if kind is LesionKind.BONE:
        centre, largest = _bone_place(rng, anatomy)
        diameter = min(diameter, largest)
    else:
        x, y, z = _soft_place(rng, kind)
        centre = (x * anatomy.scale, y * anatomy.scale, z * anatomy.scale)
        diameter = min(diameter, 28.0) if kind is LesionKind.NODE else max(diameter, 12.0)
    suv = max(lognormal(rng, *SUV_MAX[kind], (3, 90)), 4.5 if diameter < 9 else 3.0)
    uptake = Uptake(
        suv * float(rng.uniform(0.9, 1.15)), suv * spect_ratio * lognormal(rng, 1.0, 0.45, (0.25, 2.8))
    )
    fate = rng.random()
    return SimulatedLesion(
        kind=kind,
        diameter_mm=diameter,
        parts=_parts(rng, centre, diameter, _hu(rng, kind)),
        uptake=uptake,
        on_pet=not RESPONDED_SHARE <= fate < RESPONDED_SHARE + NEW_SHARE,
        on_spect=fate >= RESPONDED_SHARE,
    )


def _leading(lesion: SimulatedLesion) -> SimulatedLesion:
    """A lesion that qualifies for therapy: clearly avid on both scans and not tiny (VISION criteria)."""
    growth = max(1.0, LEADING_MM / lesion.diameter_mm)
    avid = Uptake(max(lesion.uptake.pet, LEADING_SUV), max(lesion.uptake.spect, LEADING_SUV * 0.4))
    parts = tuple(part.grown(growth, part.hu, None) for part in lesion.parts)
    diameter = lesion.diameter_mm * growth
    return replace(lesion, diameter_mm=diameter, parts=parts, uptake=avid, on_pet=True, on_spect=True)


def draw_lesions(rng: np.random.Generator, anatomy: Anatomy, median_mm: float) -> tuple[SimulatedLesion, ...]:
    """0 to 60 lesions; ``median_mm`` is the median diameter at that centre."""
    if rng.random() < LESION_FREE_SHARE:
        return ()
    count = int(np.clip(rng.lognormal(np.log(9), 0.95), 1, MAX_LESIONS))
    spect_ratio = lognormal(rng, 0.42, 0.15, (0.15, 1.0))
    first, *others = (_draw_lesion(rng, anatomy, median_mm, spect_ratio) for _ in range(count))
    return (_leading(first), *others)
