"""What the node knows of each study in the inbox: whose it is, what it may give, what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import ColumnElement, select, true
from sqlalchemy.orm import Mapped, mapped_column

from app.domain.study import Patient, is_placeholder
from app.node.records.database import (
    MAX_IDENTIFIER_LENGTH,
    Base,
    Ledger,
    LocalDateTime,
    PlainText,
    Uid,
    fetch,
    text_enum,
    upsert,
    utc_now,
)
from app.node.records.states import ARRIVING, StudyState

Identifier = Annotated[str, mapped_column(PlainText(MAX_IDENTIFIER_LENGTH))]
"""Patient ID, or Issuer of Patient ID."""


class StudyRow(Base):
    """What the node last knew of a study: for people, also while the node is stopped, and for other studies.

    Identifiers of patients are in this table and in no log.

    Attributes:
        state: ``receiving``, ``waiting``, ``held`` until a person chooses, or ``queued`` once a revision was
            opened for what is there; ``None`` before the first look.
        reason: what it waits for.
        patient_id, issuer, accession_number: ``None`` before the first header was read, and for a study
            without an image.
        pet_acquired_at, spect_acquired_at: as in :class:`StudySubject`.
    """

    __tablename__ = "studies"

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    state: Mapped[StudyState | None] = mapped_column(text_enum(StudyState), default=None, index=True)
    reason: Mapped[str] = mapped_column(default="")
    observed_at: Mapped[datetime | None] = mapped_column(default=None)
    patient_id: Mapped[Identifier | None] = mapped_column(index=True, default=None, repr=False)
    issuer: Mapped[Identifier | None] = mapped_column(default=None, repr=False)
    pet_acquired_at: Mapped[datetime | None] = mapped_column(LocalDateTime(), default=None)
    spect_acquired_at: Mapped[datetime | None] = mapped_column(LocalDateTime(), default=None)
    accession_number: Mapped[Identifier | None] = mapped_column(default=None, repr=False)

    @property
    def acquired_at(self) -> datetime | None:
        """When its PET or SPECT was acquired, where that is known; local time."""
        return self.pet_acquired_at or self.spect_acquired_at

    @property
    def is_arriving(self) -> bool:
        """No revision was opened yet for what has come last; one will be when it is complete."""
        return self.state in ARRIVING


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
    accession_number: str = field(default="", repr=False)


class StudyLedger(Ledger):
    """One row a study, the latest knowledge only."""

    def observe(self, study_instance_uid: str, state: StudyState, reason: str = "") -> None:
        """Replace what was last seen of a study's arrival."""
        seen = {"state": state, "reason": reason, "observed_at": utc_now()}
        upsert(self._engine, StudyRow, study_instance_uid=study_instance_uid, **seen)

    def identify(self, subject: StudySubject) -> None:
        """Replace what was known of whose the study is, and of what it holds."""
        upsert(
            self._engine,
            StudyRow,
            study_instance_uid=subject.study_instance_uid,
            patient_id=subject.patient.patient_id,
            issuer=subject.patient.issuer,
            pet_acquired_at=subject.pet_acquired_at,
            spect_acquired_at=subject.spect_acquired_at,
            accession_number=subject.accession_number,
        )

    def get(self, study_instance_uid: str) -> StudyRow | None:
        found = self._select(StudyRow.study_instance_uid == study_instance_uid)
        return found[0] if found else None

    def all(self) -> dict[str, StudyRow]:
        return {row.study_instance_uid: row for row in self._select()}

    def receiving(self) -> tuple[str, ...]:
        """Studies of which images come in, or of which a person has chosen the content."""
        query = select(StudyRow.study_instance_uid).where(StudyRow.state == StudyState.RECEIVING)
        return fetch(self._engine, query)

    def of_patient(self, patient: Patient) -> tuple[StudyRow, ...]:
        """Every study of a patient, by its identifier; none for a patient without one."""
        if patient.unidentified:
            return ()
        return self._select(StudyRow.patient_id == patient.patient_id, StudyRow.issuer == patient.issuer)

    def of_same_patient(self, study_instance_uid: str) -> tuple[str, ...]:
        """Other studies of the study's patient; none where it names none."""
        own = self.get(study_instance_uid)
        return () if own is None else self._others(own, true(), StudyRow.study_instance_uid.asc())

    def later_spects(self, study_instance_uid: str) -> tuple[str, ...]:
        """Other studies of the same patient with a SPECT from after this study's PET, the earliest first.

        None for a study that is no PET, has no date, or names no patient.
        """
        own = self.get(study_instance_uid)
        if own is None or own.pet_acquired_at is None:
            return ()
        acquired_at = StudyRow.spect_acquired_at
        return self._others(own, acquired_at > own.pet_acquired_at, acquired_at.asc())

    def earlier_pets(self, study_instance_uid: str) -> tuple[str, ...]:
        """Other studies of the same patient that hold, or may hold, a PET from before this study's SPECT, the
        latest first.

        None for a study that is no SPECT, has no date, or names no patient.
        """
        own = self.get(study_instance_uid)
        if own is None or own.spect_acquired_at is None:
            return ()
        acquired_at = StudyRow.pet_acquired_at
        return self._others(own, acquired_at < own.spect_acquired_at, acquired_at.desc())

    def _others(self, own: StudyRow, when: ColumnElement[bool], order: ColumnElement[Any]) -> tuple[str, ...]:
        """Other studies of the same patient; none for a patient without an identifier."""
        if is_placeholder(own.patient_id or ""):
            return ()
        same = (StudyRow.patient_id == own.patient_id, StudyRow.issuer == own.issuer)
        other = StudyRow.study_instance_uid != own.study_instance_uid
        query = select(StudyRow.study_instance_uid).where(*same, other, when)
        return fetch(self._engine, query.order_by(order))

    def _select(self, *conditions: ColumnElement[bool]) -> tuple[StudyRow, ...]:
        return fetch(self._engine, select(StudyRow).where(*conditions))
