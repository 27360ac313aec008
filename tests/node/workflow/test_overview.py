"""What status reads with the database's driver is what the ledgers read, row for row."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import UID, BasicTextSRStorage, EncapsulatedPDFStorage
from sqlalchemy import insert
from sqlalchemy.engine import make_url

from app.domain.selection.screening import CT_IMAGE
from app.domain.study import Patient
from app.node.policy import NodePolicy
from app.node.records.deliveries import DeliveryTransition
from app.node.records.inbox_index import InstanceRow
from app.node.records.overview import DeliveryStatus, Overview, counted_classes, overview, quick_overview
from app.node.records.runs import RunTransition
from app.node.records.states import DeliveryKey, DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.records.studies import StudySubject
from tests.node.workflow.test_late_priors import pet_comes
from tests.node.workflow.test_ledgers import FILES
from tests.test_start import COMPUTING, NETWORK, SERVING, loaded

DAY = datetime(2026, 3, 1)
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
ANNA = Patient("ID-ANNA", "clinic")
NOBODY = Patient("UNKNOWN", "clinic")
PRIVATE_CLASS = "1.2.826.0.1.3680043.9.1"


@pytest.fixture
def policy(tmp_path: Path) -> NodePolicy:
    return NodePolicy(data_dir=tmp_path / "data #1")


@pytest.fixture
def stores(policy: NodePolicy) -> Iterator[NodeStores]:
    opened = open_stores(policy)
    yield opened
    opened.close()


def receive(stores: NodeStores, study: str, number: int, sop_class: str = CT_IMAGE, **others: object) -> None:
    """One more instance of a study, the ``number``-th second after noon."""
    row = {
        "sop_instance_uid": f"{study}.1.{number}",
        "sha256": f"{number:064}",
        "study_instance_uid": study,
        "series_instance_uid": f"{study}.2",
        "sop_class_uid": sop_class,
        "path": f"{study}/{number}",
        "bytes": 1,
        "received_at": NOON + timedelta(seconds=number),
        "calling_ae": "X",
    }
    with stores.engine.begin() as connection:
        connection.execute(insert(InstanceRow).values(row | others))


@pytest.fixture
def busy(stores: NodeStores) -> NodeStores:
    """A node with studies in several states, for several patients, to two destinations."""
    for number, study in enumerate(("1.9", "1.3", "1.5", "1.7"), start=3):
        receive(stores, study, number)
        receive(stores, study, number, sha256="f" * 64, conflict=True)
        receive(stores, study, 2 * number, BasicTextSRStorage, conflict=number % 2 == 0)
        receive(stores, study, 3 * number, PRIVATE_CLASS)
        receive(stores, study, 40, discarded=True)
    receive(stores, "1.8", 1, EncapsulatedPDFStorage)
    receive(stores, "1.6", 2, discarded=True)
    stores.studies.observe("1.9", StudyState.HELD, "a person has to choose")
    stores.studies.observe("1.5", StudyState.QUEUED)
    for study in ("1.5", "1.5", "1.7"):
        for digest in ("a", "b"):
            stores.runs.open(study, digest * 64)
    first, last = RunKey("1.5", 1), RunKey("1.5", 2)
    stores.runs.claim(first, 1, "x")
    stores.runs.claim(last, 1, "x")
    stores.runs.end(last, 1, RunTransition(StudyState.DELIVERING, "why not", None))
    stores.runs.claim(RunKey("1.7", 2), 1, "x")
    stores.runs.end(RunKey("1.7", 2), 1, RunTransition(StudyState.FAILED, "no disk", NOON, at_fault=True))
    for run in (first, last):
        stores.deliveries.plan(run, FILES, ("pacs", "archive"))
    sent, again = DeliveryKey(last, "pacs"), DeliveryKey(last, "archive")
    stores.deliveries.acknowledge(sent, FILES[0].sop_instance_uid, 0)
    stores.deliveries.commit(sent, FILES[0].sop_instance_uid)
    stores.deliveries.refuse(sent, FILES[1].sop_instance_uid, 0xA700)
    for file in FILES:
        stores.deliveries.acknowledge(again, file.sop_instance_uid, 0)
    stores.deliveries.resend(stores.deliveries.get(again))
    stores.deliveries.end(sent, 1, DeliveryTransition(DeliveryState.PENDING, "refused", NOON))
    for number, patient in enumerate((ANNA, NOBODY, Patient("ID-ANNA", "elsewhere"))):
        spect, pet = f"1.10.{number}", f"1.11.{number}"
        stores.studies.identify(StudySubject(spect, patient, spect_acquired_at=DAY + timedelta(days=10)))
        stores.studies.identify(StudySubject(pet, patient, pet_acquired_at=DAY - timedelta(days=number)))
    for study in ("1.11.0", "1.11.7", "1.11.8"):
        pet_comes(stores, DAY if study == "1.11.0" else DAY + timedelta(days=int(study[-1])), study)
    return stores


def read(stores: NodeStores) -> Overview:
    with closing(stores.engine.raw_connection()) as connection:
        return overview(connection)


def test_the_studies_in_the_inbox_are_those_of_the_index(busy: NodeStores) -> None:
    found = read(busy)
    assert found.inbox == tuple(sorted(busy.inbox.studies(), key=lambda study: study.first_received_at))
    assert len(found.inbox) == 5
    assert {study.conflicts for study in found.inbox} == {0, 1, 2}
    for study in found.inbox:
        uid = study.study_instance_uid
        assert counted_classes(found.others.get(uid, ())) == busy.inbox.beside(uid)


def test_what_is_known_of_studies_is_that_of_the_ledger(busy: NodeStores) -> None:
    found, rows = read(busy).known, busy.studies.all().values()
    assert found.keys() == {row.study_instance_uid for row in rows}
    for row in rows:
        one = found[row.study_instance_uid]
        assert (one.state, one.reason, one.acquired_at) == (row.state, row.reason, row.acquired_at)
        assert (one.patient_id, one.accession_number) == (row.patient_id, row.accession_number)


def test_the_latest_runs_are_those_of_the_ledger(busy: NodeStores) -> None:
    found, rows = read(busy).latest, busy.runs.latest()
    assert found.keys() == {row.study_instance_uid for row in rows}
    assert {row.state for row in rows} == {StudyState.DELIVERING, StudyState.FAILED}
    for row in rows:
        run = found[row.study_instance_uid]
        assert (run.key, run.state, run.stage, run.reason) == (row.key, row.state, row.stage, row.reason)
        assert run.next_try_at == row.next_try_at
        assert (run.turn, run.by_headers, run.started_at) == (row.turn, row.by_headers, row.started_at)


def test_deliveries_are_those_of_the_ledger(busy: NodeStores) -> None:
    found = read(busy).deliveries
    for run in (RunKey("1.5", 1), RunKey("1.5", 2)):
        expected = []
        for row in busy.deliveries.of_run(run):
            planned = busy.deliveries.instances(row.key)
            closed = sum(not one.is_open for one in planned)
            status = (row.destination, row.state, closed, len(planned), row.reason, row.next_try_at)
            committed = sum(one.committed_at is not None for one in planned)
            expected.append(DeliveryStatus(*status, committed))
        assert found[run] == expected
    assert {one.acknowledged for one in found[RunKey("1.5", 2)]} == {0, 1}


def test_earlier_pets_with_a_result_are_those_of_the_ledgers(busy: NodeStores) -> None:
    found = read(busy).earlier_pets
    for row in busy.studies.all().values():
        earlier = busy.studies.earlier_pets(row.study_instance_uid)
        registered = busy.results.of_studies(earlier) if earlier else ()
        expected = [study for study in earlier if study in registered]
        assert found.get(row.study_instance_uid, []) == expected
    assert found["1.10.0"] == ["1.11.8", "1.11.7", "1.11.0"]


def test_without_sqlalchemy_the_same_is_found(busy: NodeStores, policy: NodePolicy) -> None:
    assert quick_overview(policy) == read(busy)


def test_a_data_folder_with_signs_of_a_url_in_its_name_holds_the_database(tmp_path: Path) -> None:
    """The driver's reader, the ledgers and the engine all open the files in this very folder."""
    policy = NodePolicy(data_dir=tmp_path / "a ?b=1&%41#c")
    opened = open_stores(policy)
    receive(opened, "1.2.3", 1)
    found = read(opened)
    opened.close()
    assert quick_overview(policy) == found
    assert [study.study_instance_uid for study in found.inbox] == ["1.2.3"]
    engine_file = make_url(policy.engine_database_url).database
    assert engine_file == str(policy.data_dir / "workflows.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == [policy.data_dir.name]


def test_a_database_that_is_not_of_this_version_is_left_to_who_can_upgrade_it(
    stores: NodeStores, policy: NodePolicy
) -> None:
    stores.close()
    with closing(sqlite3.connect(policy.database_file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    assert quick_overview(policy) is None


def test_a_file_that_is_no_database_is_left_to_who_can_say_so(policy: NodePolicy) -> None:
    policy.data_dir.mkdir()
    assert quick_overview(policy) is None
    assert not policy.database_file.exists()
    policy.database_file.write_bytes(b"x" * 4096)
    assert quick_overview(policy) is None


def test_classes_have_the_names_that_pydicom_gives_them() -> None:
    for uid in (CT_IMAGE, BasicTextSRStorage, PRIVATE_CLASS, "1.2.840.10008.1.1"):
        assert counted_classes([(uid, 3)]) == f"3 {UID(uid).name}"
    assert counted_classes([]) == ""


def test_status_of_a_node_with_studies_loads_no_more_than_that_of_one_without(
    busy: NodeStores, policy: NodePolicy, tmp_path: Path
) -> None:
    words = ["status", "--set", f"node.data_dir='{policy.data_dir}'"]
    assert loaded(tmp_path, words) & {*COMPUTING, *SERVING, *NETWORK, "sqlalchemy"} == set()
