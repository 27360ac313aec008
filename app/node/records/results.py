"""The node's register of PET results: where a later SPECT of the same patient finds its prior.

Identifiers of patients are in this table and in no log.

pets.json: whose the PETs of a run are and when they were acquired, as the run's own images say.

It lies beside the results, which name the patient too. The step that registers priors may run long after the
chain, when the inbox holds images that the chain has not seen; so it reads this and not the inbox.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Engine, Integer, Row, String, Table, delete, insert, select

from app.dicom.reading.studies import read_study
from app.domain.outcome import PairOutcome, StudyOutcome
from app.domain.study import Patient, Series, Study, StudyKind
from app.errors import MisconfiguredError
from app.files.durable import write_durably
from app.node.records.database import MAX_IDENTIFIER_LENGTH, PlainText, UtcDateTime, metadata, utc_now
from app.node.records.outbox import Outbox
from app.node.records.runs import RunKey

NAME = "pets.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PetHeader:
    """Of one PET series; ``acquired_at`` is ISO 8601 without a zone: the clinic's local time."""

    patient_id: str
    issuer: str
    acquired_at: str


def keep_pet_headers(paths: Sequence[Path], outcome: StudyOutcome, folder: Path) -> None:
    """Write down whose the PETs with a result are.

    A series without a date, or of a study whose images name several patients, is left out.

    Args:
        paths: the files that were processed, and no others.
        outcome: what came of it.
        folder: where its results are.
    """
    pets = {pair.functional_series_instance_uid for pair in outcome.pairs if pair.kind is StudyKind.PET_CT}
    if not pets:
        return
    study = read_study(paths)
    found = {
        series.series_instance_uid: asdict(header)
        for series in study.series
        if series.series_instance_uid in pets and (header := _header(study, series)) is not None
    }
    write_durably(folder / NAME, json.dumps(found, indent=2).encode("ascii") + b"\n")


