"""Indexes for what is looked at again and again: a look costs the same however many studies there are."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add indexes; ``runs_by_start`` takes the place of one that what headers refuse fills up as well."""
    op.drop_index("ix_runs_started_at", "runs")
    op.create_index("runs_by_start", "runs", ["by_headers", "started_at"])
    op.create_index("runs_in_line", "runs", ["by_headers", "state", "created_at"])
    for table in ("deliveries", "studies"):
        op.create_index(f"ix_{table}_state", table, ["state"])
