"""A database that can't be used, in plain words: what was found, what to do, whether waiting may help."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from app.errors import MisconfiguredError, PsmaNodeError, RetryLaterError

RESTORE = "bring the last backup back (docs/how-to/operate.md, Backup)"
"""Of the database with the index and the ledgers."""

ANEW = "the node makes it anew, and plans unfinished work from its ledgers"
"""Of the durable engine's database."""

_NO_DATABASE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


@dataclass(frozen=True)
class DatabaseFault:
    """Why a database can't be used, and what to do; ``may_pass``: it may be right again without this node."""

    found: str
    advice: str
    may_pass: bool = True

    @property
    def error(self) -> PsmaNodeError:
        kind = RetryLaterError if self.may_pass else MisconfiguredError
        return kind(f"{self.found}; {self.advice}")


def database_fault(url: URL, error: Exception, mending: str = RESTORE) -> DatabaseFault:
    """What a driver raised, in our words.

    Args:
        error: of SQLAlchemy, or of a driver that was used without it.
        mending: how to come to a database again once a file that is none is out of the way.
    """
    place = database_place(url)
    if url.get_backend_name() != "sqlite":
        advice = "is node.database_url right, does the server run, does it let this host in?"
        return DatabaseFault(f"the database {place} does not answer: {database_cause(error)}", advice)
    if Path(url.database or "").is_dir():
        found = f"the database {place} is a folder, expected a file"
        return DatabaseFault(found, f"move it away; {mending}", may_pass=False)
    if getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) & 0xFF in _NO_DATABASE:
        found = f"the database {place} is none, or is damaged: {database_cause(error)}"
        return DatabaseFault(found, f"move it away; {mending}", may_pass=False)
    advice = "may this user read and write the file and its folder, and is there room on the disk?"
    return DatabaseFault(f"the database {place} can't be used: {database_cause(error)}", advice)


def database_cause(error: Exception) -> str:
    """The driver's first line: host, port, user and why, no password; the rest would be SQL."""
    driver = error if isinstance(error, sqlite3.Error) else getattr(error, "orig", None)
    words = str(driver).splitlines()
    return words[0] if driver is not None and words else type(error).__name__


def database_place(url: URL) -> str:
    """The URL without its password, wherever that stands in it."""
    return url.set(query={}).render_as_string(hide_password=True)
