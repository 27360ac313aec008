"""A PET/CT that comes after its SPECT/CT was analysed is reported, and the SPECT/CT can be analysed anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy.orm import Session

from app.domain.decision import ModelRole
from app.domain.outcome import Status, StudyOutcome
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Patient, StudyKind
from app.errors import MisconfiguredError
from app.files.outcome import write_outcome
from app.node.policy import NodePolicy
from app.node.process.priors import note_late_priors
from app.node.process.processors import ProcessorPool
from app.node.process.work import AttemptKind, AttemptResult, StudyWork
from app.node.queue import run_workflow_id
from app.node.records.overview import overview
from app.node.records.results import RegisteredResult
from app.node.records.runs import RunTransition
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from app.node.upkeep.retry import analyse_again
from app.node.watch.status import late_prior
from tests.node.workflow.fake_node import Subject, _pair
from tests.node.workflow.peers import FakePacs, wait_until
from tests.node.workflow.test_prior_wait import NewNode

PET, SPECT = "1.2.1", "1.2.2"
DAY = datetime(2026, 3, 1)
ANNA = Patient("ID-ANNA", "clinic")
NO_PRIOR = Reason(RefusalCode.NO_PRIOR, "", "none", "one")
MISFIT = Reason(RefusalCode.PRIOR_MISFIT, "bone_dice", "0.1", "0.6")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


def analysed(
    stores: NodeStores, reason: Reason | None = NO_PRIOR, digest: str = "s", is_running: bool = False
) -> RunKey:
    """A SPECT/CT of Anna that is done, ten days after her PET; ``None``: with a prior.

    ``is_running``: its results are in the outbox, and how it ended is not written down yet.
    """
    stores.studies.identify(StudySubject(SPECT, ANNA, spect_acquired_at=DAY + timedelta(days=10)))
    run, _ = stores.runs.open(SPECT, digest * 64)
    stores.runs.claim(run.key, 1, "x")
    role = ModelRole.M4 if reason is None else ModelRole.M2
    pair = _pair(SPECT, ())
    pair = replace(
        pair,
        kind=StudyKind.SPECT_CT,
        model=replace(pair.model, role=role),
        prior_used=reason is None,
        no_prior=() if reason is None else (reason,),
    )
    with stores.outbox.fill(run.key) as folder:
        write_outcome(StudyOutcome(SPECT, Status.DONE, pairs=(pair,)), folder)
    if not is_running:
        stores.runs.end(run.key, 1, RunTransition(StudyState.DONE))
    return run.key


def pet_comes(stores: NodeStores, acquired_at: datetime = DAY, study: str = PET) -> RunKey:
    """Anna's PET is registered."""
    stores.studies.identify(StudySubject(study, ANNA, pet_acquired_at=acquired_at))
    row = RegisteredResult(
        study_instance_uid=study,
        functional_series_instance_uid=f"{study}.2",
        revision=1,
        patient_id=ANNA.patient_id,
        issuer=ANNA.issuer,
        ct_series_instance_uid=f"{study}.3",
        acquired_at=acquired_at,
        lesion_count=1,
        segmentation_sop_instance_uid="1",
        segmentation_path="x",
    )
    with Session(stores.engine) as session, session.begin():
        session.add(row)
    return RunKey(study, 1)


def recorded(stores: NodeStores, tmp_path: Path, key: RunKey, outcome: StudyOutcome | None = None) -> None:
    """The second step of the workflow for a run whose results are, or are now put, in the outbox."""
    if outcome is not None:
        with stores.outbox.fill(key) as folder:
            write_outcome(outcome, folder)
    pool: Any = ProcessorPool(Mock(), 0)
    steps = StudyWork(stores, NodePolicy(data_dir=tmp_path / "data"), pool, (), Mock())
    steps.record(key, 1, AttemptResult(AttemptKind.DONE))


def missing_prior(stores: NodeStores, key: RunKey) -> str:
    """The PET that status names for a study whose latest revision this is."""
    with closing(stores.engine.raw_connection()) as connection:
        found = overview(connection)
    run = found.latest[key.study_instance_uid]
    assert run.key == key
    return late_prior(found, stores.outbox, run)


def audited(folder: Path) -> list[str]:
    log = folder / "data" / "audit" / "audit.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in lines if "analysed without its prior" in line]


def test_it_stands_in_the_audit_log_and_in_the_status_of_the_study(
    stores: NodeStores, tmp_path: Path
) -> None:
    key = analysed(stores)
    assert missing_prior(stores, key) == ""
    pet = pet_comes(stores)
    assert missing_prior(stores, key) == PET
    note_late_priors(stores, pet)
    [line] = audited(tmp_path)
    assert SPECT in line
    assert f'"pet_study":"{PET}"' in line.replace(" ", "")
    assert "ANNA" not in line


def test_a_pet_that_ends_tells_it_in_the_second_step_of_its_workflow(
    stores: NodeStores, tmp_path: Path
) -> None:
    analysed(stores)
    pet = pet_comes(stores)
    run, _ = stores.runs.open(PET, "p" * 64)
    stores.runs.claim(run.key, 1, "x")
    recorded(stores, tmp_path, pet, StudyOutcome(PET, Status.REJECTED))
    assert len(audited(tmp_path)) == 1