def read_pet_headers(folder: Path) -> Mapping[str, PetHeader]:
    """What :func:`keep_pet_headers` wrote, by Series Instance UID; nothing for results from before it did.

    Raises:
        MisconfiguredError: the file is damaged.
    """
    try:
        content = json.loads((folder / NAME).read_bytes())
        return {uid: PetHeader(**header) for uid, header in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise MisconfiguredError(
            f"{folder / NAME} is damaged ({type(error).__name__}); process the study again: psma-node retry"
        ) from error


def _header(study: Study, series: Series) -> PetHeader | None:
    if any(fault.attribute == "PatientID" for fault in series.faults):
        _log.error("its images name several patients: no prior", extra={"study": study.study_instance_uid})
        return None
    when = series.when or study.study_datetime
    if when is None:
        return None
    patient = study.patient
    return PetHeader(patient.patient_id, patient.issuer, when.replace(tzinfo=None).isoformat())


pet_results = Table(
    "pet_results",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("functional_series_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("patient_id", PlainText(MAX_IDENTIFIER_LENGTH), nullable=False, index=True),
    Column("issuer", PlainText(MAX_IDENTIFIER_LENGTH), nullable=False),
    Column("ct_series_instance_uid", String(64), nullable=False),
    Column("acquired_at", String(32), nullable=False),
    Column("lesion_count", Integer, nullable=False),
    Column("segmentation_sop_instance_uid", String(64), nullable=False),
    Column("segmentation_path", String(256), nullable=False),
    Column("registered_at", UtcDateTime, nullable=False),
)
"""The latest revision's result of each PET series; ``segmentation_path`` is empty for "no lesion".

``acquired_at`` is ISO 8601 without a zone: DICOM's times are the clinic's local ones.
"""


@dataclass(frozen=True)
class PetResult:
    """One PET result, on disk.

    Attributes:
        lesion_count: 0 is a result too.
        segmentation: the SEG file; ``None`` when no lesion was found.
        segmentation_sop_instance_uid: empty then.
        acquired_at: local time of the clinic, as DICOM's times are.
    """

    study_instance_uid: str
    functional_series_instance_uid: str
    ct_series_instance_uid: str
    acquired_at: datetime
    lesion_count: int
    segmentation: Path | None
    segmentation_sop_instance_uid: str


class PetResults:
    """Registers results; finds them by patient."""

    def __init__(self, engine: Engine, outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox

    def register(self, run: RunKey, outcome: StudyOutcome) -> None:
        """Keep every PET result of a processed study, "no lesion" too; those of an earlier revision give way.

        Whose they are stands in the headers that this very run has processed
        (:mod:`app.node.records.results`); the inbox may hold more by now. A PET without a date is left out:
        nobody could tell whether it is earlier than a SPECT.
        """
        pairs = [pair for pair in outcome.pairs if pair.kind is StudyKind.PET_CT]
        if not pairs:
            return
        headers = read_pet_headers(self._outbox.folder_of(run))
        rows = [
            _row(run, headers[pair.functional_series_instance_uid], pair)
            for pair in pairs
            if pair.functional_series_instance_uid in headers
        ]
        if len(rows) < len(pairs):
            facts = {"study": run.study_instance_uid, "revision": run.revision}
            reason = f"{len(pairs) - len(rows)} of {len(pairs)} have no date or no certain patient"
            _log.warning("PET results not kept as priors", extra=facts | {"reason": reason})
        with self._engine.begin() as connection:
            connection.execute(
                delete(pet_results).where(
                    pet_results.c.study_instance_uid == run.study_instance_uid,
                    pet_results.c.revision <= run.revision,
                )
            )
            newer = connection.execute(
                select(pet_results.c.revision).where(
                    pet_results.c.study_instance_uid == run.study_instance_uid
                )
            ).first()
            if rows and newer is None:
                connection.execute(insert(pet_results), rows)

    def withdraw(self, run: RunKey, functional_series_instance_uids: Collection[str]) -> None:
        """Forget what revisions before ``run`` found on these series: it no longer holds, and is no prior."""
        with self._engine.begin() as connection:
            connection.execute(
                delete(pet_results).where(
                    pet_results.c.study_instance_uid == run.study_instance_uid,
                    pet_results.c.revision < run.revision,
                    pet_results.c.functional_series_instance_uid.in_(functional_series_instance_uids),
                )
            )

    def of_studies(self, study_instance_uids: Collection[str]) -> frozenset[str]:
        """Those of the studies that have a result."""
        rows = pet_results
        query = select(rows.c.study_instance_uid).where(rows.c.study_instance_uid.in_(study_instance_uids))
        with self._engine.connect() as connection:
            return frozenset(connection.scalars(query))

    def of_patient(self, patient: Patient, before: datetime) -> tuple[PetResult, ...]:
        """The patient's results acquired before ``before`` (local time), the latest first.

        Nobody without a patient identifier has earlier results.
        """
        if not patient.patient_id:
            return ()
        query = select(pet_results).where(
            pet_results.c.patient_id == patient.patient_id, pet_results.c.issuer == patient.issuer
        )
        with self._engine.connect() as connection:
            found = [self._result(row) for row in connection.execute(query)]
        earlier = [result for result in found if result.acquired_at < before.replace(tzinfo=None)]
        return tuple(sorted(earlier, key=lambda result: result.acquired_at, reverse=True))

    def _result(self, row: Row[Any]) -> PetResult:
        folder = self._outbox.folder_of(RunKey(row.study_instance_uid, row.revision))
        return PetResult(
            study_instance_uid=row.study_instance_uid,
            functional_series_instance_uid=row.functional_series_instance_uid,
            ct_series_instance_uid=row.ct_series_instance_uid,
            acquired_at=datetime.fromisoformat(row.acquired_at),
            lesion_count=row.lesion_count,
            segmentation=folder / row.segmentation_path if row.segmentation_path else None,
            segmentation_sop_instance_uid=row.segmentation_sop_instance_uid,
        )


def _row(run: RunKey, header: PetHeader, pair: PairOutcome) -> dict[str, object]:
    seg = next((file for file in pair.files if file.kind == "SEG"), None)
    return {
        "study_instance_uid": run.study_instance_uid,
        "functional_series_instance_uid": pair.functional_series_instance_uid,
        "revision": run.revision,
        "patient_id": header.patient_id,
        "issuer": header.issuer,
        "ct_series_instance_uid": pair.ct_series_instance_uid,
        "acquired_at": header.acquired_at,
        "lesion_count": pair.findings.burden.lesion_count,
        "segmentation_sop_instance_uid": seg.sop_instance_uid if seg else "",
        "segmentation_path": seg.path if seg else "",
        "registered_at": utc_now(),
    }
