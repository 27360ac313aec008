"""Physics of a scan: activity, resolution, noise, and what a reader would draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from app.domain.volume import FloatArray, Grid, LabelMap, Unit, Volume
from app.phantom.anatomy.anatomy import VERTEX_MM, Anatomy
from app.phantom.anatomy.lesions import SimulatedLesion
from app.phantom.anatomy.shapes import BLOCK, Box, Image, Pose, Shape, Uptake, euler, paint, stencil
from app.phantom.centres import SIGMA_PER_FWHM, Modality, ScannerProfile

SCATTER_SIGMA_MM = 40.0
READER_THRESHOLDS = (0.36, 0.50)
"""A reader's outline lies between these shares of a lesion's own maximum."""

MIN_TRUTH_VOXELS = 3
BENIGN_THRESHOLD = 0.45
TEXTURE_MM = 28.0
TEXTURE_SD = 0.07
"""Real organs are not uniform: smooth relative variation of the uptake."""

POSE_SD = {Modality.PET: (0.7, 5.0), Modality.SPECT: (1.3, 9.0)}
"""Rotation (degrees) and translation (mm) of a body against its scanner."""

WARP_MM = 2.0
"""Standard deviation along each axis of the soft deformation between two scans of one body."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """One hybrid scan, held in memory.

    Attributes:
        functional: PET or SPECT in SUVbw.
        ct: its CT in HU, on its own finer grid that covers the functional image,
            as far as the CT is wide.
        truth: lesions as a reader draws them, on the functional grid, labels ``1..n``.
        benign: benign foci that stand out, bool on the functional grid.
        pose: 4x4 rigid transform, body mm to LPS mm of this scan.
        kinds: kind of each lesion, in the order of the labels.
        scanner: what it was made on.
        body_mass_in_view_kg: mass of the body inside the CT's field of view.
    """

    functional: Volume
    ct: Volume
    truth: LabelMap
    benign: NDArray[np.bool_]
    pose: FloatArray
    kinds: tuple[str, ...]
    scanner: ScannerProfile
    body_mass_in_view_kg: float


@dataclass(frozen=True, eq=False)
class _Contribution:
    """What one focus adds to the blurred image, in its box."""

    box: Box
    values: Image


def draw_pose(rng: np.random.Generator, scanner: ScannerProfile, scale: float) -> Pose:
    """A pose with the vertex just below the upper end of the field of view."""
    angle_deg, shift_mm = POSE_SD[scanner.modality]
    body_centre = np.array([0.0, 14.0, VERTEX_MM * scale + 22.0 - scanner.fov_mm[2] / 2])
    rigid = np.eye(4)
    turn_x, turn_y, turn_z = np.clip(rng.normal(0, angle_deg, 3), -2.5 * angle_deg, 2.5 * angle_deg).tolist()
    rigid[:3, :3] = euler(turn_x, turn_y, turn_z)
    shift = np.clip(rng.normal(0, shift_mm, 3), -18, 18)
    rigid[:3, 3] = np.array(scanner.fov_centre_mm) + shift - rigid[:3, :3] @ body_centre
    waves = 6
    amplitude = rng.normal(0, WARP_MM * np.sqrt(2 / waves), (waves, 3))
    return Pose(rigid, rng.normal(0, 1 / 130, (waves, 3)), rng.uniform(0, 2 * np.pi, waves), amplitude)


def _grid(scanner: ScannerProfile, spacing_mm: tuple[float, float, float], cover: bool) -> Grid:
    spacing, fov = np.array(spacing_mm), np.array(scanner.ct_fov_mm if cover else scanner.fov_mm)
    count = (np.ceil if cover else np.round)(fov / spacing).astype(int)
    x, y, z = (np.array(scanner.fov_centre_mm) - (count - 1) * spacing / 2).tolist()
    return Grid.axis_aligned((int(count[2]), int(count[1]), int(count[0])), spacing_mm, (x, y, z))


def _suv(uptake: Uptake | None, modality: Modality) -> float | None:
    if uptake is None:
        return None
    return uptake.pet if modality is Modality.PET else uptake.spect


def _ct(rng: np.random.Generator, scan: _Scan) -> tuple[Volume, float]:
    """CT and the mass of the body in it (kg)."""
    grid = _grid(scan.scanner, scan.scanner.ct_spacing_mm, cover=True)
    image = np.full(grid.shape, -1000.0, np.float32)
    paint(image, grid, scan.pose, ((shape, shape.hu) for shape in scan.shapes))
    # a lesion's change on CT stays when its uptake is gone
    parts = (part for lesion in scan.lesions for part in lesion.parts)
    paint(image, grid, scan.pose, ((part, part.hu) for part in parts))
    mass_kg = float(np.clip(image + 1000, 0, 1600).sum(dtype=np.float64)) / 1000 * grid.voxel_ml / 1000
    paint(image, grid, Pose.identity(), _couch(scan.scanner))
    image += _smooth_noise(rng, grid.shape, 0.6) * np.float32(scan.scanner.ct_noise_hu)
    np.clip(np.rint(image, out=image), -1024, 3000, out=image)
    return Volume(image, grid, Unit.HU), mass_kg


def _couch(scanner: ScannerProfile) -> list[tuple[Shape, float]]:
    x, y, z = scanner.fov_centre_mm
    board = Shape((x, y + 158, z), (205, 11, 800), exponents=BLOCK)
    return [(board, -60.0), (board.grown(0.86, None, None), -850.0)]


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], sigma_voxels: float) -> Image:
    noise = rng.standard_normal(shape, dtype=np.float32)
    smooth: Image = gaussian_filter(noise, sigma_voxels, truncate=3.0)
    smooth /= smooth.std()
    return smooth


def _texture(rng: np.random.Generator, grid: Grid) -> Image:
    coarse = [int(n * s / TEXTURE_MM) + 2 for n, s in zip(grid.shape, grid.spacing_mm[::-1], strict=True)]
    field = rng.standard_normal(coarse, dtype=np.float32)
    factors = [(n + 0.5) / c for n, c in zip(grid.shape, coarse, strict=True)]
    fine = zoom(field, factors, order=1, grid_mode=False)[tuple(slice(0, n) for n in grid.shape)]
    varied: Image = 1 + np.float32(TEXTURE_SD) * fine
    return varied


def _blur(image: Image, scanner: ScannerProfile) -> Image:
    """Point spread: a Gaussian core, and a wide tail computed on a coarse grid."""
    core: Image = gaussian_filter(image, scanner.sigma_voxels, truncate=3.0)
    coarse = gaussian_filter(image[::4, ::4, ::4], SCATTER_SIGMA_MM / scanner.voxel_mm / 4, truncate=2.5)
    tail = np.repeat(np.repeat(np.repeat(coarse, 4, 0), 4, 1), 4, 2)[tuple(slice(0, n) for n in image.shape)]
    core *= np.float32(1 - scanner.scatter)
    core += np.float32(scanner.scatter) * tail
    return core


@dataclass(frozen=True, eq=False)
class _Scan:
    """What is scanned, and how."""

    anatomy: Anatomy
    shapes: Sequence[Shape]
    lesions: Sequence[SimulatedLesion]
    scanner: ScannerProfile
    pose: Pose
    grid: Grid

    def present(self, lesion: SimulatedLesion) -> bool:
        return lesion.on_pet if self.scanner.modality is Modality.PET else lesion.on_spect


def _union(parts: Sequence[Shape], scan: _Scan) -> tuple[Box, Image] | None:
    """Coverage of overlapping parts in a box wide enough for the point spread."""
    margin = 1.3 * scan.scanner.resolution_fwhm_mm
    placed = [s for part in parts if (s := stencil(part, scan.pose, scan.grid, margin)) is not None]
    if not placed:
        return None
    boxes = [s.box for s in placed]
    z, y, x = (slice(min(b[a].start for b in boxes), max(b[a].stop for b in boxes)) for a in range(3))
    covers = [s.coverage(scan.grid, (z, y, x)) for s in placed]
    return (z, y, x), np.maximum.reduce(covers)


def _insert(
    rng: np.random.Generator, activity: Image, parts: Sequence[Shape], suv: float, scan: _Scan
) -> _Contribution | None:
    """Add one uneven lesion to ``activity``; return what it adds to the blurred image."""
    found = _union(parts, scan)
    if found is None:
        return None
    box, cover = found
    uneven = 1 + 0.2 * _smooth_noise(rng, cover.shape, 8.0 / scan.scanner.voxel_mm)
    view = activity[box]
    before = view.copy()
    view += cover * (np.maximum(np.float32(suv) * np.clip(uneven, 0.5, 1.5), view) - view)
    return _Contribution(box, gaussian_filter(view - before, scan.scanner.sigma_voxels, truncate=3.0))


def _truth(
    rng: np.random.Generator, image: Image, found: Sequence[tuple[str, _Contribution]], scan: _Scan
) -> tuple[LabelMap, tuple[str, ...]]:
    """Outline what stands out: ``image`` is the blurred, noise-free picture with all lesions."""
    drawn: list[tuple[str, Box, NDArray[np.bool_]]] = []
    for kind, part in found:
        threshold = rng.uniform(*READER_THRESHOLDS)
        peak = np.unravel_index(int(np.argmax(part.values)), part.values.shape)
        height = float(part.values[peak])
        if scan.scanner.shows(height, float(image[part.box][peak])):
            drawn.append((kind, part.box, part.values > threshold * height))
    drawn.sort(key=lambda entry: -int(entry[2].sum()))  # small ones last, so that they stay on top
    labels = np.zeros(scan.grid.shape, np.uint16)
    for number, (_, box, mask) in enumerate(drawn, start=1):
        labels[box][mask] = number
    sizes = np.bincount(labels.ravel(), minlength=len(drawn) + 1)
    kept = [n for n in range(1, len(drawn) + 1) if sizes[n] >= MIN_TRUTH_VOXELS]
    renumber = np.zeros(len(drawn) + 1, np.uint16)
    renumber[kept] = np.arange(1, len(kept) + 1)
    return LabelMap(renumber[labels], scan.grid), tuple(drawn[n - 1][0] for n in kept)


def _benign(image: Image, truth: LabelMap, scan: _Scan) -> NDArray[np.bool_]:
    """Benign foci that a careless reader would take for lesions."""
    mask = np.zeros(scan.grid.shape, np.bool_)
    for focus in scan.anatomy.benign:
        suv, found = _suv(focus.uptake, scan.scanner.modality), _union([focus], scan)
        if suv is None or found is None:
            continue
        box, cover = found
        spread = gaussian_filter(cover, scan.scanner.sigma_voxels, truncate=3.0)
        centre = np.unravel_index(int(np.argmax(spread)), spread.shape)
        if scan.scanner.shows(suv * float(spread.max()), float(image[box][centre])):
            mask[box] |= spread > BENIGN_THRESHOLD * spread.max()
    mask &= ~truth.mask
    return mask


def acquire(
    rng: np.random.Generator, anatomy: Anatomy, lesions: Sequence[SimulatedLesion], scanner: ScannerProfile
) -> Acquisition:
    """Scan a body once. Single-threaded cost: about 2 s."""
    pose = draw_pose(rng, scanner, anatomy.scale)
    grid = _grid(scanner, (scanner.voxel_mm,) * 3, cover=False)
    scan = _Scan(anatomy, anatomy.shapes(scanner.arms), lesions, scanner, pose, grid)
    ct, mass_kg = _ct(rng, scan)
    activity = np.full(grid.shape, 0.005, np.float32)
    paint(activity, grid, pose, ((s, _suv(s.uptake, scanner.modality)) for s in scan.shapes))
    activity *= _texture(rng, grid)
    image = _blur(activity, scanner)
    found: list[tuple[str, _Contribution]] = []
    for lesion in (each for each in lesions if scan.present(each)):
        suv = _suv(lesion.uptake, scanner.modality) or 0.0
        part = _insert(rng, activity, lesion.parts, suv, scan)
        if part is not None:
            image[part.box] += part.values
            found.append((lesion.kind.value, part))
    truth, kinds = _truth(rng, image, found, scan)
    benign = _benign(image, truth, scan)
    noisy = Volume(_with_noise(rng, image, scanner), grid, Unit.SUVBW)
    return Acquisition(noisy, ct, truth, benign, pose.rigid, kinds, scanner, mass_kg)


def _with_noise(rng: np.random.Generator, image: Image, scanner: ScannerProfile) -> Image:
    """Noise that grows with the square root of the signal and is correlated as reconstructions are."""
    sigma = scanner.noise_fwhm_mm * SIGMA_PER_FWHM / scanner.voxel_mm
    noise = _smooth_noise(rng, (image.shape[0], image.shape[1], image.shape[2]), sigma)
    noise *= np.sqrt(image + np.float32(0.02)) * np.float32(scanner.noise)
    noise += image
    noise *= np.float32(scanner.sensitivity)
    return np.maximum(noise, 0, out=noise)
