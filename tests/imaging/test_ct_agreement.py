"""Whether a functional image lies on its own CT, on analytic bodies moved and mirrored by known amounts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from app.domain.ct_agreement import (
    CtAgreement,
    CtAgreementPolicy,
    CtVerdict,
    Flip,
    judge_ct_agreement,
)
from app.domain.findings import Organ, Site
from app.domain.measurements import QuantifyPolicy, measure
from app.domain.refusal import RefusalCode
from app.domain.volume import Grid, Unit, Volume
from app.imaging.ct_agreement import measure_ct_agreement
from app.imaging.sites import without_sites
from tests.imaging.bodies import Person, Pose, mirrored, trunk_grid

GRID = trunk_grid(180.0, 1060.0, 10.0)
SPECT_FWHM_MM = 16.0

RIGHT = CtAgreement((1.0, -2.0, 3.0), (0.0, 0.0, 0.0), 0.9, 0.9, Flip.HEAD_FEET, -0.1, 0.5)


@cache
def ct() -> Volume:
    return Person(1).ct(GRID)


@cache
def pet() -> Volume:
    return Person(1).suv(GRID)


def displaced(volume: Volume, by_mm: tuple[float, float, float]) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:3, 3] += by_mm
    return Volume(volume.array, Grid(volume.grid.shape, affine), volume.unit)


def measured(suv: Volume, source: Volume) -> CtAgreement:
    found = measure_ct_agreement(suv, source)
    assert found is not None
    return found


def verdict(found: CtAgreement, is_spect: bool = False) -> CtVerdict:
    return judge_ct_agreement(found, CtAgreementPolicy(), is_spect).verdict


@pytest.mark.parametrize(
    "by_mm, expected",
    [
        ((0.0, 0.0, 0.0), CtVerdict.FITS),
        ((5.0, 5.0, -5.0), CtVerdict.FITS),
        ((40.0, 0.0, 0.0), CtVerdict.DOUBTFUL),
        ((0.0, 0.0, -40.0), CtVerdict.DOUBTFUL),
        ((0.0, 80.0, 0.0), CtVerdict.WRONG),
    ],
)
def test_a_shift_is_measured_to_a_few_millimetres(
    by_mm: tuple[float, float, float], expected: CtVerdict
) -> None:
    found = measured(displaced(pet(), by_mm), ct())
    assert found.shift_mm == pytest.approx(by_mm, abs=10.0)  # a voxel of this body
    assert verdict(found) is expected


@pytest.mark.parametrize("pose", [Pose(breath_mm=20.0), Pose(arms_up=False)], ids=["breath", "arms"])
def test_another_breath_and_other_arms_on_ct_are_no_misplacement(pose: Pose) -> None:
    assert verdict(measured(pet(), Person(1).ct(GRID, pose))) is CtVerdict.FITS


def test_the_blur_of_a_spect_is_no_misplacement() -> None:
    assert (
        verdict(measured(Person(1).suv(GRID, fwhm_mm=SPECT_FWHM_MM), ct()), is_spect=True) is CtVerdict.FITS
    )


def test_a_mirrored_ct_is_told_by_organs() -> None:
    found = measured(pet(), mirrored(ct()))
    [reason] = judge_ct_agreement(found, CtAgreementPolicy(), False).reasons
    assert found.side_correlation < 0 < measured(pet(), ct()).side_correlation
    assert Flip.LEFT_RIGHT in reason.found
    assert verdict(found) is CtVerdict.WRONG


def test_a_ct_upside_down_is_told_by_its_outline() -> None:
    found = measured(pet(), Volume(ct().array[::-1], GRID, Unit.HU))
    assert found.flip is Flip.HEAD_FEET
    assert verdict(found) is CtVerdict.WRONG


def test_neither_scale_nor_storage_order_of_the_image_matters() -> None:
    backwards = GRID.affine @ np.diag([1.0, 1.0, -1.0, 1.0])
    backwards[:3, 3] = GRID.to_lps(np.array([[0.0, 0.0, GRID.shape[0] - 1.0]]))[0]
    other = Volume(pet().array[::-1] * 7000.0, Grid(GRID.shape, backwards), Unit.BQML)
    found, expected = measured(other, ct()), measured(pet(), ct())
    assert found.shift_mm == pytest.approx(expected.shift_mm, abs=0.1)
    assert found.overlap == pytest.approx(expected.overlap, abs=1e-3)


@pytest.mark.parametrize("empty", ["air on CT", "no uptake", "voxels too coarse"])
def test_what_shows_no_outline_is_not_judged(empty: str) -> None:
    suv, source = pet(), ct()
    if empty == "air on CT":
        source = Volume(np.full_like(source.array, -1000.0), GRID, Unit.HU)
    elif empty == "no uptake":
        suv = Volume(np.zeros_like(suv.array), GRID, Unit.SUVBW)
    else:
        coarse = GRID.affine @ np.diag([1.0, 1.0, 1.5, 1.0])
        suv = Volume(suv.array, Grid(GRID.shape, coarse), Unit.SUVBW)
    assert measure_ct_agreement(suv, source) is None


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, CtVerdict.FITS),
        ({"shift_mm": (0.0, 0.0, 40.0)}, CtVerdict.FITS),  # without gain: a view that fits anywhere
        ({"shift_mm": (0.0, 0.0, 40.0), "gains": (0.0, 0.0, 0.03)}, CtVerdict.DOUBTFUL),
        ({"shift_mm": (0.0, -61.0, 0.0), "gains": (0.0, 0.03, 0.0)}, CtVerdict.WRONG),
        ({"shift_mm": (8.0, 0.0, 96.0), "gains": (0.03, 0.0, 0.005)}, CtVerdict.FITS),  # each axis by itself
        ({"best_overlap": 0.3}, CtVerdict.DOUBTFUL),
        ({"flip_gain": 0.03}, CtVerdict.DOUBTFUL),
        ({"flip_gain": 0.05}, CtVerdict.WRONG),
        ({"side_correlation": -0.2}, CtVerdict.DOUBTFUL),
        ({"side_correlation": -0.4}, CtVerdict.WRONG),
    ],
)
def test_every_limit_has_its_say(change: dict[str, object], expected: CtVerdict) -> None:
    judgement = judge_ct_agreement(replace(RIGHT, **change), CtAgreementPolicy(), False)  # type: ignore[arg-type]
    assert judgement.verdict is expected
    assert {reason.code for reason in judgement.reasons} <= {RefusalCode.CT_MISPLACED}
    assert bool(judgement.reasons) is (expected is not CtVerdict.FITS)


def test_a_spect_must_gain_more_before_its_shift_counts() -> None:
    found = replace(RIGHT, shift_mm=(0.0, 0.0, 40.0), gains=(0.0, 0.0, 0.015))
    assert (verdict(found), verdict(found, is_spect=True)) == (CtVerdict.DOUBTFUL, CtVerdict.FITS)


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="max_shift_mm"):
        CtAgreementPolicy(max_shift_mm=80.0)


def test_beside_its_ct_no_lesion_has_a_site_and_no_organ_is_told() -> None:
    labels = Person(1).lesion_labels(GRID)
    findings = without_sites(measure(labels, pet(), None, QuantifyPolicy()), "40 mm beside its CT")
    assert {lesion.site for lesion in findings.lesions} == {Site.UNSPECIFIED}
    assert {lesion.site_reason for lesion in findings.lesions} == {"40 mm beside its CT"}
    assert [reference.organ for reference in findings.references] == list(Organ)
    assert all(reference.suv_mean is None for reference in findings.references)
