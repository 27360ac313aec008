"""Where earlier results come from: the node's own store, and the run in folder mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from app.chain.folder import RunResults
from app.dicom.reading.policy import LoadPolicy
from app.dicom.results.policy import WritePolicy
from app.dicom.results.writer import ResultFolder, write_results
from app.domain.analysis import Quantified
from app.domain.outcome import PairOutcome, Status, StudyOutcome
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Patient, StudyKind
from app.errors import UnusableStudyError
from app.files.outcome import write_outcome
from app.imaging.earlier_results import EarlierResult, prior_candidates
from app.node.policy import NodePolicy
from app.node.process.earlier_studies import NodeEarlierResults
from app.node.records.results import SeriesSubject
from app.node.records.runs import RunTransition
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from tests.defects.studies import Images, pet_ct
from tests.dicom.results import sources
from tests.imaging.test_joined_parts import HEAD, LEGS, joined_in, quantified_of, write_two_beds
from tests.node.receive.images import received

DAY = datetime(2026, 3, 1, 8)
ANNA = Patient("ID-ANNA", "clinic")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairOutcome:
    folder = tmp_path_factory.mktemp("pet")
    written = write_results(sources.pet(folder / "source"), WritePolicy(), sources.PROVENANCE)
    results = ResultFolder(folder / "out")
    results.deliver("1.2.3", [written], ())
    return results.outcome.pairs[0]


def processed(
    stores: NodeStores,
    study: str,
    outcome: StudyOutcome | None,
    state: StudyState | None = None,
    digest: str = "a",
) -> RunKey:
    """A revision that has ended."""
    run, _ = stores.runs.open(study, digest * 64)
    stores.runs.claim(run.key, run.attempt, "x")
    if outcome is not None:
        with stores.outbox.fill(run.key) as folder:
            write_outcome(outcome, folder)
    done = outcome is not None and outcome.status is Status.DONE
    end = state or (StudyState.DONE if done else StudyState.REJECTED)
    stores.runs.end(run.key, run.attempt, RunTransition(end))
    return run.key


def known(stores: NodeStores, study: str, when: datetime = DAY, patient: Patient = ANNA) -> None:
    stores.studies.identify(StudySubject(study, patient, pet_acquired_at=when))


def found(stores: NodeStores, patient: Patient = ANNA, kind: StudyKind = StudyKind.PET_CT) -> list[str]:
    return [r.study_instance_uid for r in results(stores, patient) if r.report is not None and r.kind is kind]


def results(stores: NodeStores, patient: Patient = ANNA) -> Sequence[EarlierResult]:
    """Those from before the thirtieth day."""
    return NodeEarlierResults(stores, LoadPolicy()).for_patient(patient, DAY + timedelta(days=30))


def test_a_processed_study_is_found_with_its_numbers(stores: NodeStores, pair: PairOutcome) -> None:
    known(stores, "1.2.3")
    processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    (result,) = results(stores)
    report = result.report
    assert report is not None
    assert report.findings == pair.findings
    assert (result.kind, result.acquired_at, report.tracer) == (StudyKind.PET_CT, DAY, "68Ga-PSMA-11")
    assert report.model == pair.model
    uids = {file.kind: file.sop_instance_uid for file in pair.files}
    assert report.sop_instance_uid == uids["SR"]
    assert (result.lesion_count, result.segmentation_sop_instance_uid) == (3, uids["SEG"])
    assert (result.may_be_prior, result.report is not None) == (False, True)


def test_no_other_patients_no_later_and_no_other_kind(stores: NodeStores, pair: PairOutcome) -> None:
    outcome = StudyOutcome("1", Status.DONE, pairs=(pair,))
    for study, when, patient in (
        ("1.1", DAY, Patient("ID-ANNA", "other clinic")),
        ("1.2", DAY + timedelta(days=30), ANNA),
        ("1.3", DAY + timedelta(days=29), ANNA),
    ):
        known(stores, study, when, patient)
        processed(stores, study, outcome)
    assert found(stores) == ["1.3"]
    assert found(stores, kind=StudyKind.SPECT_CT) == []
    assert found(stores, Patient("", "clinic")) == []


@pytest.mark.parametrize("identifier", ["", "ANON", "0000"])
def test_studies_without_an_identity_have_no_history_of_each_other(
    stores: NodeStores, pair: PairOutcome, identifier: str, tmp_path: Path
) -> None:
    nobody = Patient(identifier, "clinic")
    known(stores, "1.2.3", patient=nobody)
    key = processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    stores.results.register(
        key,
        StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)),
        {pair.functional_series_instance_uid: SeriesSubject(nobody, DAY)},
    )
    assert results(stores, nobody) == []
    memory, one = RunResults(LoadPolicy()), sources.pet(tmp_path)
    written = write_results(one, WritePolicy(), sources.PROVENANCE)
    loaded = one.segmented.aligned.loaded
    study = replace(loaded.selection.study, patient=nobody)
    loaded = replace(loaded, selection=replace(loaded.selection, study=study))
    segmented = replace(one.segmented, aligned=replace(one.segmented.aligned, loaded=loaded))
    memory.remember(replace(written, quantified=replace(one, segmented=segmented)))
    assert memory.for_patient(nobody, datetime(2030, 1, 1)) == []


def test_a_later_revision_has_the_last_word_even_when_it_withdraws(
    stores: NodeStores, pair: PairOutcome
) -> None:
    known(stores, "1.2.3")
    processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    assert found(stores) == ["1.2.3"]
    processed(stores, "1.2.3", None, digest="b")
    assert found(stores) == []


def test_a_rejection_over_two_contents_takes_no_result_away(stores: NodeStores, pair: PairOutcome) -> None:
    known(stores, "1.2.3")
    processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    two = Reason(RefusalCode.CONFLICTING_DUPLICATE, "SOPInstanceUID", "two", "one")
    processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.REJECTED, (two,)), digest="b")
    assert found(stores) == ["1.2.3"]


def test_what_is_not_processed_yet_is_not_found(stores: NodeStores) -> None:
    known(stores, "1.2.3")
    stores.runs.open("1.2.3", "a" * 64)
    assert found(stores) == []


def sent(stores: NodeStores, images: Sequence[Dataset], sender: str) -> None:
    for image in images:
        stores.inbox.store(received(image, sender))


def analysed(stores: NodeStores, pair: PairOutcome, study: str) -> EarlierResult:
    """What a later study finds of the present content of the inbox; its PET is in no SEG."""
    run, _ = stores.runs.open(study, stores.inbox.content_digest(study))
    stores.runs.claim(run.key, run.attempt, "x")
    with stores.outbox.fill(run.key) as folder:
        write_outcome(StudyOutcome(study, Status.DONE, pairs=(pair,)), folder)
    stores.runs.end(run.key, run.attempt, RunTransition(StudyState.DONE))
    return results(stores)[0]


def analysed_pet(stores: NodeStores, pair: PairOutcome) -> tuple[Images, EarlierResult]:
    images = pet_ct()
    sent(stores, [*images.functional, *images.ct], "SCANNER")
    pet, ct = (one[0].SeriesInstanceUID for one in (images.functional, images.ct))
    pair = replace(pair, functional_series_instance_uid=pet, ct_series_instance_uid=ct)
    known(stores, study := images.ct[0].StudyInstanceUID)
    return images, analysed(stores, pair, study)


@pytest.mark.parametrize("choice", ["none yet", "the other"])
def test_of_two_contents_the_one_that_the_run_had_is_read(
    stores: NodeStores, pair: PairOutcome, choice: str
) -> None:
    """Slices with another slope come later: SUV stays in proportion to the activity that was sent first."""
    images, result = analysed_pet(stores, pair)
    activity = np.stack([image.pixel_array * float(image.RescaleSlope) for image in images.functional])
    per_suv = activity.sum() / result.suv().array.sum()
    for image in images.functional[::2]:
        image.RescaleSlope = 3 * float(image.RescaleSlope)
    sent(stores, images.functional, "PACS")
    rows = stores.inbox.contents(result.study_instance_uid)
    assert len(rows) == len(images.functional[::2]) * 2
    if choice == "the other":
        other = [row.path for row in rows if row.calling_ae == "PACS"]
        stores.inbox.choose([row.path for row in rows if row.path not in other], other)
    [again] = results(stores)
    assert np.allclose(again.suv().array * per_suv, activity, rtol=1e-4)


def test_each_revision_is_read_from_its_own_content_while_a_choice_is_taken_back(
    stores: NodeStores, pair: PairOutcome
) -> None:
    images, result = analysed_pet(stores, pair)
    first, study = result.suv().array, result.study_instance_uid
    for image in images.functional:
        image.RescaleSlope = 3 * float(image.RescaleSlope)
    sent(stores, images.functional, "PACS")
    paths = {sender: [] for sender in ("SCANNER", "PACS")}  # type: dict[str, list[str]]
    for row in stores.inbox.contents(study):
        paths[row.calling_ae].append(row.path)
    stores.inbox.choose(paths["SCANNER"], paths["PACS"])
    (found,) = stores.outbox.outcome_of(RunKey(study, 1)).pairs  # type: ignore[union-attr]
    second = analysed(stores, found, study)
    assert np.allclose(second.suv().array, 3 * first)
    stores.inbox.choose(paths["PACS"], paths["SCANNER"])
    stores.runs.reopen(stores.runs.of_study(study)[0])
    [again] = results(stores)
    assert np.allclose(again.suv().array, 3 * first), "revision 3 is queued"


def test_a_result_whose_content_can_not_be_told_is_unreadable(stores: NodeStores, pair: PairOutcome) -> None:
    images, result = analysed_pet(stores, pair)
    late = pet_ct().functional[0]
    late.SOPInstanceUID += ".7"
    sent(stores, [late], "SCANNER")
    assert results(stores)[0].suv().grid.shape[0] == len(images.functional), "what came later is left out"
    key = processed(stores, result.study_instance_uid, StudyOutcome("1", Status.DONE, pairs=(pair,)))
    assert key.revision == 2
    with pytest.raises(UnusableStudyError, match="not those it had"):
        results(stores)[0].suv()


@pytest.mark.parametrize("lesions", [2, 0])
def test_a_joined_spect_is_read_again_from_all_its_parts(
    stores: NodeStores, tmp_path: Path, lesions: int
) -> None:
    (source := tmp_path / "source").mkdir()
    write_two_beds(source)
    loaded = joined_in(source)
    study = loaded.selection.study.study_instance_uid
    sent(stores, [dcmread(path) for path in source.iterdir()], "SCANNER")
    stores.studies.identify(StudySubject(study, ANNA, spect_acquired_at=DAY))
    run, _ = stores.runs.open(study, stores.inbox.content_digest(study))
    stores.runs.claim(run.key, run.attempt, "x")
    written = write_results(quantified_of(loaded, bool(lesions)), WritePolicy(), sources.PROVENANCE)
    with stores.outbox.fill(run.key) as folder:
        ResultFolder(folder).deliver(study, [written], ())
    stores.runs.end(run.key, run.attempt, RunTransition(StudyState.DONE))
    outcome = stores.outbox.outcome_of(run.key)
    assert outcome is not None
    assert outcome.pairs[0].parts == (LEGS, HEAD)
    [result] = results(stores)
    assert np.array_equal(result.suv().array, loaded.uptake.array)
    assert result.labels().grid.matches(loaded.uptake.grid)
    assert result.labels().count == lesions
    facts = result.facts()
    assert (facts.voxel_mm, facts.length_mm) == (loaded.facts.voxel_mm, loaded.facts.length_mm)


def test_images_that_are_gone_are_a_refusal_only_when_they_are_asked_for(
    stores: NodeStores, pair: PairOutcome
) -> None:
    known(stores, "1.2.3")
    processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    (result,) = results(stores)
    for read in (result.ct, result.suv, result.labels, result.facts):
        with pytest.raises(UnusableStudyError):
            read()


def registered(stores: NodeStores, key: RunKey, pair: PairOutcome, when: datetime = DAY) -> None:
    """Its images say that it is Anna's, of that day."""
    outcome = StudyOutcome(key.study_instance_uid, Status.DONE, pairs=(pair,))
    subjects = {pair.functional_series_instance_uid: SeriesSubject(ANNA, when)}
    stores.results.register(key, outcome, subjects)


