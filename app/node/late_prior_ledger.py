"""Of which late priors the audit log tells already.

A PET/CT ends again with each revision, and a step is repeated after a crash: its line stands once.
"""

from __future__ import annotations

from sqlalchemy import Column, Engine, Integer, String, Table, insert, select
from sqlalchemy.exc import IntegrityError

from app.node.database import metadata
from app.node.run_ledger import RunKey

late_priors_told = Table(
    "late_priors_told",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("pet_study_instance_uid", String(64), primary_key=True),
)
"""One row a revision of a SPECT/CT and late PET/CT."""


class LatePriorLedger:
    """Remembers what was told; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def is_told(self, spect: RunKey, pet_study_instance_uid: str) -> bool:
        """Whether it is written down that this revision was analysed without that PET/CT."""
        query = select(late_priors_told).filter_by(**_row(spect, pet_study_instance_uid))
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    def note_told(self, spect: RunKey, pet_study_instance_uid: str) -> None:
        """It is written down."""
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(late_priors_told).values(_row(spect, pet_study_instance_uid)))
        except IntegrityError:  # the PET/CT's worker and the SPECT/CT's noted it at the same time
            if not self.is_told(spect, pet_study_instance_uid):
                raise


def _row(spect: RunKey, pet_study_instance_uid: str) -> dict[str, object]:
    return {
        "study_instance_uid": spect.study_instance_uid,
        "revision": spect.revision,
        "pet_study_instance_uid": pet_study_instance_uid,
    }
