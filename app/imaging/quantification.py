"""The quantify stage: lesions measured, placed, dosed where wanted, compared with the previous study.

A study is compared with the patient's previous one of its kind: totals always, lesions where the CTs fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.domain.analysis import Quantified, Segmented
from app.domain.decision import ModelUsed
from app.domain.dose import with_activity_at_scan_start, with_dose
from app.domain.findings.change import LinkLimits, RecipInputs, link_lesions, percent_change, recip
from app.domain.findings.findings import Change, Findings, LesionLink, LinkKind, Recip
from app.domain.findings.measurements import QuantifyPolicy, measure
from app.domain.study import StudyKind
from app.errors import UnusableStudyError
from app.imaging.anatomy.relative_uptake import relative_findings
from app.imaging.anatomy.sites import with_sites, without_sites
from app.imaging.earlier_results import EarlierReport, EarlierResult, EarlierResults, comparison_candidates
from app.imaging.labels import lesion_proximity
from app.imaging.registration.policy import AlignPolicy, broken_limits
from app.imaging.registration.registration import RigidRegistration, register_rigid

NO_DATE = "no date of this study, so none of the patient's others is known to be earlier"


@dataclass(frozen=True)
class StudyComparison:
    """Finds the previous study, lays it on this one, compares.

    Attributes:
        policy: when lesions belong together.
        limits: how well the two CTs must fit before lesions are compared one by one.
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
        found = self.source.for_patient(selection.study.patient, now)
        candidates = comparison_candidates(found, selection, now, self.policy.min_days_to_previous)
        for previous in candidates:
            if previous.report is not None and not previous.report.findings.not_quantified:
                return replace(findings, change=self._change(segmented, findings, previous, previous.report))
        nothing = f"no result of an earlier {selection.kind.value} of this patient"
        return replace(findings, no_change_because=nothing)

    def _change(
        self, segmented: Segmented, findings: Findings, previous: EarlierResult, report: EarlierReport
    ) -> Change:
        links, broken, registration = self._links(segmented, findings, previous, report)
        before, now = report.findings.burden, findings.burden
        change = Change(
            study_instance_uid=previous.study_instance_uid,
            series_instance_uid=previous.series_instance_uid,
            acquired_at=previous.acquired_at,
            burden=before,
            psma_tv_percent=percent_change(before.psma_tv_ml, now.psma_tv_ml),
            tl_psma_percent=percent_change(before.tl_psma, now.tl_psma),
            suv_max_percent=percent_change(before.suv_max, now.suv_max),
            links=links,
            no_links_because=broken,
            registration=registration,
            cautions=_cautions(segmented, report),
        )
        if previous.kind is StudyKind.PET_CT:
            return replace(change, recip=_recip(change, findings))
        return change

    def _links(
        self, segmented: Segmented, findings: Findings, previous: EarlierResult, report: EarlierReport
    ) -> tuple[tuple[LesionLink, ...], tuple[str, ...], str]:
        """Links, why there are none, and the fit in words."""
        if not findings.lesions and not report.findings.lesions:
            return (), (), ""
        try:
            registration = register_rigid(segmented.aligned.loaded.ct, previous.ct())
            if registration is None:
                return (), ("too little bone in common on the two CTs",), ""
            words = _in_words(registration)
            broken = broken_limits(registration.fit, self.limits)
            if broken:
                return (), tuple(f"{b.found}, expected {b.expected}" for b in broken), words
            before = previous.labels()
        except UnusableStudyError as error:
            reasons = error.rejection.reasons
            return (), tuple(f"the previous result can't be read: {reason.found}" for reason in reasons), ""
        limits = LinkLimits(self.policy.link_min_overlap, self.policy.link_max_distance_mm)
        proximity = lesion_proximity(
            before, segmented.labels, registration.fixed_to_moving, limits.max_distance_mm
        )
        return link_lesions(report.findings.lesions, findings.lesions, proximity, limits), (), words


def _cautions(segmented: Segmented, previous: EarlierReport) -> tuple[str, ...]:
    cautions = []
    tracer = segmented.aligned.loaded.selection.tracer.key
    if tracer != previous.tracer:
        cautions.append(f"another radiopharmaceutical: {previous.tracer} then, {tracer} now")
    if _weights(segmented.model) != _weights(previous.model):
        then, now = map(_named, (previous.model, segmented.model))
        cautions.append(f"another model: {then} then, {now} now")
    return tuple(cautions)


def _named(model: ModelUsed) -> str:
    return f"{model.model_id} {model.version} ({model.weights_sha256[:8]})"


def _weights(model: ModelUsed) -> tuple[str, str]:
    return model.model_id, model.weights_sha256


def _recip(change: Change, findings: Findings) -> Recip:
    obstacles = list(change.cautions)
    unseen = sum(map(change.lesions_that_are, (LinkKind.NOT_SEEN_BEFORE, LinkKind.NOT_SEEN_NOW)))
    if unseen:
        obstacles.append(f"{unseen} lesion(s) outside the other study's field of view")
    new = None if change.no_links_because else change.lesions_that_are(LinkKind.NEW)
    inputs = RecipInputs(change.burden.psma_tv_ml, findings.burden.psma_tv_ml, new, tuple(obstacles))
    return recip(inputs)


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
            findings = relative_findings(findings, loaded.liver_scale)
        return Quantified(segmented, self.comparison.compare(segmented, findings))
