"""How often the rules for a lesion's site are right, and reference organs are found, on simulated patients.

    python -m benchmarks.lesion_sites --first 900 --patients 6

True lesions of both centres' PET/CT and SPECT/CT, so that a model's mistakes play no part. Prints, for each
modality, the sites told for each true kind with precision and recall, and where the reference organs were
found. The thresholds were set on patients 500 to 507; others are a fair test.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from app.domain.findings.findings import Findings, Organ, ReferenceUptake, Site
from app.domain.findings.measurements import measure
from app.domain.findings.site import SiteRules
from app.imaging.anatomy.sites import with_sites
from app.phantom.acquisition import Acquisition
from app.phantom.anatomy.anatomy import REFERENCE_HEIGHT_M
from app.phantom.anatomy.lesions import LesionKind
from app.phantom.centres import Centre
from app.phantom.patient import simulate_patient

SITE_OF = {
    LesionKind.BONE: Site.BONE,
    LesionKind.NODE: Site.LYMPH_NODE,
    LesionKind.PROSTATE: Site.PROSTATE,
    LesionKind.LIVER: Site.LIVER,
}

PLACES = {Organ.LIVER: ((10, -75, 500), (140, 75, 665)), Organ.PAROTID: ((42, -25, 875), (75, 25, 935))}
"""Boxes that hold the simulated organ, mm of the reference body, x off the midline."""


RIGHT_SIDE = {Organ.LIVER: (True,), Organ.PAROTID: (False, True)}
"""Which side each centre lies on."""


@dataclass(frozen=True)
class Told:
    """One lesion: what it is, and what the rules say."""

    modality: str
    kind: LesionKind
    site: Site


def sites_of(scan: Acquisition) -> Findings:
    """Findings with sites, from the truth."""
    findings = measure(scan.truth, scan.functional, None)
    return with_sites(findings, scan.truth, (scan.functional, scan.ct), SiteRules())


def scans(first: int, patients: int) -> Iterator[tuple[str, Acquisition, float]]:
    """Every scan with its modality and the size of the body against the reference body."""
    for number in range(first, first + patients):
        for centre in Centre:
            patient = simulate_patient(number, centre)
            size = patient.height_m / REFERENCE_HEIGHT_M
            yield "PET", patient.pet, size
            yield "SPECT", patient.spect, size
            sys.stderr.write(f"{centre.value}{number} done\n")


def told(modality: str, scan: Acquisition, findings: Findings) -> Iterator[Told]:
    """Each lesion of a scan."""
    for kind, lesion in zip(scan.kinds, findings.lesions, strict=True):
        yield Told(modality, LesionKind(kind), lesion.site)


def reference_verdict(scan: Acquisition, size: float, reference: ReferenceUptake) -> str:
    """``in place``, ``elsewhere`` or ``not told``."""
    if reference.suv_mean is None:
        return "not told"
    low, high = PLACES[reference.organ]
    back = np.linalg.inv(scan.pose)
    inside = [
        bool((np.array(low) <= place).all() and (place <= np.array(high)).all())
        for place in (
            (back[:3, :3] @ np.array(centre) + back[:3, 3]) / size * (-1 if right else 1, 1, 1)
            for centre, right in zip(reference.centres_mm, RIGHT_SIDE[reference.organ], strict=True)
        )
    ]
    return "in place" if all(inside) else "elsewhere"


def site_table(found: list[Told]) -> Iterator[str]:
    """Rows of the confusion table, then precision and recall."""
    yield "| true \\ found | " + " | ".join(site.value for site in Site) + " | recall |"
    yield "|---|" + "---|" * (len(Site) + 1)
    counts = Counter((item.kind, item.site) for item in found)
    for kind, right in SITE_OF.items():
        total = sum(counts[kind, site] for site in Site)
        share = f"{counts[kind, right] / total:.2f}" if total else "-"
        yield f"| {kind.value} | " + " | ".join(str(counts[kind, site]) for site in Site) + f" | {share} |"
    cells = []
    for site in Site:
        total = sum(counts[kind, site] for kind in SITE_OF)
        right_count = sum(counts[kind, site] for kind, right in SITE_OF.items() if right is site)
        cells.append("" if site is Site.UNSPECIFIED or not total else f"{right_count / total:.2f}")
    yield "| precision | " + " | ".join(cells) + " | |"


def main() -> int:
    """Print the tables of docs/reference/measurements.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--first", type=int, default=900)
    parser.add_argument("--patients", type=int, default=6)
    options = parser.parse_args()
    found: list[Told] = []
    organs: Counter[tuple[str, Organ, str]] = Counter()
    for modality, scan, size in scans(options.first, options.patients):
        findings = sites_of(scan)
        found += told(modality, scan, findings)
        for reference in findings.references:
            organs[modality, reference.organ, reference_verdict(scan, size, reference)] += 1
    for modality in ("PET", "SPECT"):
        sys.stdout.write(f"\n{modality}\n\n")
        sys.stdout.write("\n".join(site_table([item for item in found if item.modality == modality])) + "\n")
        for organ in Organ:
            verdicts = ("in place", "elsewhere", "not told")
            counts = ", ".join(f"{v} {organs[modality, organ, v]}" for v in verdicts)
            sys.stdout.write(f"\n{organ}: {counts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
