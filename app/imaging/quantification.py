"""The quantify stage: lesions measured, placed, dosed where asked for, compared with the previous study."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.analysis import Quantified, Segmented
from app.domain.dose import with_activity_at_scan_start, with_dose
from app.domain.findings.measurements import QuantifyPolicy, measure
from app.imaging.comparison import StudyComparison
from app.imaging.sites import with_sites, without_sites


@dataclass(frozen=True)
class LesionQuantification:
    """Turns labels into findings.

    Attributes:
        policy: how to measure.
        comparison: finds the patient's previous study and compares.
    """

    policy: QuantifyPolicy
    comparison: StudyComparison

    def quantify(self, segmented: Segmented) -> Quantified:
        """Every biomarker of one study."""
        loaded = segmented.aligned.loaded
        findings = measure(segmented.labels, loaded.suv, loaded.activity, self.policy)
        if loaded.ct_doubt:
            findings = without_sites(findings, loaded.ct_doubt)
        else:
            findings = with_sites(findings, segmented.labels, (loaded.suv, loaded.ct), self.policy.sites)
        findings = with_dose(findings, loaded, self.policy)  # before activities leave the image's instant
        findings = with_activity_at_scan_start(findings, loaded)
        return Quantified(segmented, self.comparison.compare(segmented, findings))