@pytest.mark.parametrize("pet_looks", ["while the SPECT ends", "before the SPECT has results"])
def test_whichever_of_both_ends_last_tells_it(stores: NodeStores, tmp_path: Path, pet_looks: str) -> None:
    if pet_looks == "before the SPECT has results":
        stores.studies.identify(StudySubject(SPECT, ANNA, spect_acquired_at=DAY + timedelta(days=10)))
        note_late_priors(stores, pet_comes(stores))
        assert audited(tmp_path) == []
        spect = analysed(stores, is_running=True)
    else:
        spect = analysed(stores, is_running=True)
        note_late_priors(stores, pet_comes(stores))
        assert len(audited(tmp_path)) == 1
    recorded(stores, tmp_path, spect)
    assert len(audited(tmp_path)) == 1
    assert stores.runs.get(spect).state is StudyState.DONE


def test_each_pet_is_written_down_once_for_each_revision_however_often_it_ends(
    stores: NodeStores, tmp_path: Path
) -> None:
    analysed(stores)
    first = pet_comes(stores)
    note_late_priors(stores, first)
    note_late_priors(stores, RunKey(PET, 2))
    assert len(audited(tmp_path)) == 1
    note_late_priors(stores, pet_comes(stores, DAY + timedelta(days=1), "1.2.9"))
    assert ["1.2.9" in line for line in audited(tmp_path)] == [False, True]
    analysed(stores, digest="t")
    note_late_priors(stores, first)
    assert ['"revision": 2' in line for line in audited(tmp_path)] == [False, False, True]


def test_both_workers_may_note_the_same_line(stores: NodeStores) -> None:
    key = RunKey(SPECT, 1)
    assert not stores.late_priors.is_noted(key, PET)
    for _ in range(2):
        stores.late_priors.note(key, PET)
    assert stores.late_priors.is_noted(key, PET)
    assert not stores.late_priors.is_noted(key, "1.2.9")
    assert not stores.late_priors.is_noted(RunKey(SPECT, 2), PET)


@pytest.mark.parametrize("first, second", [(NO_PRIOR, None), (None, NO_PRIOR)])
def test_the_latest_revision_alone_counts(
    stores: NodeStores, tmp_path: Path, first: Reason | None, second: Reason | None
) -> None:
    analysed(stores, first)
    latest = analysed(stores, second, digest="t")
    note_late_priors(stores, pet_comes(stores))
    assert len(audited(tmp_path)) == int(second is NO_PRIOR)
    assert missing_prior(stores, latest) == (PET if second is NO_PRIOR else "")


@pytest.mark.parametrize("state", [StudyState.REJECTED, StudyState.FAILED, StudyState.QUEUED])
def test_a_spect_without_a_result_that_stands_has_no_late_prior(
    stores: NodeStores, tmp_path: Path, state: StudyState
) -> None:
    key = analysed(stores, is_running=True)
    stores.runs.end(key, 1, RunTransition(state, "why"))
    note_late_priors(stores, pet_comes(stores))
    assert missing_prior(stores, key) == ""
    assert audited(tmp_path) == []


@pytest.mark.parametrize("reason", [MISFIT, None], ids=["does not fit", "was used"])
def test_a_prior_that_was_known_is_not_late(
    stores: NodeStores, reason: Reason | None, tmp_path: Path
) -> None:
    key = analysed(stores, reason)
    note_late_priors(stores, pet_comes(stores))
    assert missing_prior(stores, key) == ""
    assert audited(tmp_path) == []


def test_a_pet_from_after_the_spect_is_no_late_prior(stores: NodeStores, tmp_path: Path) -> None:
    key = analysed(stores)
    note_late_priors(stores, pet_comes(stores, DAY + timedelta(days=11)))
    assert missing_prior(stores, key) == ""
    assert audited(tmp_path) == []


def test_a_study_analysed_anew_is_a_new_revision_of_the_same_content(stores: NodeStores) -> None:
    key = analysed(stores)
    before = stores.runs.get(key)
    assert "revision 2" in analyse_again(stores, SPECT)
    former, new = stores.runs.of_study(SPECT)
    assert (former.state, new.state, new.key.revision) == (StudyState.DONE, StudyState.QUEUED, 2)
    assert new.content_digest == before.content_digest != former.content_digest
    assert run_workflow_id(new) != run_workflow_id(before)  # the engine would take it for done
    assert stores.runs.open(SPECT, before.content_digest) == (new, False)
    with pytest.raises(MisconfiguredError, match="only one that is done"):
        analyse_again(stores, SPECT)


def test_it_is_processed_and_delivered_again(pacs: FakePacs, new_node: NewNode) -> None:
    node = new_node(pacs).start()
    study = node.send_study(1, subject=Subject("ANNA", StudyKind.SPECT_CT))
    node.wait_for(study, "done")
    stores = node.stores()
    analyse_again(stores, study)
    stores.close()
    wait_until(lambda: len(node.calls()) == 2, "it is analysed anew")
    node.wait_for(study, "done")
    assert [line.split()[1] for line in node.calls()] == ["1", "2"]
