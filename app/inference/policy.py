"""Section ``segment`` of app.yaml: which model serves which modality, and where it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.domain.decision import ModelRole

MAP_MODEL_PATH = "HOLOSCAN_MODEL_PATH"
"""Environment variable: where a MONAI Application Package keeps models."""

SHIPPED_MODELS = Path(__file__).resolve().parents[2] / "models"
"""Small models trained on simulated patients: for demonstration only."""

ROLE_NAMES = frozenset(role.value for role in ModelRole)


DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9]\d?))?")
"""What ``segment.device`` takes: a GPU may be named by its number."""


class DeviceChoice(StrEnum):
    """Where networks are trained; :attr:`SegmentPolicy.device` knows numbered GPUs beside."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


ALLOWED_ROLES = {
    "pet_model": (ModelRole.M1, ModelRole.M3),
    "spect_model_with_prior": (ModelRole.M4, ModelRole.M2, ModelRole.M3),
    "spect_model_without_prior": (ModelRole.M2, ModelRole.M3),
}
"""Which roles each setting takes."""


@dataclass(frozen=True)
class SegmentPolicy:
    """Section ``segment``.

    Attributes:
        models_dir: folder with one folder a model; relative to where the program starts.
            Empty: those shipped.
        device: ``auto`` (every GPU, or the CPU where there is none), ``cuda`` (every GPU; an error when there
            is none), ``cuda:1`` (that one; an error when it is not there) or ``cpu`` (docs/gpu.md).
        pet_model: M1 or M3, where one model of the folder has that role; or a model's id.
        spect_model_with_prior: M4; M2 or M3 for a site that doesn't want priors; or a model's id.
        spect_model_without_prior: M2 or M3: when there is no prior that fits; or a model's id.
        shadow_models: ids of models that run after the serving one on the same input and are compared with
            it; nothing of them is sent (docs/models.md).
        minimum_lesion_ml: smaller components are dropped, and the SR says how many.
    """

    models_dir: str = ""
    device: str = "auto"
    pet_model: str = ModelRole.M1.value
    spect_model_with_prior: str = ModelRole.M4.value
    spect_model_without_prior: str = ModelRole.M2.value
    shadow_models: tuple[str, ...] = ()
    minimum_lesion_ml: float = 0.1

    @property
    def models_folder(self) -> Path:
        """Where the models are."""
        return Path(self.models_dir) if self.models_dir else SHIPPED_MODELS

    def __post_init__(self) -> None:
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
        if self.minimum_lesion_ml < 0:
            raise ValueError(
                f"segment.minimum_lesion_ml must not be negative, found {self.minimum_lesion_ml}"
            )
