"""Measured lesions, whole-body burden, reference organs, and the change since the previous study.

Every definition with its formula and source: docs/reference/measurements.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.decision import Decision


class Site(StrEnum):
    """Where a lesion sits, as far as CT and position can tell."""

    BONE = "bone"
    LYMPH_NODE = "lymph node"
    PROSTATE = "prostate"
    """The prostate or its bed: the two look alike here."""
    LIVER = "liver"
    UNSPECIFIED = "unspecified"
    """Elsewhere, or no rule decides: the default."""


@dataclass(frozen=True)
class Lesion:
    """One lesion, measured on the functional image.

    Attributes:
        number: its label in the label map; 1 is the largest.
        volume_ml: voxels times voxel volume.
        suv_max, suv_mean, suv_peak: g/ml SUVbw; peak is the mean in a 1 cm³ sphere placed where that mean is
            highest within the lesion; ``None`` when the sphere does not fit the image. All ``None`` in an
            image that is not quantified.
        tl_psma: volume_ml x suv_mean (g); ``None`` without that.
        activity_mbq, concentration_max_bqml, concentration_mean_bqml: when the image is known in Bq/ml; at
            :attr:`Findings.activity_instant`.
        centre_mm: centre of mass, LPS mm.
        hottest_mm: LPS mm of the voxel with SUVmax.
        longest_diameter_mm: largest distance of two of its voxel centres; 0 for a single voxel.
        site: where it sits; ``site_reason`` says which rule decided, or why none did.
        to_liver, to_parotid: mean uptake over that of the reference organ; ``None`` without that organ.
        to_liver_max, to_liver_peak: as SUVmax and SUVpeak, over the liver's mean: in an image that is not
            quantified.
        absorbed_dose_gy: single-time-point estimate (research), only when the site asks for it.
    """

    number: int
    volume_ml: float
    suv_max: float | None
    suv_mean: float | None
    suv_peak: float | None
    tl_psma: float | None
    centre_mm: tuple[float, float, float]
    hottest_mm: tuple[float, float, float]
    activity_mbq: float | None = None
    concentration_max_bqml: float | None = None
    concentration_mean_bqml: float | None = None
    longest_diameter_mm: float | None = None
    site: Site = Site.UNSPECIFIED
    site_reason: str = ""
    to_liver: float | None = None
    to_parotid: float | None = None
    to_liver_max: float | None = None
    to_liver_peak: float | None = None
    absorbed_dose_gy: float | None = None

    @property
    def highest_uptake(self) -> float:
        """SUVmax, or the same over the liver: to draw with, in the image's own scale."""
        return self.suv_max or self.to_liver_max or 0.0


@dataclass(frozen=True)
class Burden:
    """Whole body: PSMA-TV = sum of volumes (ml), TL-PSMA = sum of volume x SUVmean (g).

    Attributes:
        tl_psma, suv_max: ``None`` in an image that is not quantified.
        dmax_mm: distance of the centres of the two lesions farthest apart; ``None`` below two lesions.
        dmax_lesions: their numbers.
        to_liver_max: highest uptake over the liver's mean, in an image that is not quantified.
    """

    lesion_count: int
    psma_tv_ml: float
    tl_psma: float | None
    suv_max: float | None
    activity_mbq: float | None = None
    dmax_mm: float | None = None
    dmax_lesions: tuple[int, int] | None = None
    to_liver_max: float | None = None


def burden_in_words(burden: Burden) -> str:
    """``3 lesions, PSMA-TV 12.0 ml, TL-PSMA 80.1 g``; not quantified, its highest uptake over the liver's."""
    noun = "lesion" if burden.lesion_count == 1 else "lesions"
    volume = f"{burden.lesion_count} {noun}, PSMA-TV {burden.psma_tv_ml:.1f} ml"
    if burden.tl_psma is not None:
        return f"{volume}, TL-PSMA {burden.tl_psma:.1f} g"
    highest = burden.to_liver_max
    return volume if highest is None else f"{volume}, uptake at most {highest:.1f} times the liver's"


class Organ(StrEnum):
    """Organs whose uptake lesions are described against."""

    LIVER = "liver"
    PAROTID = "parotid gland"


@dataclass(frozen=True)
class ReferenceUptake:
    """Uptake of a reference organ; descriptive.

    Attributes:
        suv_mean: in the volume of interest, g/ml SUVbw; ``None`` when the organ could not be found, and in an
            image that is not quantified.
        volume_ml: size of the volume of interest.
        centres_mm: LPS mm of its spheres' centres.
        method: how it was placed, or why it could not be.
        to_liver: its mean over the liver's, in an image that is not quantified.
    """

    organ: Organ
    suv_mean: float | None
    method: str
    volume_ml: float = 0.0
    centres_mm: tuple[tuple[float, float, float], ...] = ()
    to_liver: float | None = None


