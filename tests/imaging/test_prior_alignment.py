"""Which earlier PET result becomes the prior, what refuses it, and what is said then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache

import numpy as np
import pytest

from app.domain.analysis import Aligned, Loaded
from app.domain.findings.comparability import ScanFacts
from app.domain.quantities.suv_scale import Quantification
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.pair import Selection
from app.domain.selection.tracers import PSMA_617_LU177
from app.domain.study import Patient, Series, Study, StudyKind
from app.domain.volume import FloatArray, Grid, LabelMap, Unit, Volume
from app.errors import RetryLaterError, UnusableStudyError
from app.imaging.earlier_results import EarlierResult
from app.imaging.registration import prior_alignment
from app.imaging.registration.policy import AlignPolicy
from app.imaging.registration.prior_alignment import PriorAligner
from app.imaging.registration.registration import RigidRegistration, measure_fit, register_rigid
from app.imaging.registration.working_ct import working_ct
from tests.imaging.bodies import Person, Pose, mirrored, trunk_grid

SCANNED = datetime(2026, 5, 20, 10, 0)
POSE = Pose((8, 5, -20), (2, 2, 3), breath_mm=8, bend_mm=3)
VIEW = trunk_grid(180.0, 600.0)


@cache
def earlier_ct(number: int) -> Volume:
    return Person(number).ct(VIEW)


@cache
def later_ct(number: int) -> Volume:
    return Person(number).ct(VIEW, POSE)


@pytest.fixture(scope="module")
def registrations() -> dict[tuple[int, int], RigidRegistration | None]:
    return {}


@pytest.fixture(autouse=True)
def register_once(
    monkeypatch: pytest.MonkeyPatch, registrations: dict[tuple[int, int], RigidRegistration | None]
) -> None:
    """The tests share CTs (cached above), so they share the registrations too."""

    def remembered(fixed: Volume, moving: Volume) -> RigidRegistration | None:
        key = (id(fixed), id(moving))
        if key not in registrations:
            registrations[key] = register_rigid(fixed, moving)
        return registrations[key]

    monkeypatch.setattr(prior_alignment, "register_rigid", remembered)


def spect_study(number: int = 1, ct: Volume | None = None, kind: StudyKind = StudyKind.SPECT_CT) -> Loaded:
    grid = trunk_grid(spacing_mm=5.0)
    functional = Series("1.2.1", "NM", (), series_datetime=SCANNED)
    study = Study("1.2", Patient("P"), (functional,), SCANNED)
    return Loaded(
        selection=Selection(study, kind, functional, Series("1.2.2", "CT", ()), PSMA_617_LU177),
        uptake=Person(number).suv(grid, POSE, fwhm_mm=15.0),
        activity=None,
        ct=ct or later_ct(number),
        quantification=Quantification("RWVM"),
        slice_sop_instance_uids=("1.2.1.1",) * grid.shape[0],
        slice_frame_numbers=tuple(range(1, grid.shape[0] + 1)),
    )


def facts_of(grid: Grid) -> ScanFacts:
    """A PET of the SPECT's patient on ``grid``."""
    scan = StudyKind.PET_CT, "68Ga-PSMA-11"
    return ScanFacts.of(Patient("P"), scan, Series("1.3.1", "PT", ()), 3600.0, grid)


def pet_result(number: int = 1, days_before: float = 30.0, **changes: object) -> EarlierResult:
    person, grid = Person(number), trunk_grid(spacing_mm=4.0)
    candidate = EarlierResult(
        study_instance_uid="1.3",
        series_instance_uid="1.3.1",
        acquired_at=SCANNED - timedelta(days=days_before),
        kind=StudyKind.PET_CT,
        lesion_count=len(person.lesions),
        labels=lambda: person.lesion_labels(grid),
        ct=lambda: earlier_ct(number),
        suv=lambda: person.suv(grid),
        segmentation_sop_instance_uid="1.3.9",
        report=None,
        may_be_prior=True,
        facts=lambda: facts_of(grid),
    )
    return replace(candidate, **changes)  # type: ignore[arg-type]


class Store:
    """A source that remembers what it was asked."""

    def __init__(self, candidates: Sequence[EarlierResult]) -> None:
        self.candidates = candidates
        self.asked: list[tuple[Patient, datetime]] = []

    def for_patient(self, patient: Patient, before: datetime) -> Sequence[EarlierResult]:
        self.asked.append((patient, before))
        return self.candidates


def align_prior(loaded: Loaded, candidates: Sequence[EarlierResult], policy: AlignPolicy) -> Aligned:
    return PriorAligner(policy, Store(candidates)).align(loaded)


