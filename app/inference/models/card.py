"""The model card, ``models/<id>/model.yaml``: what a model is, what it was made from, how well it does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.files.records import Record, read_record, write_record

CARD_FILE = "model.yaml"
WEIGHTS_FILE = "weights.safetensors"
PLANS_FILE = "plans.json"
DATASET_FILE = "dataset.json"
REQUIRED_FILES = (WEIGHTS_FILE, PLANS_FILE, DATASET_FILE)

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""No separators: a card can't name a file outside its own folder."""


class InputChannel(Record):
    """One channel of the network's input, in order."""

    name: Text
    unit: Text
    normalisation: Text


class Metric(Record):
    """One measured number, with how to get it again.

    ``mean`` and ``sd`` are over the patients for which the number is defined, ``n`` of ``patients``.
    """

    name: Text
    modality: Text
    cohort: Text
    patients: int = Field(ge=0)
    n: int = Field(ge=0)
    mean: float | None
    sd: float | None = None
    note: str = ""


class MetricSource(Record):
    """Where the metrics come from."""

    command: Text
    software_version: Text
    date: Text


class InferenceSettings(Record):
    """How the sliding window is set; part of the model, so that a result can be repeated."""

    configuration: Text
    tile_step_size: float = Field(gt=0, le=1)
    mirroring_axes: tuple[int, ...] = ()


class ModelCard(Record):
    """A model, completely described.

    Attributes:
        id: the name of its folder.
        training_data: in words.
        deviations: from stock nnU-Net training, in words.
        weights: files of the network's weights; several are an ensemble, whose outputs are averaged.
        files: SHA-256 of every file of the model, by name.
        converted_from: SHA-256 of the checkpoints that the weights were converted from, by name.
        demonstration_only: true for models that must not touch patients.
    """

    id: FileName
    role: ModelRole
    version: Text
    tracers: tuple[Text, ...]
    channels: tuple[InputChannel, ...] = Field(min_length=2)
    labels: Mapping[str, int]
    training_data: Text
    training_command: Text
    deviations: tuple[Text, ...] = ()
    inference: InferenceSettings
    metrics: tuple[Metric, ...] = ()
    metric_source: MetricSource | None = None
    licence: Text
    intended_use: Text
    demonstration_only: bool
    weights: tuple[FileName, ...] = Field(default=(WEIGHTS_FILE,), min_length=1)
    files: Mapping[FileName, Sha256]
    converted_from: Mapping[Text, Sha256] = {}

    @property
    def weights_sha256(self) -> str:
        """Names the exact network in results; of an ensemble: SHA-256 over those of its files, in order."""
        digests = [self.files[name] for name in self.weights]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read_card(folder: Path) -> ModelCard:
    """The card in ``folder``.

    Raises:
        MisconfiguredError: missing, not YAML, or not a valid card.
    """
    path = folder / CARD_FILE
    card = read_record(ModelCard, path, "a valid model card", "a model's folder needs its card")
    if card.id != folder.name:
        raise MisconfiguredError(f"{path}: says id {card.id}, expected {folder.name}, its folder's name")
    missing = [name for name in (*card.weights, PLANS_FILE, DATASET_FILE) if name not in card.files]
    if missing:
        raise MisconfiguredError(f"{path}: files must list {', '.join(missing)} with a SHA-256")
    return card


def write_card(card: ModelCard, folder: Path) -> None:
    """Write ``card`` to its place, whole or not at all."""
    write_record(card, folder / CARD_FILE)


def read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's plans.json and dataset.json."""
    plans: dict[str, Any] = json.loads((folder / PLANS_FILE).read_text(encoding="utf-8"))
    dataset: dict[str, Any] = json.loads((folder / DATASET_FILE).read_text(encoding="utf-8"))
    return plans, dataset


def write_description(folder: Path, plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    """Write what :func:`read_description` reads."""
    for name, content in ((PLANS_FILE, plans), (DATASET_FILE, dataset)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
