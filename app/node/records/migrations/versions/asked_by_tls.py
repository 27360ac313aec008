"""A sender that asked by TLS is answered by TLS; of those that wait already, it is not known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add a column to ``commitments_owed``."""
    by_tls: sa.Column[bool] = sa.Column("by_tls", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("commitments_owed", by_tls)
