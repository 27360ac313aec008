"""Which installed model serves which images, by the site's policy: a role or an id, never a guess."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.decision import Decision, ModelRole
from app.domain.study import StudyKind
from app.errors import MisconfiguredError
from app.inference.models.card import ModelCard
from app.inference.models.store import ModelStore
from app.inference.policy import ALLOWED_ROLES, ROLE_NAMES, SegmentPolicy


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
    try:
        card = store.card(name)
    except MisconfiguredError as error:
        raise MisconfiguredError(f"segment.{setting} names {name}, but {error}") from error
    allowed = ALLOWED_ROLES[setting]
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
    try:
        return store.card(model_id)
    except MisconfiguredError as error:
        raise MisconfiguredError(f"segment.shadow_models names {model_id}, but {error}") from error


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
