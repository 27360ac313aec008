"""Models that come in, from nnU-Net's training or from another node, and models that go out.

A training is converted once, checked, and gets a card. A package is one zip with the card and every file that
the card lists, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.inference.importing.install import member_names, pack, unpack
from app.inference.importing.nnunet_results import (
    CheckpointFacts,
    ConvertedCheckpoint,
    TrainedModel,
    convert_checkpoint,
    read_json,
)
from app.inference.models.card import (
    CARD_FILE,
    DATASET_FILE,
    PLANS_FILE,
    WEIGHTS_FILE,
    InferenceSettings,
    InputChannel,
    ModelCard,
    read_card,
    write_card,
)
from app.inference.models.channels import channels_of
from app.inference.models.plans_check import (
    check_plans,
    check_weights,
    empty_network,
    lesion_labels,
    trimmed_dataset,
)
from app.inference.models.statement import ModelStatement
from app.inference.models.store import ModelStore, sha256_of
from app.inference.running.segmenter import refuse_other_input

TAKEN_OVER = (
    "version",
    "tracers",
    "training_data",
    "deviations",
    "licence",
    "intended_use",
    "demonstration_only",
)
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
    _write_json(folder / PLANS_FILE, trained.plans)
    _write_json(folder / DATASET_FILE, trimmed_dataset(trained.dataset))
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
    first = converted[0].facts
    if any(_told(result.facts) != _told(first) for result in converted):
        raise MisconfiguredError(
            f"{', '.join(name for name, _ in trained.checkpoints)} are not folds of one training: "
            "they name different configurations, or mirror along different axes"
        )
    return first


def _told(facts: CheckpointFacts) -> tuple[object, ...]:
    return facts.configuration, facts.mirroring_axes


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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


CARD_BYTES = 4 << 20


def export_package(store: ModelStore, model_id: str, out: Path) -> ModelCard:
    """Write the package of a model, verified first; the same model gives the same bytes.

    Raises:
        MisconfiguredError: no such model, a file differs from its card, or ``out`` can't be written.
    """
    model = store.verify(store.card(model_id))
    names = (CARD_FILE, *model.card.files)
    try:
        pack([(f"{model_id}/{name}", model.folder / name) for name in names], out)
    except OSError as error:
        raise MisconfiguredError(f"{out}: can't be written ({error.strerror})") from error
    return model.card


def package_id(path: Path) -> str:
    """The id of the model in a package of :func:`export_package`; empty when the zip is none.

    Raises:
        MisconfiguredError: as :func:`~app.inference.importing.install.member_names`.
    """
    names = [PurePosixPath(name) for name in member_names(path)]
    cards = [name for name in names if name.name == CARD_FILE and len(name.parts) == 2]
    return cards[0].parts[0] if len(cards) == 1 else ""


def import_package(path: Path, folder: Path) -> ModelCard:
    """Unpack a package into the empty ``folder``, which has the model's id as its name; every file verified.

    Of dataset.json only what inference needs is kept, as after a training's import.

    Raises:
        MisconfiguredError: a file is missing, additional, or not what the card says, or the parts do not fit.
    """
    names = {PurePosixPath(name).name: name for name in member_names(path)}
    unpack(path, {names[CARD_FILE]: folder / CARD_FILE})
    if (folder / CARD_FILE).stat().st_size > CARD_BYTES:
        raise MisconfiguredError(f"{path}: its card is longer than {CARD_BYTES >> 20} MiB")
    card = read_card(folder)
    expected = {f"{card.id}/{name}" for name in (CARD_FILE, *card.files)}
    if set(member_names(path)) != expected:
        different = ", ".join(sorted(set(member_names(path)) ^ expected))
        raise MisconfiguredError(f"{path}: holds other files than its card lists: {different}")
    unpack(path, {f"{card.id}/{name}": folder / name for name in card.files})
    ModelStore(folder.parent).verify(card)
    refuse_other_input(card)
    plans, dataset = read_json(folder / PLANS_FILE), read_json(folder / DATASET_FILE)
    check_plans(plans, dataset, card.inference.configuration, card.role)
    network = empty_network(plans, dataset, card.inference.configuration)
    for name in card.weights:
        check_weights(network, folder / name)
    return _without_case_list(card, dataset, folder)


def _without_case_list(card: ModelCard, dataset: dict[str, Any], folder: Path) -> ModelCard:
    """Trim dataset.json in ``folder``, with its new SHA-256 in the card; a trimmed one stays as it is."""
    kept = trimmed_dataset(dataset)
    if kept == dataset:
        return card
    path = folder / DATASET_FILE
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    trimmed = card.model_copy(update={"files": {**card.files, DATASET_FILE: sha256_of(path)}})
    write_card(trimmed, folder)
    return trimmed
