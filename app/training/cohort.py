"""Patients on disk as training images: each patient once, shared by all four models.

A patient's folder holds NIfTI files in the networks' orientation (:mod:`app.inference.orientation`), made by
the same functions that make the product's input (:mod:`app.inference.channels`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.domain.analysis import ModelRole
from app.inference.channels import build_input, canonical

if TYPE_CHECKING:
    from app.phantom.acquisition import Acquisition
    from app.phantom.patient import SimulatedPatient
    from app.phantom.priors import PriorDefect

DONE_FILE = "patient.json"
"""Written last: a folder without it was interrupted and is made again."""

PRIORS_PER_PATIENT = 2
"""M4 sees every patient with two priors, so that it learns the patient and not one prior of it."""

DEFECT_PROBABILITY = 0.35
"""Of the second prior only, so 17.5 % of M4's cases: a node meets priors that are wrong or missing."""


@dataclass(frozen=True)
class Case:
    """One nnU-Net case: where its images and its label lie."""

    identifier: str
    images: tuple[Path, ...]
    label: Path


def patient_name(number: int, centre: str) -> str:
    """``A0007``; patients are grouped by it in splits."""
    return f"{centre}{number:04d}"


def cases_of(role: ModelRole, patient: str, folder: Path) -> tuple[Case, ...]:
    """The cases that a patient gives a model: one, or two for M3 (PET and SPECT) and M4 (two priors)."""
    home = folder / patient

    def case(modality: str, identifier: str, *extra: Path) -> Case:
        images = (home / f"{modality}_suv.nii.gz", home / f"{modality}_ct.nii.gz", *extra)
        return Case(identifier, images, home / f"{modality}_truth.nii.gz")

    if role is ModelRole.M1:
        return (case("pet", f"{patient}_pet"),)
    if role is ModelRole.M2:
        return (case("spect", f"{patient}_spect"),)
    if role is ModelRole.M3:
        return tuple(case(modality, f"{patient}_{modality}") for modality in ("pet", "spect"))
    return tuple(
        case("spect", f"{patient}_prior{n}", home / f"prior{n}.nii.gz") for n in range(PRIORS_PER_PATIENT)
    )


def patient_of(identifier: str) -> str:
    """The patient a case belongs to."""
    return identifier.split("_", maxsplit=1)[0]


def write_patient(number: int, centre: str, folder: Path, seed: int) -> None:
    """Simulate a patient and write its images, unless that is done already."""
    from app.phantom.centres import Centre
    from app.phantom.patient import simulate_patient

    home = folder / patient_name(number, centre)
    if (home / DONE_FILE).exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    patient = simulate_patient(number, Centre(centre))
    _write_acquisition(home, "pet", patient.pet)
    _write_acquisition(home, "spect", patient.spect)
    defects = _write_priors(home, patient, np.random.default_rng((seed, ord(centre), number)))
    record = {"number": number, "centre": centre, "seed": seed, "prior_defects": defects}
    (home / DONE_FILE).write_text(json.dumps(record))


def _write_acquisition(home: Path, modality: str, acquisition: Acquisition) -> None:
    network_input = build_input(ModelRole.M3, acquisition.functional, acquisition.ct)
    channels, orientation = canonical(network_input)
    truth = orientation.apply(acquisition.truth.mask.astype(np.uint8))
    for name, array in (("suv", channels[0]), ("ct", channels[1]), ("truth", truth)):
        _write_nifti(home / f"{modality}_{name}.nii.gz", array, orientation.spacing_zyx_mm)


def _write_priors(home: Path, patient: SimulatedPatient, rng: np.random.Generator) -> list[str]:
    from app.phantom.priors import PriorDefect, prior_mask

    defects: list[str] = []
    spect = patient.spect
    for n in range(PRIORS_PER_PATIENT):
        defect = draw_defect(rng) if n > 0 else PriorDefect.NONE
        mask = prior_mask(patient, rng, defect)
        channels, orientation = canonical(build_input(ModelRole.M4, spect.functional, spect.ct, mask))
        _write_nifti(home / f"prior{n}.nii.gz", channels[2], orientation.spacing_zyx_mm)
        defects.append(defect.value)
    return defects


def draw_defect(rng: np.random.Generator) -> PriorDefect:
    """A way in which a prior is wrong; mostly ``NONE``: only the errors that every prior has."""
    from app.phantom.priors import PriorDefect

    if rng.random() >= DEFECT_PROBABILITY:
        return PriorDefect.NONE
    kinds: Sequence[PriorDefect] = [kind for kind in PriorDefect if kind is not PriorDefect.NONE]
    return kinds[int(rng.integers(len(kinds)))]


def _write_nifti(path: Path, array: NDArray[np.generic], spacing_zyx_mm: tuple[float, float, float]) -> None:
    import SimpleITK as sitk  # noqa: N813 - its own documentation's name

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_zyx_mm[::-1])
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
