"""nnU-Net's fingerprint, plan and preprocessing, with its own planners or a network for two cores."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

CONFIGURATION = "3d_fullres"

SPACING_MM = 4.8
"""Isotropic voxels of the small network: the coarsest SPECT of the simulated patients; PET loses detail."""

PATCH_SIZE = (64, 48, 64)
"""Voxels (z, y, x): 307 x 230 x 307 mm, half of a trunk."""

BATCH_SIZE = 2
FEATURES = (12, 24, 48, 96)


class TrainingPlans(StrEnum):
    """What is trained: nnU-Net's plans by their own names, or ours for two CPU cores."""

    SMALL = "psma-small"
    DEFAULT = "nnUNetPlans"
    RES_ENC_M = "nnUNetResEncUNetMPlans"
    RES_ENC_L = "nnUNetResEncUNetLPlans"
    RES_ENC_XL = "nnUNetResEncUNetXLPlans"


SMALL = TrainingPlans.SMALL

PLANNERS = {
    TrainingPlans.SMALL: "ExperimentPlanner",
    TrainingPlans.DEFAULT: "ExperimentPlanner",
    TrainingPlans.RES_ENC_M: "nnUNetPlannerResEncM",
    TrainingPlans.RES_ENC_L: "nnUNetPlannerResEncL",
    TrainingPlans.RES_ENC_XL: "nnUNetPlannerResEncXL",
}


def plan_and_preprocess(dataset_number: int, home: Path, plans: TrainingPlans) -> None:
    """Fingerprint, plan, preprocess; ``home`` is the data set's folder of preprocessed images.

    Must run in a process with :func:`~app.training.environment.child_environment` (planning).
    """
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    is_small = plans is TrainingPlans.SMALL
    nnunet.extract_fingerprints([dataset_number], num_processes=1, verbose=False, show_progress_bar=False)
    spacing = (SPACING_MM,) * 3 if is_small else None
    made = nnunet.plan_experiments([dataset_number], PLANNERS[plans], overwrite_target_spacing=spacing)
    if is_small:
        own = small_plans(json.loads((home / f"{made}.json").read_text()))
        (home / f"{plans}.json").write_text(json.dumps(own, indent=1))
    nnunet.preprocess([dataset_number], plans.value, [CONFIGURATION], [1], show_progress_bar=False)


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
        data_identifier=f"{SMALL}_{CONFIGURATION}",
    )
    return {**plans, "plans_name": SMALL.value, "configurations": {CONFIGURATION: configuration}}
