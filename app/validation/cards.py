"""Scores as the metrics of a model's card, and whether the model may have been trained on the same patients.

A card and a cohort name no patient. They share the name of the centre, which our trainings write into the
card's command. Another centre may have that name, and the cohort may hold other patients of the centre, so
the answer is never more than "may".
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.domain.decision import ModelRole
from app.domain.measures import MEASURES, Measure
from app.domain.scores import ScanScore
from app.errors import MisconfiguredError
from app.inference.models.card import Metric, ModelCard
from app.inference.models.store import settings_to_measure
from app.validation.groups import VALIDATION_NAMES, Group, described, groups_of

OUR_COMMAND = "psma-node "
CENTRE_SETTING = "internal_centre="
CENTRE_OPTION = "--centre"
SIMULATED = "simulated patients"


def training_centre(card: ModelCard) -> str:
    """The centre whose patients it was trained on, from its command; empty when that does not say."""
    if not card.training_command.startswith(OUR_COMMAND):
        return ""
    try:
        words = shlex.split(card.training_command)
    except ValueError:  # a quotation that does not end: edited by hand
        return ""
    settings = [word.removeprefix(CENTRE_SETTING) for word in words if word.startswith(CENTRE_SETTING)]
    options = [after for word, after in pairwise(words) if word == CENTRE_OPTION]
    return next(iter([*settings, *options]), "")


def acquaintance(cards: Sequence[ModelCard], centres: Collection[str], simulated: bool) -> str:
    """Why numbers on these patients may be too good, in a few words; empty when nothing suggests it.

    Args:
        cards: of the models that the numbers depend on; for M4 also those that find its prior and replace it.
        centres: of the patients they are measured on.
        simulated: whether the patients are.
    """
    known = {centre for card in cards for centre in _shared(card, centres, simulated)}
    words = [f"centre {', '.join(sorted(known))}"] if known else []
    silent = sorted(card.id for card in cards if not training_centre(card))
    words += [f"the card of {', '.join(silent)} does not say"] if silent else []
    return f"may include training patients ({'; '.join(words)})" if words else ""


def warning(card: ModelCard, centres: Collection[str], simulated: bool) -> str:
    """The same for one model as a sentence, for terminal and report; empty when nothing suggests it."""
    if not training_centre(card):
        return (
            f"Whether {card.id} ({card.role}) was trained on some of these patients its card does not say: "
            "numbers on training patients flatter."
        )
    shared = _shared(card, centres, simulated)
    if not shared:
        return ""
    return (
        f"{card.id} ({card.role}) was trained on patients of centre {shared[0]}, perhaps on these: its "
        "numbers on them are no validation unless they are other patients."
    )


def _shared(card: ModelCard, centres: Collection[str], simulated: bool) -> tuple[str, ...]:
    centre = training_centre(card)
    same_world = (SIMULATED in card.training_data) == simulated
    return (centre,) if centre in centres and same_world else ()


def metrics_of(scores: Sequence[ScanScore], simulated: bool, caveat: str = "") -> tuple[Metric, ...]:
    """Mean and standard deviation over patients of every measure, modality and validation.

    Args:
        scores: of one model. Of M4, all patients (M2 where no prior fitted) and those with a prior apart.
        simulated: whether the patients were; the card says so.
        caveat: why these patients are a weak test of the model; the card repeats it with every number.
    """
    patients = "simulated patients" if simulated else "patients"
    return tuple(
        _metric(scores, group, measure, patients, caveat)
        for group in groups_of(scores)
        for measure in MEASURES
    )


def _metric(
    scores: Sequence[ScanScore], group: Group, measure: Measure, patients: str, caveat: str
) -> Metric:
    found, own = described(scores, group, measure), group.of(scores)
    centres = ", ".join(sorted({score.key.centre for score in own}))
    cohort = f"{VALIDATION_NAMES[group.validation].lower()}, {patients} of centre {centres}"
    undefined = f"not defined for {found.undefined} of them ({measure.undefined})" if found.undefined else ""
    return Metric(
        name=measure.title,
        modality=f"{group.kind.value}, prior fitted" if group.fitted_only else group.kind.value,
        cohort=f"{cohort}; {caveat}" if caveat else cohort,
        patients=found.patients,
        n=found.n,
        mean=None if found.mean is None else round(found.mean, 4),
        sd=None if found.sd is None else round(found.sd, 4),
        note="; ".join(filter(None, (_others(own, group), undefined))),
    )


def _others(own: Sequence[ScanScore], group: Group) -> str:
    """In how many patients another model ran in place of M4."""
    others = [score.key.used.value for score in own if score.key.used is not group.model]
    return f"{', '.join(sorted(set(others)))} ran in {len(others)} of them" if others else ""


@dataclass(frozen=True)
class CardFindings:
    """The metrics of a serving model; without any, ``why_none`` says why and how to get some."""

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
    """The metrics of every serving model.

    A model is measured on all scans that the policy gives it, M4 also on those in which M2 took its place.
    These do not measure M2: patients without a prior are a selection.

    Args:
        ran: id of each model that ran, by role.
        serving: cards of the models that the policy names, of different roles (:func:`check_tellable`).
    """
    found = []
    for card in serving:
        own = [score for score in scores if score.key.model is card.role]
        if any(score.key.used is card.role for score in own) and ran.get(card.role.value) == card.id:
            others = serving if card.role is ModelRole.M4 else (card,)
            caveat = acquaintance(others, {score.key.centre for score in own}, simulated)
            found.append(CardFindings(card.id, metrics_of(own, simulated, caveat)))
        else:
            found.append(CardFindings(card.id, why_none=_why_none(scores, card)))
    return tuple(found)


def _why_none(scores: Sequence[ScanScore], card: ModelCard) -> str:
    instead = sum(score.key.used is card.role for score in scores)
    where = f"it ran only in place of another, in {instead} scan(s)" if instead else "it did not run"
    options = " ".join(f"--set {setting}" for setting in settings_to_measure(card))
    return f"{where}; to measure it wherever it can serve: {options}"
