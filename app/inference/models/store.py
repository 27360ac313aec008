"""The models of a site: found by their cards, checked by their checksums, chosen by the site's policy.

A setting names a model by its role or its id; which one serves is never a guess. No byte of a model is used
before its checksum is known to be right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from app.domain.decision import Decision, ModelRole
from app.domain.study import StudyKind
from app.errors import MisconfiguredError
from app.inference.models.card import CARD_FILE, ModelCard, read_card
from app.inference.policy import ALLOWED_ROLES, ROLE_NAMES, SegmentPolicy


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
        cards = {card.id: card for card in self.cards()}
        if model_id not in cards:
            present = ", ".join(cards) or "none"
            raise MisconfiguredError(f"{self._folder}: no model is called {model_id}; present: {present}")
        return cards[model_id]

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
        found = [card for card in self.cards() if card.role is role]
        if not found:
            raise MisconfiguredError(f"{self._folder}: no model has role {role}; see `psma-node models list`")
        if len(found) > 1:
            names = ", ".join(card.id for card in found)
            raise MisconfiguredError(
                f"{self._folder}: {names} all have role {role}, expected one; say which by its id in "
                "app.yaml (segment.pet_model and so on), or move the others out"
            )
        return found[0]

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
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class SiteModels:
    """Every model that the policy calls for.

    Attributes:
        serving: by the setting that names it; the same card may serve several.
        shadows: run and compared, never sent.
    """

    serving: dict[str, ModelCard]
    shadows: tuple[ModelCard, ...]

    @property
    def all(self) -> tuple[ModelCard, ...]:
        """Each model once."""
        cards = (*self.serving.values(), *self.shadows)
        return tuple({card.id: card for card in cards}.values())

    @property
    def wants_prior(self) -> bool:
        """Whether a SPECT/CT is better served when its PET/CT has come first."""
        return self.serving["spect_model_with_prior"].role is ModelRole.M4


def site_models(store: ModelStore, policy: SegmentPolicy) -> SiteModels:
    """All models of the policy, found; none of their files is read.

    Raises:
        MisconfiguredError: a model is missing, has a role that the setting doesn't take, or is ambiguous.
    """
    serving = {setting: serving_model(store, policy, setting) for setting in ALLOWED_ROLES}
    return SiteModels(serving, tuple(shadow_model(store, model_id) for model_id in policy.shadow_models))


def serving_model(store: ModelStore, policy: SegmentPolicy, setting: str) -> ModelCard:
    """The model that ``segment.<setting>`` names, by role or by id.

    Raises:
        MisconfiguredError: as :func:`site_models`.
    """
    name: str = getattr(policy, setting)
    if name in ROLE_NAMES:
        return store.only(ModelRole(name))
    card, allowed = _named(store, setting, name), ALLOWED_ROLES[setting]
    if card.role not in allowed:
        raise MisconfiguredError(
            f"segment.{setting} names {name}, whose role is {card.role}; expected {' or '.join(allowed)}"
        )
    return card


def shadow_model(store: ModelStore, model_id: str) -> ModelCard:
    """The model that ``segment.shadow_models`` names.

    Raises:
        MisconfiguredError: there is none of that id.
    """
    return _named(store, "shadow_models", model_id)


def _named(store: ModelStore, setting: str, model_id: str) -> ModelCard:
    try:
        return store.card(model_id)
    except MisconfiguredError as error:
        raise MisconfiguredError(f"segment.{setting} names {model_id}, but {error}") from error


def settings_to_measure(card: ModelCard) -> tuple[str, ...]:
    """The settings, ``segment.<key>=<id>``, under which a model serves wherever its role can."""
    return tuple(f"segment.{key}={card.id}" for key, roles in ALLOWED_ROLES.items() if card.role in roles)


def choose_setting(kind: StudyKind, has_prior: bool) -> str:
    """The setting whose model is for this pair."""
    if kind is StudyKind.PET_CT:
        return "pet_model"
    return "spect_model_with_prior" if has_prior else "spect_model_without_prior"


def explain_choice(card: ModelCard, setting: str, policy: SegmentPolicy) -> Decision:
    """The sentence for the report that says why this model."""
    named_by_role = getattr(policy, setting) in ROLE_NAMES
    model = str(card.role) if named_by_role else f"{card.id} ({card.role})"
    if setting == "pet_model":
        return Decision("segment", f"{model} serves PET/CT by the site's policy")
    if setting == "spect_model_without_prior":
        return Decision("segment", f"{model} serves SPECT/CT: no prior was used")
    uses_prior = card.role is ModelRole.M4
    why = "the earlier PET lesions fit" if uses_prior else "the site's policy uses no prior"
    return Decision("segment", f"{model} serves SPECT/CT: {why}")
