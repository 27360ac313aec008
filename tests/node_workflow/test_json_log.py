"""The log holds facts, and no patient."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from app.errors import RetryLaterError
from app.node.json_log import JsonLineFormatter

NAME = "ZYXWVUT^QUINTUS"


def formatted(logger: str, message: str, *arguments: object, **more: object) -> dict[str, object]:
    """A record as the log would hold it."""
    error = more.pop("error", None)
    info = (type(error), error, None) if isinstance(error, BaseException) else None
    record = logging.LogRecord(logger, logging.INFO, "/a/b.py", 7, message, arguments, info)
    record.__dict__.update(more)
    line = JsonLineFormatter().format(record)
    assert "\n" not in line
    content = json.loads(line)
    assert isinstance(content, dict)
    return content


def test_listed_fields_are_written_and_others_are_not() -> None:
    line = formatted("app.node.x", "study complete", study="1.2.3", patient_name=NAME)
    assert line["study"] == "1.2.3"
    assert line["event"] == "study complete"
    assert NAME not in json.dumps(line)


@pytest.mark.parametrize("logger", ["pydicom", "pynetdicom.acse", "highdicom.base", "py.warnings", "monai"])
def test_message_of_a_library_that_sees_headers_is_withheld(logger: str) -> None:
    line = formatted(logger, f"invalid value {NAME}")
    assert NAME not in json.dumps(line)
    assert "b.py:7" in str(line["event"])


def test_message_of_a_foreign_exception_is_withheld_and_ours_is_written() -> None:
    assert formatted("app.x", "failed", error=ValueError(NAME))["error"] == "ValueError"
    ours = formatted("app.x", "failed", error=RetryLaterError("the disk is full"))
    assert ours["error"] == "RetryLaterError: the disk is full"


def test_frames_say_where_without_saying_what() -> None:
    try:
        raise KeyError(NAME)
    except KeyError:
        record = logging.LogRecord("app.x", logging.ERROR, "p", 1, "failed", (), sys.exc_info())
    line = JsonLineFormatter().format(record)
    assert NAME not in line
    assert "test_json_log.py" in line
