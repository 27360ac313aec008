"""The rules for a lesion's site: each boundary, and that nothing is said where no rule speaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.findings.findings import Site
from app.domain.findings.site import PelvicPosition, SiteEvidence, SiteRules, SpinalPosition, decide_site

RULES = SiteRules()
SOFT = SiteEvidence(volume_ml=2.0, in_ct=True, bone_share=0.0, mean_hu=40.0)
PROSTATE = PelvicPosition(above_mm=10.0, behind_mm=55.0, lateral_mm=5.0)
ILIAC = PelvicPosition(above_mm=80.0, behind_mm=50.0, lateral_mm=55.0)
ABDOMEN = PelvicPosition(above_mm=250.0, behind_mm=60.0, lateral_mm=10.0)


def site(evidence: SiteEvidence) -> Site:
    return decide_site(evidence, RULES)[0]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, Site.BONE), (0.5, Site.BONE), (0.49, Site.UNSPECIFIED), (0.21, Site.UNSPECIFIED)],
)
def test_the_site_is_bone_from_half_of_the_uptake_on(share: float, expected: Site) -> None:
    assert site(replace(SOFT, bone_share=share, mean_hu=400.0, pelvic=PROSTATE)) is expected


def test_soft_tissue_behind_the_symphysis_is_prostate() -> None:
    assert site(replace(SOFT, pelvic=PROSTATE)) is Site.PROSTATE


@pytest.mark.parametrize(
    "changes",
    [{"above_mm": 41.0}, {"above_mm": -11.0}, {"behind_mm": 19.0}, {"behind_mm": 86.0}, {"lateral_mm": 26.0}],
)
def test_out_of_its_box_it_is_no_prostate(changes: dict[str, float]) -> None:
    assert site(replace(SOFT, pelvic=replace(PROSTATE, **changes))) is not Site.PROSTATE


def test_at_the_pelvic_wall_is_a_lymph_node_unless_too_large() -> None:
    assert site(replace(SOFT, pelvic=ILIAC)) is Site.LYMPH_NODE
    assert site(replace(SOFT, pelvic=ILIAC, volume_ml=41.0)) is Site.UNSPECIFIED


def test_before_the_lumbar_spine_is_a_lymph_node_only_below_the_lungs() -> None:
    before = replace(SOFT, pelvic=ABDOMEN, spinal=SpinalPosition(20.0, 15.0), below_lungs=True)
    assert site(before) is Site.LYMPH_NODE
    assert site(replace(before, below_lungs=False)) is Site.UNSPECIFIED
    assert site(replace(before, spinal=SpinalPosition(60.0, 15.0))) is Site.UNSPECIFIED
    assert site(replace(before, spinal=None)) is Site.UNSPECIFIED


def test_between_the_lungs_before_the_spine_is_a_lymph_node() -> None:
    within = replace(SOFT, spinal=SpinalPosition(25.0, 20.0), between_lungs=True)
    assert site(within) is Site.LYMPH_NODE
    assert site(replace(within, spinal=SpinalPosition(0.0, 20.0))) is Site.UNSPECIFIED


def test_within_the_liver_is_liver_before_anything_else_of_soft_tissue() -> None:
    before_spine = replace(SOFT, spinal=SpinalPosition(20.0, 15.0), below_lungs=True)
    assert site(replace(before_spine, liver_share=0.9)) is Site.LIVER
    assert site(replace(SOFT, liver_share=0.69)) is Site.UNSPECIFIED


@pytest.mark.parametrize("hu", [-700.0, -61.0, 131.0])
def test_what_is_no_soft_tissue_has_no_site_by_position(hu: float) -> None:
    assert site(replace(SOFT, mean_hu=hu, pelvic=PROSTATE)) is Site.UNSPECIFIED


def test_what_the_ct_does_not_show_is_unspecified_even_where_it_shows_bone() -> None:
    assert decide_site(replace(SOFT, in_ct=False, bone_share=1.0), RULES) == (
        Site.UNSPECIFIED,
        "not wholly on the CT",
    )


@given(st.floats(0, 1), st.floats(-1000, 3000), st.floats(0.01, 500))
def test_without_landmarks_the_only_site_is_bone(share: float, hu: float, volume_ml: float) -> None:
    found, reason = decide_site(SiteEvidence(volume_ml, True, share, hu), RULES)
    assert found in (Site.BONE, Site.UNSPECIFIED)
    assert reason


def test_rules_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="soft_max_bone_share"):
        SiteRules(soft_max_bone_share=0.6)
    with pytest.raises(ValueError, match="below the upper"):
        SiteRules(soft_hu_low=200.0)
