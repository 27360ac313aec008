"""The node's one database: SQLite in a file by default, Postgres by URL for many hosts.

A row is declared once, as a mapped dataclass (:class:`Base`) in the module of its ledger. Rows that leave a
ledger belong to no session any more: changing one changes nothing in the database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, MappedAsDataclass, Session, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from app.errors import MisconfiguredError
from app.node.records import migrations
from app.node.records.clock import CLOCK
from app.node.records.database_fault import database_fault, database_place

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for another: SQLite has one writer, and an fsync on a busy disk takes seconds."""

KEPT_CONNECTIONS = 32
"""Open connections kept for the next user. More are opened as needed: every association and worker has one
thread, so ``receive.max_associations`` and ``node.workers`` bound them, and none waits for another."""

POSTGRES_TIMEOUTS = {
    "connect_timeout": str(round(BUSY_TIMEOUT_S)),
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": str(round(1000 * BUSY_TIMEOUT_S)),
}
"""libpq's, in seconds, the last in ms: a host that vanished is noticed within 30 s, whether it owes an answer
(keepalives) or takes nothing any more (tcp_user_timeout); the system's own are 15 minutes to 2 hours."""

POSTGRES_SCHEMES = ("postgres", "postgresql", "postgresql+psycopg")
"""All mean the same here: the driver that is installed."""

_SCHEMA_LOCK = 0x70736D61
"""Key of the advisory lock under which the schema changes: two nodes may start at the same time."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware instant, kept in UTC without an offset, which every database orders correctly."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; a naive datetime is refused, since its meaning is unknown."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored datetime needs a time zone, found a naive one")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


MAX_IDENTIFIER_LENGTH = 1024
"""Patient's identifiers have 64 characters at most (PS3.5 6.2, LO); real ones are longer now and then, and
an index of Postgres takes 2700 bytes."""


class PlainText(TypeDecorator[str]):
    """Text from headers, as every database takes it: Postgres refuses NUL and unpaired surrogates.

    Args:
        max_length: more is cut off; 0 for no limit.
    """

    impl = sa.Text
    cache_ok = True

    def __init__(self, max_length: int = 0) -> None:
        super().__init__()
        self.max_length = max_length

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The text without what can't be stored; the same for values stored and compared."""
        if value is None:
            return None
        plain = value.replace("\0", "").encode("utf-8", errors="replace").decode("utf-8")
        return plain[: self.max_length] if self.max_length else plain


class LocalDateTime(TypeDecorator[datetime]):
    """The clinic's local time, as DICOM has it: ISO 8601 text without a zone.

    It always has microseconds, so that the order of the text is the order in time.
    """

    impl = sa.String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """As text; a zone is dropped."""
        return None if value is None else value.replace(tzinfo=None).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


def text_enum(kind: type[StrEnum]) -> sa.Enum:
    """A column of 16 characters that holds a member's value; the database does not check it."""
    values = [member.value for member in kind]
    return sa.Enum(kind, native_enum=False, length=16, values_callable=lambda _: values)


Uid = Annotated[str, mapped_column(sa.String(64))]
"""A DICOM UID (PS3.5 9.1)."""


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """What the rows of every table have in common."""

    type_annotation_map = {datetime: UtcDateTime, str: PlainText(), float: sa.Float()}  # noqa: RUF012  only read


metadata = Base.metadata


