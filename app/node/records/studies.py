"""Whose each study in the inbox is, and what it may give: known from its first header on.

Identifiers of patients are in this table and in no log.

What the node last saw of an arriving study: kept for people, who may look while it is stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Engine, Row, String, Table, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.domain.study import Patient
from app.node.records.database import MAX_IDENTIFIER_LENGTH, PlainText, UtcDateTime, metadata, utc_now
from app.node.records.runs import StudyState

study_subjects = Table(
    "study_subjects",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("patient_id", PlainText(MAX_IDENTIFIER_LENGTH), nullable=False, index=True),
    Column("issuer", PlainText(MAX_IDENTIFIER_LENGTH), nullable=False),
    Column("pet_acquired_at", String(32)),
    Column("spect_acquired_at", String(32)),
)
"""Instants are ISO 8601 without a zone: DICOM's times are the clinic's local ones, and so sorted as text."""


@dataclass(frozen=True)
class StudySubject:
    """Whose a study is, and what it is.

    Attributes:
        pet_acquired_at: of the PET that it holds, or may hold when all of it is here; ``None`` for no PET, or
            one without a date. Local time.
        spect_acquired_at: of the SPECT that it holds and that an earlier PET of another study could help.
    """

    study_instance_uid: str
    patient: Patient
    pet_acquired_at: datetime | None = None
    spect_acquired_at: datetime | None = None


class StudySubjects:
    """One row a study, the latest knowledge only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, subject: StudySubject) -> None:
        """Replace what was known of the study."""
        rows, values = study_subjects, _row(subject)
        of_study = update(rows).where(rows.c.study_instance_uid == subject.study_instance_uid).values(values)
        try:
            with self._engine.begin() as connection:
                if connection.execute(of_study).rowcount == 0:
                    connection.execute(insert(rows).values(values))
        except IntegrityError:  # another process wrote the first one
            with self._engine.begin() as connection:
                connection.execute(of_study)

    def acquired_at(self) -> dict[str, datetime]:
        """When each study's PET or SPECT was acquired, where that is known, by Study Instance UID."""
        rows = study_subjects
        when = func.coalesce(rows.c.pet_acquired_at, rows.c.spect_acquired_at)
        query = select(rows.c.study_instance_uid, when).where(when.is_not(None))
        with self._engine.connect() as connection:
            return {uid: datetime.fromisoformat(text) for uid, text in connection.execute(query)}

    def of_patient(self, patient: Patient) -> tuple[StudySubject, ...]:
        """Every study of a patient, by its identifier; none for a patient without one."""
        rows = study_subjects
        if not patient.patient_id:
            return ()
        query = select(rows).where(rows.c.patient_id == patient.patient_id, rows.c.issuer == patient.issuer)
        with self._engine.connect() as connection:
            return tuple(_subject(row, patient) for row in connection.execute(query))

    def later_spects(self, study_instance_uid: str) -> tuple[str, ...]:
        """Other studies of the same patient with a SPECT from after this study's PET, the earliest first.

        None for a study that is no PET, has no date, or names no patient.
        """
        own = self._of(study_instance_uid)
        if own is None or own.pet_acquired_at is None:
            return ()
        acquired_at = study_subjects.c.spect_acquired_at
        return self._others(own, acquired_at > own.pet_acquired_at, acquired_at)

    def earlier_pets(self, study_instance_uid: str) -> tuple[str, ...]:
        """Other studies of the same patient that hold, or may hold, a PET from before this study's SPECT, the
        latest first.

        None for a study that is no SPECT, has no date, or names no patient.
        """
        own = self._of(study_instance_uid)
        if own is None or own.spect_acquired_at is None:
            return ()
        acquired_at = study_subjects.c.pet_acquired_at
        return self._others(own, acquired_at < own.spect_acquired_at, acquired_at.desc())

    def _of(self, study_instance_uid: str) -> Row[Any] | None:
        query = select(study_subjects).where(study_subjects.c.study_instance_uid == study_instance_uid)
        with self._engine.connect() as connection:
            return connection.execute(query).one_or_none()

    def _others(self, own: Row[Any], when: ColumnElement[bool], order: ColumnElement[Any]) -> tuple[str, ...]:
        """Other studies of the same patient; nobody without an identifier is the same as another."""
        rows = study_subjects
        if not own.patient_id:
            return ()
        same = (rows.c.patient_id == own.patient_id, rows.c.issuer == own.issuer)
        query = select(rows.c.study_instance_uid).where(
            *same, rows.c.study_instance_uid != own.study_instance_uid, when
        )
        with self._engine.connect() as connection:
            return tuple(connection.scalars(query.order_by(order)))



def _subject(row: Row[Any], patient: Patient) -> StudySubject:
    pet, spect = (
        None if text is None else datetime.fromisoformat(text)
        for text in (row.pet_acquired_at, row.spect_acquired_at)
    )
    return StudySubject(row.study_instance_uid, patient, pet, spect)


def _row(subject: StudySubject) -> dict[str, str | None]:
    return {
        "study_instance_uid": subject.study_instance_uid,
        "patient_id": subject.patient.patient_id,
        "issuer": subject.patient.issuer,
        "pet_acquired_at": _iso(subject.pet_acquired_at),
        "spect_acquired_at": _iso(subject.spect_acquired_at),
    }


def _iso(instant: datetime | None) -> str | None:
    # always with microseconds, so that the order of the text is the order in time
    return None if instant is None else instant.replace(tzinfo=None).isoformat(timespec="microseconds")


observed_studies = Table(
    "observed_studies",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("reason", PlainText(), nullable=False, default=""),
    Column("observed_at", UtcDateTime, nullable=False),
)


@dataclass(frozen=True)
class Observation:
    """``receiving`` or ``waiting`` with what for; ``queued`` once a revision was opened for what is there."""

    study_instance_uid: str
    state: StudyState
    reason: str = ""


class StudyObservations:
    """One row a study, the latest observation only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, observation: Observation) -> None:
        """Replace what was known of the study."""
        values = {"state": observation.state, "reason": observation.reason, "observed_at": utc_now()}
        uid = observation.study_instance_uid
        rows = observed_studies
        of_study = update(rows).where(rows.c.study_instance_uid == uid).values(**values)
        try:
            with self._engine.begin() as connection:
                if connection.execute(of_study).rowcount == 0:
                    connection.execute(insert(observed_studies).values(study_instance_uid=uid, **values))
        except IntegrityError:  # another process wrote the first one
            with self._engine.begin() as connection:
                connection.execute(of_study)

    def of_study(self, study_instance_uid: str) -> Observation | None:
        """What was last seen of one study."""
        query = select(observed_studies).where(observed_studies.c.study_instance_uid == study_instance_uid)
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _observation(row)

    def all(self) -> dict[str, Observation]:
        """Every observation, by study."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(observed_studies)).all()
        return {row.study_instance_uid: _observation(row) for row in rows}


def _observation(row: Row[Any]) -> Observation:
    return Observation(row.study_instance_uid, StudyState(row.state), row.reason)
