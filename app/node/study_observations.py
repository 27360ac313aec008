"""What the node last saw of an arriving study: kept for people, who may look while it is stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Engine, Row, String, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.node.database import PlainText, UtcDateTime, metadata, utc_now
from app.node.run_ledger import StudyState

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
