"""The two simulated centres, their scanners, and the files that their readers save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.phantom.anatomy.body import Arms
from app.phantom.anatomy.shapes import Vector


class Centre(StrEnum):
    """A simulated hospital."""

    A = "A"
    B = "B"


class Modality(StrEnum):
    """Which of a patient's two scans."""

    PET = "pet"
    SPECT = "spect"


class TruthFileForm(StrEnum):
    """What the simulated reader saves."""

    SEG = "seg"
    RTSTRUCT = "rtstruct"
    NIFTI = "nifti"


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


@dataclass(frozen=True)
class CentreProfile:
    """A centre: its two scanners, and how large lesions are there (median diameter)."""

    pet: ScannerProfile
    spect: ScannerProfile
    lesion_median_mm: float


_A = CentreProfile(
    pet=ScannerProfile(
        Modality.PET,
        "Simulated Imaging",
        "SIM-PET A",
        4.0,
        (520, 344, 1100),
        (0, 8, -620),
        6.0,
        0.03,
        0.25,
        6.0,
        (2.5, 2.5, 4.0),
        16,
        Arms.RAISED,
    ),
    spect=ScannerProfile(
        Modality.SPECT,
        "Simulated Imaging",
        "SIM-SPECT A",
        4.8,
        (528, 346, 1104),
        (0, -22, 140),
        15.0,
        0.05,
        0.30,
        9.0,
        (2.4, 2.4, 4.0),
        22,
        Arms.RAISED,
        visibility=Visibility(0.45, 0.40),
    ),
    lesion_median_mm=13.0,
)
_B = CentreProfile(
    pet=ScannerProfile(
        Modality.PET,
        "Simulated Medical",
        "SIM-PET B",
        3.3,
        (515, 344, 1102),
        (6, -150, -905),
        7.0,
        0.04,
        0.30,
        7.0,
        (2.3, 2.3, 3.3),
        24,
        Arms.RAISED,
    ),
    spect=ScannerProfile(
        Modality.SPECT,
        "Simulated Medical",
        "SIM-SPECT B",
        4.42,
        (530, 345, 1105),
        (-4, 36, -330),
        17.0,
        0.06,
        0.42,
        10.2,
        (2.5, 2.5, 3.5),
        30,
        Arms.DOWN,
        0.85,
        Visibility(0.50, 0.48),
        slices_descend=True,
    ),
    lesion_median_mm=14.5,
)
CENTRES: Mapping[Centre, CentreProfile] = {Centre.A: _A, Centre.B: _B}
