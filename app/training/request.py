"""What is to be trained: one record, passed to every step and to child processes as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from app.domain.analysis import ModelRole

DATASET_NUMBERS = {ModelRole.M1: 501, ModelRole.M2: 502, ModelRole.M3: 503, ModelRole.M4: 504}
"""nnU-Net finds a dataset by its number; 501 and up are free by its convention."""

ITERATIONS_PER_EPOCH = 50
"""An nnU-Net epoch here: short, so that a checkpoint and a progress line come every minute or so."""


@dataclass(frozen=True)
class TrainingRequest:
    """One model's training.

    Attributes:
        role: which model.
        patients: simulated patients ``0..patients-1`` of ``centre``.
        iterations: optimiser steps; the learning rate falls to 0 over exactly these.
        seed: for weights, sampling, and priors.
        threads: compute threads.
        work: folder for everything the training writes.
    """

    role: ModelRole
    patients: int
    centre: str
    iterations: int
    seed: int
    threads: int
    work: Path

    def __post_init__(self) -> None:
        if self.iterations < ITERATIONS_PER_EPOCH or self.iterations % ITERATIONS_PER_EPOCH:
            raise ValueError(
                f"iterations must be a multiple of {ITERATIONS_PER_EPOCH}, found {self.iterations}"
            )

    @property
    def epochs(self) -> int:
        """nnU-Net epochs of :data:`ITERATIONS_PER_EPOCH` iterations."""
        return self.iterations // ITERATIONS_PER_EPOCH

    @property
    def dataset_number(self) -> int:
        """nnU-Net's dataset number."""
        return DATASET_NUMBERS[self.role]

    @property
    def dataset_name(self) -> str:
        """nnU-Net's dataset name."""
        return f"Dataset{self.dataset_number}_{self.role.value}"

    def to_json(self) -> str:
        """For the child process."""
        return json.dumps({**asdict(self), "work": str(self.work)})

    @classmethod
    def from_json(cls, text: str) -> TrainingRequest:
        """The inverse of :meth:`to_json`."""
        fields = json.loads(text)
        return cls(**{**fields, "role": ModelRole(fields["role"]), "work": Path(fields["work"])})
