"""What a run's place in the queue depends on, and tries that were cut off, counted by themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add columns to ``runs``; until now a try counted as a fault from its beginning."""
    for name, kind, value in (
        ("interruptions", sa.Integer(), "0"),
        ("sender", sa.String(16), ""),
        ("rank", sa.Integer(), "2"),
        ("by_headers", sa.Boolean(), sa.false()),
    ):
        op.add_column("runs", sa.Column(name, kind, nullable=False, server_default=value))
    op.add_column("runs", sa.Column("started_at", sa.DateTime()))
    for name in ("started_at", "state"):
        op.create_index(f"ix_runs_{name}", "runs", [name])
    op.execute("UPDATE runs SET faults = faults - 1 WHERE state = 'running' AND faults > 0")
