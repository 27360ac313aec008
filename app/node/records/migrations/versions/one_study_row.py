"""One row for each study: what the node last saw of it, and whose it is, stand in one table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

OBSERVED = """
INSERT INTO studies (study_instance_uid, state, reason, observed_at,
                     patient_id, issuer, pet_acquired_at, spect_acquired_at)
SELECT seen.study_instance_uid, seen.state, seen.reason, seen.observed_at,
       subject.patient_id, subject.issuer, subject.pet_acquired_at, subject.spect_acquired_at
FROM observed_studies AS seen
LEFT JOIN study_subjects AS subject ON subject.study_instance_uid = seen.study_instance_uid
"""

NOT_YET_OBSERVED = """
INSERT INTO studies (study_instance_uid, reason, patient_id, issuer, pet_acquired_at, spect_acquired_at)
SELECT study_instance_uid, '', patient_id, issuer, pet_acquired_at, spect_acquired_at
FROM study_subjects
WHERE study_instance_uid NOT IN (SELECT study_instance_uid FROM observed_studies)
"""
"""The node was killed between the two."""


def upgrade() -> None:
    """Merge ``observed_studies`` and ``study_subjects`` into ``studies``."""
    op.create_table(
        "studies",
        sa.Column("study_instance_uid", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16)),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("observed_at", sa.DateTime()),
        sa.Column("patient_id", sa.Text()),
        sa.Column("issuer", sa.Text()),
        sa.Column("pet_acquired_at", sa.String(32)),
        sa.Column("spect_acquired_at", sa.String(32)),
    )
    op.create_index("ix_studies_patient_id", "studies", ["patient_id"])
    op.execute(OBSERVED)
    op.execute(NOT_YET_OBSERVED)
    op.drop_table("observed_studies")
    op.drop_table("study_subjects")
