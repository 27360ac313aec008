"""A model as one zip, to carry it to another node: its card and every file the card lists, nothing else."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from app.errors import MisconfiguredError
from app.inference.importing.install import member_names, pack, unpack
from app.inference.importing.nnunet_results import read_json
from app.inference.models.card import CARD_FILE, DATASET_FILE, PLANS_FILE, ModelCard, read_card, write_card
from app.inference.models.plans_check import check_plans, check_weights, empty_network, trimmed_dataset
from app.inference.models.store import ModelStore, sha256_of
from app.inference.running.segmenter import refuse_other_input

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