class Ledger:
    """Reads and changes rows; each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine


T = TypeVar("T")


def fetch(engine: sa.Engine, query: sa.Select[T]) -> tuple[T, ...]:
    """Everything that a query of one row class, or of one column, finds."""
    with Session(engine) as session:
        return tuple(session.scalars(query))


def insert_missing(connection: sa.Connection, row: type[Base], rows: Sequence[dict[str, object]]) -> None:
    """Write rows; where there is one with the same key already, it stays as it is, unless it is of what was
    removed (``removed_at``)."""
    new = _insert_of(connection)(row)
    removed_at = row.__table__.c.get("removed_at")
    if removed_at is None:
        connection.execute(new.on_conflict_do_nothing(), rows)
        return
    key = [column.name for column in sa.inspect(row).primary_key]
    others = {name: new.excluded[name] for name in rows[0] if name not in key} | {"removed_at": None}
    again = new.on_conflict_do_update(index_elements=key, set_=others, where=removed_at.is_not(None))
    connection.execute(again, rows)


def upsert(engine: sa.Engine, row: type[Base], **values: object) -> None:
    """Write a row; where there is one with this primary key, only the other values given are changed."""
    key = [column.name for column in sa.inspect(row).primary_key]
    new = _insert_of(engine)(row).values(**values)
    others = {name: new.excluded[name] for name in values if name not in key}
    with engine.begin() as connection:
        if others:
            connection.execute(new.on_conflict_do_update(index_elements=key, set_=others))
        else:
            connection.execute(new.on_conflict_do_nothing())


def _insert_of(engine: sa.Engine | sa.Connection) -> Callable[[type[Base]], Any]:
    """The database's own INSERT, which alone knows ON CONFLICT; the other database's is not loaded."""
    if engine.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert


def open_database(url: str) -> sa.Engine:
    """An engine for ``url``, with every table in place, those of an earlier version taken over.

    Args:
        url: ``sqlite:///node.sqlite``, or ``postgresql://user:password@host:port/database``.

    Raises:
        MisconfiguredError: the URL can't be understood, its driver is not installed, or the database is that
            of a newer version or another program, or no database at all.
        RetryLaterError: the database does not answer.
    """
    engine = create_database_engine(url)
    try:
        _bring_up_to_date(engine)
        CLOCK.follow(engine)
    except SQLAlchemyError as error:
        raise database_fault(engine.url, error).error from error
    return engine


def _bring_up_to_date(engine: sa.Engine) -> None:
    try:
        with engine.connect() as connection:
            is_current = migrations.found_revision(connection) == migrations.REVISION
        if not is_current:
            with engine.begin() as connection:
                _lock_schema(connection)
                migrations.upgrade(connection, database_place(engine.url))
    except BaseException:
        engine.dispose()
        raise


def _lock_schema(connection: sa.Connection) -> None:
    """Lock the schema until the transaction ends; SQLite's driver would not begin a transaction itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def database_url(url: str) -> URL:
    """The URL with the driver that this node brings, and :data:`POSTGRES_TIMEOUTS` where it sets none itself.

    They stand in the URL since the workflow engine makes connections of its own from it.

    Raises:
        MisconfiguredError: it is no database URL, or of a database this node does not know.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _unusable(error) from error
    if parsed.drivername in POSTGRES_SCHEMES:
        return parsed.set(drivername="postgresql+psycopg", query={**POSTGRES_TIMEOUTS, **parsed.query})
    if parsed.get_backend_name() == "sqlite":
        return parsed
    raise MisconfiguredError(
        f"found a database URL of {parsed.drivername}; expected sqlite:///path or "
        "postgresql://user:password@host:port/database"
    )


def create_database_engine(url: str) -> sa.Engine:
    """An engine with the durability this node promises, no table touched. Raises as :func:`open_database`."""
    parsed = database_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    in_memory = is_sqlite and parsed.database in (None, "", ":memory:")  # one connection a thread, no pool
    pool = {} if in_memory else {"pool_size": KEPT_CONNECTIONS, "max_overflow": -1}
    arguments = {"timeout": BUSY_TIMEOUT_S} if is_sqlite else {}
    try:
        # an error's text would quote a row, and rows name patients
        engine = sa.create_engine(
            parsed, connect_args=arguments, pool_pre_ping=not is_sqlite, hide_parameters=True, **pool
        )
    except (ArgumentError, ImportError) as error:
        raise _unusable(error) from error
    if is_sqlite:
        sa.event.listen(engine, "connect", _set_sqlite_durability)
    return engine


def utc_now() -> datetime:
    """Now, as all see it who share the database (:mod:`app.node.records.clock`)."""
    return CLOCK.now()


def iso_or_empty(instant: datetime | None) -> str:
    """An instant for logs and audit, to the second; empty for none."""
    return "" if instant is None else instant.isoformat(timespec="seconds")


def _unusable(error: Exception) -> MisconfiguredError:
    return MisconfiguredError(
        f"the database URL can't be used ({type(error).__name__}); "
        "expected sqlite:///path or postgresql://user:password@host:port/database"
    )


def _set_sqlite_durability(connection: Any, _entry: ConnectionPoolEntry) -> None:
    """WAL lets readers go on during a write; FULL makes a commit survive a power cut in WAL mode."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
