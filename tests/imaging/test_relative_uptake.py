"""A SPECT in counts over its liver: ratios that no scale of the counts changes, and no SUV anywhere."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from app.domain.analysis import Loaded
from app.domain.findings.findings import Burden, Findings, Lesion, Organ, ReferenceUptake
from app.domain.findings.measurements import measure
from app.domain.refusal import RefusalCode, Rejection
from app.domain.volume import FloatArray, Grid, Unit, Volume
from app.imaging.anatomy.relative_uptake import liver_doubts, related_to_liver, relative_findings
from tests.imaging.bodies import Person, trunk_grid
from tests.imaging.test_prior_alignment import spect_study

LIVER_SUV = 5.0
"""The person's."""

GRID = trunk_grid(180.0, 900.0, 6.0)
CT = Person(1).ct(trunk_grid(180.0, 900.0, 4.0))


def in_counts(per_suv: float, ct: Volume = CT, grid: Grid = GRID) -> Loaded:
    """The person's SPECT, its SUV times a scale of its own."""
    counts = Person(1).suv(grid, fwhm_mm=12.0).scaled(per_suv, Unit.COUNTS)
    return replace(spect_study(ct=ct), uptake=counts)


def related(loaded: Loaded) -> Loaded:
    found = related_to_liver(loaded, assumed_suv=1.5)
    assert isinstance(found, Loaded), found
    return found


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return related(in_counts(37.0))


def findings_of(loaded: Loaded) -> Findings:
    assert loaded.liver_scale is not None
    measured = measure(Person(1).lesion_labels(loaded.uptake.grid), loaded.uptake, loaded.activity)
    return relative_findings(measured, loaded.liver_scale)


def test_uptake_is_what_the_body_was_made_with_over_its_liver(loaded: Loaded) -> None:
    made: FloatArray = Person(1).suv(GRID, fwhm_mm=12.0).array.astype(np.float64)
    warm = made > 1.0
    assert np.allclose(loaded.uptake.array[warm], made[warm] / LIVER_SUV, rtol=0.06)
    assert loaded.uptake.unit is Unit.TO_LIVER
    assert loaded.activity is None


@pytest.mark.parametrize("scale", [1e-4, 1.0, 4.1795e5])
def test_any_scale_of_the_counts_gives_the_same_findings(loaded: Loaded, scale: float) -> None:
    again = related(in_counts(scale))
    assert np.allclose(again.uptake.array, loaded.uptake.array, rtol=1e-5)
    for one, other in zip(findings_of(again).lesions, findings_of(loaded).lesions, strict=True):
        assert one.to_liver_max == pytest.approx(other.to_liver_max, rel=1e-5)
        assert one.to_liver == pytest.approx(other.to_liver, rel=1e-5)
        assert one.to_liver_peak == pytest.approx(other.to_liver_peak, rel=1e-5)
        assert one.volume_ml == other.volume_ml


def test_findings_are_volumes_and_ratios_and_say_that_they_are_not_quantified(loaded: Loaded) -> None:
    found = findings_of(loaded)
    unknown = {"suv_max", "suv_mean", "suv_peak", "tl_psma", "activity_mbq", "absorbed_dose_gy"}
    unknown |= {"concentration_max_bqml", "concentration_mean_bqml", "to_parotid"}
    for lesion in found.lesions:
        without = {field.name for field in fields(Lesion) if getattr(lesion, field.name) is None}
        assert without == unknown
    assert (found.burden.tl_psma, found.burden.suv_max, found.burden.activity_mbq) == (None, None, None)
    assert found.burden.to_liver_max == max(lesion.to_liver_max or 0.0 for lesion in found.lesions)
    assert found.not_quantified
    liver = found.reference(Organ.LIVER)
    assert liver is not None
    assert (liver.suv_mean, liver.to_liver) == (None, 1.0)


def test_the_networks_see_the_liver_at_its_usual_suv(loaded: Loaded) -> None:
    seen = loaded.network_uptake
    assert seen.unit is Unit.SUVBW
    assert np.allclose(seen.array, 1.5 * loaded.uptake.array, rtol=1e-6)


def test_a_warning_says_that_it_is_not_quantified(loaded: Loaded) -> None:
    [warning] = [one.line for one in loaded.decisions if one.line.startswith("warning:")]
    assert "not quantified: SPECT in counts" in warning


@pytest.mark.parametrize(
    ("again", "warned"), [(1.0, False), (0.9, False), (0.7, True), (1.3, True), (None, False)]
)
def test_a_liver_that_is_another_without_its_lesions_is_warned_of(again: float | None, warned: bool) -> None:
    liver = ReferenceUptake(Organ.LIVER, again, "sphere")
    found = liver_doubts(Findings((), Burden(0, 0.0, 0.0, None), (liver,)))
    assert bool(found) is warned
    assert all(item.line.startswith("warning: without the lesions found in it") for item in found)


def test_without_a_liver_in_view_it_is_refused() -> None:
    grid = trunk_grid(180.0, 420.0, 6.0)
    found = related_to_liver(in_counts(37.0, Person(1).ct(grid), grid), 1.5)
    assert isinstance(found, Rejection)
    [reason] = found.reasons
    assert reason.code is RefusalCode.CALIBRATION_MISSING
    assert "no liver to relate it to" in reason.found


def test_off_its_ct_no_liver_is_read_from_it() -> None:
    found = related_to_liver(replace(in_counts(37.0), ct_doubt="30 mm beside its CT"), 1.5)
    assert isinstance(found, Rejection)
    assert "30 mm beside its CT" in found.reasons[0].found


def test_a_quantified_image_stays_as_it_is() -> None:
    quantified = spect_study()
    assert related_to_liver(quantified, 1.5) is quantified
    assert quantified.network_uptake is quantified.uptake
