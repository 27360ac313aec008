"""Whether a card's model may have seen the patients it is measured on: what it says, and what not."""

from __future__ import annotations

import pytest

from app.inference.models.card import ModelCard, read_card
from app.inference.policy import SHIPPED_MODELS
from app.validation.cards import acquaintance, training_centre, warning


def card(command: str, data: str = "48 patients of centre A, PET with CT.") -> ModelCard:
    shipped = read_card(SHIPPED_MODELS / "psma-m1-simulated")
    return shipped.model_copy(update={"id": "m", "training_command": command, "training_data": data})


OURS = "psma-node experiment --cohort COHORT --set name=x --set internal_centre=A --set external_centre=B"


@pytest.mark.parametrize(
    ("command", "centre"),
    [
        (OURS, "A"),
        ("psma-node train --models M1 --patients 80 --centre A --seed 1", "A"),
        ("nnUNetv2_train 501 3d_fullres 0 --centre A", ""),  # not ours: it may mean anything
        ("psma-node experiment --cohort 'COHORT", ""),
        ("psma-node experiment --cohort COHORT", ""),
    ],
)
def test_only_our_own_command_tells_the_centre(command: str, centre: str) -> None:
    assert training_centre(card(command)) == centre


def test_a_model_is_suspect_on_its_own_centre_alone() -> None:
    assert "centre A" in warning(card(OURS), ["A", "B"], simulated=False)
    assert warning(card(OURS), ["B"], simulated=False) == ""
    assert (
        acquaintance([card(OURS)], ["A", "B"], simulated=False) == "may include training patients (centre A)"
    )
    assert acquaintance([card(OURS)], ["B"], simulated=False) == ""


def test_simulated_patients_are_never_real_ones() -> None:
    simulated = card(OURS, "48 simulated patients of centre A, PET with CT.")
    assert warning(simulated, ["A"], simulated=False) == ""
    assert warning(card(OURS), ["A"], simulated=True) == ""
    assert warning(simulated, ["A"], simulated=True)


def test_a_card_that_does_not_say_is_no_proof_of_other_patients() -> None:
    imported = card("unknown", "48 patients of our hospital")
    assert "its card does not say" in warning(imported, ["B"], simulated=False)
    doubt = acquaintance([card(OURS), imported], ["B"], simulated=False)
    assert doubt == "may include training patients (the card of m does not say)"
