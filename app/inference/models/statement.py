"""What only its maker can say about a model: the part of its card that no file of nnU-Net holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from app.domain.decision import ModelRole
from app.domain.selection.tracers import tracer_named
from app.errors import MisconfiguredError
from app.files.records import Record
from app.inference.models.card import Text
from app.inference.models.channels import ENCODING, PRIOR_NAME, channels_of


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