def test_a_pet_that_is_registered_and_the_last_word_of_its_study_is_one_result(
    stores: NodeStores, pair: PairOutcome
) -> None:
    known(stores, "1.2.3")
    key = processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    registered(stores, key, pair)
    (result,) = results(stores)
    assert (result.may_be_prior, result.report is not None) == (True, True)
    assert (result.acquired_at, result.lesion_count) == (DAY, 3)


def test_a_pet_of_a_run_that_has_not_ended_well_is_a_prior_and_nothing_to_compare_with(
    stores: NodeStores, pair: PairOutcome
) -> None:
    known(stores, "1.2.3")
    key = processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)), StudyState.FAILED)
    registered(stores, key, pair)
    (result,) = results(stores)
    assert (result.may_be_prior, result.report) == (True, None)


def test_a_registered_pet_whose_outcome_is_damaged_stays_a_prior(
    stores: NodeStores, pair: PairOutcome
) -> None:
    known(stores, "1.2.3")
    key = processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    registered(stores, key, pair)
    (stores.outbox.folder_of(key) / "outcome.json").write_text("{")
    (result,) = results(stores)
    assert (result.may_be_prior, result.report) == (True, None)
    assert (result.kind, result.lesion_count) == (StudyKind.PET_CT, 3)


def test_a_time_of_the_study_that_is_not_the_pets_own_makes_no_prior(
    stores: NodeStores, pair: PairOutcome
) -> None:
    known(stores, "1.2.3")
    key = processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    registered(stores, key, pair, DAY + timedelta(hours=1))
    found = {each.acquired_at: (each.may_be_prior, each.report is not None) for each in results(stores)}
    assert found == {DAY: (False, True), DAY + timedelta(hours=1): (True, False)}


