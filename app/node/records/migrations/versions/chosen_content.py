"""Which content of an instance stands, and the transfer syntax it came in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add two columns to ``instances``; what is there stands, in a syntax that its file alone states."""
    text, flag = sa.String(64), sa.Boolean()
    op.add_column("instances", sa.Column("transfer_syntax_uid", text, nullable=False, server_default=""))
    op.add_column("instances", sa.Column("discarded", flag, nullable=False, server_default=sa.false()))
