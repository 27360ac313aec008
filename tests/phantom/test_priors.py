"""Priors: the PET lesions on the SPECT grid, as registration brings them, or broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.phantom.patient import SimulatedPatient
from app.phantom.priors import PriorDefect, prior_mask


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * int((one & other).sum()) / max(1, int(one.sum()) + int(other.sum()))


def found_share(patient: SimulatedPatient, mask: NDArray[np.bool_]) -> float:
    truth = patient.spect.truth
    return len(np.unique(truth.array[mask & truth.mask])) / truth.count


def test_a_prior_marks_most_lesions_of_the_spect(patient: SimulatedPatient) -> None:
    mask = prior_mask(patient, np.random.default_rng(1))
    assert mask.shape == patient.spect.functional.grid.shape
    assert mask.dtype == np.bool_
    assert found_share(patient, mask) > 0.6
    assert dice(mask, patient.spect.truth.mask) > 0.15


def test_the_same_generator_gives_the_same_prior(patient: SimulatedPatient) -> None:
    one, other = (prior_mask(patient, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, prior_mask(patient, np.random.default_rng(10)))


def test_an_empty_prior_is_empty(patient: SimulatedPatient) -> None:
    assert not prior_mask(patient, np.random.default_rng(1), PriorDefect.EMPTY).any()


def test_a_misplaced_prior_hardly_meets_the_lesions(patient: SimulatedPatient) -> None:
    good, bad = (
        np.mean(
            [
                dice(prior_mask(patient, np.random.default_rng(n), kind), patient.spect.truth.mask)
                for n in range(5)
            ]
        )
        for kind in (PriorDefect.NONE, PriorDefect.MISPLACED)
    )
    assert bad < 0.4 * good


def test_lesions_are_dropped_at_times(patient: SimulatedPatient) -> None:
    truth = patient.pet.truth.mask.sum() * patient.pet.truth.grid.voxel_ml
    volumes = [
        prior_mask(patient, np.random.default_rng(n)).sum() * patient.spect.functional.grid.voxel_ml
        for n in range(8)
    ]
    assert max(volumes) > 1.1 * min(volumes)
    assert 0.4 < np.median(volumes) / truth < 1.8


def test_benign_foci_are_added_at_times(patient: SimulatedPatient) -> None:
    empty = replace(patient.pet.truth, array=np.zeros_like(patient.pet.truth.array))
    healthy = replace(patient, pet=replace(patient.pet, truth=empty, kinds=()))
    added = [prior_mask(healthy, np.random.default_rng(n)).any() for n in range(16)]
    assert any(added)
    assert not all(added)