def shifted(grid: Grid, by_mm: Sequence[float]) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] += by_mm
    return Grid(grid.shape, affine)


def codes(aligned: Aligned) -> set[RefusalCode]:
    return {reason.code for reason in aligned.no_prior}


def limits(aligned: Aligned) -> set[str]:
    return {reason.attribute for reason in aligned.no_prior}


def never() -> Volume:
    raise AssertionError("pixels were read that nobody needed")


# --- the right prior ---


def test_the_patients_own_lesions_come_to_lie_on_the_spects_grid() -> None:
    loaded = spect_study()
    aligned = align_prior(loaded, [pet_result()], AlignPolicy())
    assert aligned.prior is not None, aligned.no_prior
    prior = aligned.prior
    assert prior.mask.grid.matches(loaded.uptake.grid)
    truth = Person(1).lesion_labels(loaded.uptake.grid, POSE)
    for number in range(1, truth.count + 1):
        there, here = (np.argwhere(labels.array == number).mean(axis=0) for labels in (truth, prior.mask))
        assert np.linalg.norm(there - here) * 5.0 < 8.0
    assert (prior.study_instance_uid, prior.segmentation_sop_instance_uid) == ("1.3", "1.3.9")
    assert prior.fit.lesions_on_pet == pytest.approx(1.0, abs=0.05)
    assert "8 of 8 lesions of the PET of 2026-04-20" in aligned.decisions[0].line


def test_a_short_field_of_view_takes_the_lesions_that_it_sees() -> None:
    pelvis = Person(1).ct(trunk_grid(180.0, 400.0), POSE)
    loaded = spect_study(ct=pelvis)
    grid = trunk_grid(220.0, 390.0, 5.0)
    loaded = replace(loaded, uptake=Person(1).suv(grid, POSE, fwhm_mm=15.0))
    aligned = align_prior(loaded, [pet_result()], AlignPolicy())
    assert aligned.prior is not None, aligned.no_prior
    assert 0 < aligned.prior.mask.count < 8


# --- misplaced priors: each would make M4 far worse than M2 ---


@pytest.mark.parametrize("by_mm", [(0, 0, 40), (0, 0, -40), (40, 0, 0), (0, -40, 0)])
def test_lesions_shifted_by_40_mm_on_their_pet_are_refused(by_mm: tuple[float, float, float]) -> None:
    labels = Person(1).lesion_labels(trunk_grid(spacing_mm=4.0))
    wrong = pet_result(labels=lambda: LabelMap(labels.array, shifted(labels.grid, by_mm)))
    aligned = align_prior(spect_study(), [wrong], AlignPolicy())
    assert aligned.prior is None
    assert "align.min_lesions_on_pet" in limits(aligned)


@pytest.mark.parametrize("by_mm", [(0, 0, 40), (40, 0, 0)])
def test_a_pet_that_lies_40_mm_beside_its_ct_is_refused(by_mm: tuple[float, float, float]) -> None:
    suv = Person(1).suv(trunk_grid(spacing_mm=4.0))
    labels = Person(1).lesion_labels(suv.grid)
    wrong = pet_result(
        labels=lambda: LabelMap(labels.array, shifted(labels.grid, by_mm)),
        suv=lambda: Volume(suv.array, shifted(suv.grid, by_mm), Unit.SUVBW),
    )
    aligned = align_prior(spect_study(), [wrong], AlignPolicy())
    assert aligned.prior is None
    assert "align.max_uptake_shift_mm" in limits(aligned)


@pytest.mark.parametrize("off_mm", [31.0, -40.0])
def test_a_registration_caught_one_vertebra_off_is_refused(
    monkeypatch: pytest.MonkeyPatch, off_mm: float
) -> None:
    def caught(fixed: Volume, moving: Volume) -> RigidRegistration:
        motion: FloatArray = np.linalg.inv(POSE.motion())
        motion[2, 3] += off_mm
        return RigidRegistration(motion, measure_fit(working_ct(fixed), working_ct(moving), motion, 0.7))

    monkeypatch.setattr(prior_alignment, "register_rigid", caught)
    short = spect_study(ct=Person(1).ct(trunk_grid(400.0, 560.0), POSE))
    aligned = align_prior(short, [pet_result()], AlignPolicy())
    assert aligned.prior is None
    assert codes(aligned) == {RefusalCode.PRIOR_MISFIT}


def test_another_patients_pet_is_refused() -> None:
    aligned = align_prior(spect_study(), [pet_result(2)], AlignPolicy())
    assert aligned.prior is None
    assert codes(aligned) == {RefusalCode.PRIOR_MISFIT}


