"""Section ``segment`` of app.yaml: which model serves which modality, and where it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from app.domain.decision import ModelRole
from app.domain.ranges import Range, Ranged

MAP_MODEL_PATH = "HOLOSCAN_MODEL_PATH"
"""Environment variable: where a MONAI Application Package keeps models."""

SHIPPED_MODELS = Path(__file__).resolve().parents[2] / "models"
"""Small models trained on simulated patients: for demonstration only."""

ROLE_NAMES = frozenset(role.value for role in ModelRole)

DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9]\d?))?")
"""Values of ``segment.device``: a GPU may be named by its number."""


class DeviceChoice(StrEnum):
    """Where networks are trained; :attr:`SegmentPolicy.device` knows numbered GPUs as well."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Precision(StrEnum):
    """What the networks' numbers are; :attr:`SegmentPolicy.precision`."""

    AUTO = "auto"
    FP32 = "fp32"


ALLOWED_ROLES = {
    "pet_model": (ModelRole.M1, ModelRole.M3),
    "spect_model_with_prior": (ModelRole.M4, ModelRole.M2, ModelRole.M3),
    "spect_model_without_prior": (ModelRole.M2, ModelRole.M3),
}
"""The roles that each setting takes."""


@dataclass(frozen=True)
class SegmentPolicy(Ranged):
    """Which model serves which modality, and where the networks run."""

    models_dir: str = ""
    """Folder with one folder for each model, relative to where the program starts. Empty for the models that
    are shipped."""
    device: str = "auto"
    """``auto`` (every GPU, or the CPU where there is none), ``cuda`` (every GPU; an error when there is
    none), ``cuda:1`` (that GPU; an error when it is absent) or ``cpu`` (docs/reference/gpu.md)."""
    precision: Precision = Precision.AUTO
    """``auto``: half precision on a GPU; on a CPU that has it bfloat16, if it gives the lesions of single
    precision on the tile with most of them; else single precision. ``fp32``: always single precision, the
    reference (docs/reference/gpu.md)."""
    pet_model: str = ModelRole.M1.value
    """M1 or M3, where one model in the folder has that role; or the id of a model."""
    spect_model_with_prior: str = ModelRole.M4.value
    """M4, or M2 or M3 for a site that doesn't want priors; or the id of a model."""
    spect_model_without_prior: str = ModelRole.M2.value
    """M2 or M3, when no prior fits; or the id of a model."""
    shadow_models: tuple[str, ...] = ()
    """Ids of models that run after the serving model on the same input and are compared with it; nothing of
    them is sent (docs/how-to/models.md)."""
    minimum_lesion_ml: Annotated[float, Range(0, 100)] = 0.1
    """Components smaller than this are dropped, and the SR states their number."""

    @property
    def models_folder(self) -> Path:
        """The folder of the models."""
        return Path(self.models_dir) if self.models_dir else SHIPPED_MODELS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not DEVICE.fullmatch(self.device):
            raise ValueError(f"segment.device is auto, cpu, cuda, or one GPU as cuda:0; found {self.device}")
        for name, roles in ALLOWED_ROLES.items():
            found = getattr(self, name)
            if found in ROLE_NAMES and found not in roles:
                raise ValueError(
                    f"segment.{name} is one of {', '.join(roles)}, or a model's id; found {found}"
                )
        shadows = self.shadow_models
        if ROLE_NAMES & set(shadows) or len(set(shadows)) < len(shadows):
            raise ValueError(
                f"segment.shadow_models takes models' ids, each once; found {', '.join(shadows)}"
            )