class LinkKind(StrEnum):
    """What became of lesions between two studies."""

    MATCHED = "matched"
    SPLIT = "split"
    """One before, several now."""
    MERGED = "merged"
    """Several before, one now."""
    REGROUPED = "regrouped"
    """Several before, several others now."""
    NEW = "new"
    VANISHED = "vanished"
    NOT_SEEN_BEFORE = "not seen before"
    """Now outside what the previous study showed: it can't be called new."""
    NOT_SEEN_NOW = "not seen now"
    """Before, outside what this study shows: it can't be called vanished."""


@dataclass(frozen=True)
class LesionLink:
    """Lesions that belong together in two studies, and their change.

    Attributes:
        previous, current: numbers of the lesions in each study.
        volume_percent, tl_psma_percent, suv_max_percent: change of the group's sums (of SUVmax: its highest)
            from previous to current, in percent of the previous; ``None`` unless both sides have lesions.
    """

    kind: LinkKind
    previous: tuple[int, ...]
    current: tuple[int, ...]
    volume_percent: float | None = None
    tl_psma_percent: float | None = None
    suv_max_percent: float | None = None


class RecipCategory(StrEnum):
    """RECIP 1.0 (Gafita et al., J Nucl Med 2022;63:1651)."""

    COMPLETE_RESPONSE = "RECIP-CR"
    PARTIAL_RESPONSE = "RECIP-PR"
    STABLE_DISEASE = "RECIP-SD"
    PROGRESSIVE_DISEASE = "RECIP-PD"


@dataclass(frozen=True)
class Recip:
    """RECIP 1.0 with its inputs; ``category`` is ``None`` where they don't decide; ``reason`` says why."""

    category: RecipCategory | None
    psma_tv_percent: float | None
    new_lesion_count: int | None
    reason: str


@dataclass(frozen=True)
class Change:
    """From the patient's previous study of the same kind to this one.

    Attributes:
        study_instance_uid, series_instance_uid, acquired_at: of the previous study.
        burden: the previous one.
        psma_tv_percent, tl_psma_percent, suv_max_percent: change in percent of the previous value, over the
            region that both studies show; ``None`` where that is 0 or unknown.
        links: which lesions belong together.
        region: what is compared where that is not all lesions of both studies, in words.
        registration: how well the CTs lie on each other, in words.
        cautions: what else differs between the studies, or is unknown.
        recip: for PET alone.
    """

    study_instance_uid: str
    series_instance_uid: str
    acquired_at: datetime
    burden: Burden
    psma_tv_percent: float | None
    tl_psma_percent: float | None
    suv_max_percent: float | None
    links: tuple[LesionLink, ...] = ()
    region: str = ""
    registration: str = ""
    cautions: tuple[str, ...] = ()
    recip: Recip | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What belongs next to each of its numbers."""
        cautions = tuple(f"caution: {caution}" for caution in self.cautions)
        return (*cautions, self.region) if self.region else cautions

    def lesions_that_are(self, kind: LinkKind) -> int:
        """How many lesions a kind of link holds: current ones, or previous ones where there is no current."""
        return sum(len(link.current or link.previous) for link in self.links if link.kind is kind)


class InstantKind(StrEnum):
    """What an activity is decay corrected to."""

    SCAN_START = "start of the scan"
    INJECTION = "injection"


@dataclass(frozen=True)
class ActivityInstant:
    """When the activities hold: ``at`` is the header's local time, ``None`` where it has no date."""

    kind: InstantKind
    at: datetime | None = None


@dataclass(frozen=True)
class DoseEstimate:
    """The single-time-point estimate: when it was measured, or why there is none.

    Attributes:
        lowest, highest: the dose by the exact integral lies between these multiples of the estimate, whatever
            the effective half-life within :data:`app.domain.dose.EFFECTIVE_HALF_LIVES_H`.
    """

    hours_after_administration: float | None
    refused_because: str = ""
    lowest: float | None = None
    highest: float | None = None


@dataclass(frozen=True)
class Findings:
    """Lesions, largest first, and their sums. No lesion is a result, not an absence of one.

    Attributes:
        references: uptake of reference organs; empty when nobody looked.
        change: since the previous study of the same kind; ``None`` without one.
        no_change_because: why there is none; empty when nobody looked.
        not_compared: earlier results that were there and passed over, each with why.
        dose: ``None`` unless the site asks for the estimate.
        activity_instant: when the lesions' activities hold; ``None`` where there are none.
        not_quantified: why the image has no SUV, and so no finding has; empty when it has.
    """

    lesions: tuple[Lesion, ...]
    burden: Burden
    references: tuple[ReferenceUptake, ...] = ()
    change: Change | None = None
    no_change_because: str = ""
    not_compared: tuple[str, ...] = ()
    dose: DoseEstimate | None = None
    activity_instant: ActivityInstant | None = None
    not_quantified: str = ""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Which earlier results were passed over; a warning where that leaves nothing to compare with."""
        decide = Decision if self.change else Decision.warning
        return tuple(decide("quantify", f"not compared with {text}") for text in self.not_compared)

    def reference(self, organ: Organ) -> ReferenceUptake | None:
        """What is known of an organ; ``None`` when nobody looked."""
        return next((found for found in self.references if found.organ is organ), None)
