"""Where previous results come from: the node's own store, and the run in folder mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from app.chain.folder import RunResults
from app.dicom.reading.loading import LoadPolicy
from app.dicom.results.folder import ResultFolder
from app.dicom.results.policy import WritePolicy
from app.dicom.results.writer import write_results
from app.domain.analysis import Quantified
from app.domain.outcome import PairOutcome, Status, StudyOutcome
from app.domain.study import Patient, StudyKind
from app.errors import UnusableStudyError
from app.files.outcome import write_outcome
from app.node.policy import NodePolicy
from app.node.process.earlier_studies import NodePreviousResults
from app.node.records.runs import RunKey, RunTransition, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from tests.dicom.results import sources

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


def processed(stores: NodeStores, study: str, outcome: StudyOutcome | None, digest: str = "a") -> RunKey:
    """A revision that has ended."""
    run, _ = stores.runs.open(study, digest * 64)
    stores.runs.claim(run.key, run.attempt, "x")
    if outcome is not None:
        with stores.outbox.fill(run.key) as folder:
            write_outcome(outcome, folder)
    done = outcome is not None and outcome.status is Status.DONE
    stores.runs.end(run.key, run.attempt, RunTransition(StudyState.DONE if done else StudyState.REJECTED))
    return run.key


def known(stores: NodeStores, study: str, when: datetime = DAY, patient: Patient = ANNA) -> None:
    stores.studies.identify(StudySubject(study, patient, pet_acquired_at=when))


def found(stores: NodeStores, patient: Patient = ANNA, kind: StudyKind = StudyKind.PET_CT) -> list[str]:
    source = NodePreviousResults(stores, LoadPolicy())
    return [r.study_instance_uid for r in source.results_for(patient, kind, DAY + timedelta(days=30))]


def test_a_processed_study_is_found_with_its_numbers(stores: NodeStores, pair: PairOutcome) -> None:
    known(stores, "1.2.3")
    processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    source = NodePreviousResults(stores, LoadPolicy())
    (result,) = source.results_for(ANNA, StudyKind.PET_CT, DAY + timedelta(days=30))
    assert result.findings == pair.findings
    assert (result.acquired_at, result.tracer) == (DAY, "68Ga-PSMA-11")
    assert result.model == pair.model
    assert result.result_sop_instance_uid in {file.sop_instance_uid for file in pair.files}


def test_nobody_elses_no_later_and_no_other_kind(stores: NodeStores, pair: PairOutcome) -> None:
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


def test_a_later_revision_has_the_last_word_even_when_it_withdraws(
    stores: NodeStores, pair: PairOutcome
) -> None:
    known(stores, "1.2.3")
    processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    assert found(stores) == ["1.2.3"]
    processed(stores, "1.2.3", None, digest="b")
    assert found(stores) == []


def test_what_is_not_processed_yet_is_not_found(stores: NodeStores) -> None:
    known(stores, "1.2.3")
    stores.runs.open("1.2.3", "a" * 64)
    assert found(stores) == []


def test_images_that_are_gone_are_a_refusal_only_when_they_are_asked_for(
    stores: NodeStores, pair: PairOutcome
) -> None:
    known(stores, "1.2.3")
    processed(stores, "1.2.3", StudyOutcome("1.2.3", Status.DONE, pairs=(pair,)))
    (result,) = NodePreviousResults(stores, LoadPolicy()).results_for(
        ANNA, StudyKind.PET_CT, DAY + timedelta(days=30)
    )
    with pytest.raises(UnusableStudyError):
        result.ct()


def test_folder_mode_remembers_lesions_of_any_kind_and_gives_them_back_whole(tmp_path: Path) -> None:
    results = RunResults()
    spect = sources.spect(tmp_path)
    results.remember(write_results(spect, WritePolicy(), sources.PROVENANCE))
    patient, now = _patient(spect), datetime(2026, 6, 1)
    (result,) = results.results_for(patient, StudyKind.SPECT_CT, now)
    labels = result.labels()
    assert np.array_equal(labels.array, spect.segmented.labels.array)
    assert labels.grid.matches(spect.segmented.labels.grid)
    assert result.findings == spect.findings
    assert results.results_for(patient, StudyKind.PET_CT, now) == []
    assert results.results_for(replace(patient, patient_id="P2"), StudyKind.SPECT_CT, now) == []
    assert results.results_for(patient, StudyKind.SPECT_CT, result.acquired_at) == []


def _patient(quantified: Quantified) -> Patient:
    return quantified.segmented.aligned.loaded.selection.study.patient
