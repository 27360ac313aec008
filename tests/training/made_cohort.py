"""A cohort of small made-up images: a body with two hot lesions on PET and on SPECT, CTs that fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.cohort.manifest import (
    CohortManifest,
    CohortPatient,
    CohortScan,
    CtRegistration,
    TruthForm,
    image_file,
    patient_folder,
    write_manifest,
)
from app.domain.analysis import RegistrationFit
from app.domain.study import StudyKind
from app.domain.volume import Grid
from app.imaging.nifti import write_array

SHAPE = (52, 44, 48)
GRID = Grid.axis_aligned(SHAPE, (4.8, 4.8, 4.8), (-100.0, -100.0, -400.0))
FIT = RegistrationFit(
    bone_dice=1.0, translation_mm=0.0, rotation_deg=0.0, overlap_fraction=1.0, soft_tissue_correlation=1.0
)
IN_PLACE = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def make_cohort(folder: Path, internal: int = 4, external: int = 2) -> Path:
    """Write the cohort and return its folder; the last patient of centre B has CTs that don't fit."""
    folder.mkdir(parents=True)
    numbers = [("A", n) for n in range(internal)] + [("B", n) for n in range(external)]
    misfit = ("B", external - 1)
    patients = tuple(_patient(folder, *number, fits=number != misfit) for number in numbers)
    write_manifest(CohortManifest(simulated=True, patients=patients), folder)
    return folder


def _patient(folder: Path, centre: str, number: int, fits: bool) -> CohortPatient:
    name = f"{centre}{number:04d}"
    patient_folder(folder, name).mkdir(parents=True)
    rng = np.random.default_rng((ord(centre), number))
    truth = _lesions(rng)
    scans = tuple(_scan(folder, name, kind, truth, rng) for kind in StudyKind)
    reasons = () if fits else ("the skeletons don't lie on each other",)
    registration = CtRegistration(spect_to_pet=IN_PLACE, fit=FIT, reasons=reasons)
    return CohortPatient(id=name, centre=centre, scans=scans, registration=registration, simulated=True)


def _lesions(rng: np.random.Generator) -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    labels = np.zeros(SHAPE, np.uint16)
    for label, place in enumerate(((14, 20, 18), (36, 24, 30)), start=1):
        at = np.array(place) + rng.integers(-3, 4, 3)
        labels[(z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 <= 9] = label
    return labels


def _scan(
    folder: Path, name: str, kind: StudyKind, truth: np.ndarray, rng: np.random.Generator
) -> CohortScan:
    _, y, x = np.indices(SHAPE)
    body = ((y - 22) / 16) ** 2 + ((x - 24) / 20) ** 2 <= 1
    suv = (body * 0.7 + (truth > 0) * 8.0 + rng.normal(0, 0.05, SHAPE)).clip(0)
    hu = np.where(body, 40.0, -1000.0) + 400.0 * (truth > 0)
    for image, array in (("suv", suv.astype(np.float32)), ("ct", hu.astype(np.float32)), ("truth", truth)):
        write_array(image_file(folder, name, kind, image), array, GRID)  # type: ignore[arg-type]
    tracer = "68Ga-PSMA-11" if kind is StudyKind.PET_CT else "177Lu-PSMA-617"
    return CohortScan(
        kind=kind, study_instance_uid="1.2.3", series_instance_uid="1.2.3.4",
        ct_series_instance_uid="1.2.3.5", acquired_at=None, tracer=tracer, source="",
        truth_form=TruthForm.SEG, truth_file="", lesions=2,
        tumour_ml=float(np.count_nonzero(truth)) * GRID.voxel_ml,
    )  # fmt: skip
