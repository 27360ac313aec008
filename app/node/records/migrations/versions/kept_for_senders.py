"""What senders were told that the node keeps, and images that ``node.retention`` has removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add columns to ``instances``; what was told before is in the audit log alone."""
    for name in ("committed_at", "removed_at"):
        op.add_column("instances", sa.Column(name, sa.DateTime()))