def test_a_mirrored_pet_is_refused() -> None:
    aligned = align_prior(spect_study(), [pet_result(ct=lambda: mirrored(earlier_ct(1)))], AlignPolicy())
    assert aligned.prior is None
    assert "align.min_side_correlation" in limits(aligned)


def test_a_blank_ct_is_refused() -> None:
    blank = Volume(np.full(VIEW.shape, -1000.0), VIEW, Unit.HU)
    for loaded, candidate in (
        (spect_study(ct=blank), pet_result()),
        (spect_study(), pet_result(ct=lambda: blank)),
    ):
        aligned = align_prior(loaded, [candidate], AlignPolicy())
        assert aligned.prior is None
        assert codes(aligned) == {RefusalCode.PRIOR_MISFIT}


def test_a_refusal_says_what_was_found_and_what_was_expected() -> None:
    aligned = align_prior(spect_study(), [pet_result()], AlignPolicy(min_bone_dice=0.999))
    (reason,) = aligned.no_prior
    assert reason.attribute == "align.min_bone_dice"
    assert reason.expected == "at least 0.999"
    assert str(reason) in aligned.decisions[0].line


# --- which result ---


def test_without_an_earlier_pet_the_reason_says_so() -> None:
    aligned = align_prior(spect_study(), [], AlignPolicy())
    assert codes(aligned) == {RefusalCode.NO_PRIOR}


def test_a_pet_made_after_the_spect_is_no_prior() -> None:
    aligned = align_prior(spect_study(), [pet_result(days_before=-1.0, ct=never)], AlignPolicy())
    assert codes(aligned) == {RefusalCode.NO_PRIOR}


def test_a_result_that_may_be_no_prior_or_is_no_pet_is_none() -> None:
    for changes in ({"may_be_prior": False}, {"kind": StudyKind.SPECT_CT}):
        aligned = align_prior(spect_study(), [pet_result(ct=never, **changes)], AlignPolicy())
        assert codes(aligned) == {RefusalCode.NO_PRIOR}


def test_a_pet_older_than_the_sites_limit_is_refused_without_reading_it() -> None:
    candidate = pet_result(days_before=91.0, ct=never, suv=never)
    aligned = align_prior(spect_study(), [candidate], AlignPolicy(max_prior_age_days=90.0))
    assert codes(aligned) == {RefusalCode.PRIOR_TOO_OLD}
    assert aligned.no_prior[0].found.startswith("91 days")


def test_the_latest_of_several_results_is_taken_in_any_order() -> None:
    older, latest = pet_result(days_before=80.0, ct=never), pet_result(days_before=20.0)
    for candidates in ([older, latest], [latest, older]):
        aligned = align_prior(spect_study(), candidates, AlignPolicy())
        assert aligned.prior is not None
        assert aligned.prior.acquired_at == latest.acquired_at


def test_a_pet_without_lesions_gives_no_prior_and_older_ones_are_not_dug_out() -> None:
    healed = pet_result(days_before=10.0, lesion_count=0, ct=never)
    aligned = align_prior(spect_study(), [pet_result(days_before=60.0, ct=never), healed], AlignPolicy())
    assert aligned.prior is None
    assert codes(aligned) == {RefusalCode.PRIOR_EMPTY}


def test_a_pelvis_that_is_the_latest_pet_does_not_hide_the_whole_body() -> None:
    short = facts_of(trunk_grid(0.0, 200.0, spacing_mm=4.0))
    pelvis = pet_result(days_before=30.0, facts=lambda: short, ct=never, series_instance_uid="1.3.2")
    aligned = align_prior(spect_study(), [pelvis, pet_result(days_before=30.1)], AlignPolicy())
    assert aligned.prior is not None, aligned.no_prior
    assert aligned.prior.series_instance_uid == "1.3.1"


def test_an_older_pet_is_used_where_the_latest_does_not_fit_and_a_decision_says_so() -> None:
    another = pet_result(2, days_before=10.0, series_instance_uid="1.3.2")
    aligned = align_prior(spect_study(), [another, pet_result(days_before=30.0)], AlignPolicy())
    assert aligned.prior is not None, aligned.no_prior
    assert aligned.prior.series_instance_uid == "1.3.1"
    used, passed_over = aligned.decisions
    assert "the PET of 2026-04-20" in used.text
    tried = "PET/CT of 2026-05-10 (series 1.3.2) was tried before it and is no prior"
    assert passed_over.text.startswith(tried)
    assert "align." in passed_over.text


