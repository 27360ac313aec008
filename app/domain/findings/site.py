"""Where a lesion sits: rules that a person can follow, from what its CT shows and where it lies.

A lesion for which no rule speaks is unspecified. ``app.imaging.anatomy.sites`` gathers the evidence;
docs/reference/measurements.md has the rules in words and how often they are right on simulated patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from app.domain.findings.findings import Site
from app.domain.ranges import Millimetres, Range, Ranged, Share


@dataclass(frozen=True)
class SiteRules(Ranged):
    """Thresholds of the rules that place a lesion in a site."""

    bone_min_share: Share = 0.5
    """Bone: least share of the lesion's uptake that lies in bone by CT, 0..1."""
    soft_max_bone_share: Share = 0.2
    """Soft tissue: largest share of the lesion's uptake in bone, 0..1; between the two, unspecified."""
    soft_hu_low: Annotated[float, Range(-1024, 3071)] = -60.0
    """Lowest mean of a soft-tissue lesion, HU: small nodes lie in fat and are averaged with it."""
    soft_hu_high: Annotated[float, Range(-1024, 3071)] = 130.0
    """Highest mean of a soft-tissue lesion, HU: with contrast medium."""
    liver_min_share: Share = 0.7
    """Liver: least share of the lesion and its surroundings that lies in the liver found, 0..1."""
    prostate_max_lateral_mm: Annotated[float, Range(0, 500)] = 25.0
    """Prostate: largest distance from the midline, mm."""
    prostate_below_mm: Annotated[float, Range(0, 500)] = 10.0
    """Prostate: largest distance below the lower end of the pubic symphysis, mm."""
    prostate_above_mm: Annotated[float, Range(0, 500)] = 40.0
    """Prostate: largest distance above the lower end of the pubic symphysis, mm."""
    prostate_behind_mm: tuple[Millimetres, Millimetres] = (20.0, 85.0)
    """Prostate: range of distances behind the front of the symphysis, mm."""
    node_max_ml: Annotated[float, Range(0, 1000)] = 40.0
    """Lymph node: largest volume, ml."""
    pelvic_node_lateral_mm: tuple[Millimetres, Millimetres] = (25.0, 95.0)
    """Pelvic lymph node: range of distances from the midline, between the pelvic walls, mm."""
    pelvic_node_above_mm: tuple[Millimetres, Millimetres] = (20.0, 180.0)
    """Pelvic lymph node: range of distances above the lower end of the symphysis, mm."""
    pelvic_node_behind_mm: tuple[Millimetres, Millimetres] = (0.0, 110.0)
    """Pelvic lymph node: range of distances behind the front of the symphysis, mm."""
    retroperitoneal_lateral_mm: Annotated[float, Range(0, 500)] = 45.0
    """Retroperitoneal lymph node: largest distance from the middle of the spine, mm."""
    retroperitoneal_before_mm: tuple[Millimetres, Millimetres] = (-20.0, 45.0)
    """Retroperitoneal lymph node: range of distances before the front of the vertebra, mm; negative behind
    it."""
    retroperitoneal_above_mm: Annotated[float, Range(0, 500)] = 130.0
    """Retroperitoneal lymph node: least distance above the lower end of the symphysis, mm."""
    mediastinal_lateral_mm: Annotated[float, Range(0, 500)] = 45.0
    """Mediastinal lymph node: between the lungs, largest distance from the midline, mm."""
    mediastinal_before_mm: Millimetres = 5.0
    """Mediastinal lymph node: least distance before the front of the vertebral body, mm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.soft_max_bone_share < self.bone_min_share:
            raise ValueError("soft_max_bone_share is below bone_min_share")
        ranges = (
            (self.soft_hu_low, self.soft_hu_high),
            self.prostate_behind_mm,
            self.pelvic_node_lateral_mm,
            self.pelvic_node_above_mm,
            self.pelvic_node_behind_mm,
            self.retroperitoneal_before_mm,
        )
        for low, high in ranges:
            if not low < high:
                raise ValueError(f"the lower limit of a range is below the upper, found {low:g} and {high:g}")


@dataclass(frozen=True)
class PelvicPosition:
    """Against the lower end of the pubic symphysis, mm: above it, behind its front, off the midline."""

    above_mm: float
    behind_mm: float
    lateral_mm: float


@dataclass(frozen=True)
class SpinalPosition:
    """Against the vertebra at its height, mm: positive before the vertebral body, off its middle."""

    before_mm: float
    lateral_mm: float


@dataclass(frozen=True)
class SiteEvidence:
    """What CT and position tell of one lesion.

    Attributes:
        volume_ml: of the lesion.
        in_ct: whether the CT shows all of it.
        bone_share: share of its uptake that lies in bone.
        mean_hu: mean of the CT in it.
        liver_share: share of the lesion and its surroundings within the liver; ``None`` where none was found.
        pelvic: ``None`` when no pubic symphysis was found.
        spinal: ``None`` when no vertebra was found at its height.
        between_lungs: lung on both its sides.
        below_lungs: it lies below all lung.
    """

    volume_ml: float
    in_ct: bool
    bone_share: float
    mean_hu: float
    liver_share: float | None = None
    pelvic: PelvicPosition | None = None
    spinal: SpinalPosition | None = None
    between_lungs: bool = False
    below_lungs: bool = False


def decide_site(evidence: SiteEvidence, rules: SiteRules) -> tuple[Site, str]:
    """The site, and the rule that decided, in words; unspecified with the reason where none does."""
    share = f"{100 * evidence.bone_share:.0f} % of its uptake in bone on CT"
    if not evidence.in_ct:
        return Site.UNSPECIFIED, "not wholly on the CT"
    if evidence.bone_share >= rules.bone_min_share:
        return Site.BONE, share
    if evidence.bone_share > rules.soft_max_bone_share:
        return Site.UNSPECIFIED, f"{share}: neither bone nor soft tissue"
    if not rules.soft_hu_low <= evidence.mean_hu <= rules.soft_hu_high:
        return Site.UNSPECIFIED, f"mean {evidence.mean_hu:.0f} HU: not soft tissue"
    return _soft_tissue(evidence, rules)


def _soft_tissue(evidence: SiteEvidence, rules: SiteRules) -> tuple[Site, str]:
    if evidence.liver_share is not None and evidence.liver_share >= rules.liver_min_share:
        return Site.LIVER, f"{100 * evidence.liver_share:.0f} % of it and its surroundings in the liver"
    if evidence.pelvic is not None and _in_prostate(evidence.pelvic, rules):
        lateral = f"{evidence.pelvic.lateral_mm:.0f} mm off the midline"
        return Site.PROSTATE, f"soft tissue behind the pubic symphysis, {lateral}"
    station = _node_station(evidence, rules)
    if station:
        return Site.LYMPH_NODE, f"soft tissue of {evidence.volume_ml:.1f} ml, {station}"
    return Site.UNSPECIFIED, "soft tissue where no rule applies"


def _in_prostate(place: PelvicPosition, rules: SiteRules) -> bool:
    return (
        -rules.prostate_below_mm <= place.above_mm <= rules.prostate_above_mm
        and _within(place.behind_mm, rules.prostate_behind_mm)
        and place.lateral_mm <= rules.prostate_max_lateral_mm
    )


def _node_station(evidence: SiteEvidence, rules: SiteRules) -> str:
    """Where a lymph node would lie; empty when none would."""
    if evidence.volume_ml > rules.node_max_ml:
        return ""
    if evidence.pelvic is not None and _beside_pelvic_wall(evidence.pelvic, rules):
        return "beside the pelvic wall"
    if evidence.spinal is None:
        return ""
    if evidence.between_lungs and _in_mediastinum(evidence.spinal, rules):
        return "between the lungs before the spine"
    above_pelvis = evidence.pelvic is None or evidence.pelvic.above_mm >= rules.retroperitoneal_above_mm
    if above_pelvis and evidence.below_lungs and _before_spine(evidence.spinal, rules):
        return "before or beside the lumbar spine"
    return ""


def _beside_pelvic_wall(place: PelvicPosition, rules: SiteRules) -> bool:
    return (
        _within(place.lateral_mm, rules.pelvic_node_lateral_mm)
        and _within(place.above_mm, rules.pelvic_node_above_mm)
        and _within(place.behind_mm, rules.pelvic_node_behind_mm)
    )


def _in_mediastinum(place: SpinalPosition, rules: SiteRules) -> bool:
    return place.lateral_mm <= rules.mediastinal_lateral_mm and place.before_mm >= rules.mediastinal_before_mm


def _before_spine(place: SpinalPosition, rules: SiteRules) -> bool:
    return place.lateral_mm <= rules.retroperitoneal_lateral_mm and _within(
        place.before_mm, rules.retroperitoneal_before_mm
    )


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]
