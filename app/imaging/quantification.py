"""The quantify stage: lesions measured, placed, dosed where wanted, compared with an earlier study.

A study is compared with the patient's earlier series of its kind that is most alike: in radiopharmaceutical,
time after injection, reconstruction and region. Totals are over the region that both show, and there are none
where the two CTs can't be laid on each other: what is compared is then unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.domain.analysis import Quantified, Segmented
from app.domain.decision import ModelUsed
from app.domain.dose import with_activity_at_scan_start, with_dose
from app.domain.findings.change import LinkLimits, RecipInputs, link_lesions, percent_change, recip
from app.domain.findings.comparability import Comparability, ComparabilityLimits, ScanFacts, comparability
from app.domain.findings.findings import Burden, Change, Findings, Lesion, LesionLink, LinkKind, Recip
from app.domain.findings.measurements import measure, total
from app.domain.findings.policy import QuantifyPolicy
from app.domain.study import StudyKind
from app.domain.volume import Volume
from app.errors import UnusableStudyError
from app.imaging.anatomy.relative_uptake import liver_doubts, relative_findings
from app.imaging.anatomy.sites import with_sites, without_sites
from app.imaging.earlier_results import (
    EarlierReport,
    EarlierResult,
    EarlierResults,
    comparison_candidates,
    examinations,
    named,
    results_of,
)
from app.imaging.labels import lesion_proximity
from app.imaging.registration.policy import AlignPolicy, broken_limits
from app.imaging.registration.registration import RigidRegistration, register_rigid
from app.imaging.shared_region import View, seen_part, shared_share

NO_DATE = "no date of this study, so none of the patient's others is known to be earlier"

NONE_ALIKE = "no earlier result can be compared with this one"

MOST_REGISTRATIONS = 4
"""So many earlier series are tried, each for some seconds: older ones matter less and less."""

NOT_TRIED = f"not tried after {MOST_REGISTRATIONS} others"


@dataclass(frozen=True)
class StudyComparison:
    """Finds the earlier series that is most alike, lays it on this one, compares.

    Attributes:
        policy: how alike studies have to be, and when lesions belong together.
        limits: how well the two CTs must fit.
        source: where earlier results come from.
    """

    policy: QuantifyPolicy
    limits: AlignPolicy
    source: EarlierResults

    def compare(self, segmented: Segmented, findings: Findings) -> Findings:
        """``findings`` with the change, or with why there is none."""
        if not self.policy.compare_with_previous:
            return replace(findings, no_change_because="the site's settings leave it out")
        if findings.not_quantified:
            return replace(findings, no_change_because="this study is not quantified")
        selection = segmented.aligned.loaded.selection
        now = selection.functional.when or selection.study.study_datetime
        if now is None:
            return replace(findings, no_change_because=NO_DATE)
        found = results_of(self.source, selection.study.patient, now)
        if isinstance(found, str):
            return replace(findings, no_change_because=found)
        candidates = comparison_candidates(found, selection, now, self.policy.min_days_to_previous)
        if candidates:
            return self._with_best(segmented, findings, candidates)
        nothing = f"no result of an earlier {selection.kind.value} of this patient"
        return replace(findings, no_change_because=nothing)

    def _with_best(
        self, segmented: Segmented, findings: Findings, candidates: Sequence[EarlierResult]
    ) -> Findings:
        """Compared with the latest examination that can be, by its series that is most alike."""
        passed: list[str] = []
        left = MOST_REGISTRATIONS
        for examination in examinations(candidates, self.policy.min_days_to_previous):
            ranked = self._ranked(examination, segmented.aligned.loaded.facts)
            for place, (previous, alike) in enumerate(ranked, start=1):
                why_not = alike.stops or (() if left else (NOT_TRIED,))
                found = why_not or self._change(segmented, findings, previous, alike.told)
                if isinstance(found, Change):
                    passed += [_less_alike(*other) for other in ranked[place:]]
                    return replace(findings, change=found, not_compared=tuple(passed))
                left -= 0 if why_not else 1
                passed.append(f"{named(previous)}: {'; '.join(found)}")
        return replace(findings, no_change_because=NONE_ALIKE, not_compared=tuple(passed))

    def _ranked(
        self, examination: Sequence[EarlierResult], now: ScanFacts
    ) -> list[tuple[EarlierResult, Comparability]]:
        """The most alike first; of equals the latest."""
        found = [(previous, _compared(previous, now, self.policy.comparable)) for previous in examination]
        return sorted(found, key=lambda each: each[1].order)

    def _change(
        self, segmented: Segmented, findings: Findings, previous: EarlierResult, told: tuple[str, ...]
    ) -> Change | tuple[str, ...]:
        """The change, or why the two can't be laid on each other."""
        report = previous.report
        if report is None:
            return ("no report",)
        laid = Laid.nowhere(report.findings.lesions, findings.lesions)
        if findings.lesions or report.findings.lesions:
            try:
                found = self._laid(segmented, findings, previous, report)
            except UnusableStudyError as error:
                reasons = error.rejection.reasons
                return tuple(f"the previous result can't be read: {reason.found}" for reason in reasons)
            if isinstance(found, tuple):
                return found
            laid = found
        before, now = laid.totals
        change = Change(
            study_instance_uid=previous.study_instance_uid,
            series_instance_uid=previous.series_instance_uid,
            acquired_at=previous.acquired_at,
            burden=report.findings.burden,
            psma_tv_percent=percent_change(before.psma_tv_ml, now.psma_tv_ml),
            tl_psma_percent=percent_change(before.tl_psma, now.tl_psma),
            suv_max_percent=percent_change(before.suv_max, now.suv_max),
            links=laid.links,
            region=laid.region,
            registration=laid.registration,
            cautions=(*_cautions(segmented, report), *told),
        )
        if previous.kind is StudyKind.PET_CT:
            return replace(change, recip=_recip(change, laid))
        return change

    def _laid(
        self, segmented: Segmented, findings: Findings, previous: EarlierResult, report: EarlierReport
    ) -> Laid | tuple[str, ...]:
        """Both studies' lesions in one space, as far as both show them; or why not.

        Raises:
            UnusableStudyError: the earlier images can't be read any more.
        """
        loaded, comparable = segmented.aligned.loaded, self.policy.comparable
        ct = previous.ct()
        registration = self._registered(loaded.ct, ct)
        if isinstance(registration, tuple):
            return registration
        labels, motion = previous.labels(), registration.fixed_to_moving
        back = np.asarray(np.linalg.inv(motion), dtype=np.float64)
        views = View(labels.grid, ct), View(loaded.uptake.grid, loaded.ct)
        shares = shared_share(views[0], views[1], back), shared_share(views[1], views[0], motion)
        if shares[1] < comparable.min_shared_region:
            found = f"share of this study's body that it shows {shares[1]:.3g}"
            return (f"{found}, expected at least {comparable.min_shared_region:g}",)
        before = seen_part(report.findings.lesions, labels, previous.suv, back, loaded.uptake.grid)
        now = seen_part(findings.lesions, segmented.labels, lambda: loaded.uptake, motion, labels.grid)
        is_whole = min(shares) >= comparable.recip_min_shared_region
        cut = before != report.findings.lesions or now != findings.lesions
        reach = LinkLimits(self.policy.link_min_overlap, self.policy.link_max_distance_mm)
        proximity = lesion_proximity(labels, segmented.labels, motion, reach.max_distance_mm)
        return Laid(
            totals=(total(before), total(now)),
            links=link_lesions(before, now, proximity, reach),
            registration=_in_words(registration),
            region=_region_in_words(shares) if cut or not is_whole else "",
            is_whole=is_whole,
        )

    def _registered(self, fixed: Volume, moving: Volume) -> RigidRegistration | tuple[str, ...]:
        """The fit of this study's CT and the earlier one, or why they don't fit."""
        registration = register_rigid(fixed, moving)
        if registration is None:
            return ("too little bone in common on the two CTs",)
        limits = replace(self.limits, min_overlap_fraction=self.policy.comparable.min_shared_region)
        broken = broken_limits(registration.fit, limits)
        return tuple(f"{b.found}, expected {b.expected}" for b in broken) or registration


