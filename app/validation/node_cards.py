"""What an evaluation of the node's chain says of each serving model: metrics for its card, or why none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain.decision import ModelRole
from app.domain.scores import ScanScore
from app.errors import MisconfiguredError
from app.inference.models.card import Metric, ModelCard
from app.inference.models.choice import settings_to_measure
from app.validation.card_metrics import metrics_of
from app.validation.trained_on import acquaintance


@dataclass(frozen=True)
class CardFindings:
    """Of one model that serves. Without ``metrics``, ``why_none`` says why and how to get some."""

    model_id: str
    metrics: tuple[Metric, ...] = ()
    why_none: str = ""


def check_tellable(serving: Sequence[ModelCard]) -> None:
    """Refuse two serving models of one role: scores know roles only, and would mix them in both cards.

    Raises:
        MisconfiguredError: there are two.
    """
    by_role: dict[ModelRole, str] = {}
    for card in serving:
        other = by_role.setdefault(card.role, card.id)
        if other != card.id:
            raise MisconfiguredError(
                f"{other} and {card.id} both serve as {card.role}, so their numbers could not be told apart; "
                "for --update-cards let one of them serve at a time (--set segment.…)"
            )


def findings_of(
    scores: Sequence[ScanScore], ran: Mapping[str, str], serving: Sequence[ModelCard], simulated: bool
) -> tuple[CardFindings, ...]:
    """The metrics of every model that serves.

    A model is measured where the policy means to run it, on all of these scans: M4 with those in which M2
    took its place. Those are no measure of M2: patients without a prior are a selection.

    Args:
        scores: of every scan.
        ran: id of each model that ran, by role.
        serving: cards of the models that the policy names, of different roles (:func:`check_tellable`).
        simulated: whether the patients were.
    """
    return tuple(_findings(scores, ran, card, (serving, simulated)) for card in serving)


def _findings(
    scores: Sequence[ScanScore],
    ran: Mapping[str, str],
    card: ModelCard,
    among: tuple[Sequence[ModelCard], bool],
) -> CardFindings:
    serving, simulated = among
    own = [score for score in scores if score.key.model is card.role]
    if any(score.key.used is card.role for score in own) and ran.get(card.role.value) == card.id:
        centres = {score.key.centre for score in own}
        others = serving if card.role is ModelRole.M4 else (card,)
        return CardFindings(card.id, metrics_of(own, simulated, acquaintance(others, centres, simulated)))
    return CardFindings(card.id, why_none=_why_none(scores, card))


def _why_none(scores: Sequence[ScanScore], card: ModelCard) -> str:
    instead = sum(score.key.used is card.role for score in scores)
    where = f"it ran only in place of another, in {instead} scan(s)" if instead else "it did not run"
    options = " ".join(f"--set {setting}" for setting in settings_to_measure(card))
    return f"{where}; to measure it wherever it can serve: {options}"
