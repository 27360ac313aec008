"""Sites, reference organs, change and dose in words, for the report and the page."""

from __future__ import annotations

from collections.abc import Iterator

from app.domain.codes import CHANGE, CORRESPONDENCE, DOSE, RECIP, REFERENCE, SITE_REASON
from app.domain.dose import EFFECTIVE_HALF_LIVES_H
from app.domain.findings.findings import Change, DoseEstimate, Findings, LesionLink, LinkKind, ReferenceUptake
from app.domain.study import Code


def biomarker_statements(findings: Findings) -> Iterator[tuple[Code, str]]:
    """Each concept with its text, in the order of the report; only what somebody looked for."""
    for reference in findings.references:
        yield REFERENCE, _reference_in_words(reference)
    sites = [f"lesion {x.number}: {x.site} ({x.site_reason})" for x in findings.lesions if x.site_reason]
    if sites:
        yield SITE_REASON, "; ".join(sites)
    if findings.no_change_because:
        yield CHANGE, f"not reported: {findings.no_change_because}"
    if findings.change is not None:
        yield from _change_statements(findings.change)
    if findings.dose is not None:
        yield DOSE, dose_in_words(findings.dose)


def change_in_words(change: Change) -> str:
    """One sentence on the totals and on lesions come and gone."""
    parts = [
        _percent("PSMA-TV", change.psma_tv_percent),
        _percent("TL-PSMA", change.tl_psma_percent),
        _percent("SUVmax", change.suv_max_percent),
    ]
    if change.no_links_because:
        parts.append(f"lesions not compared one by one: {'; '.join(change.no_links_because)}")
    else:
        parts += [f"{n} {kind}" for kind in LinkKind if (n := change.lesions_that_are(kind))]
    parts += [f"caution: {caution}" for caution in change.cautions]
    return f"since {change.acquired_at.date().isoformat()}: {', '.join(parts)}"


def recip_in_words(change: Change) -> str:
    """The category, or why there is none; empty where RECIP does not apply."""
    if change.recip is None:
        return ""
    if change.recip.category is None:
        return f"RECIP 1.0 not decided: {change.recip.reason}"
    return f"{change.recip.category} ({change.recip.reason})"


def _change_statements(change: Change) -> Iterator[tuple[Code, str]]:
    yield CHANGE, f"{change_in_words(change)}; previous series {change.series_instance_uid}"
    if change.registration:
        yield CHANGE, change.registration
    if change.links:
        yield CORRESPONDENCE, "; ".join(_link_in_words(link) for link in change.links)
    if change.recip is not None:
        yield RECIP, recip_in_words(change)


def _reference_in_words(reference: ReferenceUptake) -> str:
    if reference.suv_mean is None:
        return f"{reference.organ}: {reference.method}"
    places = ", ".join(f"({x:.0f}, {y:.0f}, {z:.0f})" for x, y, z in reference.centres_mm)
    return (
        f"{reference.organ}: SUVmean {reference.suv_mean:.3g} in {reference.volume_ml:.1f} ml, "
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
