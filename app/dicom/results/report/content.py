"""The report in words, for SR and page: summary, provenance, sites, reference organs, change and dose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import highdicom as hd

from app.dicom.results.context import RESEARCH_USE, ResultContext, coded, plain
from app.dicom.results.report.quantities import activity_instant_in_words, processed_item, uptake_in_words
from app.domain import codes
from app.domain.analysis import Prior, RegistrationFit
from app.domain.dose import EFFECTIVE_HALF_LIVES_H
from app.domain.findings.findings import (
    Change,
    DoseEstimate,
    Findings,
    LesionLink,
    LinkKind,
    Organ,
    ReferenceUptake,
    burden_in_words,
)
from app.domain.quantities.suv_scale import Quantification
from app.domain.study import Code, StudyKind

DEMONSTRATION_MODEL = "Demonstration model, trained on simulated patients"
NO_LESION = "No lesion found"


def qualitative_evaluations(context: ResultContext) -> hd.sr.ContainerContentItem:
    """TID 1500 row 10: the summary, the intended use, and how the numbers came about, in words."""
    statements = ((name, plain(text)) for name, text in _statements(context))
    processed = processed_item(context)
    return evaluations(statements, *([] if processed is None else [processed]))


def evaluations(
    statements: Iterable[tuple[Code, str]], *further: hd.sr.ContentItem
) -> hd.sr.ContainerContentItem:
    """Qualitative evaluations: each concept with its text, then other items."""
    found = container(codes.QUALITATIVE_EVALUATIONS)
    texts = (
        hd.sr.TextContentItem(coded(name), text, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS)
        for name, text in statements
    )
    found.ContentSequence = hd.sr.ContentSequence([*texts, *further])
    return found


def summary(context: ResultContext) -> str:
    """One sentence on the burden."""
    findings = context.quantified.findings
    marked = f"; not quantified: {findings.not_quantified}" if findings.not_quantified else ""
    if findings.burden.lesion_count == 0:
        return NO_LESION + marked
    return burden_in_words(findings.burden) + marked


def warnings_statement(warnings: tuple[str, ...]) -> str:
    """What a reader of the numbers must know first: the decisions that are warnings, counted and in full."""
    noun = "warning" if len(warnings) == 1 else "warnings"
    numbered = (f"({number}) {text}" for number, text in enumerate(warnings, start=1))
    return f"{len(warnings)} {noun}: {'; '.join(numbered if len(warnings) > 1 else warnings)}"


def replaces_statement(context: ResultContext) -> str:
    """Which earlier result this one takes the place of; empty for the first."""
    earlier = context.replaced
    if earlier is None:
        return ""
    what = "notice of withdrawal" if earlier.is_withdrawal else "result"
    return f"Revision {context.provenance.revision}: replaces the {what} of revision {earlier.revision}"


def prior_statement(context: ResultContext, with_uids: bool = True) -> str:
    """Which prior was used and how it fits, or why none; empty for PET, which has none."""
    aligned = context.quantified.segmented.aligned
    if context.loaded.selection.kind is StudyKind.PET_CT:
        return ""
    if aligned.prior is None:
        reasons = "; ".join(str(reason) for reason in aligned.no_prior)
        return f"No prior used: {reasons or 'no reason recorded'}"
    segmented = context.quantified.segmented
    used = "Prior used" if segmented.prior_used else f"Prior not used by {segmented.model.role.value}"
    return f"{used}: {_prior_in_words(aligned.prior, with_uids)}"


def _statements(context: ResultContext) -> Iterator[tuple[Code, str]]:
    yield codes.SUMMARY, summary(context)
    if context.warnings:
        yield codes.SUMMARY, warnings_statement(context.warnings)
    if context.replaced is not None:
        yield codes.REPLACES, f"{replaces_statement(context)} (SR {context.replaced.sop_instance_uid})"
    yield codes.INTENDED_USE, RESEARCH_USE
    if context.model.demonstration_only:
        yield codes.INTENDED_USE, DEMONSTRATION_MODEL
    selection = context.loaded.selection
    for series in context.loaded.functional_series:
        yield codes.INPUT, f"{series.modality} series {series.series_instance_uid}"
    yield codes.INPUT, f"CT series {selection.ct.series_instance_uid}"
    yield codes.QUANTIFICATION, quantification_in_words(context.loaded.quantification)
    if (instant := context.quantified.findings.activity_instant) is not None:
        yield codes.QUANTIFICATION, f"activities as at: {activity_instant_in_words(instant)}"
    if prior := prior_statement(context):
        yield codes.PRIOR, prior
    yield from biomarker_statements(context.quantified.findings)
    for decision in context.decisions:
        yield codes.DECISION, f"{decision.stage}: {decision.line}"


def quantification_in_words(used: Quantification) -> str:
    """How stored values became SUV and Bq/ml, with every number used."""
    parts = [used.source]
    if used.suv_per_bqml is not None:
        parts.append(f"SUVbw per Bq/ml {used.suv_per_bqml:.6g}")
    if used.injected_activity_bq is not None:
        parts.append(f"administered {used.injected_activity_bq / 1e6:.5g} MBq")
    if used.administered_at is not None:
        parts.append(f"at {used.administered_at.isoformat(sep=' ')}")
    if used.reference_datetime is not None:
        parts.append(f"image decay corrected to {used.reference_datetime.isoformat(sep=' ')}")
    if used.uptake_s is not None:
        parts.append(f"uptake time {uptake_in_words(used.uptake_s)}")
    if used.weight_kg is not None:
        parts.append(f"weight {used.weight_kg:.5g} kg")
    if used.half_life_s is not None:
        parts.append(f"half-life {used.half_life_s:.8g} s")
    return ", ".join(parts)


def _prior_in_words(prior: Prior, with_uids: bool) -> str:
    when = "of unknown date" if prior.acquired_at is None else f"of {prior.acquired_at.date().isoformat()}"
    segmentation = prior.segmentation_sop_instance_uid
    lesions = f"SEG {segmentation}" if segmentation else NO_LESION.lower()
    origin = f" (series {prior.series_instance_uid}, {lesions})" if with_uids else ""
    return f"PET lesions {when}{origin}; fit CT to CT: {_fit_in_words(prior.fit)}"


def _fit_in_words(fit: RegistrationFit) -> str:
    parts = [
        f"bone Dice {fit.bone_dice:.2f}",
        f"origins differ by {fit.translation_mm:.1f} mm",
        f"rotation {fit.rotation_deg:.1f} deg",
        f"overlap {fit.overlap_fraction:.2f}",
        f"soft tissue correlation {fit.soft_tissue_correlation:.2f}",
    ]
    further = (
        ("bone distance", fit.bone_distance_mm, ".1f", " mm"),
        ("side correlation", fit.side_correlation, ".2f", ""),
        ("stretch", fit.stretch, ".3f", ""),
        ("rival overlap", fit.rival_overlap, ".2f", ""),
    )
    parts += [f"{name} {value:{form}}{unit}" for name, value, form, unit in further if value is not None]
    return ", ".join(parts)


def container(name: Code) -> hd.sr.ContainerContentItem:
    """An empty one; what is in it comes later."""
    return hd.sr.ContainerContentItem(coded(name), relationship_type=hd.sr.RelationshipTypeValues.CONTAINS)


def biomarker_statements(findings: Findings) -> Iterator[tuple[Code, str]]:
    """Each concept with its text, in the order of the report; only what somebody looked for."""
    for reference in findings.references:
        yield codes.REFERENCE, _reference_in_words(reference)
    sites = [f"lesion {x.number}: {x.site} ({x.site_reason})" for x in findings.lesions if x.site_reason]
    if sites:
        yield codes.SITE_REASON, "; ".join(sites)
    if findings.no_change_because:
        yield codes.CHANGE, f"not reported: {findings.no_change_because}"
    if findings.change is not None:
        yield from _change_statements(findings.change)
    if findings.dose is not None:
        yield codes.DOSE, dose_in_words(findings.dose)


def change_in_words(change: Change) -> str:
    """One sentence on the totals and on lesions come and gone."""
    parts = [
        *change.remarks,
        _percent("PSMA-TV", change.psma_tv_percent),
        _percent("TL-PSMA", change.tl_psma_percent),
        _percent("SUVmax", change.suv_max_percent),
    ]
    parts += [f"{n} {kind}" for kind in LinkKind if (n := change.lesions_that_are(kind))]
    return f"since {change.acquired_at.date().isoformat()}: {', '.join(parts)}"


def recip_in_words(change: Change) -> str:
    """The category, or why there is none; empty where RECIP does not apply."""
    if change.recip is None:
        return ""
    if change.recip.category is None:
        return f"RECIP 1.0 not decided: {change.recip.reason}"
    return f"{change.recip.category} ({change.recip.reason})"


def _change_statements(change: Change) -> Iterator[tuple[Code, str]]:
    yield codes.CHANGE, f"{change_in_words(change)}; previous series {change.series_instance_uid}"
    if change.registration:
        yield codes.CHANGE, change.registration
    if change.links:
        yield codes.CORRESPONDENCE, "; ".join(_link_in_words(link) for link in change.links)
    if change.recip is not None:
        yield codes.RECIP, recip_in_words(change)


def _reference_in_words(reference: ReferenceUptake) -> str:
    if reference.suv_mean is not None:
        uptake = f"SUVmean {reference.suv_mean:.3g}"
    elif reference.to_liver is not None and reference.organ is Organ.LIVER:
        uptake = "what all uptake is relative to"
    elif reference.to_liver is not None:
        uptake = f"mean uptake {reference.to_liver:.3g} times the liver's"
    else:
        return f"{reference.organ}: {reference.method}"
    places = ", ".join(f"({x:.0f}, {y:.0f}, {z:.0f})" for x, y, z in reference.centres_mm)
    return (
        f"{reference.organ}: {uptake} in {reference.volume_ml:.1f} ml, "
        f"{reference.method}; centre LPS mm {places}"
    )


def _link_in_words(link: LesionLink) -> str:
    numbers = [" + ".join(str(n) for n in side) for side in (link.previous, link.current)]
    changes = [
        _percent(name, value)
        for name, value in (
            ("volume", link.volume_percent),
            ("TL-PSMA", link.tl_psma_percent),
            ("SUVmax", link.suv_max_percent),
        )
        if value is not None
    ]
    detail = f" ({', '.join(changes)})" if changes else ""
    return f"{link.kind}: previous {numbers[0] or '-'}, current {numbers[1] or '-'}{detail}"


def _percent(name: str, value: float | None) -> str:
    return f"{name} {'not comparable' if value is None else f'{value:+.1f} %'}"


def dose_in_words(dose: DoseEstimate) -> str:
    """When it was measured and how far off it may be, or why there is none."""
    if dose.refused_because:
        return f"not estimated: {dose.refused_because}"
    text = f"research estimate from one SPECT at {dose.hours_after_administration:.1f} h (Haenscheid 2018)"
    if dose.lowest is None or dose.highest is None:
        return text
    below, above = 100.0 * (dose.lowest - 1.0), 100.0 * (dose.highest - 1.0)
    low_h, high_h = EFFECTIVE_HALF_LIVES_H
    return (
        f"{text}; {below:+.0f} % to {above:+.0f} % for effective half-lives of {low_h:g} to {high_h:g} h, "
        "calibration and partial volume apart"
    )
