"""The models of a site: found by their cards, checked by their checksums, before a byte of them is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.inference.models.card import CARD_FILE, ModelCard, read_card

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class VerifiedModel:
    """A model whose every file was found to be what its card says."""

    card: ModelCard
    folder: Path


@dataclass(frozen=True)
class ModelCheck:
    """A model compared with its card.

    Attributes:
        files: how many the card lists.
        problems: what is wrong, in words.
    """

    model_id: str
    files: int
    problems: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Every file is there and is what the card says."""
        return not self.problems


class ModelStore:
    """The folder of models, ``<folder>/<id>/model.yaml``.

    Nothing is unpickled: weights are safetensors, the rest is JSON.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def cards(self) -> tuple[ModelCard, ...]:
        """Every card, by id.

        Raises:
            MisconfiguredError: the folder is missing, or a card is invalid.
        """
        return tuple(read_card(folder) for folder in self._folders())

    def card(self, model_id: str) -> ModelCard:
        """The card of one model.

        Raises:
            MisconfiguredError: there is no such model.
        """
        cards = self.cards()
        for card in cards:
            if card.id == model_id:
                return card
        present = ", ".join(card.id for card in cards) or "none"
        raise MisconfiguredError(f"{self._folder}: no model is called {model_id}; present: {present}")

    def by_role(self, role: ModelRole) -> ModelCard | None:
        """The one model of that role, or ``None``.

        Raises:
            MisconfiguredError: more than one model has the role.
        """
        found = [card for card in self.cards() if card.role is role]
        if len(found) > 1:
            names = ", ".join(card.id for card in found)
            raise MisconfiguredError(
                f"{self._folder}: {names} all have role {role}, expected one; say which by its id in "
                "app.yaml (segment.pet_model and so on), or move the others out"
            )
        return found[0] if found else None

    def load(self, role: ModelRole) -> VerifiedModel:
        """The model of that role, verified.

        Raises:
            MisconfiguredError: no such model, or it fails :meth:`verify`.
        """
        return self.verify(self.only(role))

    def only(self, role: ModelRole) -> ModelCard:
        """The one model of that role.

        Raises:
            MisconfiguredError: there is none, or more than one.
        """
        card = self.by_role(role)
        if card is None:
            raise MisconfiguredError(f"{self._folder}: no model has role {role}; see `psma-node models list`")
        return card

    def verify(self, card: ModelCard) -> VerifiedModel:
        """Compare every file of the model with its card.

        Raises:
            MisconfiguredError: a file is missing or differs.
        """
        wrong = self.wrong_files(card)
        if wrong:
            raise MisconfiguredError("; ".join(wrong))
        return VerifiedModel(card, self._folder / card.id)

    def wrong_files(self, card: ModelCard) -> tuple[str, ...]:
        """What is wrong with each file that is not what the card says, in words."""
        folder = self._folder / card.id
        found = (_wrong_with(folder / name, expected) for name, expected in card.files.items())
        return tuple(filter(None, found))

    def checks(self) -> tuple[ModelCheck, ...]:
        """Every model compared with its card; no damaged one hides another.

        Raises:
            MisconfiguredError: the folder is missing.
        """
        return tuple(self._check(folder) for folder in self._folders())

    def _check(self, folder: Path) -> ModelCheck:
        try:
            card = read_card(folder)
        except MisconfiguredError as error:
            return ModelCheck(folder.name, 0, (str(error),))
        return ModelCheck(card.id, len(card.files), self.wrong_files(card))

    def _folders(self) -> list[Path]:
        if not self._folder.is_dir():
            raise MisconfiguredError(f"{self._folder}: no such folder; set segment.models_dir in app.yaml")
        return sorted(path.parent for path in self._folder.glob(f"*/{CARD_FILE}"))


def _wrong_with(path: Path, expected: str) -> str:
    if not path.is_file():
        return f"{path}: not found, although {CARD_FILE} lists it; install the model again"
    found = sha256_of(path)
    if found == expected:
        return ""
    return (
        f"{path}: SHA-256 is {found}, expected {expected}; the file was changed or damaged, "
        "install the model again"
    )


def sha256_of(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
