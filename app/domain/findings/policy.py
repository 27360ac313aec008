"""Section ``quantify`` of app.yaml: how lesions are measured, placed in sites and compared."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.domain.findings.comparability import ComparabilityLimits
from app.domain.findings.site import SiteRules


@dataclass(frozen=True)
class QuantifyPolicy:
    """How lesions are measured, placed in sites and compared with earlier ones."""

    suv_peak_sphere_ml: float = 1.0
    """Volume of the SUVpeak sphere, ml (PERCIST: 1 cm³)."""
    sites: SiteRules = field(default_factory=SiteRules)
    """When a lesion is said to sit in bone, a lymph node, the prostate or the liver."""
    compare_with_previous: bool = True
    """Report the change since the patient's previous study of the same kind."""
    comparable: ComparabilityLimits = field(default_factory=ComparabilityLimits)
    """How alike two studies have to be before they are compared."""
    min_days_to_previous: float = 14.0
    """Scans closer together than this, days, belong to one examination or one cycle of therapy."""
    link_min_overlap: float = 0.1
    """Lesions of two studies belong together when they share this much of the smaller one's volume, 0..1."""
    link_max_distance_mm: float = 10.0
    """Where lesions don't overlap, the nearest two belong together up to this distance of voxels, mm."""
    single_time_point_dose: bool = False
    """Research: absorbed dose of each lesion from one 177Lu SPECT (Hänscheid 2018)."""
    dose_earliest_h: float = 48.0
    """Earliest scan for that estimate, hours after administration."""
    dose_latest_h: float = 120.0
    """Latest scan for that estimate, hours after administration."""

    def __post_init__(self) -> None:
        if not 0.01 <= self.suv_peak_sphere_ml <= 100.0:
            raise ValueError(f"suv_peak_sphere_ml is 0.01..100 ml, found {self.suv_peak_sphere_ml}")
        if not 0.0 < self.link_min_overlap <= 1.0:
            raise ValueError(f"link_min_overlap is above 0 and at most 1, found {self.link_min_overlap}")
        if not 0.0 <= self.link_max_distance_mm <= 50.0:
            raise ValueError(f"link_max_distance_mm is 0..50 mm, found {self.link_max_distance_mm}")
        if self.min_days_to_previous < 0:
            raise ValueError(f"min_days_to_previous is not negative, found {self.min_days_to_previous}")
        if not 0.0 < self.dose_earliest_h < self.dose_latest_h:
            raise ValueError("dose_earliest_h is above 0 and below dose_latest_h")
