"""A SPECT/CT waits for the earlier PET/CT of its patient that is on its way, and not longer than it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from app.domain.study import Patient, Series, Study, StudyKind
from app.node.policy import NodePolicy
from app.node.process.priors import PriorWait, Wait
from app.node.receive.completeness import subject_of
from app.node.records.database import utc_now
from app.node.records.runs import Run, RunTransition
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from tests.node.workflow.fake_node import Subject
from tests.node.workflow.peers import FakePacs, NodeProcess, wait_until

NewNode = Callable[..., NodeProcess]
PET, SPECT = "1.2.1", "1.2.2"
DAY = datetime(2026, 3, 1)
ANNA = Patient("ID-ANNA", "clinic")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[NodeStores]:
    opened = open_stores(NodePolicy(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


def known(
    stores: NodeStores, pet: StudySubject | None = None, patient: Patient = ANNA
) -> Callable[..., Wait]:
    """A complete SPECT/CT of Anna, ten days after a PET; returns its wait after so many seconds."""
    spect = StudySubject(SPECT, patient, spect_acquired_at=DAY + timedelta(days=10))
    stores.studies.identify(spect)
    stores.studies.identify(pet or StudySubject(PET, patient, pet_acquired_at=DAY))
    run, _ = stores.runs.open(SPECT, "s" * 64)

    def wait_after(after_s: float = 0.0) -> Wait:
        wait = PriorWait(stores.studies, stores.runs, limit_s=60)
        return wait.check(run, run.created_at + timedelta(seconds=after_s))

    return wait_after


def queued_pet(stores: NodeStores) -> RunKey:
    """The PET has arrived whole."""
    stores.studies.observe(PET, StudyState.QUEUED)
    return stores.runs.open(PET, "p" * 64)[0].key


@pytest.mark.parametrize("identifier", ["", "ANON"])
def test_nobody_known_is_waited_for(stores: NodeStores, identifier: str) -> None:
    wait_after = known(stores, patient=Patient(identifier))
    queued_pet(stores)
    assert wait_after() == Wait()


def test_a_pet_that_waits_for_a_choice_has_ended(stores: NodeStores) -> None:
    """Its result stands; a person may take days."""
    wait_after = known(stores)
    pet = queued_pet(stores)
    stores.runs.claim(pet, 1, "x")
    stores.studies.observe(PET, StudyState.HELD, "two contents")
    assert wait_after().hold, "it may give a result"
    stores.runs.end(pet, 1, RunTransition(StudyState.DONE))
    assert wait_after() == Wait()


def test_spect_waits_until_the_pet_has_ended_and_says_for_what(stores: NodeStores) -> None:
    wait_after = known(stores)
    which = f"waits for the PET/CT of the same patient, study {PET}, which"
    stores.studies.observe(PET, StudyState.RECEIVING)
    assert wait_after() == Wait(True, f"{which} is being received", PET)
    stores.studies.observe(PET, StudyState.WAITING, "a CT")
    assert wait_after() == Wait(True, f"{which} is not complete yet", PET)
    key = queued_pet(stores)
    assert wait_after() == Wait(True, f"{which} is queued", PET)
    stores.runs.claim(key, 1, "x")
    assert wait_after() == Wait(True, f"{which} is running", PET)
    stores.runs.end(key, 1, RunTransition(StudyState.FAILED, "why", utc_now(), at_fault=True))
    assert wait_after() == Wait(True, f"{which} failed and is tried again", PET)
    stores.runs.claim(key, 2, "x")
    stores.runs.end(key, 2, RunTransition(StudyState.DELIVERING))
    assert wait_after() == Wait()


@pytest.mark.parametrize("ending", [StudyState.REJECTED, StudyState.FAILED, StudyState.DONE])
def test_pet_that_will_give_no_more_is_not_waited_for(stores: NodeStores, ending: StudyState) -> None:
    wait_after = known(stores)
    key = queued_pet(stores)
    stores.runs.claim(key, 1, "x")
    stores.runs.end(key, 1, RunTransition(ending, "why", at_fault=True))
    assert wait_after() == Wait()


def test_wait_has_its_limit_and_says_so(stores: NodeStores) -> None:
    wait_after = known(stores)
    queued_pet(stores)
    assert wait_after(59).hold
    limit = "did not wait longer than 60 s for the PET/CT of the same patient"
    assert wait_after(60) == Wait(reason=f"{limit}, study {PET}, which is queued")


def test_a_spect_that_is_tried_again_days_later_waits_for_its_pet_that_is_too(stores: NodeStores) -> None:
    """Its days as a failed study are no wait: neither for the prior, nor for its turn."""
    known(stores)
    keys = queued_pet(stores), stores.runs.of_study(SPECT)[0].key
    for key in keys:
        stores.runs.claim(key, 1, "x")
        stores.runs.end(key, 1, RunTransition(StudyState.FAILED, "a GPU fault", at_fault=True))
    days_ago = utc_now() - timedelta(days=2)
    with stores.engine.begin() as connection:
        connection.execute(update(Run).values(created_at=days_ago, queued_at=days_ago))
    asked_at = utc_now()
    for key in keys:
        assert stores.runs.requeue(stores.runs.get(key))
    again = stores.runs.get(keys[1])
    assert (again.created_at, again.turn.queued_at) == (days_ago, again.queued_at)
    assert again.queued_at >= asked_at
    wait = PriorWait(stores.studies, stores.runs, limit_s=60)
    assert wait.check(again, again.queued_at + timedelta(seconds=59)).hold
    assert not wait.check(again, again.queued_at + timedelta(seconds=60)).hold


@pytest.mark.parametrize(
    "pet",
    [
        StudySubject(PET, Patient("ID-BERTA", "clinic"), DAY),
        StudySubject(PET, Patient("ID-ANNA", "elsewhere"), DAY),
        StudySubject(PET, ANNA, DAY + timedelta(days=11)),
        StudySubject(PET, ANNA, None),
        StudySubject(PET, ANNA, None, DAY),
    ],
    ids=["another patient", "another issuer", "a later PET", "no date", "an earlier SPECT"],
)
def test_what_can_be_no_prior_is_not_waited_for(stores: NodeStores, pet: StudySubject) -> None:
    wait_after = known(stores, pet)
    queued_pet(stores)
    assert wait_after() == Wait()


def test_patient_without_identifier_does_not_wait(stores: NodeStores) -> None:
    nobody = Patient("")
    stores.studies.identify(StudySubject(PET, nobody, DAY))
    stores.studies.identify(StudySubject(SPECT, nobody, None, DAY + timedelta(days=1)))
    assert stores.studies.earlier_pets(SPECT) == ()


def test_identifiers_that_a_database_would_refuse_are_kept(stores: NodeStores) -> None:
    odd = Patient("A\0\ud800" + "x" * 5000)
    stores.studies.identify(StudySubject(PET, odd, DAY))
    stores.studies.identify(StudySubject(SPECT, odd, None, DAY + timedelta(days=1)))
    assert stores.studies.earlier_pets(SPECT) == (PET,)


def study(*modalities: str) -> Study:
    return Study("1", ANNA, tuple(Series(f"1.{name}", name, ()) for name in modalities), DAY)


def pairs(whole: Study, *kinds: StudyKind) -> Any:
    found = tuple(SimpleNamespace(kind=kind, functional=whole.series[0]) for kind in kinds)
    return SimpleNamespace(selections=found, rejection=None)


def test_what_a_study_may_be_is_known_from_its_first_header() -> None:
    for modality in ("CT", "PT"):
        assert subject_of(study(modality), None).pet_acquired_at == DAY
    assert subject_of(study("NM"), None) == StudySubject("1", ANNA)
    whole = study("PT", "CT")
    assert subject_of(whole, pairs(whole, StudyKind.SPECT_CT)) == StudySubject("1", ANNA, None, DAY)
    both = pairs(whole, StudyKind.PET_CT, StudyKind.SPECT_CT)
    assert subject_of(whole, both) == StudySubject("1", ANNA, DAY, None)


def test_spect_sent_before_or_with_the_pet_is_processed_after_it(pacs: FakePacs, new_node: NewNode) -> None:
    pet = Subject("ANNA", StudyKind.PET_CT, "20260301")
    spect = Subject("ANNA", StudyKind.SPECT_CT, "20260310")
    node = new_node(pacs, behaviour={"seconds": 1.5}, node={"workers": 2}).start()
    first = node.send_study(1, subject=pet)
    second = node.send_study(2, subject=spect)
    other = node.send_study(3, subject=Subject("BERTA", StudyKind.SPECT_CT))
    wait_until(lambda: "waits for the PET/CT" in node.status(second).reason, "the SPECT waits")
    held = node.status(second)
    assert held.state == "queued"
    assert f"study {first}" in held.reason
    for each in (first, second, other):
        node.wait_for(each, "done")
    order = [line.split()[0] for line in node.calls()]
    assert order[-1] == second
    assert len(order) == 3
    assert node.stop() == 0
    assert "ANNA" not in node.log.read_text()


def test_spect_goes_on_without_a_pet_that_takes_too_long(pacs: FakePacs, new_node: NewNode) -> None:
    settings = {"workers": 2, "prior_wait_s": 0.4}
    node = new_node(pacs, behaviour={"seconds": 4.0}, node=settings).start()
    node.send_study(1, subject=Subject("ANNA", StudyKind.PET_CT, "20260301"))
    second = node.send_study(2, subject=Subject("ANNA", StudyKind.SPECT_CT, "20260310"))
    wait_until(lambda: len(node.calls()) == 2, "both run")
    reason = node.wait_for(second, "done").reason
    assert "did not wait longer than 0 s for the PET/CT of the same patient" in reason
    audit = (node.folder / "data" / "audit" / "audit.jsonl").read_text()
    assert "did not wait longer than 0 s for the PET/CT of the same patient" in audit
    assert "goes on without its prior" in node.events()
    lines = [line for line in node.facts() if line.startswith(second)]
    assert len(lines) == 1
    assert "warning: did not wait longer than 0 s for the PET/CT of the same patient" in lines[0]
    assert "begun 20" in lines[0]
