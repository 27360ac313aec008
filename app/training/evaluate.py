"""Validation on simulated patients that no training has seen, by the product's own segmenter."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.domain.analysis import ModelRole
from app.domain.segmentation_metrics import LesionCounts, VoxelCounts, count_lesions, count_voxels
from app.imaging.components import label_lesions
from app.inference.channels import NetworkInput, build_input
from app.inference.model_store import ModelStore
from app.inference.policy import DeviceChoice, SegmentPolicy
from app.inference.segmenter import LesionSegmenter, Segmenter

if TYPE_CHECKING:
    from app.phantom.acquisition import Acquisition
    from app.phantom.patient import SimulatedPatient

log = logging.getLogger(__name__)

PRIOR_SEED = 7
"""Of the priors that M4 is tested with; training draws its priors from other seeds."""


@dataclass(frozen=True)
class Cohort:
    """Simulated patients ``first..last`` of one centre."""

    centre: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.centre}:{self.first}-{self.last}"

    @classmethod
    def parse(cls, text: str) -> Cohort:
        """``A:1000-1014``.

        Raises:
            ValueError: another form.
        """
        centre, colon, numbers = text.partition(":")
        first, dash, last = numbers.partition("-")
        if not (
            centre and colon and dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last)
        ):
            raise ValueError(f"found {text!r}, expected centre:first-last, for example A:1000-1014")
        return cls(centre, int(first), int(last))


@dataclass(frozen=True)
class Score:
    """One model on one scan of one patient.

    Attributes:
        modality: ``PET``, ``SPECT``, or for M4 ``SPECT`` with the state of its prior.
        true_ml, found_ml: tumour volume.
    """

    role: ModelRole
    modality: str
    cohort: Cohort
    patient: int
    voxels: VoxelCounts
    lesions: LesionCounts
    true_ml: float
    found_ml: float


def evaluate(
    models: Path, roles: Sequence[ModelRole], cohorts: Sequence[Cohort], parallel: int
) -> list[Score]:
    """Every model on every patient, in order of cohort, patient, and role.

    Args:
        models: the folder of models.
        roles: which of them.
        cohorts: the patients; the caller keeps them apart from the training's.
        parallel: patients at once, each in a process of its own.

    Raises:
        MisconfiguredError: a model is missing or damaged.
    """
    store = ModelStore(models)
    for role in roles:
        store.load(role)  # fail before the work starts
    jobs = [(cohort, number) for cohort in cohorts for number in range(cohort.first, cohort.last + 1)]
    scores: list[Score] = []
    with ProcessPoolExecutor(parallel, mp_context=get_context("spawn")) as pool:
        results = pool.map(_evaluate_patient, repeat(models), repeat(tuple(roles)), jobs)
        for (cohort, number), found in zip(jobs, results, strict=True):
            scores += found
            log.info("%s%d: DSC %s", cohort.centre, number, "; ".join(map(_in_words, found)))
    return scores


def _in_words(score: Score) -> str:
    dice = score.voxels.dice
    return f"{score.role.value} {score.modality} {'not defined' if dice is None else format(dice, '.2f')}"


def _evaluate_patient(models: Path, roles: tuple[ModelRole, ...], job: tuple[Cohort, int]) -> list[Score]:
    from app.phantom.centres import Centre
    from app.phantom.patient import simulate_patient

    cohort, number = job
    patient = simulate_patient(number, Centre(cohort.centre))
    return [
        score_scan(_segmenter(models, role), acquisition, network_input, (modality, cohort, number))
        for role in roles
        for modality, acquisition, network_input in scans(role, patient)
    ]


@cache
def _segmenter(models: Path, role: ModelRole) -> Segmenter:
    """Loaded once a process."""
    import torch

    torch.set_num_threads(1)  # patients are what runs in parallel
    return Segmenter(ModelStore(models).load(role), DeviceChoice.AUTO)


def scans(role: ModelRole, patient: SimulatedPatient) -> Iterator[tuple[str, Acquisition, NetworkInput]]:
    """What a model is shown of a patient: its modalities; for M4 a right, no, and a wrong prior."""
    if role is not ModelRole.M4:
        modalities = {"PET": patient.pet, "SPECT": patient.spect}
        wanted = {ModelRole.M1: ("PET",), ModelRole.M2: ("SPECT",), ModelRole.M3: ("PET", "SPECT")}[role]
        for modality in wanted:
            scan = modalities[modality]
            yield modality, scan, build_input(role, scan.functional, scan.ct)
        return
    for label, prior in _priors(patient):
        yield (
            f"SPECT, {label}",
            patient.spect,
            build_input(role, patient.spect.functional, patient.spect.ct, prior),
        )


def _priors(patient: SimulatedPatient) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    from app.phantom.priors import PriorDefect, prior_mask

    labels = {
        PriorDefect.NONE: "fitting prior",
        PriorDefect.EMPTY: "empty prior",
        PriorDefect.MISPLACED: "misplaced prior",
    }
    for defect, label in labels.items():
        rng = np.random.default_rng((PRIOR_SEED, ord(patient.centre.value), patient.number))
        yield label, prior_mask(patient, rng, defect)


def score_scan(
    segmenter: LesionSegmenter,
    acquisition: Acquisition,
    network_input: NetworkInput,
    what: tuple[str, Cohort, int],
) -> Score:
    """Segment and compare; components below the product's smallest lesion are dropped as the product does."""
    grid, truth = network_input.grid, acquisition.truth
    found = label_lesions(segmenter.segment(network_input), grid, SegmentPolicy().minimum_lesion_ml).labels
    modality, cohort, number = what
    return Score(
        role=segmenter.card.role,
        modality=modality,
        cohort=cohort,
        patient=number,
        voxels=count_voxels(found.mask, truth.mask),
        lesions=count_lesions(found.array, truth.array),
        true_ml=float(np.count_nonzero(truth.mask)) * grid.voxel_ml,
        found_ml=float(np.count_nonzero(found.mask)) * grid.voxel_ml,
    )