def test_every_pet_that_was_tried_is_named_with_its_reason() -> None:
    def gone() -> Volume:
        raise UnusableStudyError(Reason(RefusalCode.SLICE_GAP, "", "a gap", "none"))

    another = pet_result(2, days_before=10.0, series_instance_uid="1.3.2")
    aligned = align_prior(spect_study(), [another, pet_result(days_before=30.0, ct=gone)], AlignPolicy())
    assert codes(aligned) == {RefusalCode.PRIOR_MISFIT, RefusalCode.PRIOR_UNREADABLE}
    named = {(reason.series_instance_uid, reason.found.split(":")[0]) for reason in aligned.no_prior}
    assert named == {("1.3.2", "PET of 2026-05-10"), ("1.3.1", "PET of 2026-04-20")}


def test_an_empty_scan_of_the_same_day_does_not_hide_the_lesions_of_the_whole_body() -> None:
    short = facts_of(trunk_grid(0.0, 200.0, spacing_mm=4.0))
    pelvis = pet_result(days_before=30.0, facts=lambda: short, lesion_count=0, ct=never)
    late = pet_result(days_before=30.0, lesion_count=0, ct=never)
    for empty in (pelvis, late):
        aligned = align_prior(spect_study(), [empty, pet_result(days_before=30.1)], AlignPolicy())
        assert aligned.prior is not None, aligned.no_prior


@pytest.mark.parametrize("identifier", ["", "ANON", "00000"])
def test_a_spect_of_nobody_known_has_no_prior(identifier: str) -> None:
    loaded = spect_study()
    study = replace(loaded.selection.study, patient=Patient(identifier))
    loaded = replace(loaded, selection=replace(loaded.selection, study=study))
    aligned = align_prior(loaded, [pet_result(ct=never)], AlignPolicy())
    assert codes(aligned) == {RefusalCode.NO_PRIOR}
    assert limits(aligned) == {"PatientID"}


def test_a_pet_of_another_birth_date_under_the_same_identifier_is_no_prior() -> None:
    def other() -> ScanFacts:
        return replace(facts_of(VIEW), patient=Patient("P", "", "", "19500101"))

    loaded = spect_study()
    study = replace(loaded.selection.study, patient=Patient("P", "", "", "19610203"))
    loaded = replace(loaded, selection=replace(loaded.selection, study=study))
    aligned = align_prior(loaded, [pet_result(ct=never, facts=other)], AlignPolicy())
    assert limits(aligned) == {"PatientBirthDate"}


def test_lesions_outside_the_spects_field_of_view_give_no_prior() -> None:
    labels = Person(1).lesion_labels(trunk_grid(spacing_mm=4.0))
    aside = pet_result(labels=lambda: LabelMap(labels.array, shifted(labels.grid, (900.0, 0.0, 0.0))))
    aligned = align_prior(spect_study(), [aside], AlignPolicy())
    assert codes(aligned) == {RefusalCode.PRIOR_EMPTY}


def test_a_result_that_cannot_be_read_any_more_gives_no_prior() -> None:
    def gone() -> Volume:
        raise UnusableStudyError(Reason(RefusalCode.SLICE_GAP, "", "a gap", "none"))

    aligned = align_prior(spect_study(), [pet_result(ct=gone)], AlignPolicy())
    assert codes(aligned) == {RefusalCode.PRIOR_UNREADABLE}


def test_a_store_that_is_away_for_now_is_not_mistaken_for_a_missing_prior() -> None:
    def away() -> Volume:
        raise RetryLaterError("the disk is not mounted")

    with pytest.raises(RetryLaterError):
        align_prior(spect_study(), [pet_result(ct=away)], AlignPolicy())


# --- the stage ---


def test_the_store_is_asked_for_this_patient_before_this_spect() -> None:
    store = Store([])
    aligned = PriorAligner(AlignPolicy(), store).align(spect_study())
    assert store.asked == [(Patient("P"), SCANNED)]
    assert codes(aligned) == {RefusalCode.NO_PRIOR}


def test_a_pet_passes_through_without_a_prior_or_a_reason() -> None:
    store = Store([pet_result()])
    aligned = PriorAligner(AlignPolicy(), store).align(spect_study(kind=StudyKind.PET_CT))
    assert (aligned.prior, aligned.no_prior, store.asked) == (None, (), [])


def test_a_spect_without_a_date_has_no_earlier_pet() -> None:
    loaded = spect_study()
    selection = loaded.selection
    undated = replace(
        selection,
        functional=replace(selection.functional, series_datetime=None),
        study=replace(selection.study, study_datetime=None),
    )
    aligned = PriorAligner(AlignPolicy(), Store([])).align(replace(loaded, selection=undated))
    assert codes(aligned) == {RefusalCode.NO_PRIOR}
    assert aligned.no_prior[0].attribute == "SeriesDate"
