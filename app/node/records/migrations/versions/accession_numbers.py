"""A study is found by its accession number; of those that were there before, it is not known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a column to ``studies``."""
    op.add_column("studies", sa.Column("accession_number", sa.Text()))
