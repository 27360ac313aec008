"""nnU-Net's fingerprint, plan and preprocessing: its own planners, a network for two cores, or your plans.

Your plans are a plans.json of nnU-Net, changed by hand or made elsewhere. Spacing, patch, batch, network and
resampling come from that file. Normalisation and the statistics of intensity come from each model's data set,
as channels differ from model to model.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.files.durable import write_durably
from app.inference.models.card import DATASET_FILE

CONFIGURATION = "3d_fullres"
"""The only one that is trained: lesions are followed through slices (no 2d), at full resolution."""

KEPT_FILE = "plans.json"
"""In the experiment's folder: a copy, so that the file may change or go."""

SUFFIX = ".json"
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.json")
OF_THE_DATA = ("normalization_schemes", "use_mask_for_norm")
OF_THE_FILE = ("transpose_forward", "transpose_backward")
"""Spacing and patch are given in this order of axes."""


def is_own(plans: str) -> bool:
    """Whether the setting names a file."""
    return plans.endswith(SUFFIX)


def plans_name(plans: str) -> str:
    """What nnU-Net calls the plans of this setting; never as it calls its own, when they are a file's."""
    return f"own-{plans.removesuffix(SUFFIX)}" if is_own(plans) else str(plans)


def read_own(path: Path) -> dict[str, Any]:
    """The plans in a file.

    Raises:
        MisconfiguredError: it is not there, is no JSON of nnU-Net's plans, or has no ``3d_fullres``.
    """
    if not FILE_NAME.fullmatch(path.name):
        raise MisconfiguredError(f"{path}: only letters, digits, '.', '_', '-' in a plans file's name")
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
        configurations = dict(plans["configurations"])
        missing = [key for key in OF_THE_FILE if key not in plans]
    except OSError as error:
        raise MisconfiguredError(f"{path}: no such plans file ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MisconfiguredError(f"{path}: not a plans.json of nnU-Net") from error
    if missing:
        raise MisconfiguredError(f"{path}: not a plans.json of nnU-Net: it has no {', '.join(missing)}")
    if CONFIGURATION not in configurations:
        found = ", ".join(configurations) or "none"
        raise MisconfiguredError(f"{path}: has the configurations {found}; only {CONFIGURATION} is trained")
    return dict(plans)


def keep_own(source: Path, work: Path) -> None:
    """Copy the file into the experiment's folder.

    Raises:
        MisconfiguredError: as :func:`read_own`, or the experiment began with other plans.
    """
    kept = work / KEPT_FILE
    found = read_own(source)
    if kept.exists() and read_own(kept) != found:
        raise MisconfiguredError(
            f"{source}: not the plans that this experiment began with, which are in {kept}; "
            "give these to go on, or another folder"
        )
    write_durably(kept, source.read_bytes())


def with_own_configuration(made: dict[str, Any], own: dict[str, Any], name: str) -> dict[str, Any]:
    """The plans that nnU-Net made for a data set, with the file's own configuration, under ``name``."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    taken = dict(PlansManager(own).get_configuration(CONFIGURATION).configuration)
    planned = made["configurations"][CONFIGURATION]
    taken |= {key: planned[key] for key in OF_THE_DATA}
    taken["data_identifier"] = f"{name}_{CONFIGURATION}"
    top = {key: own[key] for key in OF_THE_FILE}
    return {**made, **top, "plans_name": name, "configurations": {CONFIGURATION: taken}}


SPACING_MM = {ModelRole.M1: 4.0, ModelRole.M2: 4.8, ModelRole.M3: 4.0, ModelRole.M4: 4.8}
"""Isotropic voxels of the small networks: those of the simulated centre A, so that its scans lose nothing
(docs/experiment/README.md says what a coarser grid costs)."""

PATCH_SIZE = (64, 48, 64)
"""Voxels (z, y, x): 256 x 192 x 256 mm at 4 mm, a third of a trunk."""

BATCH_SIZE = 2
FEATURES = (8, 16, 32, 64, 128)
"""Of each stage. At equal computing time better than four stages of 12 to 96 (docs/experiment/README.md)."""


class TrainingPlans(StrEnum):
    """What is trained: nnU-Net's plans by their own names, or ours for two CPU cores."""

    SMALL = "psma-small"
    DEFAULT = "nnUNetPlans"
    RES_ENC_M = "nnUNetResEncUNetMPlans"
    RES_ENC_L = "nnUNetResEncUNetLPlans"
    RES_ENC_XL = "nnUNetResEncUNetXLPlans"
    RES_ENC = "nnUNetResEncUNetPlans"
    DEFAULT_TORCH = "nnUNetPlans_torchres"
    RES_ENC_L_TORCH = "nnUNetResEncUNetLPlans_torchres"
    RES_ENC_L_TORCH_SEP_Z = "nnUNetResEncUNetLPlans_torchres_sepz"


PLANNERS = {
    TrainingPlans.SMALL: "ExperimentPlanner",
    TrainingPlans.DEFAULT: "ExperimentPlanner",
    TrainingPlans.RES_ENC_M: "nnUNetPlannerResEncM",
    TrainingPlans.RES_ENC_L: "nnUNetPlannerResEncL",
    TrainingPlans.RES_ENC_XL: "nnUNetPlannerResEncXL",
    TrainingPlans.RES_ENC: "ResEncUNetPlanner",
    TrainingPlans.DEFAULT_TORCH: "nnUNetPlanner_torchres",
    TrainingPlans.RES_ENC_L_TORCH: "nnUNetPlannerResEncL_torchres",
    TrainingPlans.RES_ENC_L_TORCH_SEP_Z: "nnUNetPlannerResEncL_torchres_sepz",
}
"""Every planner of nnU-Net 2.8.1 whose plans the node's inference runs."""

NOT_RUN = ("nnUNetResEncUNetLPlans_noResampling",)
"""Planners of nnU-Net whose plans the node can't run: without resampling no mask comes back to its scan."""


def plan_and_preprocess(
    dataset_number: int, home: Path, plans: str, role: ModelRole, own: dict[str, Any] | None = None
) -> None:
    """Fingerprint, plan, preprocess.

    Must run in a process with :func:`~app.training.workplace.child_environment` (planning).

    Args:
        dataset_number: nnU-Net's.
        home: the data set's folder of preprocessed images.
        plans: one of :class:`TrainingPlans`, or the name that the plans of a file have here.
        role: of the model, whose channels the plans must have.
        own: the content of that file.

    Raises:
        MisconfiguredError: the node could not run what would be trained.
    """
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    from app.inference.models.plans_check import check_plans

    is_small = plans == TrainingPlans.SMALL
    nnunet.extract_fingerprints([dataset_number], num_processes=1, verbose=False, show_progress_bar=False)
    spacing = (SPACING_MM[role],) * 3 if is_small else None
    planner = PLANNERS[TrainingPlans.DEFAULT if own is not None else TrainingPlans(plans)]
    made = nnunet.plan_experiments([dataset_number], planner, overwrite_target_spacing=spacing)
    planned = read_object(home / f"{made}.json")
    if is_small or own is not None:
        planned = small_plans(planned) if own is None else with_own_configuration(planned, own, plans)
        (home / f"{plans}.json").write_text(json.dumps(planned, indent=1))
    check_plans(planned, read_object(home / DATASET_FILE), CONFIGURATION, role)
    nnunet.preprocess([dataset_number], str(plans), [CONFIGURATION], [1], show_progress_bar=False)


def small_plans(plans: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net's own plans with a smaller patch and network; fingerprint, spacing, resampling stay its own."""
    name, configuration = TrainingPlans.SMALL.value, dict(plans["configurations"][CONFIGURATION])
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
        data_identifier=f"{name}_{CONFIGURATION}",
    )
    return {**plans, "plans_name": name, "configurations": {CONFIGURATION: configuration}}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of nnU-Net's."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content
