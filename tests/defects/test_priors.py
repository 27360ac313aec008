"""An earlier PET that is no prior is refused by its reason, without a look at its pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.analysis import Loaded
from app.imaging.registration.policy import AlignPolicy
from tests.defects.priors import PRIORS, Prior
from tests.imaging.test_prior_alignment import align_prior, never, pet_result, spect_study


@pytest.fixture(scope="module")
def spect() -> Loaded:
    return spect_study()


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.name)
def test_a_pet_that_is_no_prior_is_refused_by_its_reason(prior: Prior, spect: Loaded) -> None:
    study = replace(spect.selection.study, patient=prior.patient)
    loaded = replace(spect, selection=replace(spect.selection, study=study))
    pixels = {"ct": never, "suv": never, "labels": never}
    earlier = pet_result(**(pixels | prior.changes))
    aligned = align_prior(loaded, [earlier], AlignPolicy(max_prior_age_days=90.0))
    assert aligned.prior is None
    assert [(reason.code, reason.attribute) for reason in aligned.no_prior] == [(prior.code, prior.attribute)]


def test_names_of_priors_are_unique() -> None:
    names = [prior.name for prior in PRIORS]
    assert len(names) == len(set(names))
