"""The node's one database: SQLite in a file by default, Postgres by URL for many hosts.

Tables of other modules join :data:`metadata`; every instant is stored in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Engine,
    Index,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from app.errors import MisconfiguredError, RetryLaterError

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

_TABLES_LOCK = 0x70736D61
"""Key of the advisory lock under which tables are made: two nodes may start at the same time."""

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """An aware instant, kept in UTC without an offset, which every database orders correctly."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; a naive datetime is refused, since nobody can tell what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored datetime needs a time zone, found a naive one")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Back as an aware datetime in UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


MAX_IDENTIFIER_LENGTH = 1024
"""Patient's identifiers have 64 characters at most (PS3.5 6.2, LO); real ones are longer now and then, and
an index of Postgres takes 2700 bytes."""


class PlainText(TypeDecorator[str]):
    """Text from headers, as every database takes it: Postgres refuses NUL and unpaired surrogates.

    Args:
        max_length: more is cut off; 0 for no limit.
    """

    impl = Text
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

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """As stored."""
        return value


instances = Table(
    "instances",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("path", String(512), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("conflict", Boolean, nullable=False, default=False),
    Index("instances_by_study", "study_instance_uid", "received_at"),
    Index("instances_by_arrival", "received_at", "study_instance_uid"),
)
"""One row for each content received under a SOP Instance UID.

``sha256`` is of the data set without its file meta header; ``path`` is relative to the inbox folder;
``conflict`` marks every row of a UID that arrived with more than one content.
"""


def open_database(url: str) -> Engine:
    """An engine for ``url``, with the tables known so far in place.

    Args:
        url: ``sqlite:///node.sqlite``, or ``postgresql://user:password@host:port/database``.

    Raises:
        MisconfiguredError: the URL can't be understood or its driver is not installed.
        RetryLaterError: the database does not answer.
    """
    engine = create_database_engine(url)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TABLES_LOCK})
            metadata.create_all(connection)
            for index in instances.indexes:  # a table from before the index was thought of
                index.create(connection, checkfirst=True)
    except SQLAlchemyError as error:
        raise RetryLaterError(
            f"the database {database_place(engine)} does not answer: {database_cause(error)}; "
            f"{database_advice(engine)}"
        ) from error
    return engine


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


def create_database_engine(url: str) -> Engine:
    """An engine with the durability this node promises, no table touched. Raises as :func:`open_database`."""
    parsed = database_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    in_memory = is_sqlite and parsed.database in (None, "", ":memory:")  # one connection a thread, no pool
    pool = {} if in_memory else {"pool_size": KEPT_CONNECTIONS, "max_overflow": -1}
    arguments = {"timeout": BUSY_TIMEOUT_S} if is_sqlite else {}
    try:
        # an error's text would quote a row, and rows name patients
        engine = create_engine(
            parsed, connect_args=arguments, pool_pre_ping=not is_sqlite, hide_parameters=True, **pool
        )
    except (ArgumentError, ImportError) as error:
        raise _unusable(error) from error
    if is_sqlite:
        event.listen(engine, "connect", _set_sqlite_durability)
    return engine


def database_cause(error: SQLAlchemyError) -> str:
    """The driver's first line: host, port, user and why, no password; the rest would be SQL."""
    driver = getattr(error, "orig", None)
    words = str(driver).splitlines()
    return words[0] if driver is not None and words else type(error).__name__


def database_place(engine: Engine) -> str:
    """The URL without its password, wherever that stands in it."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


def database_advice(engine: Engine) -> str:
    """What to look at when a database can't be opened."""
    if engine.dialect.name == "sqlite":
        return "may this user read and write the file and its folder, and is there room on the disk?"
    return "is node.database_url right, does the server run, does it let this host in?"


def utc_now() -> datetime:
    """The present instant, aware, UTC."""
    return datetime.now(UTC)


def iso_or_empty(instant: datetime | None) -> str:
    """An instant for logs and audit, to the second; empty for none."""
    return "" if instant is None else instant.isoformat(timespec="seconds")


def _unusable(error: Exception) -> MisconfiguredError:
    return MisconfiguredError(
        f"the database URL can't be used ({type(error).__name__}); "
        "expected sqlite:///path or postgresql://user:password@host:port/database"
    )


def _set_sqlite_durability(connection: Any, _entry: ConnectionPoolEntry) -> None:
    """WAL lets readers go on beside the writer; FULL makes a commit survive a power cut in WAL mode."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
