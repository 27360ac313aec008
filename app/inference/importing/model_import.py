"""nnU-Net's training becomes a model of the node: converted once, checked, with a card.

No file of nnU-Net holds what only the model's maker can say; that is the partial card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from app.domain.decision import ModelRole
from app.domain.selection.tracers import tracer_named
from app.errors import MisconfiguredError
from app.files.records import Record
from app.inference.importing.nnunet_results import (
    CheckpointFacts,
    ConvertedCheckpoint,
    TrainedModel,
    convert_checkpoint,
)
from app.inference.models.card import (
    DATASET_FILE,
    PLANS_FILE,
    WEIGHTS_FILE,
    InferenceSettings,
    InputChannel,
    ModelCard,
    Text,
    write_card,
    write_description,
)
from app.inference.models.channels import ENCODING, PRIOR_NAME, channels_of
from app.inference.models.plans_check import (
    check_plans,
    check_weights,
    empty_network,
    lesion_labels,
    trimmed_dataset,
)
from app.inference.models.store import sha256_of


class StatedChannel(Record):
    """One channel as the model was trained on it."""

    name: Text
    unit: Text
    encoding: str = ""


class StatedInference(Record):
    """How the predictor is to be set, where not as nnU-Net's is."""

    tile_step_size: float = Field(default=0.5, gt=0, le=1)
    mirroring_axes: tuple[int, ...] | None = None


class ModelStatement(Record):
    """The keys of a partial card.

    Attributes:
        channels: name and unit of each channel, in the order of training.
        training_data: whose images, how many, from which cameras, labelled by whom; in words.
        demonstration_only: true for a model that must not touch patients.
        inference: ``mirroring_axes`` unset takes those that the checkpoint allows.
    """

    tracers: tuple[Text, ...] = Field(min_length=1)
    channels: tuple[StatedChannel, ...]
    training_data: Text
    licence: Text
    intended_use: Text
    demonstration_only: bool
    version: Text = "1"
    training_command: str = ""
    deviations: tuple[Text, ...] = ()
    inference: StatedInference = StatedInference()


def read_statement(role: ModelRole, file: Path | None, options: Mapping[str, Any]) -> ModelStatement:
    """The statement in ``file``, with options given on the command line instead of its keys.

    Raises:
        MisconfiguredError: something is missing, unknown or not true of ``role``; it says what to add.
    """
    given = _read(file) | {key: value for key, value in options.items() if value is not None}
    try:
        statement = ModelStatement.model_validate(given)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise MisconfiguredError(
            f"the card is not complete: {problems}. State it with --card FILE.yaml, as here, "
            f"if it is true of your model:\n{example(role)}"
        ) from error
    _refuse_other_channels(role, statement)
    for tracer in statement.tracers:
        try:
            tracer_named(tracer)
        except ValueError as error:
            raise MisconfiguredError(f"tracers: {error}") from error
    return statement


def example(role: ModelRole) -> str:
    """A card to fill in."""
    content = {
        "tracers": ["68Ga-PSMA-11"] if role is ModelRole.M1 else ["177Lu-PSMA-617"],
        "channels": expected_channels(role),
        "training_data": "whose images, how many, which cameras, who drew the lesions",
        "licence": "who may use the weights, and for what",
        "intended_use": "what for, on whom; what it was not tried on",
        "demonstration_only": True,
    }
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def expected_channels(role: ModelRole) -> list[dict[str, str]]:
    """The only channels that the node makes for ``role``."""
    channels = [{"name": name, "unit": unit} for name, unit in channels_of(role)]
    for channel in channels:
        if channel["name"] == PRIOR_NAME:
            channel["encoding"] = ENCODING
    return channels


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MisconfiguredError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{file}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise MisconfiguredError(f"{file}: expected the keys of a model card")
    return content


def _refuse_other_channels(role: ModelRole, statement: ModelStatement) -> None:
    """A network fed with another unit or order gives a mask that looks right and is wrong."""
    stated = [channel.model_dump(exclude_defaults=True) for channel in statement.channels]
    expected = expected_channels(role)
    if stated != expected:
        block = yaml.safe_dump({"channels": expected}, sort_keys=False, allow_unicode=True)
        raise MisconfiguredError(
            f"the card states other channels than the node feeds to {role}; a model trained on another "
            f"order, unit or encoding can't be used, and must be trained again on these:\n{block}"
        )


