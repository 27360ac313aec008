"""The site of each lesion and the uptake of reference organs, from the CT, its landmarks and the uptake.

A site's evidence is the bone in the lesion, its density, and where it lies;
:mod:`app.domain.findings.site` decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from app.domain.findings.findings import Findings, Lesion, Organ, ReferenceUptake, Site
from app.domain.findings.site import SiteEvidence, SiteRules, decide_site
from app.domain.volume import FloatArray, Grid, LabelMap, Unit, Volume
from app.imaging.anatomy.landmarks import BodyLandmarks, find_landmarks
from app.imaging.anatomy.reference_organs import Liver, body_uptake, find_liver, find_parotids
from app.imaging.morphology import deep, filled_slices, near
from app.imaging.registration.working_ct import working_ct
from app.imaging.resampling import resample
from app.imaging.slices import thread_count

SPACING_MM = 2.0
"""Of the local picture of a lesion: a rib's cortex is no thicker."""

COARSE_SPACING_MM, LARGEST_BOX = 4.0, 6_000_000
"""A lesion whose box has more voxels than that is looked at more coarsely."""

MARGIN_MM = 24.0
"""Around a lesion, so that bone in its surroundings is seen whole enough to be filled."""

BONE_HU = 150.0
"""Cortex and dense marrow; what they enclose is filled."""

CLOSING_MM = 5.0
"""Gaps in bone up to twice this are bone too: marrow, lytic lesions, thin cortex."""

LEAST_WEIGHT = 1e-6
"""SUV that stands for none, so that every voxel of a lesion counts."""

LIVER_SURROUNDINGS_MM = 8.0

NO_CT_HU = -4000.0
"""Marks what the CT did not see; no scanner writes it."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Images and landmarks that lesions are looked at with; ``liver`` is 1 within it, 0 outside."""

    suv: Volume
    ct: Volume
    landmarks: BodyLandmarks
    liver: Volume | None


def gather_evidence(
    lesions: Sequence[Lesion], labels: LabelMap, around: Surroundings
) -> Iterator[SiteEvidence]:
    """What :func:`app.domain.findings.site.decide_site` needs, lesion by lesion.

    ``labels`` are on the grid of ``around.suv``.
    """
    boxes = find_objects(labels.array)

    def evidence(lesion: Lesion) -> SiteEvidence:
        return _evidence(lesion, boxes[lesion.number - 1], labels, around)

    with ThreadPoolExecutor(thread_count()) as threads:
        yield from threads.map(evidence, lesions)


def _evidence(lesion: Lesion, box: Box, labels: LabelMap, around: Surroundings) -> SiteEvidence:
    grid = _local_grid(_bounds_mm(box, labels.grid), MARGIN_MM)
    weight = _uptake_inside(labels.array[box] == lesion.number, box, around.suv, grid)
    hu = resample(around.ct, grid, NO_CT_HU).array
    inside = weight > 0
    in_ct = bool(inside.any() and (hu[inside] > NO_CT_HU / 2).all())
    bone = _filled_bone(hu)
    point = np.array(lesion.centre_mm)
    total = float(weight.sum(dtype=np.float64))
    landmarks = around.landmarks
    return SiteEvidence(
        volume_ml=lesion.volume_ml,
        in_ct=in_ct,
        bone_share=float(weight[bone].sum(dtype=np.float64)) / total if total > 0 else 0.0,
        mean_hu=float(hu[inside].mean(dtype=np.float64)) if in_ct else 0.0,
        liver_share=_liver_share(inside, grid, around),
        pelvic=landmarks.pelvic_position(point),
        spinal=landmarks.spinal_position(point),
        between_lungs=landmarks.between_lungs(point),
        below_lungs=landmarks.below_lungs(point),
    )


def _bounds_mm(box: Box, grid: Grid) -> FloatArray:
    """Lowest and highest corner of a box, voxel edges included, LPS mm ``(2, 3)``."""
    z, y, x = ((part.start - 0.5, part.stop - 0.5) for part in box)
    corners = np.array([(i, j, k) for i in x for j in y for k in z])
    placed = grid.to_lps(corners)
    bounds: FloatArray = np.stack([placed.min(axis=0), placed.max(axis=0)])
    return bounds


