"""Bed positions as series of their own: each says which part it is and what it shares with the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.selection.pair import Selection
from app.domain.study import Series
from tests.domain.test_selection import ct, pet, selected, slices, spect

WHOLE_CT = ct(instances=slices("1.2", 120))


def bed(uid: str, start_mm: float, **changes: object) -> Series:
    """40 frames of 5 mm from there up."""
    series = spect(uid, **changes)
    frames = replace(series.instances[0], image_position_mm=(-100.0, -100.0, start_mm))
    return replace(series, instances=(frames,))


def warned(selection: Selection) -> list[str]:
    lines = (decision.line for decision in selection.told)
    return [line for line in lines if line.startswith("warning: part ")]


@pytest.mark.parametrize(
    ("start_mm", "shared"),
    [
        (190.0, "10 mm of it in both: a lesion there may be reported twice"),
        (200.0, "next to this one: a lesion at the seam may be in both"),
        (204.0, "next to this one: a lesion at the seam may be in both"),
        (300.0, "z 298 to 498 mm"),
    ],
)
def test_two_bed_positions_are_told_as_parts(start_mm: float, shared: str) -> None:
    legs, head = bed("1.3", 0.0), bed("1.4", start_mm)
    by_uid = {
        item.functional.series_instance_uid: warned(item)
        for item in selected(head, WHOLE_CT, legs).selections
    }
    [of_head], [of_legs] = by_uid["1.4"], by_uid["1.3"]
    assert of_head.startswith("warning: part 1 of 2 of one examination")
    assert of_legs.startswith("warning: part 2 of 2 of one examination")
    assert "z -2 to 198 mm; every total is of this part alone" in of_legs
    assert of_legs.endswith(shared)
    assert "series 1.3, z -2 to 198 mm" in of_head


def test_one_image_or_another_kind_of_study_or_session_is_no_part() -> None:
    alone = selected(spect(), WHOLE_CT).selections
    pet_too = selected(spect(), pet(), WHOLE_CT).selections
    other = bed("1.4", 200.0, frame_of_reference_uid="1.8")
    second_ct = ct("1.6", frame_of_reference_uid="1.8", instances=slices("1.6", 120))
    sessions = selected(spect(), other, WHOLE_CT, second_ct)
    for selection in (*alone, *pet_too, *sessions.selections):
        assert warned(selection) == []
    assert (len(alone), len(pet_too), len(sessions.selections)) == (1, 2, 2)