TAKEN_OVER = (
    "version", "tracers", "training_data", "deviations", "licence", "intended_use", "demonstration_only",
)  # fmt: skip
"""Keys of the statement that are keys of the card."""


@dataclass(frozen=True)
class ImportRequest:
    """What is wanted of an import.

    Attributes:
        lesion_label: what dataset.json calls lesions; empty for ``lesion``.
    """

    model_id: str
    role: ModelRole
    statement: ModelStatement
    lesion_label: str = ""


@dataclass(frozen=True)
class Imported:
    """The new model's card, and what the process that read its pickles was forbidden or not."""

    card: ModelCard
    enforced: tuple[str, ...]
    not_enforced: tuple[str, ...]


def import_training(trained: TrainedModel, request: ImportRequest, folder: Path) -> Imported:
    """Write weights, plans, data set description and card into the empty ``folder``.

    Raises:
        MisconfiguredError: a checkpoint names code, or the parts do not fit each other, the role or the card.
    """
    labels = lesion_labels(trained.dataset, request.lesion_label)  # cheap checks before the slow one
    names = _weight_files(len(trained.checkpoints))
    converted = [
        convert_checkpoint(checkpoint, folder / name)
        for name, (_, checkpoint) in zip(names, trained.checkpoints, strict=True)
    ]
    facts = _one_training(trained, converted)
    schemes = check_plans(trained.plans, trained.dataset, facts.configuration, request.role)
    network = empty_network(trained.plans, trained.dataset, facts.configuration)
    for name in names:
        check_weights(network, folder / name)
    write_description(folder, trained.plans, trimmed_dataset(trained.dataset))
    stated = request.statement
    card = ModelCard(
        id=request.model_id,
        role=request.role,
        channels=_channels(request, schemes),
        labels=labels,
        training_command=stated.training_command or _in_words(trained, facts),
        inference=_inference(stated, facts),
        weights=names,
        files={name: sha256_of(folder / name) for name in (*names, PLANS_FILE, DATASET_FILE)},
        converted_from={
            name: result.sha256 for (name, _), result in zip(trained.checkpoints, converted, strict=True)
        },
        **{key: getattr(stated, key) for key in TAKEN_OVER},
    )
    write_card(card, folder)
    return Imported(card, converted[0].enforced, converted[0].not_enforced)


def _inference(stated: ModelStatement, facts: CheckpointFacts) -> InferenceSettings:
    axes = stated.inference.mirroring_axes
    return InferenceSettings(
        configuration=facts.configuration,
        tile_step_size=stated.inference.tile_step_size,
        mirroring_axes=facts.mirroring_axes if axes is None else axes,
    )


def _weight_files(count: int) -> tuple[str, ...]:
    """One file keeps the usual name; several are numbered in the order of their folds."""
    if count == 1:
        return (WEIGHTS_FILE,)
    stem, _, suffix = WEIGHTS_FILE.partition(".")
    return tuple(f"{stem}-{number}.{suffix}" for number in range(count))


def _one_training(trained: TrainedModel, converted: Sequence[ConvertedCheckpoint]) -> CheckpointFacts:
    """What all folds say alike; nnU-Net takes the first fold's word for all."""
    alike = {(result.facts.configuration, result.facts.mirroring_axes) for result in converted}
    if len(alike) > 1:
        raise MisconfiguredError(
            f"{', '.join(name for name, _ in trained.checkpoints)} are not folds of one training: "
            "they name different configurations, or mirror along different axes"
        )
    return converted[0].facts


def _channels(request: ImportRequest, schemes: Sequence[str]) -> tuple[InputChannel, ...]:
    stated = [channel.encoding for channel in request.statement.channels]
    return tuple(
        InputChannel(name=name, unit=unit, normalisation=f"{encoding}; {scheme}" if encoding else scheme)
        for (name, unit), encoding, scheme in zip(channels_of(request.role), stated, schemes, strict=True)
    )


def _in_words(trained: TrainedModel, facts: CheckpointFacts) -> str:
    epochs = f", {facts.epochs} epochs" if facts.epochs is not None else ""
    names = ", ".join(name for name, _ in trained.checkpoints)
    return f"nnU-Net, trainer {facts.trainer}, configuration {facts.configuration}{epochs}; from {names}"
