"""The node's register of PET results: where a later SPECT of the same patient finds its prior.

Identifiers of patients are in this table and in no log. Next to it stands what shadow models found: rows that
are only ever added, and that no delivery reads; and which late priors the audit log names already: a PET/CT
ends again with each revision, and a step is repeated after a crash, but the line is written once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, String, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.dicom.uids import ResultKind
from app.domain.study import Patient, Series, Study, StudyKind
from app.errors import MisconfiguredError
from app.node.records.database import (
    MAX_IDENTIFIER_LENGTH,
    Base,
    Ledger,
    LocalDateTime,
    PlainText,
    Uid,
    fetch,
    upsert,
    utc_now,
)
from app.node.records.outbox import Outbox
from app.node.records.states import RunKey

if TYPE_CHECKING:
    from app.domain.outcome import PairOutcome, ShadowComparison, StudyOutcome

PETS_JSON = "pets.json"
"""In this file version 0.1.0 kept the subjects of a run's PETs until they were registered."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeriesSubject:
    """Whose a series is and when it was acquired (the clinic's local time), as the processed images say."""

    patient: Patient
    acquired_at: datetime


class RegisteredResult(Base):
    """The result on one series. The table holds the latest revision's results on PET, "no lesion" too.

    Attributes:
        segmentation_sop_instance_uid: empty when no lesion was found.
        segmentation_path: of the SEG below the revision's folder; empty then.
    """

    __tablename__ = "pet_results"

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    functional_series_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    revision: Mapped[int]
    patient_id: Mapped[str] = mapped_column(PlainText(MAX_IDENTIFIER_LENGTH), index=True, repr=False)
    issuer: Mapped[str] = mapped_column(PlainText(MAX_IDENTIFIER_LENGTH), repr=False)
    ct_series_instance_uid: Mapped[Uid]
    acquired_at: Mapped[datetime] = mapped_column(LocalDateTime)
    lesion_count: Mapped[int]
    segmentation_sop_instance_uid: Mapped[Uid]
    segmentation_path: Mapped[str] = mapped_column(String(256))
    registered_at: Mapped[datetime] = mapped_column(default_factory=utc_now)

    @property
    def run(self) -> RunKey:
        return RunKey(self.study_instance_uid, self.revision)

    @classmethod
    def of(cls, run: RunKey, subject: SeriesSubject, pair: PairOutcome) -> RegisteredResult:
        seg = next((file for file in pair.files if file.kind == ResultKind.SEG), None)
        return cls(
            study_instance_uid=run.study_instance_uid,
            functional_series_instance_uid=pair.functional_series_instance_uid,
            revision=run.revision,
            patient_id=subject.patient.patient_id,
            issuer=subject.patient.issuer,
            ct_series_instance_uid=pair.ct_series_instance_uid,
            acquired_at=subject.acquired_at,
            lesion_count=pair.findings.burden.lesion_count,
            segmentation_sop_instance_uid=seg.sop_instance_uid if seg else "",
            segmentation_path=seg.path if seg else "",
        )


