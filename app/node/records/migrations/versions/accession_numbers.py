"""A study is found by its accession number; of those that were there before, it is not known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add a column to ``studies``."""
    op.add_column("studies", sa.Column("accession_number", sa.Text()))