def test_folder_mode_remembers_lesions_of_any_kind_and_gives_them_back_whole(tmp_path: Path) -> None:
    memory = RunResults(LoadPolicy())
    spect = sources.spect(tmp_path)
    memory.remember(write_results(spect, WritePolicy(), sources.PROVENANCE))
    patient, now = _patient(spect), datetime(2026, 6, 1)
    (result,) = memory.for_patient(patient, now)
    assert (result.kind, result.report is not None) == (StudyKind.SPECT_CT, True)
    labels = result.labels()
    assert np.array_equal(labels.array, spect.segmented.labels.array)
    assert labels.grid.matches(spect.segmented.labels.grid)
    assert result.report is not None
    assert result.report.findings == spect.findings
    assert prior_candidates([result], now) == []
    assert memory.for_patient(replace(patient, patient_id="P2"), now) == []
    assert memory.for_patient(patient, result.acquired_at) == []


def test_folder_mode_remembers_no_result_without_a_date(tmp_path: Path) -> None:
    pet = sources.pet(tmp_path)
    loaded = pet.segmented.aligned.loaded
    study = replace(loaded.selection.study, study_datetime=None)
    undated = replace(loaded, selection=replace(loaded.selection, study=study))
    aligned = replace(pet.segmented.aligned, loaded=undated)
    written = write_results(pet, WritePolicy(), sources.PROVENANCE)
    quantified = replace(pet, segmented=replace(pet.segmented, aligned=aligned))
    memory = RunResults(LoadPolicy())
    memory.remember(replace(written, quantified=quantified))
    assert memory.for_patient(_patient(pet), datetime(2026, 6, 1)) == []


def _patient(quantified: Quantified) -> Patient:
    return quantified.segmented.aligned.loaded.selection.study.patient
