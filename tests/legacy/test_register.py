"""The register of results in a data folder of version 0.1.0: whose its PETs are, and its pets.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import pytest

from app.dicom.reading.policy import LoadPolicy
from app.domain.study import Patient
from app.imaging.earlier_results import EarlierResult, prior_candidates
from app.node.policy import NodePolicy
from app.node.process.earlier_studies import NodeEarlierResults
from app.node.records.runs import RunKey
from app.node.records.stores import NodeStores, open_stores
from tests.legacy.test_upgrade import Legacy, cluster, legacy

__all__ = ["cluster", "legacy"]

ABEL, FALK = Patient("ID-ABEL^A", "CLINIC"), Patient("ID-FALK^F", "CLINIC")
PETS_OF = {ABEL: "pet done", FALK: "late pet"}
ACQUIRED_AT = datetime(2026, 3, 1, 9, 15)
LATER = datetime(2026, 3, 10)


@pytest.fixture
def stores(legacy: Legacy) -> Iterator[NodeStores]:
    url = legacy.node.node.get("database_url", "")
    opened = open_stores(NodePolicy(data_dir=legacy.node.folder / "data", database_url=url))
    yield opened
    opened.close()


def priors(stores: NodeStores, patient: Patient) -> Sequence[EarlierResult]:
    """What a SPECT of the tenth day would be offered."""
    return prior_candidates(NodeEarlierResults(stores, LoadPolicy()).for_patient(patient, LATER), LATER)


@pytest.mark.parametrize("patient", [ABEL, FALK], ids=["ABEL", "FALK"])
def test_the_pets_of_an_earlier_version_are_the_priors_of_their_patients(
    legacy: Legacy, stores: NodeStores, patient: Patient
) -> None:
    study = legacy.uid(PETS_OF[patient])
    [result] = priors(stores, patient)
    assert (result.study_instance_uid, result.series_instance_uid) == (study, f"{study}.1")
    assert (result.acquired_at, result.lesion_count) == (ACQUIRED_AT, 1)
    outcome = stores.outbox.outcome_of(RunKey(study, 1))
    assert outcome is not None
    [pair] = outcome.pairs
    uids = {file.kind: file.sop_instance_uid for file in pair.files}
    assert result.segmentation_sop_instance_uid == uids["SEG"]
    assert result.report is None  # whether it is the last word of its study was not recorded then
    for other in (Patient(patient.patient_id, "OTHER"), Patient(patient.patient_id), Patient("", "CLINIC")):
        assert priors(stores, other) == []


def test_a_result_that_the_earlier_version_did_not_come_to_register_is_registered_from_its_pets_json(
    legacy: Legacy, stores: NodeStores
) -> None:
    run = RunKey(legacy.uid("late pet"), 1)
    [before] = stores.results.of_patient(FALK, LATER)
    stores.results.withdraw(RunKey(run.study_instance_uid, 2), [before.functional_series_instance_uid])
    assert priors(stores, FALK) == []
    outcome = stores.outbox.outcome_of(run)
    assert outcome is not None
    stores.results.register_old(run, outcome)
    [again] = stores.results.of_patient(FALK, LATER)
    again.registered_at = before.registered_at
    assert again == before