@dataclass(frozen=True)
class Laid:
    """Two studies in one space, the earlier one first.

    Attributes:
        totals: over the region that both show.
        region: that region in words, where it leaves something out.
        is_whole: it leaves out too little to matter.
    """

    totals: tuple[Burden, Burden]
    links: tuple[LesionLink, ...] = ()
    registration: str = ""
    region: str = ""
    is_whole: bool = True

    @classmethod
    def nowhere(cls, before: tuple[Lesion, ...], now: tuple[Lesion, ...]) -> Laid:
        """Without any lesion in either study there is nothing to lay on each other."""
        return cls((total(before), total(now)))


def _compared(previous: EarlierResult, now: ScanFacts, limits: ComparabilityLimits) -> Comparability:
    if previous.report is not None and previous.report.findings.not_quantified:
        return Comparability(("not quantified",), (), (float("inf"),))
    try:
        return comparability(previous.facts(), now, limits)
    except UnusableStudyError as error:
        reasons = (f"its images can't be read: {reason.found}" for reason in error.rejection.reasons)
        return Comparability(tuple(reasons), (), (float("inf"),))


def _less_alike(other: EarlierResult, alike: Comparability) -> str:
    why = "; ".join(alike.stops or alike.told) or "as much alike, and not the latest"
    return f"{named(other)}: another series of that examination is taken ({why})"