class ResultRegister:
    """Registers results; finds them by patient."""

    def __init__(self, engine: Engine, outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox

    def register(self, run: RunKey, outcome: StudyOutcome, subjects: Mapping[str, SeriesSubject]) -> None:
        """Keep the PET results of a processed study whose subject is known; those of earlier revisions go."""
        pairs = _pets(outcome)
        if not pairs:
            return
        rows = [
            RegisteredResult.of(run, subjects[pair.functional_series_instance_uid], pair)
            for pair in pairs
            if pair.functional_series_instance_uid in subjects
        ]
        if len(rows) < len(pairs):
            reason = f"{len(pairs) - len(rows)} of {len(pairs)} have no date or no certain patient"
            _log.warning("PET results not kept as priors", extra=run.facts | {"reason": reason})
        of_study = RegisteredResult.study_instance_uid == run.study_instance_uid
        with Session(self._engine) as session, session.begin():
            session.execute(
                delete(RegisteredResult).where(of_study, RegisteredResult.revision <= run.revision)
            )
            newer = session.scalars(select(RegisteredResult).where(of_study)).first()
            if newer is None:
                session.add_all(rows)

    def register_old(self, run: RunKey, outcome: StudyOutcome) -> None:
        """Register what version 0.1.0 processed and did not come to register. Goes with the next version.

        Raises:
            MisconfiguredError: its file of subjects is damaged.
        """
        path = self._outbox.folder_of(run) / PETS_JSON
        if path.is_file():
            self.register(run, outcome, _read_pets_json(path))

    def withdraw(self, run: RunKey, functional_series_instance_uids: Collection[str]) -> None:
        """Forget what revisions before ``run`` found on these series: it no longer holds, and is no prior."""
        rows = RegisteredResult
        forgotten = delete(rows).where(
            rows.study_instance_uid == run.study_instance_uid,
            rows.revision < run.revision,
            rows.functional_series_instance_uid.in_(functional_series_instance_uids),
        )
        with self._engine.begin() as connection:
            connection.execute(forgotten)

    def of_studies(self, study_instance_uids: Collection[str]) -> frozenset[str]:
        """Those of the studies that have a result."""
        uid = RegisteredResult.study_instance_uid
        return frozenset(fetch(self._engine, select(uid).where(uid.in_(study_instance_uids))))

    def of_patient(self, patient: Patient, before: datetime) -> tuple[RegisteredResult, ...]:
        """The patient's results acquired before ``before`` (local time), the latest first.

        Nobody without a patient identifier has earlier results.
        """
        if patient.unidentified:
            return ()
        query = select(RegisteredResult).where(
            RegisteredResult.patient_id == patient.patient_id, RegisteredResult.issuer == patient.issuer
        )
        earlier = [result for result in fetch(self._engine, query) if result.acquired_at < before]
        return tuple(sorted(earlier, key=lambda result: result.acquired_at, reverse=True))


def pet_subjects(paths: Sequence[Path], outcome: StudyOutcome) -> dict[str, SeriesSubject]:
    """Whose the PETs with a result are, by Series Instance UID.

    ``paths`` are the files that were processed: the inbox may hold others by now. A series without a date is
    left out, since it may not be earlier than a SPECT; and so is one of a study whose images name several
    patients.
    """
    from app.dicom.reading.studies import read_study

    pets = {pair.functional_series_instance_uid for pair in _pets(outcome)}
    if not pets:
        return {}
    study = read_study(paths)
    found = {
        series.series_instance_uid: _subject(study, series)
        for series in study.series
        if series.series_instance_uid in pets
    }
    return {uid: subject for uid, subject in found.items() if subject is not None}


def _subject(study: Study, series: Series) -> SeriesSubject | None:
    if any(fault.attribute == "PatientID" for fault in series.faults):
        _log.error("its images name several patients: no prior", extra={"study": study.study_instance_uid})
        return None
    when = series.when or study.study_datetime
    return None if when is None else SeriesSubject(study.patient, when)


def _read_pets_json(path: Path) -> dict[str, SeriesSubject]:
    try:
        return {
            uid: SeriesSubject(
                Patient(header["patient_id"], header["issuer"]), datetime.fromisoformat(header["acquired_at"])
            )
            for uid, header in json.loads(path.read_bytes()).items()
        }
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise MisconfiguredError(
            f"{path} is damaged ({type(error).__name__}); process the study again: psma-node retry"
        ) from error


def _pets(outcome: StudyOutcome) -> list[PairOutcome]:
    return [pair for pair in outcome.pairs if pair.kind is StudyKind.PET_CT]


class ShadowRow(Base):
    """One comparison as kept; numbers are ``None`` where ``problem`` says why, or (Dice) both are empty."""

    __tablename__ = "shadow_comparisons"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    compared_at: Mapped[datetime]
    study_instance_uid: Mapped[Uid]
    revision: Mapped[int]
    functional_series_instance_uid: Mapped[Uid]
    kind: Mapped[str] = mapped_column(String(16))
    serving_id: Mapped[str] = mapped_column(String(128))
    serving_weights_sha256: Mapped[str] = mapped_column(String(64))
    serving_lesions: Mapped[int]
    serving_ml: Mapped[float]
    shadow_id: Mapped[str] = mapped_column(String(128))
    shadow_version: Mapped[str] = mapped_column(String(64))
    shadow_weights_sha256: Mapped[str] = mapped_column(String(64))
    shadow_prior_used: Mapped[bool]
    shadow_lesions: Mapped[int | None]
    shadow_ml: Mapped[float | None]
    dice: Mapped[float | None]
    seconds: Mapped[float]
    problem: Mapped[str]


class ShadowLedger(Ledger):
    """Comparisons, in the order in which they were made."""

    def add(self, key: RunKey, comparisons: Sequence[ShadowComparison]) -> None:
        """Keep them; nothing kept before is changed."""
        with Session(self._engine) as session, session.begin():
            session.add_all(_row(key, comparison) for comparison in comparisons)

    def all(self) -> tuple[ShadowRow, ...]:
        return fetch(self._engine, select(ShadowRow).order_by(ShadowRow.id))


def _row(key: RunKey, comparison: ShadowComparison) -> ShadowRow:
    shadow, found = comparison.shadow, comparison.found
    return ShadowRow(
        compared_at=utc_now(),
        study_instance_uid=key.study_instance_uid,
        revision=key.revision,
        functional_series_instance_uid=comparison.functional_series_instance_uid,
        kind=str(comparison.kind),
        serving_id=comparison.serving.model_id,
        serving_weights_sha256=comparison.serving.weights_sha256,
        serving_lesions=comparison.serving_found.lesion_count,
        serving_ml=comparison.serving_found.volume_ml,
        shadow_id=comparison.shadow_id,
        shadow_version="" if shadow is None else shadow.version,
        shadow_weights_sha256="" if shadow is None else shadow.weights_sha256,
        shadow_prior_used=comparison.prior_used,
        shadow_lesions=None if found is None else found.lesion_count,
        shadow_ml=None if found is None else found.volume_ml,
        dice=comparison.dice,
        seconds=comparison.seconds,
        problem=comparison.problem,
    )


class LatePriorRow(Base):
    """A revision of a SPECT/CT, and a late PET/CT that the audit log names for it."""

    __tablename__ = "late_priors_told"

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    pet_study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)


class LatePriorLedger(Ledger):
    """Which late priors the audit log names."""

    def is_noted(self, spect: RunKey, pet_study_instance_uid: str) -> bool:
        """Whether it is written down that this revision was analysed without that PET/CT."""
        query = select(LatePriorRow).filter_by(**_late_prior(spect, pet_study_instance_uid))
        return bool(fetch(self._engine, query))

    def note(self, spect: RunKey, pet_study_instance_uid: str) -> None:
        """It is written down; the PET/CT's worker and the SPECT/CT's may note it at the same time."""
        upsert(self._engine, LatePriorRow, **_late_prior(spect, pet_study_instance_uid))


def _late_prior(spect: RunKey, pet_study_instance_uid: str) -> dict[str, object]:
    return {**asdict(spect), "pet_study_instance_uid": pet_study_instance_uid}
