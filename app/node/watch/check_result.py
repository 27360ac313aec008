"""What one check of ``psma-node check`` says; a site's fault is never told as one of the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from app.errors import PsmaNodeError, describe_exception
from app.node.records.database_fault import database_cause
from app.node.tls_words import tls_advice, tls_words


@dataclass(frozen=True)
class CheckResult:
    """One line of the table. ``advice`` says what to do when it failed."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    may_pass: bool = False
    """Of a check that failed: nobody has to change anything, so trying again later may do."""


def guarded(name: str, check: Callable[[], CheckResult]) -> CheckResult:
    """Run one check; whatever goes wrong in it is its result."""
    try:
        return check()
    except PsmaNodeError as error:
        return CheckResult(name, False, str(error))  # the message says what to do
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        advice = tls_advice(error) or "is it there, and may the node's user read and write it?"
        return CheckResult(name, False, f"{place}{tls_words(error)}", advice)
    except SQLAlchemyError as error:
        advice = "is it the node's own database, and does it answer?"
        return CheckResult(name, False, f"the database: {database_cause(error)}", advice)
    except Exception as error:  # noqa: BLE001  one check's fault must not hide the others
        return CheckResult(name, False, describe_exception(error), "a fault of the program: report it")
