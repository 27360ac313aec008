"""Since when a run waits: what is tried again has not waited since its first day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add ``queued_at`` to ``runs``: what is there has waited since it was opened."""
    column = sa.Column("queued_at", sa.DateTime(), nullable=False, server_default="1970-01-01 00:00:00")
    op.add_column("runs", column)
    op.execute("UPDATE runs SET queued_at = created_at")
