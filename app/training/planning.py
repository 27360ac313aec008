"""nnU-Net's fingerprint, plan and preprocessing, with a network small enough for two cores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.training.dataset import cohort_cases, grouped_split, write_dataset
from app.training.environment import nnunet_folders
from app.training.request import TrainingRequest

PLANS_NAME = "psmaSmallPlans"
CONFIGURATION = "3d_fullres"
SPACING_MM = 4.8
"""Isotropic voxels of the networks: the coarsest SPECT of the cohort; PET loses some detail for speed."""

PATCH_SIZE = (64, 48, 64)
"""Voxels (z, y, x): 307 x 230 x 307 mm, half of a trunk."""

BATCH_SIZE = 2
FEATURES = (12, 24, 48, 96)


def prepare(request: TrainingRequest) -> None:
    """Fingerprint, plan, preprocess; each part is skipped when its result is there.

    Must run in a process with :func:`~app.training.environment.child_environment` (planning).
    """
    write_dataset(request)
    home = nnunet_folders(request.work)["nnUNet_preprocessed"] / request.dataset_name
    done = home / "preprocessed.done"
    if done.exists():
        return
    _nnunet_plan(request.dataset_number)
    plans = json.loads((home / "nnUNetPlans.json").read_text())
    (home / f"{PLANS_NAME}.json").write_text(json.dumps(small_plans(plans), indent=1))
    _nnunet_preprocess(request.dataset_number)
    identifiers = [case.identifier for case in cohort_cases(request)]
    (home / "splits_final.json").write_text(json.dumps([grouped_split(identifiers)]))
    done.touch()


def _nnunet_plan(dataset_number: int) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    extract_fingerprints([dataset_number], num_processes=1, verbose=False, show_progress_bar=False)
    plan_experiments([dataset_number], overwrite_target_spacing=(SPACING_MM,) * 3)


def _nnunet_preprocess(dataset_number: int) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess

    preprocess([dataset_number], PLANS_NAME, [CONFIGURATION], [1], show_progress_bar=False)


def small_plans(plans: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net's own plans with a smaller patch and network; fingerprint, spacing, resampling stay its own."""
    configuration = dict(plans["configurations"][CONFIGURATION])
    architecture = dict(configuration["architecture"])
    stages = len(FEATURES)
    architecture["arch_kwargs"] = {
        **architecture["arch_kwargs"],
        "n_stages": stages,
        "features_per_stage": list(FEATURES),
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "n_conv_per_stage": [1] + [2] * (stages - 1),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    configuration.update(
        architecture=architecture,
        patch_size=list(PATCH_SIZE),
        batch_size=BATCH_SIZE,
        batch_dice=True,
        data_identifier=f"{PLANS_NAME}_{CONFIGURATION}",
    )
    return {**plans, "plans_name": PLANS_NAME, "configurations": {CONFIGURATION: configuration}}


def load_plans(preprocessed: Path) -> dict[str, Any]:
    """The plans that the training uses."""
    plans: dict[str, Any] = json.loads((preprocessed / f"{PLANS_NAME}.json").read_text())
    return plans
