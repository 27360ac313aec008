"""That a destination keeps a result is proven, and senders may ask the same of the node."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

UID = sa.String(64)


def upgrade() -> None:
    """Add what is proven of deliveries, and both ledgers of storage commitment; what is done stays so."""
    op.add_column("deliveries", sa.Column("proofs", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("delivered_instances", sa.Column("committed_at", sa.DateTime()))
    op.create_table(
        "commitments_asked",
        sa.Column("transaction_uid", UID, primary_key=True),
        sa.Column("sop_instance_uid", UID, primary_key=True),
        sa.Column("study_instance_uid", UID, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("asked_at", sa.DateTime(), nullable=False),
        sa.Column("answered_at", sa.DateTime()),
        sa.Column("failure_reason", sa.Integer()),
    )
    op.create_index("commitments_asked_by_study", "commitments_asked", ["study_instance_uid"])
    op.create_table(
        "commitments_owed",
        sa.Column("calling_ae", sa.String(16), primary_key=True),
        sa.Column("transaction_uid", UID, primary_key=True),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("asked_for", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.DateTime(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.DateTime(), nullable=False),
    )
