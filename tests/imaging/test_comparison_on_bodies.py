"""The whole comparison with a real registration: a patient who lay elsewhere on the day before."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from app.domain.analysis import Quantified
from app.domain.findings.findings import LinkKind, RecipCategory
from app.domain.findings.measurements import measure
from app.domain.findings.policy import QuantifyPolicy
from app.domain.volume import FloatArray, Grid, LabelMap, Volume
from app.imaging.earlier_results import EarlierReport, EarlierResult
from app.imaging.quantification import StudyComparison
from app.imaging.registration.policy import AlignPolicy
from app.phantom.centres import Centre
from tests.dicom.results import sources
from tests.imaging.test_comparison import NOW, Source, dated
from tests.phantom.simulated import simulated


def elsewhere(grid: Grid) -> Grid:
    """The same voxels in a body that lay 3 degrees and some centimetres off."""
    motion: FloatArray = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [1.0, -2.0, 3.0], degrees=True).as_matrix()
    motion[:3, 3] = (400.0, -35.0, 120.0)
    return Grid(grid.shape, motion @ grid.affine)


def without_largest(labels: LabelMap) -> LabelMap:
    """As if lesion 1 had not been there."""
    array = labels.array.astype(np.int32) - 1
    return LabelMap(np.maximum(array, 0).astype(np.uint16), labels.grid)


def test_lesions_are_matched_across_poses_and_the_one_that_came_is_new(tmp_path: Path) -> None:
    scan = simulated(901, Centre.A).pet
    findings = measure(scan.truth, scan.functional, None)
    template = dated(sources.pet(tmp_path)).segmented
    loaded = replace(template.aligned.loaded, uptake=scan.functional, ct=scan.ct, activity=None)
    aligned = replace(template.aligned, loaded=loaded)
    now = Quantified(replace(template, aligned=aligned, labels=scan.truth), findings)
    before = without_largest(scan.truth)
    moved_labels = LabelMap(before.array, elsewhere(before.grid))
    moved_ct = Volume(scan.ct.array, elsewhere(scan.ct.grid), scan.ct.unit)
    previous = EarlierResult(
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.4",
        acquired_at=NOW - timedelta(days=40),
        kind=loaded.selection.kind,
        lesion_count=before.count,
        segmentation_sop_instance_uid="1.2.3.6",
        report=EarlierReport(
            "1.2.3.5",
            loaded.selection.tracer.key,
            now.segmented.model,
            measure(before, scan.functional, None),
        ),
        may_be_prior=True,
        facts=lambda: loaded.facts,
        labels=lambda: moved_labels,
        ct=lambda: moved_ct,
        suv=lambda: scan.functional,
    )
    comparison = StudyComparison(QuantifyPolicy(), AlignPolicy(), Source([previous]))
    change = comparison.compare(now.segmented, now.findings).change
    assert change is not None
    count = len(findings.lesions)
    assert [(link.kind, link.previous, link.current) for link in change.links] == [
        (LinkKind.NEW, (), (1,)),
        *((LinkKind.MATCHED, (n - 1,), (n,)) for n in range(2, count + 1)),
    ]
    assert all(link.volume_percent == 0.0 for link in change.links[1:])
    assert change.psma_tv_percent is not None
    assert change.recip is not None
    grown = change.psma_tv_percent >= 20
    expected = RecipCategory.PROGRESSIVE_DISEASE if grown else RecipCategory.STABLE_DISEASE
    assert change.recip.category is expected
