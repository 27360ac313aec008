"""Recipes of the small network compared: the same patients, the same computing time, M1 from nothing.

    python -m benchmarks.training_recipes FOLDER --recipe deeper --iterations 500

Trains on simulated patients A0000 on, and measures the DSC on A0100 and B0100 on, whom neither a shipped
model nor the experiment has seen. Schedule, sampling and augmentation are the trainer's own. FOLDER keeps the
simulated PETs for the next recipe, and a training that was stopped goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from app.cohort.manifest import (
    CohortManifest,
    CohortPatient,
    CohortScan,
    TruthForm,
    image_file,
    patient_folder,
    read_manifest,
    write_manifest,
)
from app.domain.decision import ModelRole
from app.domain.study import StudyKind
from app.domain.volume import AIR_HU, Unit
from app.imaging.nifti import read_labels, read_volume, write_array
from app.imaging.resampling import resample
from app.inference.models.channels import build_input
from app.inference.models.store import ModelStore
from app.inference.running.segmenter import Segmenter
from app.phantom.centres import Centre
from app.phantom.patient import simulate_patient
from app.training import planning
from app.training.dataset import write_dataset
from app.training.experiment_settings import ALL_PATIENTS, ExperimentSettings
from app.training.export import export_model
from app.training.model_training import ModelTraining, train
from app.training.workplace import DATASET_NUMBERS, Workplace, child_environment

RECIPES = {
    "first": (4.8, (12, 24, 48, 96)),
    "finer": (4.0, (12, 24, 48, 96)),
    "deeper": (4.0, (8, 16, 32, 64, 128)),
}
"""Spacing and features. ``first`` made the models that were shipped first."""

ROLE, KIND = ModelRole.M1, StudyKind.PET_CT
UNSEEN_FROM = 100
IN_CHILD = "PSMA_TRAINING_RECIPE"


def make_cohort(folder: Path, trained: int, unseen: int) -> CohortManifest:
    """PETs of centre A to train on, and of both centres to measure on; written once."""
    wanted = [(Centre.A, n) for n in range(trained)]
    wanted += [(centre, UNSEEN_FROM + n) for centre in Centre for n in range(unseen)]
    patients = tuple(_patient(folder, centre, number) for centre, number in wanted)
    manifest = CohortManifest(simulated=True, patients=patients)
    write_manifest(manifest, folder)
    return read_manifest(folder)


def _patient(folder: Path, centre: Centre, number: int) -> CohortPatient:
    name = f"{centre.value}{number:04d}"
    truth = image_file(folder, name, KIND, "truth")
    if not truth.exists():
        patient_folder(folder, name).mkdir(parents=True, exist_ok=True)
        pet = simulate_patient(number, centre).pet
        grid = pet.functional.grid
        write_array(image_file(folder, name, KIND, "suv"), pet.functional.array, grid)
        write_array(image_file(folder, name, KIND, "ct"), resample(pet.ct, grid, AIR_HU).array, grid)
        write_array(truth, pet.truth.array, grid)
    scan = CohortScan(
        kind=KIND, study_instance_uid="1.2", series_instance_uid="1.2.3", ct_series_instance_uid="1.2.4",
        acquired_at=None, tracer="68Ga-PSMA-11", source="", truth_form=TruthForm.SEG, truth_file="",
        lesions=0, tumour_ml=0.0,
    )  # fmt: skip
    is_trained_on = number < UNSEEN_FROM
    return CohortPatient(id=name, centre="A" if is_trained_on else "unseen", scans=(scan,), simulated=True)


def run(folder: Path, recipe: str, iterations: int, trained: int, unseen: int) -> str:
    """Train and measure; a line of the table."""
    spacing_mm, features = RECIPES[recipe]
    cohort, place = folder / "cohort", Workplace(folder / recipe)
    manifest = make_cohort(cohort, trained, unseen)
    settings = ExperimentSettings(
        name=recipe, cohort=str(cohort), simulated=True, external_centre="unseen", models=(ROLE,),
        plans=planning.TrainingPlans.SMALL, folds=0, epochs=iterations // 50, iterations_per_epoch=50,
    )  # fmt: skip
    training = ModelTraining(settings, ROLE, ALL_PATIENTS, place)
    home = place.preprocessed(ROLE)
    if not (home / "prepared").exists():
        write_dataset(settings, manifest, ROLE, place)
        with (
            patch.dict(planning.SPACING_MM, {ROLE: spacing_mm}),
            patch.object(planning, "FEATURES", features),
            patch.dict(os.environ, {"nnUNet_n_proc_DA": "1"}),
        ):
            planning.plan_and_preprocess(DATASET_NUMBERS[ROLE], home, settings.plans, ROLE)
        (home / "prepared").touch()
    begun_s = time.process_time()
    train(training)
    seconds = time.process_time() - begun_s
    export_model(training, manifest)
    segmenter = Segmenter(ModelStore(place.models(ALL_PATIENTS)).load(ROLE), "cpu")
    means = [_mean_dice(segmenter, manifest, cohort, centre.value) for centre in Centre]
    shown = " | ".join(f"{mean:.3f}" for mean in means)
    return f"| {recipe} | {spacing_mm} | {features} | {iterations} | {seconds:.0f} | {shown} |"


def _mean_dice(segmenter: Segmenter, manifest: CohortManifest, cohort: Path, centre: str) -> float:
    found = []
    for patient in (p for p in manifest.of_centre("unseen") if p.id.startswith(centre)):
        suv = read_volume(image_file(cohort, patient.id, KIND, "suv"), Unit.SUVBW)
        ct = read_volume(image_file(cohort, patient.id, KIND, "ct"), Unit.HU)
        truth = read_labels(image_file(cohort, patient.id, KIND, "truth")).mask
        mask = segmenter.segment(build_input(ROLE, suv, ct))
        total = int(mask.sum()) + int(truth.sum())
        found += [2 * int((mask & truth).sum()) / total] if total else []
    return sum(found) / len(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one recipe, print its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", choices=list(RECIPES), default="deeper")
    parser.add_argument("--iterations", type=int, default=300, help="a multiple of 50")
    parser.add_argument("--trained", type=int, default=12, help="patients to train on")
    parser.add_argument("--unseen", type=int, default=4, help="patients to measure on, of each centre")
    options = parser.parse_args(arguments)
    if IN_CHILD not in os.environ:  # nnU-Net and glibc read their settings when a process starts
        place = Workplace(options.folder.resolve() / options.recipe)
        own = {IN_CHILD: "1", **child_environment(place, 1, planning=False)}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.training_recipes", *sys.argv[1:]], own)  # noqa: S606 - itself again
    work, recipe = options.folder.resolve(), options.recipe
    line = run(work, recipe, options.iterations, options.trained, options.unseen)
    sys.stdout.write("\n| recipe | mm | features | iterations | CPU s | DSC A | DSC B |\n" + line + "\n")


if __name__ == "__main__":
    main()
