"""A simulated patient: a number and a centre give a body, its disease, and two scans weeks apart."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from app.domain.volume import Volume
from app.phantom.acquisition import Acquisition, acquire
from app.phantom.anatomy.anatomy import build_anatomy
from app.phantom.anatomy.lesions import draw_lesions
from app.phantom.centres import CENTRES, Centre

VERSION = 1
"""Part of every seed: raise it when the patients change."""

MASS_IN_VIEW_SHARE = 0.78
"""Share of the body's mass in view, mid-thigh to vertex with raised arms: so the median patient weighs 75 kg.

Anatomy tables give 0.71 to 0.75, so these patients are a little light in the legs.
"""

RETAINED_SHARE_LIMIT = 0.95
"""No more than this share of the activity may be found in view: many avid lesions leave less for organs."""


@dataclass(frozen=True, eq=False)
class SimulatedPatient:
    """One patient of one centre, with PET/CT before therapy and 177Lu SPECT/CT weeks later."""

    number: int
    centre: Centre
    weight_kg: float
    height_m: float
    pet: Acquisition
    spect: Acquisition


def simulate_patient(number: int, centre: Centre) -> SimulatedPatient:
    """The patient of that number: the same arrays on every call.

    Raises:
        ValueError: ``number`` is negative.
    """
    if number < 0:
        raise ValueError(f"patients are numbered from 0, found {number}")
    profile = CENTRES[centre]
    seed = np.random.SeedSequence((VERSION, list(Centre).index(centre), number))
    body, disease, pet_scan, spect_scan = (np.random.default_rng(child) for child in seed.spawn(4))
    anatomy = build_anatomy(body)
    lesions = draw_lesions(disease, anatomy, profile.lesion_median_mm)
    pet = acquire(pet_scan, anatomy, lesions, profile.pet)
    spect = acquire(spect_scan, anatomy, lesions, profile.spect)
    weight_kg = round(pet.body_mass_in_view_kg / MASS_IN_VIEW_SHARE, 1)
    return SimulatedPatient(
        number=number,
        centre=centre,
        weight_kg=weight_kg,
        height_m=round(anatomy.height_m, 2),
        pet=_within_injected(pet, weight_kg),
        spect=_within_injected(spect, weight_kg),
    )


def share_in_view(functional: Volume, weight_kg: float) -> float:
    """Share of the injected activity (decay corrected) that an SUV image shows."""
    return float(functional.array.sum(dtype=np.float64)) * functional.grid.voxel_ml / (weight_kg * 1000)


def _within_injected(scan: Acquisition, weight_kg: float) -> Acquisition:
    share = share_in_view(scan.functional, weight_kg)
    if share <= RETAINED_SHARE_LIMIT:
        return scan
    fitting = scan.functional.scaled(RETAINED_SHARE_LIMIT / share, scan.functional.unit)
    return replace(scan, functional=fitting)
