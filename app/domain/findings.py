"""Measured lesions and whole-body burden."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lesion:
    """One lesion, measured on the functional image.

    Attributes:
        number: its label in the label map; 1 is the largest.
        volume_ml: voxels times voxel volume.
        suv_max, suv_mean, suv_peak: g/ml SUVbw; peak is the mean in a 1 cm³ sphere placed where that mean is
            highest within the lesion; ``None`` when the sphere does not fit the image.
        tl_psma: volume_ml x suv_mean (g).
        activity_mbq, concentration_max_bqml, concentration_mean_bqml: when the image is known in Bq/ml.
        centre_mm: centre of mass, LPS mm.
        hottest_mm: LPS mm of the voxel with SUVmax.
    """

    number: int
    volume_ml: float
    suv_max: float
    suv_mean: float
    suv_peak: float | None
    tl_psma: float
    centre_mm: tuple[float, float, float]
    hottest_mm: tuple[float, float, float]
    activity_mbq: float | None = None
    concentration_max_bqml: float | None = None
    concentration_mean_bqml: float | None = None


@dataclass(frozen=True)
class Burden:
    """Whole body: PSMA-TV = sum of volumes (ml), TL-PSMA = sum of volume x SUVmean (g)."""

    lesion_count: int
    psma_tv_ml: float
    tl_psma: float
    suv_max: float | None
    activity_mbq: float | None = None


@dataclass(frozen=True)
class Findings:
    """Lesions, largest first, and their sums. No lesion is a result, not an absence of one."""

    lesions: tuple[Lesion, ...]
    burden: Burden
