"""Plans of one's own: a plans.json of nnU-Net, changed by hand or made elsewhere.

Of the file come spacing, patch, batch, network and resampling; normalisation and the statistics of intensity
come from each model's own data set, as channels differ from model to model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from app.durable_file import write_durably
from app.errors import MisconfiguredError

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
    """nnU-Net's own plans of a data set with the file's configuration.

    Args:
        made: planned by nnU-Net for the data set.
        own: of the file.
        name: of the plans, see :func:`plans_name`.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    taken = dict(PlansManager(own).get_configuration(CONFIGURATION).configuration)
    planned = made["configurations"][CONFIGURATION]
    taken |= {key: planned[key] for key in OF_THE_DATA}
    taken["data_identifier"] = f"{name}_{CONFIGURATION}"
    top = {key: own[key] for key in OF_THE_FILE}
    return {**made, **top, "plans_name": name, "configurations": {CONFIGURATION: taken}}
