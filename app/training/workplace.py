"""The folder of an experiment, and the environment of its training processes.

nnU-Net reads its folders at import and glibc its memory settings at the start of a process, before any of our
code runs, so training always happens in a child process that is given both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from app.domain.decision import ModelRole
from app.domain.scores import Validation
from app.domain.study import StudyKind
from app.training.experiment_settings import is_on_all, is_repeated
from app.validation.scores import PREDICTIONS_FOLDER, prediction_file

DATASET_NUMBERS = {ModelRole.M1: 501, ModelRole.M2: 502, ModelRole.M3: 503, ModelRole.M4: 504}
"""nnU-Net finds a data set by its number; 501 and up are free by its convention."""


def dataset_name(role: ModelRole) -> str:
    """nnU-Net's name of a model's data set."""
    return f"Dataset{DATASET_NUMBERS[role]}_{role.value}"


def validation_of(split: str) -> Validation:
    """What the patients that a training holds back serve for."""
    return Validation.EXTERNAL if is_on_all(split) else Validation.INTERNAL


@dataclass(frozen=True)
class Workplace:
    """The folder of one experiment."""

    folder: Path

    @property
    def nnunet(self) -> dict[str, Path]:
        """nnU-Net's three folders, by the names of its environment variables."""
        base = self.folder / "nnunet"
        return {
            "nnUNet_raw": base / "raw",
            "nnUNet_preprocessed": base / "preprocessed",
            "nnUNet_results": base / "results",
        }

    @property
    def logs(self) -> Path:
        """nnU-Net's own output, one file a step."""
        return self.folder / "logs"

    @property
    def scores(self) -> Path:
        """Every scan's counts, from which tables and figures derive."""
        return self.folder / "scores.csv"

    def raw(self, role: ModelRole) -> Path:
        """nnU-Net's description of a model's data set."""
        return self.nnunet["nnUNet_raw"] / dataset_name(role)

    def preprocessed(self, role: ModelRole) -> Path:
        """nnU-Net's plans and preprocessed cases."""
        return self.nnunet["nnUNet_preprocessed"] / dataset_name(role)

    @property
    def masks(self) -> Path:
        """The truths as nnU-Net wants them: lesion or not."""
        return self.folder / "masks"

    @property
    def priors(self) -> Path:
        """M4's third channels for training."""
        return self.folder / "priors"

    def models(self, split: str) -> Path:
        """The models that a split's trainings gave, one folder each; of ``all``, those for use."""
        if is_on_all(split):
            return self.results(split).folder / "models"
        return self.folder / f"fold-{split}"

    def results(self, split: str) -> Workplace:
        """Where a training's predictions and scores lie: here, or with a further seed in its own folder."""
        return Workplace(self.folder / split) if is_repeated(split) else self

    def prediction(self, validation: Validation, role: ModelRole, patient: str, kind: StudyKind) -> Path:
        """A model's lesions on a held-out scan."""
        return prediction_file(self.folder / PREDICTIONS_FOLDER, validation, role, patient, kind)

    def no_prior(self, validation: Validation, patient: str) -> Path:
        """Why M4 did not run on a held-out SPECT; not there when it did."""
        scan = self.prediction(validation, ModelRole.M4, patient, StudyKind.SPECT_CT)
        return scan.with_name(f"{patient}_no-prior.json")

    def done(self, step: str) -> Path:
        """Written when a step is finished."""
        return self.folder / "steps" / f"{step}.done"


GIB = 1024**3


def child_environment(
    place: Workplace, threads: int, *, planning: bool, on_gpu: bool = False
) -> dict[str, str]:
    """This process's environment with what nnU-Net and glibc need.

    Args:
        threads: compute threads of the child.
        planning: nnU-Net's fingerprint and planning need ``nnUNet_n_proc_DA`` of at least 1; training without
            helper processes needs 0.
        on_gpu: helper processes prepare batches, as many as nnU-Net itself chooses: a GPU would wait for one.
    """
    processes = {} if on_gpu and not planning else {"nnUNet_n_proc_DA": "1" if planning else "0"}
    return {
        **os.environ,
        **{name: str(folder) for name, folder in place.nnunet.items()},
        **processes,
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
        "OMP_NUM_THREADS": str(threads),
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads),
        # Large tensors come and go every step. By default glibc maps and unmaps each, and page faults take
        # more time than the convolutions: keep the memory instead.
        "MALLOC_MMAP_THRESHOLD_": str(8 * GIB),
        "MALLOC_TRIM_THRESHOLD_": str(8 * GIB),
        "MALLOC_TOP_PAD_": str(GIB // 2),
        "MALLOC_ARENA_MAX": "1",
    }
