from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.refusal import Reason, RefusalCode, Rejection
from app.domain.selection.pair import Selection
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.screening import CT_IMAGE, PET_IMAGE
from app.domain.selection.selection import select
from app.domain.selection.tracers import PSMA_11_GA68
from app.domain.stack.geometry import stack_gaps
from app.domain.study import Code, Instance, Patient, Radiopharmaceutical, Series, Study, StudyKind
from app.node.peers import ReceivePolicy
from app.node.receive.completeness import Completeness, arrival_of, assess
from app.node.records.states import Arrival, Rank

POLICY = ReceivePolicy(settle_s=60, give_up_s=3600)
LAST = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Found:
    """Stands for the selection's result."""

    selections: tuple[Selection, ...] = ()
    rejection: Rejection | None = None


def series(
    modality: str, slices: range | list[int], expected: int | None = None, step_mm: float = 3.0
) -> Series:
    instances = tuple(
        Instance(
            sop_instance_uid=f"1.{number}",
            sop_class_uid="1.2",
            path=Path("x"),
            image_position_mm=(0.0, 0.0, step_mm * number),
            image_orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        )
        for number in slices
    )
    return Series(f"1.{modality}", modality, instances, expected_instance_count=expected)


def study(*of: Series) -> Study:
    return Study("1", Patient("x"), of)


def paired(pet: Series, ct: Series) -> Found:
    return Found((Selection(study(pet, ct), StudyKind.PET_CT, pet, ct, PSMA_11_GA68),))


def refused(*codes: RefusalCode) -> Found:
    return Found(rejection=Rejection(tuple(Reason(code, "", "a", "b") for code in codes)))


def after(quiet_s: float, whole: Study, found: Found) -> Completeness:
    return assess(whole, found, quiet_s, POLICY)


PET, CT = series("PT", range(10)), series("CT", range(20))


def test_a_pair_is_complete_once_it_has_been_quiet() -> None:
    waiting = after(12.4, study(PET, CT), paired(PET, CT))
    assert waiting == Completeness(complete=False, waits_for="quiet for 12 of 60 s")
    assert after(60, study(PET, CT), paired(PET, CT)) == Completeness(complete=True)


def test_a_pair_whose_headers_announce_all_that_is_there_does_not_wait() -> None:
    pet, ct = replace(PET, expected_instance_count=10), replace(CT, expected_instance_count=20)
    assert after(0, study(pet, ct), paired(pet, ct)).complete


def test_one_series_that_announces_nothing_makes_the_study_wait_for_quiet() -> None:
    pet = replace(PET, expected_instance_count=10)
    assert not after(0, study(pet, CT), paired(pet, CT)).complete


def test_images_that_were_announced_are_waited_for_beyond_quiet() -> None:
    ct = replace(CT, expected_instance_count=32)
    waiting = after(300, study(PET, ct), paired(PET, ct))
    assert waiting == Completeness(complete=False, waits_for="12 of 32 images are missing in the CT series")


def test_a_pet_that_the_site_takes_with_fewer_slices_than_announced_only_waits_for_quiet() -> None:
    pet = replace(PET, expected_instance_count=22)
    assert not after(30, study(pet, CT), paired(pet, CT)).complete
    assert after(60, study(pet, CT), paired(pet, CT)).complete


@pytest.mark.parametrize(
    ("whole", "codes", "expected"),
    [
        (study(PET), (RefusalCode.NO_CT,), "a CT in the frame of reference of the PET"),
        (study(series("NM", [0])), (RefusalCode.NO_CT,), "a CT in the frame of reference of the SPECT"),
        (study(CT), (RefusalCode.NO_FUNCTIONAL_SERIES,), "a PET or SPECT that belongs to the CT"),
        (study(series("SR", [])), (RefusalCode.NO_FUNCTIONAL_SERIES,), "a PET or SPECT with its CT"),
        (study(PET, CT), (RefusalCode.NOT_ATTENUATION_CORRECTED,), "a PET series that can be segmented"),
        (study(PET, CT), (RefusalCode.CT_DOES_NOT_COVER,), "a CT that covers the PET"),
        (
            study(PET, CT),
            (RefusalCode.CT_OTHER_FRAME_OF_REFERENCE,),
            "a CT in the frame of reference of the PET",
        ),
        (
            study(PET, series("CT", [*range(5), *range(17, 20)])),
            (RefusalCode.SLICE_GAP,),
            "12 slices missing in the CT series, z=12.0 to 51.0 mm",
        ),
    ],
)
def test_an_incomplete_study_says_what_it_waits_for(
    whole: Study, codes: tuple[RefusalCode, ...], expected: str
) -> None:
    assert after(300, whole, refused(*codes)) == Completeness(complete=False, waits_for=expected)


def test_an_unpaired_study_is_processed_in_the_end_so_that_it_gets_its_reasons() -> None:
    found = refused(RefusalCode.NO_CT)
    assert not after(3599, study(PET), found).complete
    assert after(3600, study(PET), found) == Completeness(complete=True, given_up=True)


def test_another_tracer_does_not_wait_for_a_ct_that_would_not_help() -> None:
    found = refused(RefusalCode.TRACER_NOT_ALLOWED, RefusalCode.NO_CT)
    assert not after(30, study(PET), found).complete
    assert after(60, study(PET), found) == Completeness(complete=True)


