"""Section ``quantify`` of app.yaml: how lesions are measured, placed in sites and compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from app.domain.findings.comparability import ComparabilityLimits
from app.domain.findings.site import SiteRules
from app.domain.ranges import Range, Ranged, SomeShare


@dataclass(frozen=True)
class QuantifyPolicy(Ranged):
    """How lesions are measured, placed in sites and compared with earlier ones."""

    suv_peak_sphere_ml: Annotated[float, Range(0.01, 100)] = 1.0
    """Volume of the SUVpeak sphere, ml (PERCIST: 1 cm³)."""
    sites: SiteRules = field(default_factory=SiteRules)
    """When a lesion is said to sit in bone, a lymph node, the prostate or the liver."""
    compare_with_previous: bool = True
    """Report the change since the patient's previous study of the same kind."""
    comparable: ComparabilityLimits = field(default_factory=ComparabilityLimits)
    """How alike two studies have to be before they are compared."""
    min_days_to_previous: Annotated[float, Range(0, 3650)] = 14.0
    """Scans closer together than this, days, belong to one examination or one cycle of therapy."""
    link_min_overlap: SomeShare = 0.1
    """Lesions of two studies belong together when they share this much of the smaller one's volume, 0..1."""
    link_max_distance_mm: Annotated[float, Range(0, 50)] = 10.0
    """Where lesions don't overlap, the nearest two belong together up to this distance of voxels, mm."""
    single_time_point_dose: bool = False
    """Research: absorbed dose of each lesion from one 177Lu SPECT (Hänscheid 2018)."""
    dose_earliest_h: Annotated[float, Range(0, 1000, above=True)] = 48.0
    """Earliest scan for that estimate, hours after administration."""
    dose_latest_h: Annotated[float, Range(0, 1000, above=True)] = 120.0
    """Latest scan for that estimate, hours after administration."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dose_earliest_h < self.dose_latest_h:
            raise ValueError("dose_earliest_h is below dose_latest_h")
