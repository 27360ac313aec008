"""The two simulated centres, their scanners, and the files that their readers save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

SIGMA_PER_FWHM = 1 / 2.3548
Vector = tuple[float, float, float]


class Centre(StrEnum):
    """A simulated hospital."""

    A = "A"
    B = "B"


class Modality(StrEnum):
    """Which of a patient's two scans."""

    PET = "pet"
    SPECT = "spect"


class Size(StrEnum):
    """How fine and how large the images are."""

    NORMAL = "normal"
    """Enough for training and tests: coarse voxels, and no more air around the body than it needs."""

    FULL = "full"
    """As a clinic's whole-body scans: what time and memory are measured on."""


class TruthFileForm(StrEnum):
    """What the simulated reader saves."""

    SEG = "seg"
    RTSTRUCT = "rtstruct"
    NIFTI = "nifti"


class Arms(StrEnum):
    """Where a patient keeps the arms during a scan."""

    RAISED = "raised"
    DOWN = "down"


@dataclass(frozen=True)
class Visibility:
    """A lesion is drawn by the reader when its peak exceeds ``share`` x background + ``suv``."""

    share: float
    suv: float


@dataclass(frozen=True)
class ScannerProfile:
    """One hybrid scanner and how the centre uses it.

    Attributes:
        manufacturer, model: as written to the headers.
        voxel_mm: isotropic voxel of the functional image.
        fov_mm: field of view (x, y, z).
        fov_centre_mm: its centre in LPS; each scanner has its own origin.
        resolution_fwhm_mm: Gaussian point spread.
        scatter: share of the counts in a tail 40 mm wide.
        noise: standard deviation at SUV 1, after smoothing.
        noise_fwhm_mm: correlation length of the noise.
        ct_spacing_mm: CT voxel (x, y, z).
        ct_width_mm: the most that the CT sees in plane; None as much as the functional image.
        ct_noise_hu: CT noise.
        arms: where patients keep their arms.
        sensitivity: measured over true concentration.
        visibility: when a reader sees a lesion.
        slices_descend: frames are stored from the head down (negative SpacingBetweenSlices in NM).
    """

    modality: Modality
    manufacturer: str
    model: str
    voxel_mm: float
    fov_mm: Vector
    fov_centre_mm: Vector
    resolution_fwhm_mm: float
    scatter: float
    noise: float
    noise_fwhm_mm: float
    ct_spacing_mm: Vector
    ct_noise_hu: float
    arms: Arms
    sensitivity: float = 1.0
    visibility: Visibility = Visibility(0.5, 1.0)
    slices_descend: bool = False
    ct_width_mm: float | None = None

    @property
    def sigma_voxels(self) -> float:
        """Standard deviation of the point spread."""
        return self.resolution_fwhm_mm * SIGMA_PER_FWHM / self.voxel_mm

    @property
    def ct_fov_mm(self) -> Vector:
        """Field of view of the CT (x, y, z)."""
        widest = self.ct_width_mm or max(self.fov_mm)
        return min(self.fov_mm[0], widest), min(self.fov_mm[1], widest), self.fov_mm[2]

    def shows(self, height: float, image_value: float) -> bool:
        """Whether a focus is seen that adds ``height`` to its surroundings, ``image_value`` in all."""
        around = max(image_value - height, 0.0)
        return height > self.visibility.share * around + self.visibility.suv


@dataclass(frozen=True)
class CentreProfile:
    """A centre: its two scanners, and how large lesions are there (median diameter)."""

    pet: ScannerProfile
    spect: ScannerProfile
    lesion_median_mm: float


_A = CentreProfile(
    ScannerProfile(
        Modality.PET, "Simulated Imaging", "SIM-PET A", arms=Arms.RAISED,
        voxel_mm=4.0, fov_mm=(520, 344, 1100), fov_centre_mm=(0, 8, -620),
        resolution_fwhm_mm=6.0, scatter=0.03, noise=0.25, noise_fwhm_mm=6.0,
        ct_spacing_mm=(2.5, 2.5, 4.0), ct_noise_hu=16,
    ),
    ScannerProfile(
        Modality.SPECT, "Simulated Imaging", "SIM-SPECT A", arms=Arms.RAISED,
        voxel_mm=4.8, fov_mm=(528, 346, 1104), fov_centre_mm=(0, -22, 140),
        resolution_fwhm_mm=15.0, scatter=0.05, noise=0.30, noise_fwhm_mm=9.0,
        ct_spacing_mm=(2.4, 2.4, 4.0), ct_noise_hu=22,
        visibility=Visibility(0.45, 0.40),
    ),
    lesion_median_mm=13.0,
)  # fmt: skip
_B = CentreProfile(
    ScannerProfile(
        Modality.PET, "Simulated Medical", "SIM-PET B", arms=Arms.RAISED,
        voxel_mm=3.3, fov_mm=(515, 344, 1102), fov_centre_mm=(6, -150, -905),
        resolution_fwhm_mm=7.0, scatter=0.04, noise=0.30, noise_fwhm_mm=7.0,
        ct_spacing_mm=(2.3, 2.3, 3.3), ct_noise_hu=24,
    ),
    ScannerProfile(
        Modality.SPECT, "Simulated Medical", "SIM-SPECT B", arms=Arms.DOWN,
        voxel_mm=4.42, fov_mm=(530, 345, 1105), fov_centre_mm=(-4, 36, -330),
        resolution_fwhm_mm=17.0, scatter=0.06, noise=0.42, noise_fwhm_mm=10.2,
        ct_spacing_mm=(2.5, 2.5, 3.5), ct_noise_hu=30,
        sensitivity=0.85, visibility=Visibility(0.50, 0.48), slices_descend=True,
    ),
    lesion_median_mm=14.5,
)  # fmt: skip
CENTRES: Mapping[Centre, CentreProfile] = {Centre.A: _A, Centre.B: _B}


def profile_of(centre: Centre, size: Size) -> CentreProfile:
    """A centre's scanners with images of that size: resolution, noise and origin stay the centre's own.

    Full: PET 256 x 256 x 403, its CT 511 x 511 x 367; SPECT 128 x 128 x 250, its CT 512 x 512 x 369.
    """
    profile = CENTRES[centre]
    if size is Size.NORMAL:
        return profile
    pet = replace(profile.pet, voxel_mm=2.73, fov_mm=(698.9, 698.9, 1100.2), ct_spacing_mm=(1.37, 1.37, 3.0))
    spect = replace(
        profile.spect, voxel_mm=4.42, fov_mm=(565.8, 565.8, 1105.0),
        ct_spacing_mm=(0.98, 0.98, 3.0), ct_width_mm=501.7,
    )  # fmt: skip
    return replace(profile, pet=pet, spect=spect)
