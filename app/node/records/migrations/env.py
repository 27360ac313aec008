"""What Alembic runs to take a database from one version of the schema to the next."""

from __future__ import annotations

from alembic import context

# no transaction is begun or ended here: all steps are one, that of whoever opens the database
context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