def test_a_refusal_that_no_further_image_can_undo_only_waits_for_quiet() -> None:
    found = refused(RefusalCode.UNITS_UNSUPPORTED)
    assert not after(30, study(PET, CT), found).complete
    assert after(60, study(PET, CT), found) == Completeness(complete=True)


def test_slightly_uneven_slices_are_no_gap() -> None:
    uneven = [0.0]
    for number in range(40):
        uneven.append(uneven[-1] + (3.19 if number % 3 else 3.29))
    instances = tuple(replace(CT.instances[0], image_position_mm=(0.0, 0.0, position)) for position in uneven)
    assert stack_gaps(replace(CT, instances=instances)) == ()


GALLIUM_PSMA = Radiopharmaceutical(
    drug_code=PSMA_11_GA68.code, radionuclide_code=Code("C-131A3", "SRT"), half_life_s=4062.6
)


def real(of: Series) -> Series:
    """A series with all that the selection asks for."""
    pet = of.modality == "PT"
    instances = tuple(
        replace(
            one,
            rows=64,
            columns=64,
            pixel_spacing_mm=(5.0, 5.0),
            sop_class_uid=PET_IMAGE if pet else CT_IMAGE,
        )
        for one in of.instances
    )
    return replace(
        of,
        instances=instances,
        sop_class_uid=PET_IMAGE if pet else CT_IMAGE,
        frame_of_reference_uid="1.9",
        image_type=("ORIGINAL", "PRIMARY"),
        corrected_image=("ATTN", "DECY"),
        radiopharmaceutical=GALLIUM_PSMA if pet else None,
    )


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        ([series("PT", range(20))], "a CT in the frame of reference of the PET"),
        ([series("CT", range(20))], "a PET or SPECT that belongs to the CT"),
        ([series("PT", range(20)), series("CT", range(8))], "a CT that covers the PET"),
        (
            [series("PT", [*range(8), *range(12, 20)]), series("CT", range(20))],
            "4 slices missing in the PT series",
        ),
        (
            [series("PT", range(255), expected=267), series("CT", range(267))],
            "12 of 267 images are missing in the PT series",
        ),
        ([series("PT", range(20)), series("CT", range(20))], "quiet for 0 of 60 s"),
    ],
)
def test_the_selection_of_a_half_arrived_study_is_understood(here: list[Series], expected: str) -> None:
    whole = study(*map(real, here))
    found = select(whole, SelectionPolicy())
    assert assess(whole, found, 0.0, POLICY).waits_for.startswith(expected)
    assert bool(found.selections) == expected.startswith("quiet")


@given(st.integers(4, 30), st.data())
def test_gaps_are_counted_whatever_the_order_of_arrival(count: int, data: st.DataObject) -> None:
    # of three neighbours at most one is missing, so that the usual step stays the true one
    gone = {number for number in data.draw(st.sets(st.integers(1, count - 2))) if number % 3 == 0}
    here = [number for number in range(count) if number not in gone]
    here = data.draw(st.permutations(here))
    gaps = stack_gaps(series("CT", here, step_mm=data.draw(st.sampled_from([0.6, 3.0, -2.5]))))
    if len(here) >= 3:
        assert sum(gap.count for gap in gaps) == len(gone)


def arrived(kind: StudyKind, sender: str = "SCANNER", days_ago: float = 0, priority: str = "") -> Rank:
    """The rank of a study of that kind."""
    local = LAST.astimezone().replace(tzinfo=None) - timedelta(days=days_ago)
    image = replace(PET, acquired_at=local)
    whole = replace(study(image, CT), priority=priority)
    found = Found((Selection(whole, kind, image, CT, PSMA_11_GA68),))
    policy = replace(POLICY, urgent_callers=("STROKE",))
    arrival = arrival_of(whole, found, sender, LAST, policy)  # type: ignore[arg-type]
    assert (arrival.sender, arrival.by_headers) == (sender, False)
    return arrival.rank


def test_what_is_urgent_goes_before_therapy_then_routine_then_what_was_sent_again() -> None:
    assert arrived(StudyKind.PET_CT) is Rank.ROUTINE
    assert arrived(StudyKind.SPECT_CT) is Rank.THERAPY
    assert arrived(StudyKind.SPECT_CT, days_ago=6) is Rank.THERAPY
    assert {arrived(kind, days_ago=8) for kind in StudyKind} == {Rank.REPLAY}
    assert arrived(StudyKind.PET_CT, "STROKE", days_ago=8) is Rank.URGENT
    assert [arrived(StudyKind.PET_CT, priority=word) for word in ("STAT", "HIGH", "ROUTINE")] == [
        Rank.URGENT,
        Rank.URGENT,
        Rank.ROUTINE,
    ]


def test_what_headers_refuse_or_do_not_tell_needs_no_worker() -> None:
    refused_one: Any = refused(RefusalCode.TRACER_NOT_ALLOWED)
    expected = Arrival("A", Rank.ROUTINE, by_headers=True)
    assert arrival_of(study(PET), refused_one, "A", LAST, POLICY) == expected
    assert arrival_of(None, None, "A", LAST, POLICY) == expected


def test_a_study_that_lacks_images_is_not_looked_at_before_it_is_given_up() -> None:
    waiting = after(12, study(PET), refused(RefusalCode.NO_CT))
    assert waiting.rests_s == POLICY.give_up_s
    assert after(12, study(PET, CT), paired(PET, CT)).rests_s == 0
