"""Section ``segment`` of app.yaml: which model serves which modality, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.domain.analysis import Decision, ModelRole
from app.domain.study import StudyKind

SHIPPED_MODELS = Path(__file__).resolve().parents[2] / "models"
"""Small models trained on simulated patients: for demonstration only."""


class DeviceChoice(StrEnum):
    """Where the networks run. ``auto`` takes a GPU where there is one."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


@dataclass(frozen=True)
class SegmentPolicy:
    """Section ``segment``.

    Attributes:
        models_dir: folder with one folder a model; relative to where the program starts.
            Empty: those shipped.
        device: ``auto``, ``cuda`` (an error when there is none) or ``cpu``.
        pet_model: M1 or M3.
        spect_model_with_prior: M4; M2 or M3 for a site that doesn't want priors.
        spect_model_without_prior: M2 or M3: when there is no prior that fits.
        minimum_lesion_ml: smaller components are dropped, and the SR says how many.
    """

    models_dir: str = ""
    device: DeviceChoice = DeviceChoice.AUTO
    pet_model: ModelRole = ModelRole.M1
    spect_model_with_prior: ModelRole = ModelRole.M4
    spect_model_without_prior: ModelRole = ModelRole.M2
    minimum_lesion_ml: float = 0.1

    @property
    def models_folder(self) -> Path:
        """Where the models are."""
        return Path(self.models_dir) if self.models_dir else SHIPPED_MODELS

    def __post_init__(self) -> None:
        allowed = {
            "pet_model": (ModelRole.M1, ModelRole.M3),
            "spect_model_with_prior": (ModelRole.M4, ModelRole.M2, ModelRole.M3),
            "spect_model_without_prior": (ModelRole.M2, ModelRole.M3),
        }
        for name, roles in allowed.items():
            if getattr(self, name) not in roles:
                raise ValueError(f"segment.{name} is one of {', '.join(roles)}, found {getattr(self, name)}")
        if self.minimum_lesion_ml < 0:
            raise ValueError(
                f"segment.minimum_lesion_ml must not be negative, found {self.minimum_lesion_ml}"
            )


def choose_role(kind: StudyKind, has_prior: bool, policy: SegmentPolicy) -> tuple[ModelRole, Decision]:
    """The model for this pair, and the sentence for the report that says why."""
    if kind is StudyKind.PET_CT:
        return policy.pet_model, Decision("segment", f"{policy.pet_model} serves PET/CT by the site's policy")
    if has_prior:
        role = policy.spect_model_with_prior
        why = "the earlier PET lesions fit" if role is ModelRole.M4 else "the site's policy uses no prior"
        return role, Decision("segment", f"{role} serves SPECT/CT: {why}")
    role = policy.spect_model_without_prior
    return role, Decision("segment", f"{role} serves SPECT/CT: no prior was used")
