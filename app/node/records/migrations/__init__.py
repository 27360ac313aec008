"""The schema of the node's database, and the steps from one version of it to the next (Alembic).

A change of the schema is one more file in ``versions``, and its name in :data:`REVISION`. ``tests/legacy``
proves that they lead from a database of version 0.1.0, and from an empty one, to the tables declared as rows.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from app import __version__
from app.errors import MisconfiguredError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

REVISION = "0010"
"""The newest step: what this version of the program expects."""

_FIRST_TABLES = frozenset({"instances", "runs", "executors", "audit_head"})
"""Some of version 0.1.0, which every later version has too."""

_one_at_a_time = threading.Lock()
"""Alembic keeps what it is about in variables of its modules."""


def found_revision(connection: Connection) -> str | None:
    """The step that a database has come to; ``None`` for an empty one, or one of version 0.1.0."""
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def refuse_newer(connection: Connection, place: str) -> None:
    """Refuse a database that this version of the program does not know; ``place`` is for the message.

    Raises:
        MisconfiguredError: another version has taken it further, or it is of another program.
    """
    found = found_revision(connection)
    _refuse_foreign(connection, place)
    if found in (None, REVISION):
        return
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found not in known:
        raise MisconfiguredError(
            f"the database {place} has schema {found}, made by a newer version of the program; version "
            f"{__version__} expects {REVISION} or an older one. Install the newer version again, or restore "
            "the backup from before the upgrade"
        )


def _refuse_foreign(connection: Connection, place: str) -> None:
    """An SQLite file belongs to one program; in Postgres others may have tables of their own."""
    from sqlalchemy import inspect

    tables = inspect(connection).get_table_names() if connection.dialect.name == "sqlite" else []
    if tables and not _FIRST_TABLES.intersection(tables):
        raise MisconfiguredError(
            f"the database {place} is another program's: it holds {', '.join(sorted(tables)[:3])}; "
            "move it away, or name another place (node.data_dir, node.database_url)"
        )


def upgrade(connection: Connection, place: str) -> None:
    """Take a database to :data:`REVISION`, whatever version it is of; in the connection's transaction.

    Raises:
        MisconfiguredError: as :func:`refuse_newer`.
    """
    from alembic import command

    refuse_newer(connection, place)
    config = _config()
    config.attributes["connection"] = connection
    with _one_at_a_time:
        command.upgrade(config, "head")


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "app.node.records:migrations")
    return config
