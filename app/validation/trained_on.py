"""Whether a model may have been trained on the very patients it is measured on.

A card and a cohort know no patient of each other. What they share is the centre's name: our trainings write
it into the card's command. A centre of the same name may be another one, and the cohort may have other
patients of it, so all that can be said is "may".
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from itertools import pairwise

from app.inference.models.card import ModelCard

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
    """Why numbers on these patients may flatter, in a few words; empty where nothing speaks for it.

    Args:
        cards: of the models that the numbers depend on; of M4 also those that find its prior and replace it.
        centres: of the patients they are measured on.
        simulated: whether the patients are.
    """
    known = {centre for card in cards for centre in _shared(card, centres, simulated)}
    words = [f"centre {', '.join(sorted(known))}"] if known else []
    silent = sorted(card.id for card in cards if not training_centre(card))
    words += [f"the card of {', '.join(silent)} does not say"] if silent else []
    return f"may include training patients ({'; '.join(words)})" if words else ""


def warning(card: ModelCard, centres: Collection[str], simulated: bool) -> str:
    """The same of one model in a sentence, for terminal and report; empty where nothing speaks for it."""
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
