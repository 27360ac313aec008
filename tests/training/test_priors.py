"""M4's priors of a cohort: the node's own placing and limits, and disturbances that M4 has to live with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.cohort.manifest import CohortPatient, image_file, read_manifest
from app.domain.study import StudyKind
from app.domain.volume import Grid, LabelMap
from app.imaging.nifti import read_labels
from app.imaging.registration.policy import AlignPolicy
from app.training.priors import DEFECT_PROBABILITY, carry_prior, disturbed
from tests.training.made_cohort import make_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("made") / "cohort", internal=1, external=1)


def patient(cohort: Path, name: str) -> CohortPatient:
    return next(each for each in read_manifest(cohort).patients if each.id == name)


def pet_truth(cohort: Path, name: str) -> LabelMap:
    return read_labels(image_file(cohort, name, StudyKind.PET_CT, "truth"))


def test_pet_lesions_come_to_lie_where_the_registration_puts_them(cohort: Path) -> None:
    lesions = pet_truth(cohort, "A0000")
    carried = carry_prior(cohort, patient(cohort, "A0000"), lesions)
    assert carried.usable
    assert carried.lesions is not None
    np.testing.assert_array_equal(carried.lesions.array, lesions.array)


def test_lesions_that_the_uptake_belies_are_not_given_to_m4(cohort: Path) -> None:
    lesions = pet_truth(cohort, "A0000")
    elsewhere = LabelMap(np.roll(lesions.array, 8, axis=2), lesions.grid)
    carried = carry_prior(cohort, patient(cohort, "A0000"), elsewhere)
    assert not carried.usable
    assert any("min_lesions_on_pet" in reason for reason in carried.reasons)


def test_the_uptake_is_judged_by_the_limits_of_the_site_that_built_the_cohort(cohort: Path) -> None:
    lesions = pet_truth(cohort, "A0000")
    elsewhere = LabelMap(np.roll(lesions.array, 8, axis=2), lesions.grid)
    lenient = AlignPolicy(max_uptake_shift_mm=1000.0, min_lesions_on_pet=0.0, min_lesions_on_spect=0.0)
    strict = AlignPolicy(min_lesions_on_spect=1.0)
    assert carry_prior(cohort, judged_by(patient(cohort, "A0000"), lenient), elsewhere).usable
    beside = LabelMap(np.roll(lesions.array, 2, axis=2), lesions.grid)
    refused = carry_prior(cohort, judged_by(patient(cohort, "A0000"), strict), beside)
    assert any("min_lesions_on_spect" in reason for reason in refused.reasons)


def judged_by(patient: CohortPatient, limits: AlignPolicy) -> CohortPatient:
    """As a site with these limits would have built it."""
    assert patient.registration is not None
    registration = patient.registration.model_copy(update={"align": limits})
    return patient.model_copy(update={"registration": registration})


def test_no_lesion_and_no_fit_are_no_prior_and_say_so(cohort: Path) -> None:
    grid = pet_truth(cohort, "A0000").grid
    nothing = LabelMap(np.zeros(grid.shape, np.uint16), grid)
    empty = carry_prior(cohort, patient(cohort, "A0000"), nothing)
    assert empty.reasons == ("no lesion on the PET",)
    misfit = carry_prior(cohort, patient(cohort, "B0000"), pet_truth(cohort, "B0000"))
    assert misfit.reasons == ("the skeletons don't lie on each other",)


def test_disturbed_priors_are_empty_or_far_off_as_often_as_the_card_says() -> None:
    grid = Grid.axis_aligned((40, 40, 40), (4.8, 4.8, 4.8), (0.0, 0.0, 0.0))
    labels = np.zeros(grid.shape, np.uint16)
    labels[18:22, 18:22, 18:22] = 1
    lesions, count = LabelMap(labels, grid), 400
    drawn = [disturbed(lesions, np.random.default_rng(n)) for n in range(count)]
    centre = np.array([19.5, 19.5, 19.5])
    offsets_mm = [
        np.linalg.norm((np.argwhere(mask).mean(axis=0) - centre) * 4.8) if mask.any() else np.inf
        for mask in drawn
    ]
    defects = sum(offset > 15.0 for offset in offsets_mm)
    # one lesion of 7 ml is lost in 6 % of the rest, and counts as a defect here
    expected = DEFECT_PROBABILITY + (1 - DEFECT_PROBABILITY) * 0.06
    assert defects / count == pytest.approx(expected, abs=0.07)
    assert max(offset for offset in offsets_mm if offset <= 15.0) <= 10.0
    sizes = {int(mask.sum()) for mask, offset in zip(drawn, offsets_mm, strict=True) if offset <= 15.0}
    assert len(sizes) > 10
    np.testing.assert_array_equal(drawn[3], disturbed(lesions, np.random.default_rng(3)))
