"""The PET lesions of a patient on the grid of the later SPECT: what M4 gets as its third channel.

Imitates a segmented PET brought over by registration: not quite in place, not quite the same outline, a few
lesions lost and a few benign foci gained. Defective priors teach a model not to trust them blindly.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter, label, map_coordinates

from app.domain.volume import FloatArray, Grid
from app.phantom.patient import SimulatedPatient

MAX_SHIFT_MM = 8.0
SHIFT_SD_MM = 4.0
LESION_JITTER_MM = 1.0
THRESHOLDS = (0.30, 0.62)
"""Outlines vary: the softened PET mask is cut between these values."""

SOFTENING_MM = 2.0
MARGIN_MM = 8.0
SMALL_ML = 0.6
DROPPED_SMALL, DROPPED_LARGE = 0.15, 0.06
ADDED_BENIGN = 0.12
MISPLACED_MM = (25.0, 60.0)
MIRRORED_SHARE = 0.3
"""Share of misplaced priors that are mirrored left to right instead of shifted."""


class PriorDefect(StrEnum):
    """What is wrong with a prior."""

    NONE = "none"
    EMPTY = "empty"
    MISPLACED = "misplaced"


def pet_to_spect(patient: SimulatedPatient) -> FloatArray:
    """4x4 rigid transform, LPS mm of the PET to LPS mm of the SPECT (without the soft warp)."""
    transform: FloatArray = patient.spect.pose @ np.linalg.inv(patient.pet.pose)
    return transform


def prior_mask(
    patient: SimulatedPatient, rng: np.random.Generator, defect: PriorDefect = PriorDefect.NONE
) -> NDArray[np.bool_]:
    """PET lesions on the SPECT grid, bool ``(z, y, x)``, with realistic errors or a named defect."""
    grid = patient.spect.functional.grid
    mask = np.zeros(grid.shape, np.bool_)
    if defect is PriorDefect.EMPTY:
        return mask
    shift = _direction(rng) * min(MAX_SHIFT_MM, abs(rng.normal(0, SHIFT_SD_MM)))
    transform = _offset(shift) @ pet_to_spect(patient)
    if defect is PriorDefect.MISPLACED:
        transform = _misplacement(rng, patient) @ transform
    pet = patient.pet
    for focus in _lesions_kept(rng, patient) + _benign_added(rng, pet.benign):
        moved = _offset(rng.normal(0, LESION_JITTER_MM, 3)) @ transform
        _carry(focus, pet.functional.grid, moved, (mask, grid), float(rng.uniform(*THRESHOLDS)))
    return mask


_Focus = tuple[tuple[slice, ...], NDArray[np.bool_]]
"""A box on the PET grid, and the focus within it."""


def _direction(rng: np.random.Generator) -> FloatArray:
    vector = rng.normal(0, 1, 3)
    unit: FloatArray = vector / np.linalg.norm(vector)
    return unit


def _offset(shift_mm: FloatArray) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, 3] = shift_mm
    return matrix


def _misplacement(rng: np.random.Generator, patient: SimulatedPatient) -> FloatArray:
    """A wrong transform in LPS of the SPECT: mirrored at the body's midline, or shifted far."""
    if rng.random() < MIRRORED_SHARE:
        pose = patient.spect.pose
        return pose @ np.diag([-1.0, 1.0, 1.0, 1.0]) @ np.linalg.inv(pose)
    return _offset(_direction(rng) * rng.uniform(*MISPLACED_MM))


def _lesions_kept(rng: np.random.Generator, patient: SimulatedPatient) -> list[_Focus]:
    truth, kept = patient.pet.truth, []
    for number, box in enumerate(find_objects(truth.array.astype(np.int32)), start=1):
        if box is None:
            continue
        focus = truth.array[box] == number
        small = focus.sum() * truth.grid.voxel_ml < SMALL_ML
        if rng.random() >= (DROPPED_SMALL if small else DROPPED_LARGE):
            kept.append((box, focus))
    return kept


def _benign_added(rng: np.random.Generator, benign: NDArray[np.bool_]) -> list[_Focus]:
    labels, _ = label(benign, np.ones((3, 3, 3)))
    boxes = enumerate(find_objects(labels), start=1)
    return [(box, labels[box] == number) for number, box in boxes if rng.random() < ADDED_BENIGN]


def _carry(
    focus: _Focus,
    source: Grid,
    transform: FloatArray,
    target: tuple[NDArray[np.bool_], Grid],
    threshold: float,
) -> None:
    """Resample one focus on to the target grid, in its box only, and add it to the target's mask."""
    box, inside = focus
    pad = int(np.ceil(MARGIN_MM / min(source.spacing_mm)))
    soft = gaussian_filter(
        np.pad(inside, pad).astype(np.float32), [SOFTENING_MM / s for s in source.spacing_mm[::-1]]
    )
    first = np.array([part.start - pad for part in box[::-1]], dtype=np.float64)  # x, y, z
    size = np.array(soft.shape[::-1])
    corners = np.array([[i, j, k] for k in (0, 1) for j in (0, 1) for i in (0, 1)]) * (size - 1) + first
    mask, grid = target
    placed = grid.to_index(source.to_lps(corners) @ transform[:3, :3].T + transform[:3, 3])
    low = np.maximum(np.floor(placed.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(placed.max(axis=0)).astype(int) + 1, grid.shape[::-1])
    if (high <= low).any():
        return
    z, y, x = np.meshgrid(*(np.arange(low[a], high[a]) for a in (2, 1, 0)), indexing="ij")
    lps = grid.to_lps(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(np.float64))
    back = np.linalg.inv(transform)
    index = source.to_index(lps @ back[:3, :3].T + back[:3, 3]) - first
    values = map_coordinates(soft, index[:, ::-1].T, order=1, mode="constant").reshape(z.shape)
    mask[low[2] : high[2], low[1] : high[1], low[0] : high[0]] |= values > threshold * soft.max()