def _local_grid(bounds_mm: FloatArray, margin_mm: float) -> Grid:
    """Upright and isotropic around the bounds."""
    low, high = bounds_mm[0] - margin_mm, bounds_mm[1] + margin_mm
    spacing = SPACING_MM if np.prod((high - low) / SPACING_MM) <= LARGEST_BOX else COARSE_SPACING_MM
    width, height, depth = (int(n) + 1 for n in np.ceil((high - low) / spacing))
    x, y, z = low.tolist()
    return Grid.axis_aligned((depth, height, width), (spacing,) * 3, (x, y, z))


def _uptake_inside(lesion: NDArray[np.bool_], box: Box, suv: Volume, grid: Grid) -> NDArray[np.float32]:
    """SUV within the lesion, 0 outside, on ``grid``; its outline by linear interpolation at a half."""
    z, y, x = (slice(part.start - 1, part.stop + 1) for part in box)
    local = suv.grid.part((z, y, x))
    share = resample(Volume(np.pad(lesion.astype(np.float32), 1), local, Unit.NONE), grid, 0.0).array
    uptake = resample(Volume(np.pad(suv.array[box], 1, mode="edge"), local, suv.unit), grid, 0.0).array
    inside: NDArray[np.float32] = np.where(share >= 0.5, np.maximum(uptake, LEAST_WEIGHT), 0.0)
    return inside.astype(np.float32, copy=False)


def _filled_bone(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Bone with its marrow: dense voxels, gaps closed, and what a ring of bone encloses in an axial slice."""
    dense = hu >= BONE_HU
    reach = CLOSING_MM / SPACING_MM
    return filled_slices(deep(near(dense, reach), reach) | dense)


def _liver_share(inside: NDArray[np.bool_], grid: Grid, around: Surroundings) -> float | None:
    if around.liver is None:
        return None
    shell = near(inside, LIVER_SURROUNDINGS_MM / grid.spacing_mm[0])
    found = resample(around.liver, grid, 0.0).array >= 0.5
    return float(found[shell].mean())


NO_BODY = "not told: the CT shows no soft tissue where the image lies"


def with_sites(
    findings: Findings, labels: LabelMap, images: tuple[Volume, Volume], rules: SiteRules
) -> Findings:
    """``findings`` with each lesion's site, the reference organs, and each lesion's ratio to them.

    ``images`` are SUV, on the grid of ``labels``, and the CT in HU of the same study.
    """
    suv, source = images
    ct = working_ct(source)
    with ThreadPoolExecutor(1) as beside:
        finding = beside.submit(find_landmarks, ct, source)
        body = body_uptake(ct, finding.result, suv, labels)
        landmarks = finding.result()
    if body is None:
        liver = Liver(None, ReferenceUptake(Organ.LIVER, None, NO_BODY))
        parotid = ReferenceUptake(Organ.PAROTID, None, NO_BODY)
    else:
        liver, parotid = find_liver(body), find_parotids(body)
    mask = None if liver.mask is None else Volume(liver.mask.astype(np.float32), ct.grid, Unit.NONE)
    around = Surroundings(suv, source, landmarks, mask)
    references = (liver.uptake, parotid)
    lesions = []
    for lesion, evidence in zip(
        findings.lesions, gather_evidence(findings.lesions, labels, around), strict=True
    ):
        site, reason = decide_site(evidence, rules)
        lesions.append(_against(replace(lesion, site=site, site_reason=reason), references))
    return replace(findings, lesions=tuple(lesions), references=references)


def without_sites(findings: Findings, doubt: str) -> Findings:
    """Every site unspecified, and no reference organ; ``doubt`` says why the CT is no help."""
    lesions = tuple(
        replace(lesion, site=Site.UNSPECIFIED, site_reason=doubt, to_liver=None, to_parotid=None)
        for lesion in findings.lesions
    )
    references = tuple(ReferenceUptake(organ, None, f"not told: {doubt}") for organ in Organ)
    return replace(findings, lesions=lesions, references=references)


def _against(lesion: Lesion, references: tuple[ReferenceUptake, ReferenceUptake]) -> Lesion:
    to_liver, to_parotid = (
        lesion.suv_mean / reference.suv_mean if lesion.suv_mean is not None and reference.suv_mean else None
        for reference in references
    )
    return replace(lesion, to_liver=to_liver, to_parotid=to_parotid)