def _region_in_words(shares: tuple[float, float]) -> str:
    return (
        f"over the region that both show, {100 * shares[0]:.0f} % of the body in the previous study and "
        f"{100 * shares[1]:.0f} % of that in this one"
    )


def _cautions(segmented: Segmented, previous: EarlierReport) -> tuple[str, ...]:
    if _weights(segmented.model) == _weights(previous.model):
        return ()
    then, now = map(_named, (previous.model, segmented.model))
    return (f"another model: {then} then, {now} now",)


def _named(model: ModelUsed) -> str:
    return f"{model.model_id} {model.version} ({model.weights_sha256[:8]})"


def _weights(model: ModelUsed) -> tuple[str, str]:
    return model.model_id, model.weights_sha256


def _recip(change: Change, laid: Laid) -> Recip:
    obstacles = list(change.cautions)
    unseen = sum(map(change.lesions_that_are, (LinkKind.NOT_SEEN_BEFORE, LinkKind.NOT_SEEN_NOW)))
    if unseen:
        obstacles.append(f"{unseen} lesion(s) outside the other study's field of view")
    if not laid.is_whole:
        obstacles.append(f"compared {laid.region}")
    before, now = laid.totals
    new = change.lesions_that_are(LinkKind.NEW)
    return recip(RecipInputs(before.psma_tv_ml, now.psma_tv_ml, new, tuple(obstacles)))


def _in_words(registration: RigidRegistration) -> str:
    fit = registration.fit
    return (
        f"CTs laid on each other: Dice of bone {fit.bone_dice:.2f}, soft tissue correlation "
        f"{fit.soft_tissue_correlation:.2f}, rotation {fit.rotation_deg:.1f} degrees"
    )


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
        findings = measure(segmented.labels, loaded.uptake, loaded.activity, self.policy)
        if loaded.ct_doubt:
            findings = without_sites(findings, loaded.ct_doubt)
        else:
            findings = with_sites(findings, segmented.labels, (loaded.uptake, loaded.ct), self.policy.sites)
        findings = with_dose(findings, loaded, self.policy)  # before activities leave the image's instant
        findings = with_activity_at_scan_start(findings, loaded)
        if loaded.liver_scale is not None:
            segmented = replace(segmented, decisions=(*segmented.decisions, *liver_doubts(findings)))
            findings = relative_findings(findings, loaded.liver_scale)
        return Quantified(segmented, self.comparison.compare(segmented, findings))
