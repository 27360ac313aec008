"""Sites of lesions and uptake of reference organs: both from the CT, its landmarks and the uptake."""

from __future__ import annotations

from dataclasses import replace

from app.domain.findings.findings import Findings, Lesion, Organ, ReferenceUptake, Site
from app.domain.findings.site import SiteRules, decide_site
from app.domain.volume import LabelMap, Volume
from app.imaging.body_landmarks import find_landmarks
from app.imaging.reference_organs import Liver, body_uptake, find_liver, find_parotids
from app.imaging.site_evidence import Surroundings, gather_evidence
from app.imaging.working_ct import working_ct

NO_BODY = "not told: the CT shows no soft tissue where the image lies"


def with_sites(
    findings: Findings, labels: LabelMap, images: tuple[Volume, Volume], rules: SiteRules
) -> Findings:
    """``findings`` with each lesion's site, the reference organs, and each lesion's ratio to them.

    Args:
        findings: measured on ``labels``.
        labels: on the functional image's grid.
        images: SUV and CT (HU) of the same study.
        rules: thresholds of the sites.
    """
    suv, source = images
    ct = working_ct(source)
    landmarks = find_landmarks(ct, source)
    body = body_uptake(ct, landmarks, suv, labels)
    if body is None:
        liver: Liver | ReferenceUptake = ReferenceUptake(Organ.LIVER, None, NO_BODY)
        parotid = ReferenceUptake(Organ.PAROTID, None, NO_BODY)
    else:
        liver, parotid = find_liver(body), find_parotids(body)
    around = Surroundings(suv, source, landmarks, liver.mask if isinstance(liver, Liver) else None)
    references = (liver.uptake if isinstance(liver, Liver) else liver, parotid)
    lesions = []
    for lesion, evidence in zip(
        findings.lesions, gather_evidence(findings.lesions, labels, around), strict=True
    ):
        site, reason = decide_site(evidence, rules)
        lesions.append(_against(replace(lesion, site=site, site_reason=reason), references))
    return replace(findings, lesions=tuple(lesions), references=references)


def without_sites(findings: Findings, doubt: str) -> Findings:
    """``findings`` with every site unspecified and no reference organ: the CT shows other anatomy there.

    Args:
        findings: measured.
        doubt: why the CT can't be relied on.
    """
    lesions = tuple(
        replace(lesion, site=Site.UNSPECIFIED, site_reason=doubt, to_liver=None, to_parotid=None)
        for lesion in findings.lesions
    )
    references = tuple(ReferenceUptake(organ, None, f"not told: {doubt}") for organ in Organ)
    return replace(findings, lesions=lesions, references=references)


def _against(lesion: Lesion, references: tuple[ReferenceUptake, ReferenceUptake]) -> Lesion:
    to_liver, to_parotid = (
        lesion.suv_mean / reference.suv_mean if reference.suv_mean else None for reference in references
    )
    return replace(lesion, to_liver=to_liver, to_parotid=to_parotid)
